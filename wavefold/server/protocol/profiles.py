"""Prompt profiles: how a checkpoint's chats are written, and whether it reasons unless a client says otherwise.

    preview   DeepSeek-V4 of April 2026: a text of effort for "max" alone
    0731      V4-Flash-0731, V4-Pro-0813: texts of effort for "high", its default, and for "max"
    v4.1      DeepSeek-V4.1: `<｜System｜>`, effort in numbers, other tags of tool calls
    v4        any other checkpoint with V4's markers, as the one that ships: V4's form; it reasons only if asked to
    template  a checkpoint without these markers, by its own template in Jinja: text alone

The profile comes from what lies beside the weights: the encoding file that DeepSeek ships (read as text, never run),
the `model_type`, the tokenizer. A name overrides it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from wavefold.chat import Tokenizer
from wavefold.chat.special_tokens import ASSISTANT, BOS, DSML, END_THINK, EOS, THINK, USER
from wavefold.server.recipe import Effort, Version

MARKERS = (BOS, EOS, USER, ASSISTANT, THINK, END_THINK, DSML)
SYSTEM = "<｜System｜>"
OFFICIAL_VOCABULARY = 129_280
MOST_BYTES = 1 << 20
"""Of a file that is looked into."""
ENCODINGS = ("encoding/encoding_dsv4.py", "encoding_dsv4.py", "inference/encoding_dsv4.py")
LATER_MARK, PREVIEW_MARK = "REASONING_EFFORT_PROMPTS", "REASONING_EFFORT_MAX"


class Profile(NamedTuple):
    """`thinks`: the default. `lower_efforts`: the library's texts of effort are those of one level below.

    `template`: the checkpoint's own, in Jinja, or None. `holds_calls`: the engine's grammar knows its tags.
    """

    name: str
    version: Version = "v4"
    thinks: bool = True
    lower_efforts: bool = False
    template: str | None = None
    holds_calls: bool = True

    def effort(self, asked: Effort) -> Effort:
        """Returns the effort whose text the library writes for what was asked: "low" has none."""
        lower: dict[Effort, Effort] = {"low": "low", "high": "low", "xhigh": "low", "max": "high"}
        return lower[asked] if self.lower_efforts else asked


PREVIEW = Profile("preview", lower_efforts=True)
LATER = Profile("0731")
V41 = Profile("v4.1", version="v4.1", holds_calls=False)
V4 = Profile("v4", thinks=False, lower_efforts=True)
PROFILES = {profile.name: profile for profile in (PREVIEW, LATER, V41, V4)}


def profile_of(folder: Path, tokenizer: Tokenizer, name: str | None = None) -> Profile | None:
    """Returns the profile of the checkpoint in `folder`, or the one of this name; None: no chats, only completions.

    Raises ValueError for an unknown name, and for one whose markers the tokenizer lacks.
    """
    if name is not None and name != "template":
        if name not in PROFILES:
            allowed = ", ".join((*PROFILES, "template"))
            raise ValueError(f"prompt profile {name!r} is not known; expected one of {allowed}")
        if lacking := _lacking(PROFILES[name], tokenizer):
            raise ValueError(f"prompt profile {name!r} needs the token {lacking!r}, which the tokenizer lacks")
        return PROFILES[name]
    if name is None and not _lacking(V4, tokenizer):
        return _found(folder, tokenizer)
    template = tokenizer.chat_template
    if template is None and name is not None:
        raise ValueError(f"prompt profile 'template': {folder} has no chat template; expected one of {list(PROFILES)}")
    return None if template is None else Profile("template", thinks=False, template=template, holds_calls=False)


def _lacking(profile: Profile, tokenizer: Tokenizer) -> str | None:
    """The first marker of a profile that a tokenizer does not have."""
    markers = (*MARKERS, SYSTEM) if profile.version == "v4.1" else MARKERS
    return tokenizer.lacking(markers)


def _found(folder: Path, tokenizer: Tokenizer) -> Profile:
    if _model_type(folder) == "deepseek_v41":
        return V41
    for place in ENCODINGS:
        text = _text(folder / place)
        if LATER_MARK in text:
            return LATER
        if PREVIEW_MARK in text:
            return PREVIEW
    # Without DeepSeek's file its vocabulary tells a checkpoint that was made from theirs: the later one, as theirs are
    # now.
    return LATER if tokenizer.vocab_size >= OFFICIAL_VOCABULARY - 1024 else V4


def _model_type(folder: Path) -> object:
    try:
        values = json.loads(_text(folder / "config.json") or "{}")
    except (ValueError, RecursionError):
        return None
    return values.get("model_type") if isinstance(values, dict) else None


def _text(path: Path) -> str:
    """The beginning of a file, or nothing where there is none."""
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return ""
