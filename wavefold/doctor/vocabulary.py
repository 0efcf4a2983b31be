"""The tokenizer by its own rules and by DeepSeek-V4's special tokens, and the template of chats by V4's encoding.

A template is a program, and nothing of a file is executed: it is searched for the marks that V4's encoding writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers
import torch

from wavefold import gguf
from wavefold.chat import Tokenizer, tokenizer_config
from wavefold.chat.special_tokens import ASSISTANT, BOS, EOS, USER
from wavefold.chat.tokenizer import FILE_NAME
from wavefold.doctor.finding import Finding, failed, listed, passed, skipped
from wavefold.doctor.patient import Patient

MOST_TOKENS = 20000
"""Tokens of a vocabulary that are encoded again."""
ORDERED = 0.98
"""The share of merges whose token has a larger id than the one before, in a list that was not changed."""
UNREACHED = 0.01
"""The share of tokens that no text may become."""
SAMPLE = 'def main(argv: list[str]) -> int:\n    return len("¿Qué? 你好 12345") + 0x1F  # naïve\n\n\tpass\n'
MARKS = {BOS: "bos_token", EOS: "eos_token", USER: "", ASSISTANT: ""}
"""Marks of a chat, and the variables that a template may use in their place."""
UNREAD = "the file could not be read (see structure)"
ADVICE = "take tokenizer.json and tokenizer_config.json of the official folder, or convert again"


def texts_of(path: Path) -> tuple[str, str] | None:
    """Returns the texts of tokenizer.json and tokenizer_config.json ("" for none), or None without a tokenizer.

    Raises ValueError for a vocabulary that cannot be read.
    """
    if gguf.is_gguf(path):
        values = gguf.open_parts(path).values
        return gguf.tokenizer_texts(path, values) if "tokenizer.ggml.tokens" in values else None
    if not (path / FILE_NAME).is_file():
        return None
    config = path / tokenizer_config.FILE_NAME
    return (path / FILE_NAME).read_text(encoding="utf-8"), config.read_text(
        encoding="utf-8"
    ) if config.is_file() else ""


def tokenizer(patient: Patient) -> Iterator[Finding]:
    if not patient.is_readable:
        yield skipped("tokenizer", UNREAD)
        return
    try:
        texts = texts_of(patient.path)
        if texts is None or _is_unnamed(patient.path):
            where = "in the file" if gguf.is_gguf(patient.path) else f"({FILE_NAME})"
            yield skipped("tokenizer", f"there is none {where} that can be used: token ids can be run, texts cannot",
                          f"add {FILE_NAME} of the official folder, or convert again")  # fmt: skip
            return
        tokens = Tokenizer(*texts)
    except ValueError as error:
        yield failed("tokenizer", str(error), ADVICE)
        return
    config, problems = patient.config, []
    if config is not None and tokens.vocab_size > config.vocab_size:
        problems.append(f"has {tokens.vocab_size:,} tokens, the model {config.vocab_size:,}")
    if config is not None and tokens.has(EOS) and tokens.eos_id not in config.eos_token_ids:
        problems.append(f"ends a text with token {tokens.eos_id}, the configuration with {list(config.eos_token_ids)}")
    if lost := [mark for mark in (BOS, EOS) if not tokens.has(mark)]:
        problems.append(f"lacks {listed(lost)} as tokens of their own")
    if tokens.decode(tokens.encode(SAMPLE)) != SAMPLE:
        problems.append("does not give a text back as it was")
    for problem in problems:
        yield failed("tokenizer", problem, ADVICE)
    share, example = _unreached(json.loads(texts[0]), tokens)
    if share > UNREACHED:
        yield failed("tokenizer merges", f"{share:.1%} of the tokens, {example!r} first, are no longer what their own "
                     "text becomes: merges are wrong, missing or in another order", ADVICE)  # fmt: skip
    elif (place := _out_of_order(json.loads(texts[0]))) is not None:
        yield failed("tokenizer merges", f"from number {place:,} on, merges are not in the order in which their tokens "
                     "were made (their ids)", ADVICE)  # fmt: skip
    elif not problems:
        yield passed("tokenizer", f"{tokens.vocab_size:,} tokens; each is what its own text becomes")


def template(patient: Patient) -> Iterator[Finding]:
    if not patient.is_readable:
        yield skipped("template", UNREAD)
        return
    try:
        texts = texts_of(patient.path)
        values: dict[str, Any] = json.loads(texts[1]) if texts is not None and texts[1] else {}
    except ValueError as error:
        where = f"{tokenizer_config.FILE_NAME}: not a JSON file: " if isinstance(error, json.JSONDecodeError) else ""
        yield failed("template", f"{where}{error}", ADVICE)
        return
    text = values.get("chat_template")
    if text is None:
        yield passed("template", "there is none, as in the official folder: chats are in V4's encoding")
        return
    if not isinstance(text, str):
        yield failed("template", "chat_template is no text", ADVICE)
        return
    if text == tokenizer_config.CHAT_TEMPLATE:
        yield passed("template", "writes V4's encoding")
        return
    lost = [mark for mark, variable in MARKS.items() if mark not in text and (not variable or variable not in text)]
    if EOS in lost:
        yield failed("template end mark", f"never writes {EOS} after an answer: chats would not end", ADVICE)
    if others := [mark for mark in lost if mark != EOS]:
        yield failed("template", f"never writes {listed(others)}", ADVICE)
    if not lost:
        yield passed("template", "another one than V4's; it writes all of its marks (it was not run)")


def _is_unnamed(path: Path) -> bool:
    """True for a GGUF file whose tokens are numbers: of a model without a tokenizer."""
    return gguf.is_gguf(path) and gguf.open_parts(path).values.get("tokenizer.ggml.pre") == "default"


def _unreached(file: dict[str, Any], tokens: Tokenizer) -> tuple[float, str]:
    """Returns the share of sampled tokens that their own text does not become, and the first of them.

    Cuts before merges are left out: a token is given to the merges whole.
    """
    model = tokenizers.Tokenizer.from_str(json.dumps(file)).model
    names = [name for name, number in file["model"]["vocab"].items() if not tokens.is_added(number)]
    names = names[:: max(1, len(names) // MOST_TOKENS)]
    wrong = [name for name in names if [token.value for token in model.tokenize(name)] != [name]]
    return len(wrong) / max(1, len(names)), wrong[0] if wrong else ""


def _out_of_order(file: dict[str, Any]) -> int | None:
    """Returns the place from which merges are not in the order of ids; None where they are, or no tenth of them is."""
    vocabulary = file["model"]["vocab"]
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in file["model"]["merges"])
    ids = torch.tensor([vocabulary.get("".join(pair), 0) for pair in pairs])
    rises = (ids[1:] > ids[:-1]).float()
    if not len(rises) or float(rises.mean()) >= ORDERED:
        return None
    tenths = rises.chunk(10)
    if max(float(tenth.mean()) for tenth in tenths) < ORDERED:
        return None  # ids were given in another order
    return int((rises == 0).nonzero()[0]) + 1
