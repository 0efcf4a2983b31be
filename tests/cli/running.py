"""`wavefold run` as the tests call it."""

import json
from pathlib import Path

import pytest

from wavefold import load
from wavefold.cli.main import main
from wavefold.engine import generate

Capture = pytest.CaptureFixture[str]
KEYS = ["text", "tokens", "finish_reason", "prompt_tokens", "completion_tokens", "prefill_s", "decode_s",
        "decode_tokens_per_s", "cache_bytes", "cached_tokens", "disk_tokens", "computed_tokens", "left_chain_at",
        "peak_rss_bytes", "prefill_tokens_per_s", "weight_bytes", "sampling"]  # fmt: skip


def run(model: Path, *more: str) -> int:
    return main(["run", str(model), "--max-tokens", "4", *more])


def printed(capsys: Capture) -> dict[str, object]:
    """The one line of JSON on stdout."""
    out, err = capsys.readouterr()
    assert err == ""
    assert out.endswith("}\n")
    assert out.count("\n") == 1
    return json.loads(out)  # type: ignore[no-any-return]


def expected_ids(model: Path, tokens: list[int], arithmetic: str = "released", **sampling: float) -> list[int]:
    return list(generate(load(model, arithmetic), tokens, 4, **sampling))  # type: ignore[arg-type]
