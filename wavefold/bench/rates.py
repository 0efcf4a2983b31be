"""Each kernel alone, on a model's own weights and sizes: bytes and operations a second.

A product is run over the weights of all layers in turn, so that no weight was read just before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wavefold.bench.contestants import Wavefold
from wavefold.cache import entries_of, keys_of
from wavefold.config import COMPRESSIONS
from wavefold.model import Transformer
from wavefold.model.official import MATRIX, Matrix, official_owners
from wavefold.ops import native
from wavefold.plan.machine import fastest
from wavefold.quant import Weight


@dataclass(frozen=True)
class Rate:
    """One kernel: `bytes` and `operations` of a run, and the fastest of a few runs in `seconds`.

    `size` describes a run.
    """

    kernel: str
    size: str
    bytes: int
    operations: int
    seconds: float


def products(model: Transformer, x_rows: int, repeats: int) -> Iterator[Rate]:
    """y = x Wᵀ for `x_rows` tokens by each kind of matrix. The head is left out for more than one token."""
    kinds: dict[str, list[Matrix]] = {}
    for name, matrix in official_owners(model):
        if isinstance(matrix, MATRIX) and not name.startswith("mtp.") and (x_rows == 1 or name != "head"):
            short = ".".join(part for part in name.split(".") if not part.isdigit()).removeprefix("layers.")
            kinds.setdefault(short, []).append(matrix)
    for name, matrices in kinds.items():
        first = matrices[0]
        x = torch.randn(x_rows, first.in_features).bfloat16()
        weights = [matrix.stored for matrix in matrices]
        if x_rows > 1:
            weights = weights[:4]

        def run(x: Tensor = x, weights: Sequence[Weight] = weights) -> None:
            for weight in weights:
                native.linear(x, weight, torch.bfloat16)

        size = sum(part.nbytes for weight in weights for part in (weight.codes, weight.scales) if part is not None)
        operations = 2 * x_rows * first.in_features * first.out_features * len(weights)
        label = f"{first.out_features} x {first.in_features} {weights[0].format.name}, {len(weights)} of them"
        yield Rate(f"{name}, {x_rows} rows", label, size, operations, fastest(run, repeats))


def attention(contestant: Wavefold, depth: int, queries: int, repeats: int) -> Iterator[Rate]:
    """The attention kernel and the indexer at a depth, on the contestant's cache, which is filled."""
    contestant.fill(depth)
    model, config = contestant.model, contestant.model.config
    [memory] = contestant.pool.begin([contestant.sequence], [queries])
    heads, dim = config.num_attention_heads, config.head_dim
    q, kv = torch.randn(queries, heads, dim).bfloat16(), torch.randn(queries, dim).bfloat16()
    sink = torch.zeros(heads)
    for part in (compression.part for compression in COMPRESSIONS):
        spec = next((spec for spec in config.main_layers if spec.part == part), None)
        if spec is None:
            continue
        window, rows, ratio = memory.window_rows(spec.layer), memory.rows(*entries_of(spec)), spec.ratio
        visible = depth // ratio
        chosen, attended = None, visible
        if spec.indexed:
            keys = memory.rows(*keys_of(spec))
            index_q = torch.randn(queries, config.index_n_heads, config.index_head_dim).bfloat16()
            weights = torch.randn(queries, config.index_n_heads).bfloat16()

            def choose(
                keys: native.RowSource = keys, index_q: Tensor = index_q, weights: Tensor = weights, ratio: int = ratio
            ) -> Tensor:  # fmt: skip
                released = model.arithmetic.released
                return native.index_select(index_q, weights, keys, depth, ratio, config.index_topk, released)

            operations = 2 * queries * visible * config.index_n_heads * config.index_head_dim
            size = visible * keys.storage.shape[-1] * keys.storage.element_size()
            yield Rate(f"index, {queries} queries", f"{visible} keys", size, operations, fastest(choose, repeats))
            chosen = choose()
            attended = min(visible, config.index_topk)

        def attend(
            window: native.RowSource = window, rows: native.RowSource = rows, chosen: Tensor | None = chosen,
            ratio: int = ratio,
        ) -> None:  # fmt: skip
            native.attend(q, sink, depth, config.sliding_window, window, kv, rows, ratio, chosen)

        keys_each = attended + min(config.sliding_window, depth + 1)
        size = keys_each * rows.storage.shape[-1] * rows.storage.element_size() * (queries if spec.indexed else 1)
        operations = 4 * queries * heads * dim * keys_each
        name = f"attention {part}, {queries} queries"
        yield Rate(name, f"{keys_each} rows", size, operations, fastest(attend, repeats))
    contestant.pool.abort([memory])


def all_rates(contestant: Wavefold, depth: int, rows: Sequence[int], repeats: int) -> Iterator[Rate]:
    """Products of each number of rows, then attention and indexing for one query and for many."""
    for x_rows in rows:
        yield from products(contestant.model, x_rows, repeats)
    for queries in (1, 64):
        yield from attention(contestant, depth, queries, repeats)
