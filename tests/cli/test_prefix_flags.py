"""The flags of the prefix cache: what they keep, what a batch's results say of it, and how `cache ls` names it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cache.many_threads import CONFIG
from tests.cli.running import Capture, printed, run
from tests.small import small_model
from wavefold import ops
from wavefold.cli.main import main
from wavefold.ops import native

pytestmark = pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")
TEXT = "a text that is long enough for some blocks. " * 16
"""704 tokens after BOS: every byte is a token."""


@pytest.fixture(autouse=True)
def kernels() -> Iterator[None]:
    with ops.using(backend="auto"):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model") / "tiny", CONFIG)


def known(folder: Path, capsys: Capture, prompt: str, *flags: str) -> tuple[object, ...]:
    assert run(folder, "-p", prompt, "--json", *flags) == 0
    values = printed(capsys)
    return values["cached_tokens"], values["disk_tokens"], values["computed_tokens"]


def test_a_state_every_so_many_tokens(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    """A text that leaves another one goes on at the last multiple before it."""
    for every, found in (("128", 512), ("256", 512), ("384", 384)):
        flags = "--cache-dir", str(tmp_path / every), "--snapshot-every", every
        assert known(folder, capsys, TEXT, *flags) == (0, 0, 705)
        assert known(folder, capsys, TEXT[:600] + "!" * 20, *flags) == (0, found, 621 - found)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--snapshot-every", "200"], "--snapshot-every 200 is not allowed; expected a multiple of 128"),
        (["--snapshot-every", "0"], "--snapshot-every 0 is not allowed; expected"),
        (["--snapshot-every", "256", "--waves", "2"], "--snapshot-every 256 is not allowed over several processes"),
        (["--snapshot-every", "256", "--device", "cuda"], "--snapshot-every 256 is not allowed over several"),
    ],
)
def test_what_is_refused(folder: Path, capsys: Capture, flags: list[str], message: str) -> None:
    assert run(folder, "-p", "x", *flags) == 2
    assert message in capsys.readouterr().err


def test_results_of_a_batch_say_what_was_cached(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    """OpenAI's `cached_tokens` counts what came from the disk too; plain results have each number by itself."""
    body = {"prompt": TEXT, "max_tokens": 2, "temperature": 0, "n": 2}
    lines = [{"id": "plain", "prompt": TEXT, "max_tokens": 2, "temperature": 0},
             {"custom_id": "openai", "url": "/v1/completions", "body": body}]  # fmt: skip
    (tmp_path / "in").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def batch(out: str, *flags: str) -> tuple[dict[str, int], dict[str, int]]:
        command = ["batch", str(tmp_path / "in"), str(tmp_path / out), "--model", str(folder), "--width", "1", *flags]
        assert main(command) == 0
        results = [json.loads(line) for line in (tmp_path / out).read_text().splitlines()]
        plain, openai = sorted(results, key=lambda result: "custom_id" in result)
        return plain["usage"], openai["response"]["body"]["usage"]

    def figures(of: dict[str, int]) -> tuple[int, ...]:
        return of["cached_tokens"], of["disk_tokens"], of["computed_tokens"]

    plain, openai = batch("none")
    assert plain == {"prompt_tokens": 705, "completion_tokens": 2, "cached_tokens": 0, "disk_tokens": 0,
                     "computed_tokens": 705}  # fmt: skip
    assert openai.pop("prompt_tokens_details") == {"cached_tokens": 0, "disk_tokens": 0, "computed_tokens": 705}
    assert openai == {"prompt_tokens": 705, "completion_tokens": 4, "total_tokens": 709}
    plain, openai = batch("memory", "--snapshot-every", "256")
    assert figures(plain) == (0, 0, 705), "without a folder it is kept in memory"
    assert figures(openai["prompt_tokens_details"]) == (704, 0, 1)  # type: ignore[arg-type]
    kept = "--cache-dir", str(tmp_path / "kept")
    batch("first", *kept)
    plain, openai = batch("second", *kept)
    assert figures(plain) == (0, 640, 65)
    assert figures(openai["prompt_tokens_details"]) == (704, 0, 1)  # type: ignore[arg-type]
    capsys.readouterr()


def test_ls_tells_spaces_apart(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    """One model computed in five ways: none finds another's prompt, and each line says which it is."""
    kept = "--cache-dir", str(tmp_path / "kept"), "--threads", "1"
    ways = {
        (): ["tiny (weights ", ", released, packed rows, cpu, ", "wavefold "],
        ("--batch-invariant",): [", released, batch-invariant, packed rows, "],
        ("--arithmetic", "exact", "--dtype", "bfloat16"): [", exact, bfloat16, rows in bf16"],
        ("--draft-depth", "3"): ["rings for 3 drafts"],
        ("--activations", "int8"): [", int8 activations, "],
    }
    for flags in ways:
        assert known(folder, capsys, TEXT, *kept, *flags) == (0, 0, 705), "a space of its own"
        assert known(folder, capsys, TEXT, *kept, *flags) == (0, 640, 65)
    assert main(["cache", "ls", "--cache-dir", str(tmp_path / "kept")]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == 5 and len({line.split()[0] for line in lines}) == 5
    for words in ways.values():
        assert sum(all(word in line for word in words) for line in lines) == 1, (words, lines)
    assert sum("batch-invariant" in line for line in lines) == 1
    assert sum("int8" in line for line in lines) == 1 and sum("drafts" in line for line in lines) == 1
