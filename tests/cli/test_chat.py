"""`wavefold chat`: turns, commands, what is kept of them; and at a terminal keys, dim reasoning, a bar."""

from __future__ import annotations

import json
import signal
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.cli.keyboard import CTRL_C, CTRL_D, Keyboard
from tests.cli.running import Capture
from wavefold.chat import Tokenizer
from wavefold.chat.encoding import encode_chat
from wavefold.chat.special_tokens import END_THINK, THINK
from wavefold.cli import answers, prompts
from wavefold.cli.chat_loop import ChatLoop
from wavefold.cli.conversation import Conversation
from wavefold.cli.main import build_parser
from wavefold.cli.session import Session
from wavefold.cli.thinking import ThinkingParts
from wavefold.engine import Completion


class Watched(Session):
    """Notes each prompt and each answer."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.asked: list[list[int]] = []
        self.answered: list[Completion] = []

    def answer(self, prompt: Any, *more: Any) -> Completion:
        self.asked.append(list(prompt.ids))
        self.answered.append(super().answer(prompt, *more))
        return self.answered[-1]


def loop_of(model: Path, *flags: str) -> tuple[ChatLoop, Watched]:
    args = build_parser().parse_args(["chat", str(model), "--max-tokens", "6", "--threads", "1", *flags])
    session = Watched(args)
    return ChatLoop(session), session


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Tokenizer:
    return Tokenizer.load(model)


def test_a_turn_goes_on_where_the_last_one_ended(model: Path, tokenizer: Tokenizer, capsys: Capture) -> None:
    """Each prompt begins with the one before and the tokens of its answer, which are in the prefix cache."""
    loop, session = loop_of(model, "--system", "Be brief. " * 5)
    loop.run(["one and a half" * 3, "two" * 12, "//three"])
    first, second, third = session.asked
    end = [tokenizer.eos_id]
    assert second[: len(first) + 7] == first + list(session.answered[0].tokens) + end
    assert third[: len(second) + 7] == second + list(session.answered[1].tokens) + end
    message = [{"role": "user", "content": "/three"}]
    assert third[len(second) + 7 :] == encode_chat(tokenizer, message).ids[1:]
    cached = [one.usage.cached_tokens for one in session.answered]
    assert cached == [0, len(first), len(second)], "an answer of 32 tokens and more has a state at its end too"
    assert "in memory" in capsys.readouterr().err


def test_prompts_are_those_of_the_chat_encoding(tokenizer: Tokenizer) -> None:
    """Where a text has the tokens that were chosen; reasoning of earlier turns is left out."""
    for system in (None, "Be brief."):
        chat = Conversation(tokenizer, system)
        messages = [] if system is None else [{"role": "system", "content": system}]
        for user, assistant in (("a<｜User｜>", "b"), ("c", "")):
            messages.append({"role": "user", "content": user})
            assert chat.prompt(user).ids == encode_chat(tokenizer, messages).ids
            chat.keep(user, tokenizer.encode(assistant))
            messages.append({"role": "assistant", "content": assistant})
        assert chat.messages() == messages
        plain = chat.prompt("d").ids
        chat.thinks = True
        assert chat.prompt("d").ids == [*plain[:-1], tokenizer.token_id(THINK)]
        end = tokenizer.token_id(END_THINK)
        chat.keep("d", [*tokenizer.encode("hm"), end, *tokenizer.encode("e"), end])
        chat.keep("f", tokenizer.encode("cut off"))
        assert [turn.answer for turn in chat.turns[-2:]] == [[*tokenizer.encode("e"), end], []]


def test_commands(model: Path, tmp_path: Path, capsys: Capture) -> None:
    loop, session = loop_of(model)
    loop.run(["/system Be brief.", "hi", "/set temperature 0.25", "/set top_k=3", "/set"])
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "system: Be brief." and out[-1].startswith("temperature 0.25, top_p 1.0, top_k 3, max_tokens 6")
    assert session.sampling.temperature == 0.25 and session.sampling.stop_ids, "a next turn ends an answer still"
    loop.run(["/undo", "/undo", "/set temperature default", "/system -", "/new", "/think", "/help"])
    captured = capsys.readouterr()
    assert captured.err == "wavefold: nothing was said yet; type a message\n"
    assert (
        captured.out.startswith("forgotten: hi\n") and "no system text\na new chat\nthinking is off\n" in captured.out
    )
    assert all(f"  {name}" in captured.out for name in ("/help", "/set [NAME VALUE]", "/save FILE", "//TEXT"))
    loop.run(["/quit", "never asked"])
    assert len(session.asked) == 1 and session.sampling.temperature is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/helpme", "/helpme is no command; /help lists them, and // begins a message with a slash"),
        ("/set speed 3", "speed cannot be set; expected one of temperature, top_p"),
        ("/set temperature hot", "temperature = 'hot' is not allowed; expected a number"),
        ("/set temperature -1", "temperature = -1 is not allowed; expected a number from 0"),
        ("/set max_tokens 0", "max_tokens = 0 is not allowed"),
        ("/think maybe", "/think maybe is not allowed; expected on or off"),
        ("/retry", "nothing was said yet"),
        ("/save", "/save needs the name of a file"),
        ("/save x", "nothing was said yet"),
        ("/load", "/load needs the name of a file"),
        ("/load /none", "/none: cannot be used (No such file or directory); expected a chat"),
    ],
)
def test_what_is_refused_is_said_and_the_chat_goes_on(model: Path, capsys: Capture, line: str, message: str) -> None:
    loop, session = loop_of(model)
    loop.run([line, "hi"])
    assert f"wavefold: {message}" in capsys.readouterr().err and len(session.asked) == 1


def test_a_message_that_does_not_fit(model: Path, capsys: Capture) -> None:
    """It is refused with its reason and forgotten; the turns before it stay."""
    loop, session = loop_of(model)
    loop.run(["hi", "/set max_tokens 1048570", "much", "/set max_tokens 2", "more"])
    assert "wavefold: " in (err := capsys.readouterr().err) and "1048570" in err
    assert [turn.text for turn in loop.conversation.turns] == ["hi", "more"] and len(session.answered) == 2


def test_retry(model: Path) -> None:
    """Other draws each time, the same place in the chat; a retry that cannot be run leaves what was there."""
    loop, session = loop_of(model)
    loop.run(["one", "two", "/retry", "/retry", "/set max_tokens 1048570", "/retry"])
    assert session.asked[1] == session.asked[2] == session.asked[3]
    assert len({one.tokens for one in session.answered[1:]}) == 3
    assert [turn.text for turn in loop.conversation.turns] == ["one", "two"]
    assert loop.conversation.turns[1].answer == list(session.answered[3].tokens)


def test_save_and_load(model: Path, tmp_path: Path, capsys: Capture) -> None:
    loop, _ = loop_of(model, "--system", "Be brief.")
    path = tmp_path / "chat.json"
    loop.run(["eins", "zwei", f"/save {path}", f"/save {path}"])
    assert f"wavefold: {path}: exists; give another name" in capsys.readouterr().err
    values = json.loads(path.read_text())
    assert [message["role"] for message in values["messages"]] == ["system", *["user", "assistant"] * 2]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    other, again = loop_of(model)
    other.run([f"/load {path}", "drei"])
    assert other.conversation.messages()[:5] == values["messages"] and len(again.asked) == 1
    for text in ('{"messages": [{"role": "user", "content": "a"}]}', '{"messages": []}', "[]", "noise"):
        path.write_text(text)
        other.run([f"/load {path}"])
        assert f"wavefold: {path}: " in capsys.readouterr().err
    assert len(other.conversation.turns) == 3, "nothing changed"


def test_ctrl_c_while_a_prompt_is_read(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """It ends between two passes. What was read stays in the cache; the message is forgotten."""
    loop, session = loop_of(model)
    update, text = answers.PrefillBar.update, "x" * 3000

    def pressed(self: answers.PrefillBar, done: int, of: int) -> None:
        update(self, done, of)
        if 0 < done < of:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(answers.PrefillBar, "update", pressed)
        loop.run([text])
    assert "stopped before the first word; the message is forgotten" in capsys.readouterr().err
    assert not loop.conversation.turns and session.answered[0].finish_reason == "interrupted"
    loop.run([text])
    assert session.answered[1].usage.cached_tokens >= 1024 and len(loop.conversation.turns) == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_does_not_wait_for_the_pass(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, session = loop_of(model)
    forward = session.llm.model.forward_step

    def pressed(*arguments: Any) -> Any:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        return forward(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(session.llm.model, "forward_step", pressed)
        loop.run(["hi"])
    assert session.answered[0].finish_reason == "interrupted" and not loop.conversation.turns
    loop.run(["hi"])
    assert len(loop.conversation.turns) == 1


def test_reasoning_is_told_apart_wherever_it_is_cut() -> None:
    text = "so <b> it</thin is </think>\n4 < 5<think>hm</think>!<think"
    expected = [(True, "so <b> it</thin is "), (False, "\n4 < 5"), (True, "hm"), (False, "!<think")]
    for size in range(1, len(text) + 1):
        parts, found = ThinkingParts(True), []
        for at in range(0, len(text), size):
            found += parts.push(text[at : at + size])
        joined: list[tuple[bool, str]] = []
        for thinks, part in [*found, *parts.finish()]:
            if joined and joined[-1][0] == thinks:
                part = joined.pop()[1] + part
            joined.append((thinks, part))
        assert joined == expected


def test_in_a_terminal(model: Path, tmp_path: Path) -> None:
    """One life of a chat: turns, a long prompt with its bar, Ctrl-C at an answer and at a prompt, reasoning, Ctrl-D."""
    with Keyboard("chat", str(model), "--max-tokens", "8", "--threads", "1", home=tmp_path) as keyboard:
        keyboard.expect("answers what you type. /help lists commands")
        keyboard.type("hello " * 10)
        keyboard.expect("prompt 64 tokens.*answer 8 tokens.*ended by length")
        keyboard.type("y" * 700)
        keyboard.expect(r"prompt[^\r\n]* 0/7\d\d\b")
        keyboard.expect(r"prompt 7\d\d tokens \(\d+ in memory.*ended by length")
        keyboard.type("/set max_tokens 100000")
        keyboard.expect("max_tokens 100000")
        keyboard.type("/set temperature 0")
        keyboard.type("/new")
        keyboard.type("a long one")  # and a short prompt, without a bar
        keyboard.expect("(?s).{60}")
        keyboard.press(CTRL_C)
        keyboard.expect("tokens[^;]*, interrupted;")
        keyboard.expect(r"> \Z")
        keyboard.press("dropped")
        keyboard.expect("dropped")
        keyboard.interrupt(r"\n")
        keyboard.type("/undo")
        keyboard.expect("forgotten: a long one")
        keyboard.type("/set max_tokens 8")
        keyboard.type("/think on")
        keyboard.expect("thinking is on")
        keyboard.type("why")
        keyboard.expect(r"\x1b\[2m.*\x1b\[22m")
        keyboard.expect("ended by")
        keyboard.expect(r"> \Z")
        keyboard.press(CTRL_D)
        assert keyboard.end() == 0
    history = (tmp_path / "wavefold/history").read_text().splitlines()
    assert history[0] == "hello " * 10 and "/undo" in history and "why" in history


def test_pasted_lines_are_one_message(model: Path, tmp_path: Path) -> None:
    """Each line was a message of its own: Python turns readline's bracketed paste off."""
    readline = pytest.importorskip("readline")
    if "libedit" in (readline.__doc__ or ""):
        pytest.skip("libedit knows no bracketed paste")
    saved = tmp_path / "chat.json"
    with Keyboard("chat", str(model), "--max-tokens", "2", "--threads", "1", home=tmp_path) as keyboard:
        keyboard.expect(r"\x1b\[\?2004h[^\n]*> \Z")  # the terminal is asked to tell pastes apart
        keyboard.press("\x1b[200~one\r  two\rthree\r\x1b[201~\r")
        keyboard.expect("answer [12] tokens")
        keyboard.type(f"/save {saved}")
        keyboard.expect(f"{saved} has 1 turn\r")
        keyboard.expect(r"> \Z")
        keyboard.press(CTRL_D)
        assert keyboard.end() == 0
    assert json.loads(saved.read_text())["messages"][0]["content"] == "one\n  two\nthree"


def test_an_empty_answer_is_told(model: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, _ = loop_of(model)
    loop.run(["hi"])
    assert "empty" not in capsys.readouterr().err
    keep = Conversation.keep
    monkeypatch.setattr(Conversation, "keep", lambda self, text, tokens: keep(self, text, ()))
    loop.run(["hi"])
    assert "wavefold: the answer is empty; /retry draws another one\n" in capsys.readouterr().err


def test_run_chat_at_a_terminal_is_the_same(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    from wavefold.cli.main import main

    monkeypatch.setattr(prompts, "on_terminal", lambda: True)
    monkeypatch.setattr(prompts, "typed", lambda: iter(["hi", "/undo", "/quit"]))
    assert main(["run", str(model), "--chat", "--max-tokens", "4"]) == 0
    captured = capsys.readouterr()
    assert "forgotten: hi" in captured.out and "/help lists commands" in captured.err


def test_over_ranks(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    from wavefold.cli.main import main

    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["chat", str(model)]) == 2
    assert "a chat runs in one process" in capsys.readouterr().err
