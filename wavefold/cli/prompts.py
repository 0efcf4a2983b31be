"""Sources of prompts: the keyboard, with a history where Python has readline; stdin; a file of token ids."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from wavefold.system.folders import cache_folder
from wavefold.system.reasons import reason_of

HISTORY_LINES = 1000


def on_terminal() -> bool:
    """True if somebody types at stdin."""
    return sys.stdin is not None and sys.stdin.isatty()


def typed() -> Iterator[str]:
    """The prompts that are typed, until Ctrl-D."""
    with history():
        while (text := read()) is not None:
            yield text
    print()  # after the Ctrl-D


def whole() -> str:
    """All of stdin as one prompt, without the line break at its end. Raises ValueError where it is empty."""
    text = "" if sys.stdin is None else sys.stdin.read()
    if not text:
        raise ValueError("stdin holds no prompt; give one there, with -p TEXT or with --tokens FILE")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("stdin is not UTF-8; expected text in it") from None
    return text.removesuffix("\n").removesuffix("\r")


def lines() -> Iterator[str]:
    """Each line of stdin as a prompt: answers line up with lines, so an empty one is a prompt too."""
    for line in sys.stdin or ():
        yield line.removesuffix("\n").removesuffix("\r")


def read(ask: Callable[[str], str] | None = None) -> str | None:
    r"""The next prompt that is not empty, or None at the end of the input.

    A line that ends in a backslash goes on in the next one; an empty line ends it too. Ctrl-C drops the typed lines.
    What is pasted comes as one line with breaks in it; those at its end are left out.
    """
    ask = ask or input
    lines: list[str] = []
    while True:
        try:
            line = ask("... " if lines else "> ").rstrip("\n")
        except EOFError:
            return "\n".join(lines) or None
        except KeyboardInterrupt:
            print()
            lines = []
            continue
        except UnicodeDecodeError:
            print("wavefold: what was typed is not UTF-8; it is dropped", file=sys.stderr)
            lines = []
            continue
        if line.endswith("\\"):
            lines.append(line[:-1])
            continue
        if line:
            lines.append(line)
        if lines:
            return "\n".join(lines)


@contextlib.contextmanager
def history() -> Iterator[None]:
    """Keep the lines of earlier runs at hand, in a file that only the user can read."""
    try:
        import readline
    except ImportError:  # a Python built without it
        yield
        return
    if "libedit" not in (readline.__doc__ or ""):
        readline.parse_and_bind("set enable-bracketed-paste on")  # Python turns it off: each pasted line was a prompt
    path = history_path()
    readline.set_history_length(HISTORY_LINES)
    with contextlib.suppress(OSError):  # no history, or an unreadable one, is no reason to end
        readline.read_history_file(path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
            path.chmod(0o600)
            readline.write_history_file(path)
            path.chmod(0o600)


def history_path() -> Path:
    """`history` in the cache folder."""
    return cache_folder() / "history"


def read_tokens(name: str) -> list[int]:
    """The ids in the file `name` ("-": stdin): a JSON list, or numbers with blanks or commas between them."""
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"--tokens {name}: cannot be read ({reason_of(error)}); expected a file of token ids, or '-'"
        ) from None
    items: object
    try:
        items = json.loads(text) if text.lstrip().startswith("[") else text.replace(",", " ").split()
    except json.JSONDecodeError as error:
        raise ValueError(f"--tokens {name}: not a JSON list ({error})") from None
    assert isinstance(items, list)
    tokens = []
    for item in items:
        try:
            if type(item) not in (int, str):
                raise ValueError
            tokens.append(int(item))
        except ValueError:
            raise ValueError(f"--tokens {name}: {item!r} is not a token id; expected whole numbers") from None
    return tokens
