"""The output of `wavefold run`: an answer's text as it comes, one JSON object, a dim line of figures, a bar."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from wavefold.cli.terminal import printable
from wavefold.cli.thinking import ThinkingParts
from wavefold.system import peak_rss_bytes

if TYPE_CHECKING:
    from wavefold.engine import Completion, ResolvedSampling
    from wavefold.model import Transformer


SHOWN_TOKENS = 128
"""A prompt of as many is read before anybody wonders."""


DIM, NOT_DIM = "\033[2m", "\033[22m"


class Screen:
    """Writes an answer to stdout piece by piece. On a terminal reasoning is dim, without its markers."""

    def __init__(self, thinks: bool = False) -> None:
        """`thinks`: the answer begins within reasoning."""
        self._parts = ThinkingParts(thinks) if sys.stdout.isatty() else None

    def push(self, piece: str) -> None:
        self._write(piece, self._parts.push(piece) if self._parts else ())

    def finish(self, rest: str) -> None:
        """Write the last piece, and end the line."""
        self.push(rest)
        self._write("\n", (*self._parts.finish(), (False, "\n")) if self._parts else ())

    def _write(self, piece: str, parts: Iterable[tuple[bool, str]]) -> None:
        if self._parts is None:
            print(piece, end="", flush=True)
            return
        for is_thinking, part in parts:
            text = printable(part)
            print(f"{DIM}{text}{NOT_DIM}" if is_thinking else text, end="", flush=True)


def values_of(model: Transformer, sampling: ResolvedSampling, completion: Completion) -> dict[str, object]:
    """An answer with its figures, as `--json` prints it."""
    usage = completion.usage
    return {
        "text": completion.text,
        "tokens": completion.tokens,
        "finish_reason": completion.finish_reason,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "prefill_s": usage.prefill_s,
        "decode_s": usage.decode_s,
        "decode_tokens_per_s": usage.decode_tokens_per_s,
        "cache_bytes": usage.cache_bytes,
        "cached_tokens": usage.cached_tokens,
        "disk_tokens": usage.disk_tokens,
        "computed_tokens": usage.computed_tokens,
        "left_chain_at": usage.left_chain_at,
        "peak_rss_bytes": peak_rss_bytes(),
        "prefill_tokens_per_s": usage.prefill_tokens_per_s,
        "weight_bytes": sum(p.nbytes for p in model.parameters()) + model.experts.store.num_bytes,
        "sampling": sampling.values(),
    }


def report(completion: Completion) -> None:
    """One dim line of figures on stderr."""
    from rich.console import Console

    usage = completion.usage
    reason = completion.finish_reason
    end = reason if reason == "interrupted" else f"ended by {reason}"
    known = f" ({usage.prefix_line})" if usage.prefix_line else ""
    line = (
        f"prompt {usage.prompt_tokens:,} tokens{known}{_rate(usage.prefill_tokens_per_s)}; "
        f"answer {usage.completion_tokens} tokens{_rate(usage.decode_tokens_per_s)}, "
        f"{end}; cache {usage.cache_bytes / 1e6:.2f} MB; "
        f"peak memory {peak_rss_bytes() / 1e6:,.0f} MB"
    )
    Console(stderr=True).print(line, style="dim", highlight=False, soft_wrap=True)


def _rate(tokens_per_s: float | None) -> str:
    """Returns a rate for the line of figures, or nothing where none was measured."""
    return "" if tokens_per_s is None else f", {tokens_per_s:.1f}/s"


class PrefillBar:
    """A bar on the terminal while a prompt of more than `SHOWN_TOKENS` is read. It moves with each pass."""

    def __init__(self, num_tokens: int):
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (SpinnerColumn(), TextColumn("prompt"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("", total=num_tokens)
        self._shown = False

    def __enter__(self) -> PrefillBar:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def update(self, done: int, of: int) -> None:
        if done == 0 and of > SHOWN_TOKENS and sys.stderr.isatty():
            self._bar.start()
            self._shown = True
        self._bar.update(self._task, completed=done, total=of)

    def stop(self) -> None:
        if self._shown:
            self._bar.stop()
            self._shown = False
