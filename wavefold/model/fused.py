"""The main layers by the CPU kernels, for new tokens of sequences in a pool: each layer in two calls.

    streams --block_attention--> streams, h, who goes where --experts, as the store hands them out--> streams

The meaning is `block.py`'s, step for step (csrc/step.cpp, csrc/experts.cpp); this file says where a layer's parameters
and a sequence's caches lie.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wavefold import ops
from wavefold.cache import PagedMemory
from wavefold.config import CSA, SWA, ModelConfig
from wavefold.experts import ExpertCompute
from wavefold.model.batch import Batch
from wavefold.model.block import Block
from wavefold.model.compressor import Compressor
from wavefold.model.moe import Expert
from wavefold.model.parameters import Linear
from wavefold.model.router import Router
from wavefold.ops import Arithmetic, native


class FusedBlock:
    """A block's parameters as the kernels take them. Made of a block that is stored as the official files are."""

    def __init__(self, block: Block, config: ModelConfig, arithmetic: Arithmetic):
        self.layer, self.limit = block.attn.layer, config.swiglu_limit
        self.ratio, self.kinds = block.attn.ratio, _kinds(block.attn.ratio)
        self._slots = _slots(block)
        self._addresses = _addresses(self._slots)
        self.parameters = native.BlockParameters(_fields(block, config, arithmetic))
        shared: Expert = block.ffn.shared_experts
        self._shared_weights = shared.weights()  # held: the structure below points into them
        self.shared = native.expert_struct(-1, self._shared_weights)
        # what the calls read first, for threads that wait while Python runs
        self.first = native.spans([block.get_parameter("hc_attn_fn"), block.attn.wq_a.weight, block.attn.wkv.weight])
        self.first_of_experts = native.spans([shared.w1.weight, shared.w3.weight])

    @property
    def is_current(self) -> bool:
        """Whether the block's parameters are still those that this was made of."""
        return self._addresses == _addresses(self._slots)


class FusedLayers:
    """A model's main layers as the kernels take them, made when they are first needed and when parameters change."""

    def __init__(self) -> None:
        self._blocks: list[FusedBlock] = []
        self._arithmetic: Arithmetic | None = None

    def of(
        self, layers: Sequence[Block], batch: Batch, config: ModelConfig, arithmetic: Arithmetic
    ) -> list[FusedBlock]:
        """The layers, or an empty list where the kernels do not serve: other activations than bfloat16, another device
        than a CPU, no pool, somebody counting operations, parameters that are not as in the official files."""
        runs = ops.kernels_run(arithmetic.dtype, batch.tokens.device)
        if not runs or not all(segment.memory.has_rows for segment in batch.segments):
            return []
        same = self._arithmetic == arithmetic and len(self._blocks) == len(layers)
        if not (same and all(block.is_current for block in self._blocks)):
            self._arithmetic = arithmetic
            self._blocks = [FusedBlock(block, config, arithmetic) for block in layers] if as_stored(layers) else []
        return self._blocks


def run_layers(
    fused: Sequence[FusedBlock],
    streams: Tensor,
    batch: Batch,
    experts: ExpertCompute,
    config: ModelConfig,
    arithmetic: Arithmetic,
) -> Tensor:
    """streams bfloat16 [n, hc, hidden] -> the same after all layers; the memories' rows as after `Block.forward`."""
    buffers = native.PassBuffers(batch.tokens, streams, config.num_experts_per_tok)
    memories: list[PagedMemory] = [segment.memory for segment in batch.segments]  # type: ignore[misc]
    nothing = native.spans([])
    for block, after in zip(fused, [*(later.first for later in fused[1:]), nothing], strict=True):
        runs = [_run(block, memory) for memory in memories]
        native.block_attention(block.parameters, runs, buffers, block.first_of_experts)
        if not experts.takes_views:
            native.experts([block.shared], block.limit, arithmetic.released, buffers, after)
            parts = buffers.h, buffers.route, buffers.chosen
            routed = experts.routed(block.layer, *parts)
            buffers.made.copy_(routed.float() + buffers.made.float())
            native.leave(buffers)
            continue
        chosen = buffers.distinct_experts()
        with experts.store.acquire(block.layer, chosen) as view:
            structs = [native.expert_struct(expert, view[expert]) for expert in chosen]
            native.experts([*structs, block.shared], block.limit, arithmetic.released, buffers, after)
        native.leave(buffers)
    return buffers.streams


def _run(block: FusedBlock, memory: PagedMemory) -> native.RunStruct:
    """A sequence's new tokens and its cache in this layer. One token is written to the rings at once: they hold a row
    more than its readers and a rewind go back. Of more, the last rows wait for the commit."""
    kept = memory.sequence.kept
    run = kept.get(block.layer)
    if not isinstance(run, native.RunStruct):
        run = kept[block.layer] = _caches(block, memory)
    if memory.length > 1:
        run = native.RunStruct.from_buffer_copy(run)
        run.new_window = memory.keep(memory.window_rows(block.layer).storage).data_ptr()
        for kind, name in zip(block.kinds, ("new_tail", "new_key_tail"), strict=False):
            setattr(run, name, memory.keep(memory.tail_rows(kind, block.layer)).data_ptr())
    run.position, run.tokens = memory.start, memory.length
    return run


def _caches(block: FusedBlock, memory: PagedMemory) -> native.RunStruct:
    """Where a sequence's rows of this layer lie."""
    run = native.RunStruct()
    run.window = memory.window_rows(block.layer).struct()
    names = ("entries", "tail", "tail_rows"), ("keys", "key_tail", "key_tail_rows")
    for kind, (rows, tail, tail_rows) in zip(block.kinds, names, strict=False):
        ring = memory.tail_rows(kind, block.layer)
        setattr(run, rows, memory.rows(kind, block.layer).struct())
        setattr(run, tail, ring.data_ptr())
        setattr(run, tail_rows, len(ring))
    return run


def _kinds(ratio: int) -> tuple[str, ...]:
    """The kinds of rows that a layer of this ratio caches: entries, then index keys."""
    return {SWA: (), CSA: ("csa", "index")}.get(ratio, ("hca",))


def _fields(block: Block, config: ModelConfig, arithmetic: Arithmetic) -> dict[str, object]:
    """wf_block, by name."""
    attn, router = block.attn, block.ffn.gate
    assert isinstance(router, Router)
    fields: dict[str, object] = {
        "released": arithmetic.released,
        "hidden": config.hidden_size,
        "streams": config.hc_mult,
        "iters": config.hc_sinkhorn_iters,
        "hc_eps": config.hc_eps,
        "norm_eps": config.rms_norm_eps,
        "attention": _mixer(block, "hc_attn", block.attn_norm.weight),
        "experts": _mixer(block, "hc_ffn", block.ffn_norm.weight),
        "heads": attn.num_heads,
        "head_dim": attn.head_dim,
        "rope_dim": attn.rope_dim,
        "groups": attn.num_groups,
        "window": attn.window,
        "ratio": attn.ratio,
        "overlap": attn.ratio == CSA,
        "sink": attn.attn_sink,
        "frequencies": ops.rope_frequencies(config, attn.ratio),
        "q_norm": attn.q_norm.weight,
        "kv_norm": attn.kv_norm.weight,
        "num_experts": config.n_routed_experts,
        "topk": config.num_experts_per_tok,
        "gate": (router.weight, None),
        "vocabulary": config.vocab_size,
        "route_scale": router.scale,
        **{name: _matrix(getattr(attn, name)) for name in ("wq_a", "wq_b", "wkv", "wo_a", "wo_b")},
    }
    if router.hashed:
        fields["gate_table"] = router.tid2eid.to(torch.int64)
    else:
        fields["gate_bias"] = router.bias
    if attn.ratio != SWA:
        fields["entries"] = _compressor(attn.compressor)
    if attn.ratio == CSA:
        indexer = attn.indexer
        fields |= {
            "index_heads": indexer.num_heads,
            "index_topk": indexer.topk,
            "keys": _compressor(indexer.compressor),
            "index_wq_b": _matrix(indexer.wq_b),
            "index_weights": _matrix(indexer.weights_proj),
        }
    return fields


def _matrix(linear: Linear) -> tuple[Tensor, Tensor | None]:
    return linear.weight, linear.scale


def _mixer(block: Block, prefix: str, norm: Tensor) -> dict[str, object]:
    fn, base, scale = (getattr(block, f"{prefix}_{name}") for name in ("fn", "base", "scale"))
    return {"fn": (fn, None), "base": base, "scale": scale, "norm": norm}


def _compressor(compressor: Compressor) -> dict[str, object]:
    return {
        "dim": compressor.dim,
        "wkv": _matrix(compressor.wkv),
        "wgate": _matrix(compressor.wgate),
        "ape": compressor.ape,
        "norm": compressor.norm.weight,
    }


Slots = tuple[list[dict[str, Tensor]], list[str]]


def _slots(block: Block) -> Slots:
    """Where a block's parameters stand, all but the routed experts': modules' dicts, and names in them."""
    parts: list[nn.Module] = [block.attn, block.ffn.gate, block.ffn.shared_experts, block.attn_norm, block.ffn_norm]
    modules = [block, *(module for part in parts for module in part.modules())]
    slots = [
        (module._parameters, name)
        for module in modules
        for name, parameter in module._parameters.items()
        if parameter is not None
    ]
    return [parameters for parameters, _ in slots], [name for _, name in slots]  # type: ignore[misc]


def _addresses(slots: Slots) -> list[int]:
    """By `map`, as every token asks for all of them."""
    return list(map(Tensor.data_ptr, map(operator.getitem, *slots)))


def as_stored(layers: Sequence[Block]) -> bool:
    """True if whole layers can run in the kernels: their parameters are as in the official files."""
    return all(_as_stored(block) for block in layers)


def _as_stored(block: Block) -> bool:
    """Norms in bfloat16 and the other vectors in float32, as in the official files, and wo_a cut at whole scales."""
    attn = block.attn
    wide = [attn.attn_sink, *block.parameters(recurse=False)]
    norms = [attn.q_norm, attn.kv_norm, block.attn_norm, block.ffn_norm]
    if attn.ratio != SWA:
        wide.append(attn.compressor.ape)
        norms.append(attn.compressor.norm)
    if attn.ratio == CSA:
        wide.append(attn.indexer.compressor.ape)
        norms.append(attn.indexer.compressor.norm)
    rows = attn.wo_a.out_features // attn.num_groups
    whole = attn.wo_a.weight.dtype != torch.float8_e4m3fn or rows % 128 == 0
    return (
        whole
        and all(vector.dtype == torch.float32 for vector in wide)
        and all(norm.weight.dtype == torch.bfloat16 for norm in norms)
    )
