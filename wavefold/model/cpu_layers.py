"""The main layers on the CPU kernels, for new tokens of sequences in a pool.

    all experts in memory    ids --forward--> logits: one native call a pass
    experts elsewhere        each layer in three calls, with requests to the store or other ranks between them:
                             streams --block_attention--> streams, h, routes --experts--> --leave--> streams

The kernels repeat `block.py` step for step (csrc/forward.cpp, csrc/attention_half.cpp, csrc/experts.cpp). This
file tells them where a layer's parameters and a sequence's caches lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wavefold import ops
from wavefold.cache import PagedView, Rows, View, entries_of, keys_of
from wavefold.cache.state import SequenceState
from wavefold.config import LayerSpec, ModelConfig
from wavefold.experts import ExpertCompute
from wavefold.model.batch import Batch
from wavefold.model.block import Block
from wavefold.model.compressor import Compressor
from wavefold.model.cpu_experts import ExpertsCall
from wavefold.model.cpu_slots import Watch
from wavefold.model.hyper_connection import HyperConnected
from wavefold.model.look_ahead import LookAhead
from wavefold.model.moe import Expert
from wavefold.model.mtp import MTP
from wavefold.model.parameters import Linear, Norm
from wavefold.model.router import Router
from wavefold.ops import Adapter, Arithmetic, native
from wavefold.quant import Weight

if TYPE_CHECKING:
    from wavefold.model.transformer import Transformer


class CpuLayer:
    """A block's parameters as the kernels take them. The block's tensors are stored as in the official files."""

    def __init__(self, block: Block, config: ModelConfig, arithmetic: Arithmetic):
        self.layer, self.limit = block.attn.layer, config.swiglu_limit
        self.router: Router = block.ffn.gate  # type: ignore[assignment]
        self.rows = _rows(block.attn.spec)
        self.parameters = native.BlockParameters(_fields(block, config, arithmetic))
        shared: Expert = block.ffn.shared_experts
        self._shared_weights = shared.weights()  # kept alive: the structure below points into them
        self.shared = native.expert_struct(-1, self._shared_weights)
        # prefetch hints: the tensors that each call reads first
        self.first = native.ranges([block.get_parameter("hc_attn_fn"), block.attn.wq_a.weight, block.attn.wkv.weight])
        self.first_of_experts = native.ranges([shared.w1.weight, shared.w3.weight])


class CpuLayers:
    """A model's main layers, and the whole model, as the kernels take them.

    They are built at the first use, and again after modules or parameters were replaced or given other memory: each
    pass compares the addresses of all parameters.
    """

    def __init__(self) -> None:
        self.layers: list[CpuLayer] = []
        self.whole: native.WholeModel | None = None
        """The model for one call a pass, or None where experts are computed elsewhere or not all in memory."""
        self._watch = Watch(lambda model: model.layers)

    def of(self, model: Transformer, views: Sequence[View]) -> bool:
        """True if the kernels run the model's layers for these views. Then `layers` and `whole` are current.

        False for activations other than bfloat16, a device other than a CPU, rows that lie in no pool or that the
        kernels do not read, while operations are counted, and for parameters that are not as in the official files.
        """
        if not _kernels_run(model, views):
            return False
        if not self._watch.is_current(model):
            self._make(model)
        return bool(self.layers)

    def _make(self, model: Transformer) -> None:
        blocks: list[Block] = list(model.layers)  # type: ignore[arg-type]
        self._watch.renew(model)
        self.whole, self.layers = None, []
        if not as_stored(blocks, model.experts):
            return
        _check_sizes(blocks, model.config)
        self.layers = [CpuLayer(block, model.config, model.arithmetic) for block in blocks]
        if _ends_as_stored(model, model, model.norm):
            self.whole = _whole(model, self.layers, model, model.norm)


class CpuMTP:
    """A model's first MTP module as the kernels take it, built and watched like `CpuLayers`."""

    def __init__(self) -> None:
        self.layers: list[CpuLayer] = []
        self.module: native.MTPModule | None = None
        self._watch = Watch(lambda model: model.mtp)

    def of(self, model: Transformer, views: Sequence[View]) -> bool:
        """True if one call runs the module for these views: as in `CpuLayers.of`, with all experts in memory."""
        if not _kernels_run(model, views):
            return False
        if not self._watch.is_current(model):
            self._make(model)
        return self.module is not None

    def _make(self, model: Transformer) -> None:
        head: MTP = model.mtp[0]  # type: ignore[assignment]
        self._watch.renew(model)
        self.module = None
        norms = head.enorm, head.hnorm, head.norm
        if (
            not as_stored([head], model.experts)
            or head.attn.spec.compressed
            or not _ends_as_stored(model, head, *norms)
        ):
            return
        _check_sizes([head], model.config)
        self.layers = [CpuLayer(head, model.config, model.arithmetic)]
        if (whole := _whole(model, self.layers, head, head.norm)) is not None:
            weights = head.e_proj.stored, head.h_proj.stored, head.enorm.weight, head.hnorm.weight
            self.module = native.MTPModule(whole, *weights)


def _kernels_run(model: Transformer, views: Sequence[View]) -> bool:
    return ops.kernels_run(model.arithmetic.dtype, model.device) and all(view.has_rows for view in views)


def _whole(
    model: Transformer, layers: Sequence[CpuLayer], end: HyperConnected, norm: Norm
) -> native.WholeModel | None:  # fmt: skip
    """Returns `layers` with embedding, head, and the last collapse of `end`; None unless all experts are in memory."""
    if (experts := _expert_arrays(model.experts, [layer.layer for layer in layers])) is None:
        return None
    return native.WholeModel(
        [layer.parameters for layer in layers], experts, [layer.shared for layer in layers],
        model.config.swiglu_limit, model.embed.stored, (end.hc_head_fn, end.hc_head_base, end.hc_head_scale),
        norm.weight, model.head.stored,
    )  # fmt: skip


def _expert_arrays(experts: ExpertCompute, layers: Sequence[int]) -> list[np.ndarray] | None:
    """Returns each layer's experts for the kernels, or None unless the kernels compute them and all lie in memory.

    None, too, where somebody is told of each layer's choice: one call for all layers tells nobody.
    """
    if not experts.takes_views or experts.on_chosen is not None:
        return None
    arrays = []
    for layer in layers:
        array = experts.store.structs(layer)
        if array is None or not array["w1"]["codes"].all():
            return None
        arrays.append(array)
    return arrays


def _ends_as_stored(model: Transformer, end: HyperConnected, *norms: Norm) -> bool:
    """True if embedding and head have no scales, and the last collapse of `end` and the norms their official dtypes."""
    wide = end.hc_head_fn, end.hc_head_base, end.hc_head_scale
    return (
        all(native.takes(matrix.stored) and matrix.stored.scales is None for matrix in (model.embed, model.head))
        and all(norm.weight.dtype == torch.bfloat16 for norm in norms)
        and all(tensor.dtype == torch.float32 for tensor in wide)
    )


def run_whole(
    model: native.WholeModel, layers: Sequence[CpuLayer], tokens: Tensor, views: Sequence[PagedView],
    wanted: native.Wanted,
) -> Tensor:  # fmt: skip
    """A pass in one call: tokens [n] of the views' sequences -> logits float32 [len(wanted.logits_of), vocab].

    The views' rows change as in `Block.forward`.
    """
    return native.forward(model, spans_of(layers, views), tokens, wanted)


def run_mtp(
    mtp: CpuMTP, streams: Tensor, following: Tensor, views: Sequence[PagedView], wanted: native.Wanted
) -> Tensor:  # fmt: skip
    """`MTP.run` in one call: streams bfloat16 [n, hc, hidden], following [n] -> logits of the rows that are wanted."""
    assert mtp.module is not None
    return native.mtp(mtp.module, spans_of(mtp.layers, views), following.contiguous(), streams.contiguous(), wanted)


def run_layers(
    layers: Sequence[CpuLayer], streams: Tensor, batch: Batch, experts: ExpertCompute, config: ModelConfig,
    arithmetic: Arithmetic,
) -> Tensor:  # fmt: skip
    """streams bfloat16 [n, hc, hidden] -> streams after all layers. The views' rows change as in `Block.forward`."""
    buffers = native.PassBuffers(batch.tokens, streams, config.num_experts_per_tok)
    spans = spans_of(layers, [span.view for span in batch.spans])  # type: ignore[misc]
    nothing = native.ranges([])
    adapted = [(rows, _adapter(layers, adapter)) for rows, adapter in batch.adapters]
    adapted_rows = [(rows.start, rows.stop - rows.start, structs) for rows, structs in adapted if structs is not None]
    ahead = LookAhead([layer.router for layer in layers], experts.store, arithmetic, batch.tokens)
    ahead.begin()
    for number, (layer, after) in enumerate(
        zip(layers, [*(later.first for later in layers[1:]), nothing], strict=True)
    ):
        buffers.adapted = native.adapted(adapted_rows, number)
        native.block_attention(layer.parameters, number, spans, buffers, layer.first_of_experts)
        if experts.on_chosen is not None:
            experts.on_chosen(layer.layer, buffers.chosen)
        if batch.watcher is not None:
            batch.watcher.computed(layer.layer, buffers)
        if experts.takes_views:
            call = ExpertsCall(layer.layer, layer.shared, layer.limit, arithmetic.released, buffers, after)
            call.run(experts.store, partial(ahead.before, number + 1, buffers.h))
        else:

            def beside(number: int = number, layer: CpuLayer = layer, after: native.Ranges = after) -> None:
                ahead.before(number + 1, buffers.h)
                native.experts([layer.shared], layer.limit, arithmetic.released, buffers, after)

            routed = experts.routed_beside(layer.layer, buffers.h, buffers.route, buffers.chosen, beside)
            buffers.output.copy_(routed.float() + buffers.output.float())
        native.leave(buffers)
    return buffers.streams


def spans_of(layers: Sequence[CpuLayer], views: Sequence[PagedView]) -> native.Spans:
    """Returns the views' new tokens and caches for a call. The views must outlive the call."""
    return native.spans([_span(layers, view) for view in views])


def _span(layers: Sequence[CpuLayer], view: PagedView) -> native.SpanStruct:
    derived, name = view.places.derived, f"views from layer {layers[0].layer}"
    structs: native.Views | None = derived.get(name)  # type: ignore[assignment]
    if structs is None or len(structs) != len(layers):
        structs = derived[name] = native.views([_view_struct(layer, view) for layer in layers])
    staged, marked = (_staged(layers, view, state) for state in (view.stage(), view.stage_mark()))
    return native.span(view.start, view.length, structs, staged, marked, view.mark, _adapter(layers, view.adapter))


def _adapter(layers: Sequence[CpuLayer], adapter: Adapter | None) -> native.AdapterStructs | None:
    """Returns what the adapter adds in these layers."""
    return None if adapter is None else adapter.structs([layer.layer for layer in layers])


def _view_struct(layer: CpuLayer, view: PagedView) -> native.ViewStruct:
    """Returns the addresses of a sequence's rows in this layer."""
    struct = native.ViewStruct()
    struct.window = view.window_rows(layer.layer).struct()
    names = ("entries", "tail", "tail_rows"), ("keys", "key_tail", "key_tail_rows")
    for rows, (field, tail, tail_rows) in zip(layer.rows, names, strict=False):
        ring = view.tail_rows(*rows)
        setattr(struct, field, view.rows(*rows).struct())
        setattr(struct, tail, ring.data_ptr())
        setattr(struct, tail_rows, len(ring))
    return struct


def _staged(layers: Sequence[CpuLayer], view: PagedView, state: SequenceState | None) -> native.Staged | None:
    return None if state is None else native.staged(_staged_addresses(layers, view, state))


def _staged_addresses(layers: Sequence[CpuLayer], view: PagedView, state: SequenceState) -> np.ndarray:
    """Returns the addresses of each layer's rings in a staged state: int64 [layers, 3], 0 for an absent ring."""
    derived, name = view.places.derived, f"offsets from layer {layers[0].layer}"
    offsets: np.ndarray | None = derived.get(name)  # type: ignore[assignment]
    if offsets is None or len(offsets) != len(layers):
        base = view.sequence.state.buffer.data_ptr()
        offsets = derived[name] = np.full((len(layers), 3), -1, np.int64)
        for row, layer in zip(offsets, layers, strict=True):
            rings = [view.window_rows(layer.layer).storage]
            rings += [view.tail_rows(*rows) for rows in layer.rows]
            row[: len(rings)] = [ring.data_ptr() - base for ring in rings]
    return np.where(offsets < 0, 0, offsets + state.buffer.data_ptr())


def _rows(spec: LayerSpec) -> tuple[Rows, ...]:
    """The rows that a layer caches beside its window: entries, then index keys."""
    entries = (entries_of(spec),) if spec.has_compressor else ()
    return (*entries, keys_of(spec)) if spec.has_keys else entries


def _fields(block: Block, config: ModelConfig, arithmetic: Arithmetic) -> dict[str, object]:
    """Returns the fields of wf_block by name."""
    attn, spec, router = block.attn, block.attn.spec, block.ffn.gate
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
        "ratio": spec.ratio,
        "overlap": spec.overlap,
        "sink": attn.attn_sink,
        "frequencies": ops.rope_frequencies(config, spec.compressed),
        "q_norm": attn.q_norm.weight,
        "kv_norm": attn.kv_norm.weight,
        "num_experts": config.n_routed_experts,
        "topk": config.num_experts_per_tok,
        "gate": Weight.of(router.weight),
        "vocabulary": config.vocab_size,
        "route_scale": router.scale,
        **{name: getattr(attn, name).stored for name in ("wq_a", "wq_b", "wkv", "wo_a", "wo_b")},
    }
    if router.hashed:
        fields["gate_table"] = router.tid2eid.to(torch.int64)
    else:
        fields["gate_bias"] = router.bias
    if spec.compressed:
        fields["entries"] = _compressor(attn.compressor)
    if spec.indexed:
        indexer = attn.indexer
        fields |= {
            "index_heads": indexer.num_heads,
            "index_topk": indexer.topk,
            "keys": _compressor(indexer.compressor),
            "index_wq_b": indexer.wq_b.stored,
            "index_weights": indexer.weights_proj.stored,
        }
    return fields


def _mixer(block: Block, prefix: str, norm: Tensor) -> dict[str, object]:
    fn, base, scale = (getattr(block, f"{prefix}_{name}") for name in ("fn", "base", "scale"))
    return {"fn": Weight.of(fn), "base": base, "scale": scale, "norm": norm}


def _compressor(compressor: Compressor) -> dict[str, object]:
    return {
        "dim": compressor.dim,
        "wkv": compressor.wkv.stored,
        "wgate": compressor.wgate.stored,
        "ape": compressor.ape,
        "norm": compressor.norm.weight,
    }


def _check_sizes(blocks: Sequence[Block], config: ModelConfig) -> None:
    """Raises ValueError for a vector of another size than the configuration's: kernels take its address alone."""
    official: dict[LayerSpec, dict[str, Tensor]] = {}
    for block in blocks:
        kind = block.attn.spec._replace(layer=0)
        if kind not in official:
            official[kind] = dict(Block(config, kind).named_parameters())
        for name, tensor in official[kind].items():
            if tensor.dim() > 1 and not name.endswith(("ape", "tid2eid")):
                continue
            if (found := block.get_parameter(name).shape) != tensor.shape:
                raise ValueError(
                    f"layer {block.attn.layer}: {name} of shape {list(found)} is not allowed; expected "
                    f"{list(tensor.shape)}"
                )


def as_stored(layers: Sequence[Block], experts: ExpertCompute) -> bool:
    """True if whole layers can run in the kernels: no layer needs another, and parameters are as in official files."""
    forms = experts.store.table.form[[block.ffn.layer for block in layers]]
    return bool((forms < len(native.FORMS)).all()) and all(_as_stored(block) for block in layers)


def _as_stored(block: Block) -> bool:
    """True if norms are bfloat16 and other vectors float32, as in official files, and wo_a splits at whole scales."""
    attn, spec = block.attn, block.attn.spec
    if not spec.alone:
        return False
    wide = [attn.attn_sink, *block.parameters(recurse=False)]
    norms = [attn.q_norm, attn.kv_norm, block.attn_norm, block.ffn_norm]
    if spec.compressed:
        wide.append(attn.compressor.ape)
        norms.append(attn.compressor.norm)
    if spec.indexed:
        wide.append(attn.indexer.compressor.ape)
        norms.append(attn.indexer.compressor.norm)
    rows = attn.wo_a.out_features // attn.num_groups
    whole = attn.wo_a.weight.dtype != torch.float8_e4m3fn or rows % 128 == 0
    matrices = [module for module in block.modules() if isinstance(module, Linear)]
    return (
        whole
        and all(native.takes(matrix.stored) for matrix in matrices)
        and all(vector.dtype == torch.float32 for vector in wide)
        and all(norm.weight.dtype == torch.bfloat16 for norm in norms)
    )
