"""What `wavefold run` shows of an answer: its text as it comes, one JSON object, a dim line of figures, a bar."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from wavefold.cli.terminal import printable
from wavefold.system import peak_rss_bytes

if TYPE_CHECKING:
    from wavefold.chat import Prompt, Tokenizer
    from wavefold.cli.sampling import Sampling
    from wavefold.engine import Generation
    from wavefold.model import Transformer


class Stream:
    """Writes an answer to stdout token by token: text, or ids where there is no tokenizer."""

    def __init__(self, tokenizer: Tokenizer | None, prompt: Prompt, show_special: bool):
        from wavefold.chat import StreamDecoder

        self._decoder = None if tokenizer is None else StreamDecoder(tokenizer, len(prompt.taken), show_special)
        self._on_terminal = sys.stdout.isatty()

    def push(self, token: int) -> None:
        piece = f"{token} " if self._decoder is None else self._decoder.push(token)
        print(printable(piece) if self._on_terminal else piece, end="", flush=True)

    def finish(self) -> None:
        print("" if self._decoder is None else self._decoder.finish(), flush=True)


def facts(
    model: Transformer, sampling: Sampling, prompt: Prompt, generation: Generation, ids: list[int], text: str | None
) -> dict[str, object]:
    """All about an answer, as `--json` prints it. `text` is None where there is no tokenizer."""
    stats = generation.stats
    return {
        "text": text,
        "tokens": ids,
        "stop_reason": sampling.stop_reason(generation),
        "prompt_tokens": prompt.num_tokens,
        "completion_tokens": len(ids),
        "prefill_s": stats.prefill_s,
        "decode_s": stats.decode_s,
        "decode_tokens_per_s": stats.decode_tokens_per_s,
        "cache_bytes": stats.cache_bytes,
        "peak_rss_bytes": peak_rss_bytes(),
        "prefill_tokens_per_s": stats.prefill_tokens_per_s,
        "weight_bytes": sum(p.nbytes for p in model.parameters()) + model.experts.store.num_bytes,
        "sampling": sampling.values(),
    }


def report(sampling: Sampling, prompt: Prompt, generation: Generation, num_tokens: int) -> None:
    """One dim line of figures on stderr."""
    from rich.console import Console

    stats = generation.stats
    line = (
        f"prompt {prompt.num_tokens} tokens, {stats.prefill_tokens_per_s:.1f}/s; "
        f"answer {num_tokens}, {stats.decode_tokens_per_s:.1f} tokens/s, ended by {sampling.stop_reason(generation)}; "
        f"cache {stats.cache_bytes / 1e6:.2f} MB; peak memory {peak_rss_bytes() / 1e6:,.0f} MB"
    )
    Console(stderr=True).print(line, style="dim", highlight=False, soft_wrap=True)


class PrefillBar:
    """A bar on the terminal while a prompt of more than one pass is read."""

    def __init__(self, num_tokens: int):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("prompt"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("", total=num_tokens)
        self._shown = False

    def __enter__(self) -> PrefillBar:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def update(self, done: int, of: int) -> None:
        from wavefold.model.transformer import PASS_TOKENS

        if done == 0 and of > PASS_TOKENS and sys.stderr.isatty():
            self._bar.start()
            self._shown = True
        self._bar.update(self._task, completed=done, total=of)

    def stop(self) -> None:
        if self._shown:
            self._bar.stop()
            self._shown = False
