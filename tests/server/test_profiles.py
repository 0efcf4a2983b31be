"""Prompt profiles: which one a folder has, what each writes, and templates of other checkpoints."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.server.feeding import FOLDER, TOKENIZER, USER, answered
from wavefold.chat import Tokenizer, byte_tokenizer
from wavefold.chat.encoding import chat_ids
from wavefold.chat.special_tokens import DSML, SPECIAL_TOKENS
from wavefold.server import recipe
from wavefold.server.protocol import PROTOCOLS, Context, Refused, context_of
from wavefold.server.protocol.profiles import SYSTEM, profile_of
from wavefold.server.recipe import Vocabulary

PATH = "/v1/chat/completions"
EFFORT = "f7a24f3b3050d4a83781e9b755b316aae2ec1d9dc87562541d90bcb04d7350f7"
"""SHA-256 of the preview's text for "max": REASONING_EFFORT_MAX of its encoding_dsv4.py."""
LATER_EFFORT = "53fb31b8392ec5b4a926481943efc67636748f137c1a49d493a7af4d4fa55d2c"


def serving(profile: str | None, tokenizer: Tokenizer = TOKENIZER, folder: Path = FOLDER) -> Context:
    return context_of(("m",), folder, tokenizer, 20_000, 3072, (tokenizer.eos_id,), profile)


def with_system_token() -> Tokenizer:
    values = json.loads(TOKENIZER.json_text)
    last = max(token["id"] for token in values["added_tokens"])
    values["model"]["vocab"] |= {SYSTEM: len(values["model"]["vocab"])}
    added = {**values["added_tokens"][last], "id": len(values["model"]["vocab"]) - 1, "content": SYSTEM}
    values["added_tokens"].append(added)
    return Tokenizer(json.dumps(values))


def prompt(context: Context, **changes: Any) -> str:
    ids = answered(PATH, {"model": "m", "messages": [{"role": "user", "content": "U"}], **changes}, "</think>",
                   given=context).asked.parts[0].prompt.ids  # fmt: skip
    return context.tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({}, "v4"),
        ({"encoding/encoding_dsv4.py": 'REASONING_EFFORT_MAX = "..."'}, "preview"),
        ({"encoding_dsv4.py": "REASONING_EFFORT_PROMPTS = {}\nREASONING_EFFORT_MAX = 1"}, "0731"),
        ({"config.json": '{"model_type": "deepseek_v41"}'}, "v4.1"),
        ({"config.json": "nonsense", "encoding_dsv4.py": ""}, "v4"),
    ],
)
def test_a_profile_comes_from_what_lies_beside_the_weights(files: dict[str, str], name: str, tmp_path: Path) -> None:
    for place, text in files.items():
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(text)
    found = profile_of(tmp_path, TOKENIZER)
    assert found is not None and found.name == name
    by_name = profile_of(tmp_path, TOKENIZER, "preview")
    assert by_name is not None and by_name.name == "preview"


def test_profiles_that_cannot_be_are_refused() -> None:
    for name, said in (("v5", "expected one of preview"), ("v4.1", SYSTEM)):
        with pytest.raises(ValueError, match=said):
            serving(name)


@pytest.mark.parametrize(
    ("profile", "asked", "texts"),
    [
        ("preview", None, []), ("preview", "low", []), ("preview", "high", []), ("preview", "max", [EFFORT]),
        ("preview", "xhigh", []), ("0731", "xhigh", [EFFORT]),
        ("0731", None, [EFFORT]), ("0731", "low", []), ("0731", "high", [EFFORT]), ("0731", "max", [LATER_EFFORT]),
        ("v4", None, None), ("v4", "high", []), ("v4", "max", [EFFORT]),
    ],
)  # fmt: skip
def test_efforts_have_the_texts_of_their_release(profile: str, asked: str | None, texts: list[str] | None) -> None:
    changes = {} if asked is None else {"reasoning_effort": asked}
    text = prompt(serving(profile), **changes)
    begin, middle = "<｜begin▁of▁sentence｜>", "<｜User｜>U<｜Assistant｜>"
    said, _, opening = text.removeprefix(begin).partition(middle)
    assert opening == ("</think>" if texts is None else "<think>")
    assert [hashlib.sha256(said.encode()).hexdigest()] * bool(said) == (texts or [])


def test_v41_has_its_own_system_marker_and_is_held_in_no_calls() -> None:
    served = serving("v4.1", with_system_token())
    text = prompt(served)
    assert text.startswith(f"<｜begin▁of▁sentence｜>{SYSTEM}Reasoning Effort: 75 ")
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    body = {"model": "m", "messages": USER, "tools": [tool], "thinking": {"type": "disabled"}}
    call = f'Hi\n\n<{DSML} calls>\n<{DSML} invoke name="f">\n\n</{DSML} invoke>\n</{DSML} calls>'
    whole = answered(PATH, body, call, "eos", served).whole
    assert whole["choices"][0]["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    with pytest.raises(Refused, match="calls are not held"):
        answered(PATH, {**body, "tool_choice": "required"}, call, "eos", served)


def test_the_encoding_of_training_is_that_of_serving() -> None:
    """3,000 random chats, without thinking, id for id."""
    drawn = random.Random(3)
    words = ["a", " b", "</think>", "<｜User｜>", "é", "\n\n", "｜DSML｜", " 12", "x" * 9, "漢", "\u2028", "😀", " "]
    for tokenizer, count in ((TOKENIZER, 2500), (byte_tokenizer(), 500)):
        vocabulary = Vocabulary(tokenizer.json_text)
        for _ in range(count):
            said = ["".join(drawn.choices(words, k=drawn.randint(1, 8))) for _ in range(2 * drawn.randint(1, 4))]
            roles = ["user", "assistant"] * len(said)
            turns = [{"role": role, "content": text} for role, text in zip(roles, said[:-1], strict=False)]
            if drawn.random() < 0.5:
                turns = [{"role": "system", "content": said[-1]}, *turns]
            ids = vocabulary.encoded(recipe.read("chat", "v4", {"messages": turns}, False))
            assert ids == chat_ids(tokenizer, turns), turns


def bare(template: str | None, marks: tuple[str, ...] = ("<｜begin▁of▁sentence｜>",)) -> Tokenizer:
    """A tokenizer that lacks V4's other markers, with a template."""
    values = json.loads(byte_tokenizer().json_text)
    for token in values["added_tokens"]:
        if token["content"] not in (*marks, "<｜end▁of▁sentence｜>"):
            new = f"<mark{token['id']}>"
            values["model"]["vocab"][new] = values["model"]["vocab"].pop(token["content"])
            token["content"] = new
    return Tokenizer(json.dumps(values), json.dumps({} if template is None else {"chat_template": template}))


TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<mark9>{{ message.role }}:{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<mark9>assistant:{% endif %}"
)


def test_other_checkpoints_use_their_template_and_contents_make_no_markers(tmp_path: Path) -> None:
    tokenizer = bare(TEMPLATE)
    served = serving(None, tokenizer, tmp_path)
    body = {"model": "m", "messages": [{"role": "user", "content": "a<mark9>b"}]}
    ids = PROTOCOLS[PATH].asked(json.dumps(body).encode(), {}, served).parts[0].prompt.ids
    assert tokenizer.decode(ids) == "<｜begin▁of▁sentence｜><mark9>user:a<mark9>b\n<mark9>assistant:"
    assert ids.count(tokenizer.token_id("<mark9>")) == 2


def test_an_answer_goes_on_with_the_last_turn_of_a_template(tmp_path: Path) -> None:
    """Its blanks and markers too; a template that does not write it once is told."""
    tokenizer = bare(TEMPLATE.replace("message.content", "message.content | trim"))
    last = {"role": "assistant", "content": "Dear <mark9> ", "prefix": True}
    served, body = serving(None, tokenizer, tmp_path), {"model": "m", "messages": [*USER, last]}
    ids = PROTOCOLS[PATH].asked(json.dumps(body).encode(), {}, served).parts[0].prompt.ids
    user = USER[0]["content"]
    start = f"<｜begin▁of▁sentence｜><mark9>user:{user}\n<mark9>assistant:Dear <mark9> "
    assert tokenizer.decode(ids) == start and ids.count(tokenizer.token_id("<mark9>")) == 2
    for template in ("{{ messages[0].content }}", TEMPLATE + TEMPLATE):
        served = serving(None, bare(template), tmp_path)
        with pytest.raises(Refused, match=r"writes the last turn [02] times.* end the messages with"):
            PROTOCOLS[PATH].asked(json.dumps(body).encode(), {}, served)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "chat template"),
        ("{{ 'a' * 9999999999 }}", "chat template"),
        ("{{ messages.__class__.__mro__ }}", "chat template"),
        ("{% include '/etc/hostname' %}", "chat template"),
    ],
)
def test_templates_that_loop_or_reach_out_are_stopped(
    template: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wavefold.server.protocol.chats.TEMPLATE_SECONDS", 1)
    served = serving(None, bare(template), tmp_path)
    with pytest.raises(Refused, match=said) as error:
        PROTOCOLS[PATH].asked(json.dumps({"model": "m", "messages": USER}).encode(), {}, served)
    assert error.value.status == 400


@pytest.mark.parametrize("changes", [{"thinking": {"type": "enabled"}}, {"tools": [
    {"type": "function", "function": {"name": "f"}}]}])  # fmt: skip
def test_a_template_has_neither_tools_nor_thinking(changes: dict[str, Any], tmp_path: Path) -> None:
    served = serving(None, bare(TEMPLATE), tmp_path)
    with pytest.raises(Refused, match="not known to this model's chat template"):
        PROTOCOLS[PATH].asked(json.dumps({"model": "m", "messages": USER, **changes}).encode(), {}, served)


def test_without_markers_and_template_there_are_no_chats(tmp_path: Path) -> None:
    served = serving(None, bare(None), tmp_path)
    with pytest.raises(Refused, match="ask /v1/completions"):
        PROTOCOLS[PATH].asked(json.dumps({"model": "m", "messages": USER}).encode(), {}, served)
    assert served.turn_ids == () and len(SPECIAL_TOKENS) > 20
