"""Whole models of one checkpoint: ours and each peer's on its GGUF file, in turns, and how far their logits are.

In each turn the machine's rates are measured, then every contestant reads the prompt anew and decodes after it.
Distance is the mean KL divergence, in nats, from the references' exact float32, over the first tokens of the prompt.
"""

from __future__ import annotations

import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from wavefold import ops
from wavefold.bench.limits import LimitsMeter
from wavefold.bench.peers import Peer
from wavefold.bench.peers.contestants import Contestants, Missing, PeerRow
from wavefold.bench.peers.our_model import new_logits
from wavefold.bench.speed import decode_bytes, prompt_operations
from wavefold.bench.worker import Worker
from wavefold.config import ModelConfig
from wavefold.engine.logprobs import divergence
from wavefold.engine.open import open_model

OUR_MODULE = "wavefold.bench.peers.our_model"
COMPARED_TOKENS = 16


def measure(
    folder: Path, gguf: Path, prompt: int, decode: int, arithmetic: str, python: str, repeats: int,
    peers: Sequence[Peer], report: Callable[[str], None] = lambda step: None,
) -> tuple[list[PeerRow], list[Missing]]:  # fmt: skip
    """Returns rows of the prompt and of decoding after it, ours first, and the peers that did not run.

    Raises ValueError for numbers that cannot be.
    """
    if prompt < 1 or decode < 1:
        raise ValueError(
            f"a prompt of {prompt} and {decode} decoded tokens are not allowed; expected 1 or more of each"
        )
    config = ModelConfig.from_file(folder)
    drawn = random.Random(0)
    tokens = [drawn.randrange(config.vocab_size) for _ in range(prompt + decode)]
    settings: dict[str, object] = {
        "folder": str(folder), "gguf": str(gguf), "max_tokens": prompt + decode, "threads": torch.get_num_threads()
    }  # fmt: skip
    ours: dict[str, object] = {"arithmetic": arithmetic}
    report("logits in float32")
    reference = reference_logits(folder, tokens[:COMPARED_TOKENS])
    with Contestants(peers, OUR_MODULE, python, settings, ours, report) as contestants:
        rows = rows_of(config, prompt, arithmetic, contestants.workers)
        compare(contestants, tokens[:COMPARED_TOKENS], reference, rows, report)
        meter = LimitsMeter(arithmetic)
        for turn in range(repeats):
            limits = meter.measure()
            for worker in list(contestants.workers)[:: 1 if turn % 2 else -1]:
                report(f"{worker.name}: prompt of {prompt}, turn {turn + 1} of {repeats}")
                for kind, asked in (("prefill", tokens[:prompt]), ("decode", tokens[prompt:])):
                    if answer := contestants.ask(worker, {kind: asked}):
                        row = rows[worker.name, kind]
                        row.seconds.append(statistics.median(answer["seconds"]))
                        row.limits.append(limits)
        return contestants.complete(rows.values()), contestants.missing


def compare(
    contestants: Contestants, tokens: Sequence[int], reference: Tensor, rows: dict[tuple[str, str], PeerRow],
    report: Callable[[str], None],
) -> None:  # fmt: skip
    """Sets the error of each contestant's rows: the distance of its logits after each of `tokens`."""
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "logits.safetensors"
        for worker in list(contestants.workers):
            report(f"{worker.name}: logits")
            if contestants.ask(worker, {"logits": tokens, "out": str(out)}) is not None:
                distance = mean_kl(reference, load_file(out)["logits"])
                rows[worker.name, "prefill"].error = rows[worker.name, "decode"].error = distance


def rows_of(
    config: ModelConfig, prompt: int, arithmetic: str, workers: Sequence[Worker]
) -> dict[tuple[str, str], PeerRow]:
    """Empty rows by contestant and kind. A prompt is bounded by operations, a token by bytes."""
    num_bytes = float(decode_bytes(config, prompt, arithmetic == "released"))
    amounts = {"prefill": (0.0, prompt_operations(config, prompt)), "decode": (num_bytes, 0.0)}
    return {
        (worker.name, kind): PeerRow(worker.name, kind, prompt, *amounts[kind])
        for kind in amounts
        for worker in workers
    }


def reference_logits(folder: Path, tokens: Sequence[int]) -> Tensor:
    """Logits [tokens, vocab] by the references in exact float32."""
    with ops.using(backend="reference"):
        return new_logits(open_model(folder, "exact", torch.float32, "cpu"), tokens)


def mean_kl(reference: Tensor, logits: Tensor) -> float:
    """Mean KL(reference || logits) in nats a token, computed in float64."""
    return float(divergence(reference, logits).mean())
