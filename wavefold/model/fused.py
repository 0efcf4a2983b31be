"""The main layers by the CPU kernels, for new tokens of sequences in a pool: each layer in two calls.

    streams --block_attention--> streams, h, who goes where --experts, as the store hands them out--> streams

The meaning is `block.py`'s, step for step (csrc/step.cpp, csrc/experts.cpp); this file says where a layer's parameters
and a sequence's caches lie.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wavefold import ops
from wavefold.cache import PagedMemory
from wavefold.config import CSA, SWA, ModelConfig
from wavefold.model.batch import Batch
from wavefold.model.block import Block
from wavefold.model.compressor import Compressor
from wavefold.model.expert_store import ExpertStore
from wavefold.model.moe import Expert
from wavefold.model.parameters import Linear
from wavefold.model.router import Router
from wavefold.ops import Arithmetic, native


class FusedBlock:
    """A block's parameters as the kernels take them."""

    def __init__(self, block: Block, config: ModelConfig, arithmetic: Arithmetic):
        self.layer, self.limit = block.attn.layer, config.swiglu_limit
        self.ratio, self.kinds = block.attn.ratio, _kinds(block.attn.ratio)
        self.addresses = _addresses(block)
        self.parameters = native.BlockParameters(_fields(block, config, arithmetic))
        shared: Expert = block.ffn.shared_experts
        self._shared_weights = shared.weights()  # held: the structure below points into them
        self.shared = native.expert_struct(-1, self._shared_weights)

    def is_of(self, block: Block) -> bool:
        """Whether the block's parameters are still those that this was made of."""
        return self.addresses == _addresses(block)


def serves(layers: Sequence[Block], batch: Batch, arithmetic: Arithmetic) -> bool:
    """Whether the kernels run these layers: bfloat16 on a CPU over a pool, nobody counting, parameters as on disk."""
    memories = [segment.memory for segment in batch.segments]
    return (
        ops.kernels_run(arithmetic.dtype, batch.tokens.device)
        and all(memory.has_rows for memory in memories)
        and all(_as_stored(block) for block in layers)
    )


def run_layers(
    fused: Sequence[FusedBlock],
    streams: Tensor,
    batch: Batch,
    store: ExpertStore,
    config: ModelConfig,
    arithmetic: Arithmetic,
) -> Tensor:
    """streams bfloat16 [n, hc, hidden] -> the same after all layers; the memories' rows as after `Block.forward`."""
    streams = streams.contiguous()
    buffers = native.PassBuffers(len(streams), config.hc_mult, config.hidden_size, config.num_experts_per_tok)
    for block in fused:
        memories: list[PagedMemory] = [segment.memory for segment in batch.segments]  # type: ignore[misc]
        runs = [_run(block, memory) for memory in memories]
        native.block_attention(block.parameters, runs, batch.tokens, streams, buffers)
        chosen = sorted(set(buffers.chosen.flatten().tolist()))
        with store.view(block.layer, chosen) as view:
            structs = [native.expert_struct(expert, view[expert]) for expert in chosen]
            native.experts([*structs, block.shared], block.limit, arithmetic.released, buffers)
        native.leave(buffers, streams)
    return streams


def _run(block: FusedBlock, memory: PagedMemory) -> native.RunStruct:
    """A sequence's new tokens and its cache in this layer. One token is written to the rings at once: they hold a row
    more than its readers and a rewind go back. Of more, the last rows wait for the commit."""
    run = native.RunStruct(memory.start, memory.length)
    window = memory.window_rows(block.layer)
    run.window = window.struct()
    wait = memory.length > 1
    if wait:
        run.new_window = memory.keep(window.storage).data_ptr()
    if block.kinds:
        kind, tail = block.kinds[0], memory.tail_rows(block.kinds[0], block.layer)
        run.entries, run.tail, run.tail_rows = memory.rows(kind, block.layer).struct(), tail.data_ptr(), len(tail)
        if wait:
            run.new_tail = memory.keep(tail).data_ptr()
    if len(block.kinds) > 1:
        kind, tail = block.kinds[1], memory.tail_rows(block.kinds[1], block.layer)
        run.keys, run.key_tail, run.key_tail_rows = memory.rows(kind, block.layer).struct(), tail.data_ptr(), len(tail)
        if wait:
            run.new_key_tail = memory.keep(tail).data_ptr()
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


def _parameters(block: Block) -> list[nn.Parameter]:
    """All but the routed experts'."""
    attention = list(block.attn.parameters())
    rest = [*block.parameters(recurse=False), *block.ffn.gate.parameters(), *block.ffn.shared_experts.parameters()]
    return [*attention, *rest, block.attn_norm.weight, block.ffn_norm.weight]


def _addresses(block: Block) -> tuple[int, ...]:
    return tuple(parameter.data_ptr() for parameter in _parameters(block))


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
