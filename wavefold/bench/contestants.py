"""The contestants of a measurement, each with one sequence of a model: ours, and peers with the same weights.

prefill(tokens) -> seconds       a new sequence, with the logits of its last token
decode(tokens) -> seconds each   gone on with, one token at a time, with the logits of each
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from wavefold import cache, ops
from wavefold.model import Step, Transformer
from wavefold.model.official import official_tensors
from wavefold.model.transformer import PASS_TOKENS


class Contestant(Protocol):
    """`arithmetic` names the formats of its numbers: no two stacks compute in the same ones."""

    name: str
    arithmetic: str

    def prefill(self, tokens: Sequence[int]) -> float: ...

    def decode(self, tokens: Sequence[int]) -> list[float]: ...


class Wavefold:
    """This project. `native_s` sums the seconds of decoding that were spent inside the CPU kernels."""

    name = "wavefold"

    def __init__(self, model: Transformer, max_tokens: int):
        self.model = model
        self.arithmetic = str(model.arithmetic)
        self.pool = model.new_pool(max_tokens)
        self.sequence = self.pool.open()
        self.native_s = 0.0

    def prefill(self, tokens: Sequence[int]) -> float:
        self._start_anew()
        began = time.perf_counter()
        parts = torch.tensor(tokens).split(PASS_TOKENS)
        for part in parts:
            wanted = [len(part) - 1] if part is parts[-1] else []
            self.model.forward_step(Step(part, [self.sequence], [len(part)], wanted))
        return time.perf_counter() - began

    def decode(self, tokens: Sequence[int]) -> list[float]:
        seconds = []
        for token in tokens:
            with ops.timing(self.model.runtime) as spent:
                began = time.perf_counter()
                self.model.forward_step(Step(torch.tensor([token]), [self.sequence], [1], [0]))
                seconds.append(time.perf_counter() - began)
            self.native_s += spent.seconds
        return seconds

    def warm_up(self) -> None:
        """Touch every weight: pages of a mapped file that this process has not seen yet cost a fault each."""
        for _, tensor in official_tensors(self.model):
            tensor.detach().view(torch.uint8).flatten()[::4096].sum()

    def fill(self, num_tokens: int) -> None:
        """Fill the cache with random rows, as if `num_tokens` tokens had been read.

        The cost of a step does not depend on the values of the rows.
        """
        self._start_anew()
        generator = torch.Generator().manual_seed(0)

        def rows(record: cache.Record, *shape: int) -> torch.Tensor:
            return record.encode(torch.randn(*shape, record.dim, generator=generator).bfloat16())

        memories = self.pool.begin([self.sequence], [num_tokens])
        layout, state = self.pool.layout, self.sequence.state
        for kind in layout.row_kinds:
            for layer in kind.layers:
                storage, _ = self.pool.rows_of(kind.name, layer)
                for part in storage.split(128):
                    part.copy_(rows(kind.record, *part.shape[:2]))
        state.windows.copy_(rows(layout.records.kv, *state.windows.shape[:2]))
        for tail in state.tails.values():
            tail.normal_(generator=generator)
        self.pool.commit(memories)

    def _start_anew(self) -> None:
        self.sequence.close()
        self.sequence = self.pool.open()


class Transformers:
    """transformers' model of the same folder: bfloat16 with decoded weights, and eager attention, its only kind."""

    name, arithmetic = "transformers", "bfloat16"

    def __init__(self, folder: Path):
        """Raises ValueError where transformers is not installed."""
        try:
            import transformers
        except ModuleNotFoundError:
            raise ValueError("this needs transformers; install it with: pip install transformers accelerate") from None
        self._model: Any = transformers.DeepseekV4ForCausalLM.from_pretrained(
            folder,
            quantization_config=transformers.FineGrainedFP8Config(dequantize=True),
            dtype=torch.bfloat16,
            attn_implementation="eager",
        ).eval()
        self._past: Any = None

    def prefill(self, tokens: Sequence[int]) -> float:
        self._past = None
        return self._run(tokens)

    def decode(self, tokens: Sequence[int]) -> list[float]:
        return [self._run([token]) for token in tokens]

    @torch.no_grad()
    def _run(self, tokens: Sequence[int]) -> float:
        began = time.perf_counter()
        out = self._model(torch.tensor([tokens]), past_key_values=self._past, use_cache=True, logits_to_keep=1)
        self._past = out.past_key_values
        return time.perf_counter() - began
