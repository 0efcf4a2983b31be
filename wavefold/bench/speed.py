"""Decode and prefill rates, beside the limits of this machine and beside peers with the same weights.

Contestants take turns, so that other load on the machine meets all of them. The bounds come from the same run: a
decoded token cannot be faster than its bytes can be read, a prompt than its operations in torch's dense products, of
bfloat16 or float32, whichever is faster. Both rates are measured anew in every turn: on a shared machine they change by
half within minutes.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from wavefold.bench.contestants import Contestant, Wavefold
from wavefold.checkpoint.count import FileCount
from wavefold.config import ModelConfig
from wavefold.plan.cache import packed, plain
from wavefold.plan.flops import prefill_flops
from wavefold.plan.machine import dense_rate, memory_read_rate
from wavefold.plan.predict import cache_read, weight_bytes
from wavefold.plan.tensors import tensor_kinds


@dataclass
class Row:
    """All samples of one measurement. `kind` is "decode" (at a depth of `tokens`) or "prefill" (a prompt of `tokens`).

    `seconds` are of a token or of a whole prompt, by contestant. `machine` is the rate that limits them in each turn:
    bytes read or operations a second.
    """

    kind: str
    tokens: int
    seconds: dict[str, list[float]] = field(default_factory=dict)
    machine: list[float] = field(default_factory=list)

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def share(self, amount: float) -> float:
        """The first contestant's share of the machine's rate, with `amount` bytes or operations a sample.

        It is the median over turns.
        """
        ours = next(iter(self.seconds.values()))
        count = len(ours) // len(self.machine)
        turns = [statistics.median(ours[turn * count : (turn + 1) * count]) for turn in range(len(self.machine))]
        shares = (amount / rate / seconds for rate, seconds in zip(self.machine, turns, strict=True))
        return statistics.median(shares)

    def ratio(self, name: str) -> float:
        """How many times as fast the first contestant is as this one, by medians."""
        ours = next(iter(self.seconds))
        return self.median(name) / self.median(ours)


def measure(
    contestants: Sequence[Contestant],
    config: ModelConfig,
    depths: Sequence[int],
    prompt: int,
    decode_tokens: int,
    repeats: int,
    report: Callable[[str], None] = lambda step: None,
) -> list[Row]:
    """Rows of decoding at each depth, then of a prompt of `prompt` tokens (0: none). Ours is the first contestant.

    At a depth our cache is filled at random, a peer reads that many tokens. Raises ValueError, before anything runs,
    for depths and counts that cannot be measured.
    """
    check(config, depths, prompt, decode_tokens, repeats)
    drawn = random.Random(0)

    def tokens(count: int) -> list[int]:
        return [drawn.randrange(config.vocab_size) for _ in range(count)]

    for contestant in contestants:  # peers do so when they load
        if isinstance(contestant, Wavefold):
            contestant.warm_up()
    rows = []
    for depth in depths:
        row = Row("decode", depth, {contestant.name: [] for contestant in contestants})
        for contestant in contestants:
            report(f"{contestant.name}: to depth {depth:,}")
            if isinstance(contestant, Wavefold) and depth:
                contestant.fill(depth)
            else:
                contestant.prefill(tokens(max(depth, 1)))
            contestant.decode(tokens(2))  # work that is done once, is done
            if isinstance(contestant, Wavefold):
                contestant.native_s = 0.0
        for turn in range(repeats):
            following = tokens(decode_tokens)
            report(f"memory, turn {turn + 1} of {repeats}")
            row.machine.append(memory_read_rate())
            for contestant in contestants:
                report(f"{contestant.name}: decoding at {depth:,}, turn {turn + 1} of {repeats}")
                row.seconds[contestant.name] += contestant.decode(following)
        ours = contestants[0]
        if isinstance(ours, Wavefold):
            row.seconds["outside native code"] = [sum(row.seconds[ours.name]) - ours.native_s]
        rows.append(row)
    if prompt:
        row = Row("prefill", prompt, {contestant.name: [] for contestant in contestants})
        read = tokens(prompt)
        for turn in range(repeats):
            report(f"GEMM, turn {turn + 1} of {repeats}")
            row.machine.append(dense_rate())
            for contestant in contestants:
                report(f"{contestant.name}: a prompt of {prompt:,}, turn {turn + 1} of {repeats}")
                row.seconds[contestant.name].append(contestant.prefill(read))
        rows.append(row)
    return rows


def check(config: ModelConfig, depths: Sequence[int], prompt: int, decode_tokens: int, repeats: int) -> None:
    """Raises ValueError for depths and counts that cannot be measured."""
    if decode_tokens < 1 or repeats < 1:
        raise ValueError(f"{decode_tokens} decoded tokens and {repeats} turns are not allowed; expected 1 or more")
    if prompt < 0 or any(depth < 0 for depth in depths) or not (depths or prompt):
        raise ValueError(f"depths {list(depths)} and a prompt of {prompt} are not allowed; expected 0 or more of each")
    longest = max([prompt, *(depth + max_decoded(decode_tokens, repeats) for depth in depths)])
    if longest > config.max_position_embeddings:
        raise ValueError(f"{longest:,} tokens are not allowed; the model goes to {config.max_position_embeddings:,}")


def max_decoded(decode_tokens: int, repeats: int) -> int:
    """Tokens that follow a depth."""
    return 1 + 2 + decode_tokens * repeats


class Scales(NamedTuple):
    """Bytes of a file's weights, as multiples of those by formula."""

    dense: float = 1.0
    routed: float = 1.0


BY_FORMULA = Scales()


def scales_of(config: ModelConfig, files: FileCount) -> Scales:
    """The scales of a file, whose types are not those of the configuration, as a GGUF file's."""
    dense, routed = weight_bytes(config)
    return Scales((files.bytes - files.routed - files.extra_bytes) / dense, files.routed / routed)


def decode_bytes(config: ModelConfig, depth: int, packed_records: bool, scales: Scales = BY_FORMULA) -> int:
    """Bytes that a token must read: the weights that it meets, once, and its part of the cache."""
    weights = 0
    for kind in tensor_kinds(config):
        if kind.active:
            scale = scales.routed if kind.part == "routed" else scales.dense
            weights += int(scale * (kind.bytes * kind.active_values // kind.values))
    return weights + cache_read(config, depth + 1, packed(config) if packed_records else plain(config, 2))


def prompt_operations(config: ModelConfig, prompt: int) -> float:
    """Floating-point operations of a prompt, its last token's logits included."""
    return prompt * prefill_flops(config, prompt).raw
