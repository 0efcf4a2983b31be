"""What a line that begins with a slash does in a chat."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from wavefold.atomic import write_text
from wavefold.cli.terminal import counted, printable

if TYPE_CHECKING:
    from wavefold.cli.chat_loop import ChatLoop

SETTINGS = (
    "temperature", "top_p", "top_k", "min_p", "max_tokens", "seed", "repetition_penalty", "presence_penalty",
    "frequency_penalty",
)  # fmt: skip
"""Fields of `Sampling` that are numbers."""
DEFAULT = "default"


class Command(NamedTuple):
    """`run` is given the chat and what follows the name; it returns what the user is told, or None to end the chat."""

    usage: str
    help: str
    run: Callable[[ChatLoop, str], str | None]


def run_command(loop: ChatLoop, line: str) -> bool:
    """Does what a line says. False at the end of the chat. Raises ValueError for a line that says nothing known."""
    name, _, rest = line.partition(" ")
    if name not in COMMANDS:
        raise ValueError(f"{name} is no command; /help lists them, and // begins a message with a slash")
    told = COMMANDS[name].run(loop, rest.strip())
    if told:
        print(printable(told))
    return told is not None


def show_help(loop: ChatLoop, rest: str) -> str:
    lines = [f"  {command.usage:24}{command.help}" for command in dict.fromkeys(COMMANDS.values())]
    lines.append(f"  {'//TEXT':24}a message that begins with a slash")
    lines.append("A line that ends in \\ goes on in the next one. Ctrl-C stops an answer, Ctrl-D ends the chat.")
    return "\n".join(lines)


def begin_anew(loop: ChatLoop, rest: str) -> str:
    loop.conversation.turns.clear()
    return "a new chat" + (" with the same system text" if loop.conversation.system else "")


def set_system(loop: ChatLoop, rest: str) -> str:
    """Without a text: shows it; `-` takes it away. What was said stays."""
    if rest:
        loop.conversation.system = None if rest == "-" else rest
    return f"system: {loop.conversation.system}" if loop.conversation.system else "no system text"


def set_sampling(loop: ChatLoop, rest: str) -> str:
    """Without a name: shows what is in use. Raises ValueError for a name or value that is not allowed."""
    if rest:
        name, _, text = rest.replace("=", " ").partition(" ")
        if name not in SETTINGS:
            raise ValueError(f"{name} cannot be set; expected one of {', '.join(SETTINGS)}")
        changed: dict[str, Any] = {name: _number(name, text.strip())}
        loop.session.use(replace(loop.session.sampling, **changed))
    values, asked = loop.session.resolved.values(), loop.session.sampling
    values["max_tokens"] = loop.most_tokens if asked.max_tokens is None else asked.max_tokens
    return ", ".join(f"{name} {values[name]}" for name in SETTINGS if name in values)


def _number(name: str, text: str) -> object:
    if text == DEFAULT:
        return None if name != "seed" else 0
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, int | float):
        raise ValueError(f"{name} = {text!r} is not allowed; expected a number, or {DEFAULT!r}")
    return value


def set_thinking(loop: ChatLoop, rest: str) -> str:
    """Raises ValueError for another word, and for a tokenizer without <think>."""
    if rest not in ("on", "off", ""):
        raise ValueError(f"/think {rest} is not allowed; expected on or off")
    if rest:
        loop.set_thinking(rest == "on")
    return f"thinking is {'on' if loop.conversation.thinks else 'off'}"


def retry(loop: ChatLoop, rest: str) -> str:
    """The last message is answered again, with another seed. Where nothing comes, the answer that was there stays."""
    turn, is_kept = loop.conversation.undo(), False
    try:
        is_kept = loop.say(turn.text, again=True)
    finally:
        if not is_kept:
            loop.conversation.turns.append(turn)
    return ""


def undo(loop: ChatLoop, rest: str) -> str:
    return f"forgotten: {loop.conversation.undo().text}"


def save(loop: ChatLoop, rest: str) -> str:
    """Raises ValueError without a name, and for one that is in use or cannot be written."""
    if not rest:
        raise ValueError("/save needs the name of a file")
    if not loop.conversation.turns:
        raise ValueError("nothing was said yet; type a message")
    path = Path(rest).expanduser()
    if path.exists():
        raise ValueError(f"{path}: exists; give another name")
    try:
        write_text(path, json.dumps({"messages": loop.conversation.messages()}, ensure_ascii=False) + "\n")
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror})") from None
    return f"{path} has {_turns(loop)}"


def load(loop: ChatLoop, rest: str) -> str:
    if not rest:
        raise ValueError("/load needs the name of a file that /save wrote")
    loop.conversation.load(Path(rest).expanduser())
    return f"{_turns(loop)} of {rest}"


def _turns(loop: ChatLoop) -> str:
    return counted(len(loop.conversation.turns), "turn")


def end(loop: ChatLoop, rest: str) -> None:
    return None


_QUIT = Command("/quit, /exit", "end the chat, as Ctrl-D does", end)
COMMANDS: Mapping[str, Command] = {
    "/help": Command("/help", "these lines", show_help),
    "/new": Command("/new", "forget what was said", begin_anew),
    "/system": Command("/system [TEXT]", "show the system text, or set it; - takes it away", set_system),
    "/set": Command("/set [NAME VALUE]", "how answers are chosen, or other values: /set temperature 0.5", set_sampling),
    "/think": Command("/think [on|off]", "the model reasons before it answers", set_thinking),
    "/retry": Command("/retry", "answer the last message again, otherwise where answers are drawn", retry),
    "/undo": Command("/undo", "forget the last message and its answer", undo),
    "/save": Command("/save FILE", "write the chat to a new file, as training and /load read it", save),
    "/load": Command("/load FILE", "go on with the chat of a file", load),
    "/quit": _QUIT,
    "/exit": _QUIT,
}
