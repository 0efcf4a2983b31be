"""The command line as a whole: help without torch, one message for a mistake, exit codes."""

import argparse
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wavefold import PoolFull, __version__
from wavefold.cli import main as command_line
from wavefold.cli import run
from wavefold.cli.main import COMMANDS, build_parser, main


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60)


def test_module_and_version() -> None:
    done = python("-m", "wavefold", "--version")
    assert (done.returncode, done.stdout) == (0, f"wavefold {__version__}\n")


@pytest.mark.parametrize("arguments", [[], ["run"], ["init"]])
def test_help_and_mistakes_need_no_torch(arguments: list[str]) -> None:
    script = (
        "import sys; from wavefold.cli.main import main\n"
        f"for extra in (['--help'], ['--bad']):\n"
        f"    try: main({arguments} + extra)\n"
        "    except SystemExit as exit: print(exit.code)\n"
        "assert 'torch' not in sys.modules and 'rich' not in sys.modules"
    )
    done = python("-c", script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: wavefold")
    assert done.stdout.split()[-1] == "2"


def test_every_flag_has_help() -> None:
    assert len(COMMANDS) > 1
    parsers = [("wavefold", build_parser())]
    for name, parser in parsers:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.items()
            else:
                assert action.help, (name, action.dest)


@pytest.mark.parametrize(
    "arguments", [[], ["bake"], ["run", "--max-tokens", "many"], ["run", "-p", "a", "--tokens", "b"]]
)
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    assert "usage: wavefold" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [ValueError("a = 1 is not allowed"), FileNotFoundError(2, "No such file", "x"), PoolFull("the pool is full")],
)
def test_users_mistake_is_one_message(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(args: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(run, "run", fails)
    assert main(["run"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"wavefold: error: {error}\n")


def test_our_mistake_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(args: argparse.Namespace) -> int:
        raise RuntimeError("a bug")

    monkeypatch.setattr(run, "run", fails)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["run"])


def test_interrupted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(args: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run", fails)
    assert main(["run"]) == command_line.INTERRUPTED == 130
    assert capsys.readouterr().err == ""


def test_reader_that_leaves(model: Path) -> None:
    """`wavefold run ... | true`: no traceback."""
    writer = subprocess.Popen(
        [sys.executable, "-m", "wavefold", "run", str(model), "-p", "a", "--max-tokens", "200"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert writer.stdout is not None
    assert writer.stderr is not None
    writer.stdout.close()
    errors = writer.stderr.read().decode()
    writer.stderr.close()
    assert writer.wait(timeout=60) == 1
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors


def test_no_option_swallows_the_model_without_a_word() -> None:
    """A list option before an optional MODEL would take it: its items are numbers, or names that are checked."""

    def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
        yield parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for command in action.choices.values():
                    yield from commands(command)

    lists = set()
    for command in commands(command_line.build_parser()):
        has_model = any(not action.option_strings and action.nargs == "?" for action in command._actions)
        for action in command._actions if has_model else ():
            if action.nargs in ("+", "*") and action.type is not int:
                lists.add((command.prog, *action.option_strings))
    assert lists == {("wavefold bench peers", "--peers")}
    for words in (["peers", "--peers", "llama.cpp", "DIR"], ["speed", "--depths", "0", "DIR"]):
        with contextlib.suppress(SystemExit):
            assert main(["bench", *words]) == 2
