"""Watches the pass of one token: what each layer read and chose, from the tensors that the layer had.

the pass tells   plain torch: attention's input h, the experts and their weights
                 CPU kernels: the streams before the layer, from which h is mixed anew, and the same
then             h -> query, own window row, index query -> the choice, by the function that chose in the pass
                 -> masses over these rows
"""

from __future__ import annotations

from torch import Tensor

from wavefold import ops
from wavefold.cache import PagedView
from wavefold.inside.choice import chosen_entries, scores_of
from wavefold.inside.masses import Masses, masses_of
from wavefold.inside.record import EntriesSeen, LayerSeen
from wavefold.model import Transformer
from wavefold.model.attention import Attention
from wavefold.model.batch import Batch, num_visible
from wavefold.model.block import Block
from wavefold.model.watcher import Watcher
from wavefold.ops.native import PassBuffers


class RowWatcher(Watcher):
    """Makes a LayerSeen of each layer, for a pass of one token through `view`. It goes with one pass."""

    def __init__(self, model: Transformer, view: PagedView):
        assert view.length == 1, "one row is watched"
        self._model, self._view = model, view
        self._reading = PagedView(view.sequence, 1)
        """Reads the same rows. It is never committed, so that nothing is stored twice."""
        self.batch: Batch | None = None
        """The pass's."""
        self.layers: list[LayerSeen] = []
        self._attended: tuple[Masses, EntriesSeen | None] | None = None

    def attended(self, layer: int, h: Tensor, out: Tensor) -> None:
        self._attend(layer, h, by_kernels=False)

    def computed(self, layer: int, buffers: PassBuffers) -> None:
        self._attend(layer, self._normalised(layer, buffers.streams), by_kernels=True)
        self.routed(layer, buffers.route, buffers.chosen)

    def routed(self, layer: int, weights: Tensor, ids: Tensor) -> None:
        assert self._attended is not None and layer == len(self.layers), "a layer attends, then routes"
        masses, entries = self._attended
        spec = self._model.config.layers[layer]
        experts = ids[0].cpu().clone(), weights[0].cpu().clone()  # their memory is used again
        self.layers.append(LayerSeen(spec, masses.window.cpu(), entries, masses.sink, *experts))
        self._attended = None

    def _normalised(self, layer: int, streams: Tensor) -> Tensor:
        """Returns attention's input h [1, hidden] of the streams before the layer, as the kernels round it.

        By the op of the last collapse, which has the first rows' formula: its kernel sums as the layer's does. That of
        `hc_read` divides by an RMS that torch sums in another order, which moves single roundings.
        """
        block: Block = self._model.layers[layer]  # type: ignore[assignment]
        fn, base, scale = (block.get_parameter(f"hc_attn_{name}") for name in ("fn", "base", "scale"))
        first = fn[: block.num_streams], base[: block.num_streams], scale[:1]
        x = ops.hc_head(streams, *first, block.hc_eps, block.norm_eps, self._model.arithmetic)
        return block.attn_norm(x, self._model.arithmetic)  # type: ignore[no-any-return]

    def _attend(self, layer: int, h: Tensor, by_kernels: bool) -> None:
        assert self.batch is not None, "a watcher is told its batch before the pass"
        arithmetic, view = self._model.arithmetic, self._reading
        attention: Attention = self._model.layers[layer].attn  # type: ignore[assignment]
        qr, q, kv = attention.project(h, self.batch, arithmetic)
        window = view.window(layer, kv)[-attention.window :]
        chosen, scores = self._choice(attention, h, qr, by_kernels)
        count = num_visible(view.start, attention.spec.ratio) if attention.spec.compressed else 0
        if chosen is not None:
            rows = view.gather(*attention.entries, chosen[None])[0]
        elif count:
            rows = view.entries(*attention.entries, 0, count)
        else:
            rows = window[:0]
        masses = masses_of(q[0], window, rows, attention.attn_sink)
        self._attended = masses, self._entries(attention, count, masses.entries, chosen, scores)

    def _choice(
        self, attention: Attention, h: Tensor, qr: Tensor, by_kernels: bool
    ) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
        """Returns the entries [k] that a layer with an indexer attended to, best first, and their scores."""
        spec, view, arithmetic = attention.spec, self._reading, self._model.arithmetic
        if not spec.indexed:
            return None, None
        assert self.batch is not None
        if spec.choice_of is not None:  # scored where it was chosen
            row = self.batch.spans[0].choices[spec.choice_of, view.start][0]
            return row[row >= 0], None
        index = attention.indexer.queries(h, qr, self.batch, arithmetic)
        chosen = chosen_entries(attention.indexer, *index, view, arithmetic, by_kernels)
        scores = scores_of(attention.indexer, *index, chosen, view, arithmetic)
        order = scores.argsort(descending=True, stable=True)  # of equals, the order of the choice
        return chosen[order], scores[order]

    @staticmethod
    def _entries(
        attention: Attention, count: int, mass: Tensor, chosen: Tensor | None, scores: Tensor | None
    ) -> EntriesSeen | None:  # fmt: skip
        if not attention.spec.compressed:
            return None
        return EntriesSeen(
            count, mass.cpu(), None if chosen is None else chosen.cpu(), None if scores is None else scores.cpu()
        )
