"""A model's rates on a machine: upper bounds, the limit that binds, and what is expected of the code below it.

    decode    a token reads its active weights and its cache once     max(bytes / memory, operations / GEMM, disk)
    prefill   a pass reads all weights once

Routed experts may lie on disk: those without room in memory are read again when they are needed (each expert equally
often). All other weights, the cache and the state must fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from wavefold.config import ModelConfig
from wavefold.plan.cache import RecordBytes, packed, pool_bytes, state_bytes
from wavefold.plan.flops import Flops, decode_flops, prefill_flops
from wavefold.plan.machine import Machine
from wavefold.plan.tensors import tensor_kinds

PASS_TOKENS = 1024
"""Tokens that go through the layers at a time (`model.transformer.PASS_TOKENS`)."""
PROGRAM_BYTES = 1 << 30
"""Python, torch and the activations of a pass."""
REACHED = {"memory bandwidth": 0.85, "arithmetic": 0.85, "disk": 0.87}
"""The share of each limit that the CPU kernels and the streamed experts reach.

Measured: decoding in memory 0.84 to 0.90, prompts 0.83 to 0.93 (docs/kernels.md), decoding from disk 0.83 to 0.91
(docs/streaming.md). A processor that computes slower than its memory reads stays below the first.
"""


@dataclass(frozen=True)
class Need:
    """Bytes that a model takes at a context length."""

    dense: int
    routed: int
    cache: int
    state: int

    @property
    def fixed(self) -> int:
        """Bytes that must be in memory."""
        return self.dense + self.cache + self.state + PROGRAM_BYTES

    def routed_in_memory(self, memory: int) -> float:
        """The share of the routed experts that has room beside `fixed`, in `memory` bytes."""
        return max(0.0, min(1.0, (memory - self.fixed) / self.routed)) if self.routed else 1.0


class Placed(NamedTuple):
    """What was decided for a memory: the share of routed experts that it holds, and the tokens of a pass.

    `scale`: bytes of the routed experts, as a multiple of those in the configuration's format.
    """

    share: float
    pass_tokens: int = PASS_TOKENS
    scale: float = 1.0


@dataclass(frozen=True)
class Rate:
    """Tokens per second at best and as expected, and the seconds a token that each limit alone would take."""

    seconds: Mapping[str, float]

    @property
    def limit(self) -> str:
        return max(self.seconds, key=lambda name: self.seconds[name])

    @property
    def tokens_per_s(self) -> float:
        return 1 / self.seconds[self.limit]

    @property
    def expected_per_s(self) -> float:
        """Tokens per second where each limit is reached as far as it was on the machines that were measured."""
        return 1 / max(seconds / REACHED[name] for name, seconds in self.seconds.items())


def weight_bytes(config: ModelConfig) -> tuple[int, int]:
    """Returns the bytes of the weights beside the routed experts, and of these. The MTP module is left out."""
    kinds = [kind for kind in tensor_kinds(config) if kind.part != "mtp"]
    routed = sum(kind.bytes for kind in kinds if kind.part == "routed")
    return sum(kind.bytes for kind in kinds) - routed, routed


def pass_bytes(config: ModelConfig, num_tokens: float) -> float:
    """Returns the bytes of weights that a pass of so many tokens reads once each, experts chosen evenly."""
    share = config.num_experts_per_tok / config.n_routed_experts
    met = 1 - (1 - share) ** num_tokens
    kinds = [kind for kind in tensor_kinds(config) if kind.active]
    return sum(
        kind.bytes * (met if kind.part == "routed" else kind.active_values / kind.values) for kind in kinds
    )  # fmt: skip


def scale_of(config: ModelConfig, bits: float) -> float:
    """The `scale` of routed experts with `bits` a value, scales included."""
    values = sum(kind.values for kind in tensor_kinds(config) if kind.part == "routed")
    return bits / 8 * values / weight_bytes(config)[1]


def need(config: ModelConfig, context: int, scale: float = 1.0) -> Need:
    """Bytes of a model and its cache. The MTP module is left out: it stays on disk until something drafts with it."""
    dense, routed = weight_bytes(config)
    records = packed(config)
    return Need(dense, int(scale * routed), pool_bytes(config, context, records), state_bytes(config, records))


def check_fits(config: ModelConfig, context: int, memory: int, scale: float = 1.0) -> Need:
    """Returns the model's need. Raises ValueError, with the figures, if its fixed part is more than `memory` bytes."""
    needed = need(config, context, scale)
    if needed.fixed <= memory:
        return needed
    smallest = need(config, 1)
    if smallest.fixed <= memory:
        longest = int((memory - smallest.fixed) / ((needed.cache - smallest.cache) / context))
        advice = f"a context of about {longest:,} tokens would fit"
    else:
        advice = "no context fits: the weights that every token reads alone are too many"
    raise ValueError(
        f"{context:,} tokens do not fit: {_gb(needed.dense)} of weights beside the routed experts, "
        f"{_gb(needed.cache)} of cache, {_gb(needed.state)} of state and {_gb(PROGRAM_BYTES)} for the program are "
        f"{_gb(needed.fixed)}; this machine has {_gb(memory)}; {advice}"
    )


def placed(config: ModelConfig, context: int, memory: int, scale: float = 1.0) -> Placed:
    """Returns what `memory` bytes hold where no budget says it. Raises ValueError if the fixed part does not fit."""
    share = check_fits(config, context, memory, scale).routed_in_memory(memory)
    return Placed(share, scale=scale)


def decode_rate(config: ModelConfig, context: int, machine: Machine, where: Placed) -> Rate:
    """The rate of decoding one sequence at `context` tokens."""
    active = {"routed": 0.0, "dense": 0.0}
    for kind in tensor_kinds(config):
        if kind.active:
            active["routed" if kind.part == "routed" else "dense"] += kind.bytes * kind.active_values / kind.values
    active["routed"] *= where.scale
    seconds = {
        "memory bandwidth": (sum(active.values()) + cache_read(config, context, packed(config))) / machine.memory_read,
        "arithmetic": _compute_seconds(decode_flops(config, context), machine),
    }
    missing = (1 - where.share) * active["routed"]
    return Rate(seconds | _disk(missing, machine))


def prefill_rate(config: ModelConfig, num_tokens: int, machine: Machine, where: Placed) -> Rate:
    """The rate of reading a prompt of `num_tokens`."""
    needed = need(config, num_tokens, where.scale)
    tokens = min(where.pass_tokens, num_tokens)
    touched = 1 - (1 - config.num_experts_per_tok / config.n_routed_experts) ** tokens
    seconds = {
        "memory bandwidth": (needed.dense + touched * needed.routed) / tokens / machine.memory_read,
        "arithmetic": _compute_seconds(prefill_flops(config, num_tokens), machine),
    }
    missing = (1 - where.share) * touched * needed.routed
    return Rate(seconds | _disk(missing / tokens, machine))


def cache_read(config: ModelConfig, context: int, records: RecordBytes) -> int:
    """Bytes of cache that a decoded token reads: index keys, the chosen or all entries, windows."""
    read = 0
    for spec in config.main_layers:
        entries = context // spec.ratio if spec.compressed else 0
        attended = min(config.index_topk, entries) if spec.indexed else entries
        read += (attended + min(spec.window, context)) * records.kv
        read += entries * records.index if spec.has_indexer else 0
    return read


def _compute_seconds(flops: Flops, machine: Machine) -> float:
    """Seconds of the operations: float32 matrices at the float32 rate, all others at the best dtype's.

    The kernels multiply in float32 where bfloat16 is slower, with the same sums.
    """
    wide = flops.linear["fp32"]
    return wide / machine.gemm["float32"] + (flops.raw - wide) / machine.dense


def _disk(missing: float, machine: Machine) -> dict[str, float]:
    if missing == 0:
        return {}
    if machine.disk_read is None:
        raise ValueError(
            f"the routed experts do not fit in memory, and the read rate of {machine.disk_folder} is unknown: its file "
            "system has no O_DIRECT; set XDG_CACHE_HOME to a folder on the disk that holds the models"
        )
    return {"disk": missing / machine.disk_read}


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:,.2f} GB"
