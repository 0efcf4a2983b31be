"""Memory of a training run, from its configuration and recipe, and the check before anything large is allocated.

    all the time     masters, gradients, moments
    in a pass        the weights as they are quantized, activations of this process's share of a batch
    in an update     directions of Muon, summed for all matrices before the first one moves
    in a save        the state twice: as gathered tensors, and as the bytes of a file

The parts are added, though not all exist at once, since the allocator returns almost nothing in between. The factors of
activations and of `ALLOCATOR` are fitted to the peak resident memory of 26 runs: the nano preset, and variations of its
widths, layers, experts, vocabulary and batches (tests/train/test_room.py repeats some of them).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch

from wavefold.config import COMPRESSIONS, ModelConfig
from wavefold.plan.tensors import TensorKind, tensor_kinds
from wavefold.system import available_bytes, check_memory
from wavefold.train.recipe import Recipe
from wavefold.waves.agreement import num_ranks_here

FLOAT = 4
ALLOCATOR = 4
"""Bytes lost to fragmentation for each trained weight. For a packed weight it is 1."""
IN_BACKWARD = 2
"""Number of blocks whose activations the backward pass needs beside the kept ones."""
RECOMPUTED_SHARE = 0.5
"""Share of block activations that remain with recomputation, beside `RECOMPUTED` blocks, allocator included."""
RECOMPUTED = 4
RELEASED = 3
"""Activation bytes of released arithmetic over those of exact bfloat16: rounded copies, and no fused kernels."""
OTHER_BYTES = 190_000_000
"""Bytes of the smallest model: libraries that are imported late, scratch, the text of a batch."""


@dataclass(frozen=True)
class TrainingBytes:
    """Bytes that one process of a run needs beyond those before its model is built."""

    masters: int
    gradients: int
    moments: int
    values: int
    activations: int
    update: int
    state: int
    other: int = OTHER_BYTES

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


def training_bytes(config: ModelConfig, recipe: Recipe, dtype: torch.dtype, num_processes: int = 1) -> TrainingBytes:
    """Returns the bytes of one process of a run. `dtype`: type of activations, as in `--dtype`."""
    kinds = tensor_kinds(config)
    everything = sum(kind.values for kind in kinds if kind.precision != "int64")
    width = 2 if recipe.activations == "released" else dtype.itemsize
    activations = _activations(config, recipe, width, num_processes)
    if recipe.lora_rank:
        adapted = sum(kind.values for kind in kinds if kind.part in ("attention", "shared"))
        values = (width + 1) * everything + (2 * FLOAT + width) * adapted
        adapters = sum(kind.count * recipe.lora_rank * sum(kind.shape) for kind in kinds
                       if kind.part in ("attention", "shared") and len(kind.shape) == 2)  # fmt: skip
        trained = FLOAT * adapters
        return TrainingBytes(trained, trained, 2 * trained, values, activations, 0, 6 * trained)
    share = sum(kind.values * _share(kind, recipe, num_processes) for kind in kinds if kind.precision != "int64")
    by_muon = sum(kind.values * _share(kind, recipe, num_processes) for kind in kinds if _by_muon(kind, recipe))
    tables = sum(kind.bytes for kind in kinds if kind.precision == "int64")
    masters, moments = FLOAT * share, FLOAT * by_muon + 2 * FLOAT * (share - by_muon)
    hashed = any(spec.hashed for spec in config.layers)
    drawn = 5 * FLOAT * config.vocab_size * config.n_routed_experts if hashed else 0
    return TrainingBytes(
        masters=int(masters + tables),
        gradients=int(masters),
        moments=int(moments),
        values=width * everything,
        activations=activations,
        update=int(FLOAT * by_muon + ALLOCATOR * (share - by_muon)),
        state=int(2 * (masters + tables + moments)),
        other=int(OTHER_BYTES + ALLOCATOR * share + drawn),
    )


def check_training(config: ModelConfig, recipe: Recipe, dtype: torch.dtype, num_processes: int = 1) -> None:
    """Raises ValueError, with settings that would fit, for a run that needs more memory than is free.

    The processes of the run on this machine (LOCAL_WORLD_SIZE of torchrun) share the free memory.
    """
    here = num_ranks_here()
    needed = here * training_bytes(config, recipe, dtype, num_processes).total
    if needed <= (free := available_bytes()):
        return

    def fits(other_config: ModelConfig = config, **settings: object) -> bool:
        changed = replace(recipe, **settings)  # type: ignore[arg-type]
        return here * training_bytes(other_config, changed, dtype, num_processes).total <= free

    advice = []
    if not recipe.recompute and fits(recompute=True):
        advice.append("recompute=True")
    longest = max(tokens for _, tokens in recipe.length_stages)
    tokens = next((n for n in _halves(recipe.batch_tokens, longest) if fits(batch_tokens=n, recompute=True)), None)
    if tokens:
        advice.append(f"batch_tokens={tokens} with recompute=True")
    if not recipe.lora_rank and not recipe.expert_waves and fits(lora_rank=8):
        advice.append("lora_rank=8 with --init")
    layers = next((n for n in range(config.num_hidden_layers - 1, 0, -1) if fits(config.cut(n))), None)
    if layers:
        advice.append(f"a configuration of at most {layers} layers")
    check_memory(needed, f"training of {config.num_hidden_layers} layers, {recipe.batch_tokens} tokens a batch,",
                 ", or ".join(advice) or "a narrower model with fewer experts, or more memory")  # fmt: skip


def _activations(config: ModelConfig, recipe: Recipe, width: int, num_processes: int) -> int:
    """Returns the activation bytes of one process for its share of a batch, at the longest sequences."""
    longest = max(tokens for _, tokens in recipe.length_stages)
    tokens = max(recipe.batch_tokens // num_processes, min(longest, recipe.batch_tokens))
    block = (
        4 * config.hc_mult * config.hidden_size
        + 8 * config.hidden_size
        + 3 * config.num_attention_heads * config.head_dim
        + 6 * config.head_dim
        + 3 * config.q_lora_rank
        + 2 * config.o_groups * config.o_lora_rank
        + 2 * config.index_n_heads * config.index_head_dim
        + (config.num_experts_per_tok + 1) * (2 * config.moe_intermediate_size + config.hidden_size)
    )
    blocks: float = IN_BACKWARD + config.num_blocks
    streams = 0
    if recipe.recompute:
        blocks = RECOMPUTED + RECOMPUTED_SHARE * config.num_blocks
        streams = config.num_blocks * config.hc_mult * config.hidden_size
    factor = RELEASED if recipe.activations == "released" else 1
    # Attention mass of an indexed layer, float32, and the chosen entries, which are kept.
    entries = tokens * longest // next(c.ratio for c in COMPRESSIONS if c.indexed)
    kept = 1 if recipe.recompute else sum(spec.indexed for spec in config.layers)
    return int(tokens * width * factor * (blocks * block + streams)) + entries * (2 * FLOAT + kept)


def _share(kind: TensorKind, recipe: Recipe, num_processes: int) -> float:
    """Returns the share of a parameter in one process. Experts are whole in every process unless shared out."""
    return 1.0 if kind.part == "routed" and not recipe.expert_waves else 1 / num_processes


def _by_muon(kind: TensorKind, recipe: Recipe) -> bool:
    is_matrix = len(kind.shape) == 2 and kind.precision != "int64" and kind.part not in ("embedding", "head")
    return recipe.optimizer == "muon" and is_matrix


def _halves(tokens: int, least: int) -> list[int]:
    """Returns halved batch sizes, the largest first, down to a single sequence."""
    halves = []
    while tokens // 2 >= least:
        tokens //= 2
        halves.append(tokens)
    return halves
