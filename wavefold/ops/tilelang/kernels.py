# mypy: disable-error-code="valid-type"
"""The TileLang kernels of routed experts for Hopper (sm_90a): FP8 rows times FP4 weights, decoded on the way.

    linear_1     rows -> SwiGLU of both first products, in FP8 again          a launch for all experts
    linear_2     these -> results                                             another
    fused        the whole part of a rank, over ranks, in waves               one launch (its tasks: tasks.py)

All work on tiles of an expert's rows. A product is transposed, weights times rows: 128 output columns are the wide
side of the tensor cores' tile and rows the other, so that a tile of 16 rows wastes little. Weights stay in the
official layout: low nibble first, an e8m0 scale for 32 values. The codes of 128 values become e4m3 relative to their
largest scale, which is exact (`weights.py` checks that). Each product of 128 values is scaled and added in float32.

Source: report sections 3.1 and 3.4; docs/tilelang.md. TileLang reads the annotations of its functions, which
therefore must not be strings (no `from __future__ import annotations` here).
"""

from pathlib import Path
from typing import Any

import tilelang.language as T

from wavefold.ops.tilelang.shape import Shape
from wavefold.ops.tilelang.tasks import BLOCK, CHUNK, WIDTH, Column, Kind

THREADS = 256
DEVICE_SOURCE = (Path(__file__).parent / "device.cuh").read_text()


def _multiply(shape: Shape, width: int) -> Any:
    """A macro: total [128, rows] += 128 rows of weights, from `row` on, times `rows` rows of x. Both are scaled."""
    rows = shape.rows

    @T.macro
    def multiply(x: Any, x_scale: Any, places: Any, w: Any, w_scale: Any, expert: Any, row: Any, total: Any,
                 xs: Any, packed: Any, wide: Any, of_rows: Any, of_columns: Any, part: Any) -> Any:  # fmt: skip
        tid = T.get_thread_binding()
        T.clear(total)
        for k in T.Pipelined(width // BLOCK, num_stages=shape.stages):
            for i, j in T.Parallel(rows, BLOCK):
                xs[i, j] = x[places[i], k * BLOCK + j]
            T.copy(w[expert, row, k * BLOCK // 2], packed)
            for c in T.serial(BLOCK * BLOCK // 16 // THREADS):
                at = c * THREADS + tid
                T.call_extern(
                    "handle", "wf_decode", T.address_of(packed[at // 8, at % 8 * 8]), w_scale[expert, row + at // 8, k],
                    at % 8 // 2, T.address_of(wide[at // 8, at % 8 * 16]),
                )  # fmt: skip
            if tid < BLOCK:
                of_columns[tid] = T.call_extern(
                    "float32", "wf_power",
                    T.call_extern("int32", "wf_largest_scale", w_scale[expert, row + tid, k]) - 6,
                )  # fmt: skip
            if tid < rows:
                of_rows[tid] = T.call_extern("float32", "wf_power", T.cast(x_scale[places[tid], k], "int32"))
            T.gemm(wide, xs, part, transpose_B=True, clear_accum=True)
            for i, j in T.Parallel(BLOCK, rows):
                total[i, j] += part[i, j] * of_columns[i] * of_rows[j]

    return multiply


def _inner(shape: Shape) -> Any:
    """A macro that carries out one `inner` task."""
    rows, multiply = shape.rows, _multiply(shape, shape.hidden)

    @T.macro
    def inner(x: Any, x_scale: Any, place: Any, route: Any, w1: Any, w1_scale: Any, w3: Any, w3_scale: Any, act: Any,
              act_scale: Any, first: Any, column: Any, expert: Any, room: Any) -> Any:  # fmt: skip
        places, xs, packed, wide, of_rows, of_columns, turned, part, gate, up, values, amax = room
        tid = T.get_thread_binding()
        if tid < rows:
            places[tid] = place[first + tid]
        multiply(x, x_scale, places, w1, w1_scale, expert, column * BLOCK, gate, xs, packed, wide, of_rows,
                 of_columns, part)  # fmt: skip
        multiply(x, x_scale, places, w3, w3_scale, expert, column * BLOCK, up, xs, packed, wide, of_rows,
                 of_columns, part)  # fmt: skip
        for i, j in T.Parallel(BLOCK, rows):
            gate[i, j] = T.min(T.cast(T.cast(gate[i, j], "bfloat16"), "float32"), shape.limit)
            up[i, j] = T.max(T.min(T.cast(T.cast(up[i, j], "bfloat16"), "float32"), shape.limit), -shape.limit)
            gate[i, j] = T.call_extern("float32", "wf_silu", gate[i, j]) * up[i, j] * route[first + j]
        for i, j in T.Parallel(BLOCK, rows):
            turned[j, i] = T.cast(gate[i, j], "bfloat16")
        T.copy(turned, values)
        T.reduce_absmax(values, amax, dim=1)
        for j in T.Parallel(rows):
            act_scale[first + j, column] = T.cast(T.call_extern("int32", "wf_scale", amax[j]), "uint8")
        for j, i in T.Parallel(rows, BLOCK):
            values[j, i] = values[j, i] * T.call_extern(
                "float32", "wf_power", 254 - T.call_extern("int32", "wf_scale", amax[j])
            )
        for j, i in T.Parallel(rows, BLOCK):
            act[first + j, column * BLOCK + i] = T.cast(values[j, i], "float8_e4m3fn")

    return inner


def _outer(shape: Shape) -> Any:
    """A macro that carries out one `outer` task."""
    rows, multiply = shape.rows, _multiply(shape, shape.inner)

    @T.macro
    def outer(act: Any, act_scale: Any, w2: Any, w2_scale: Any, y: Any, first: Any, column: Any, expert: Any,
              room: Any) -> Any:  # fmt: skip
        places, xs, packed, wide, of_rows, of_columns, turned, part, total, _, _, _ = room
        tid = T.get_thread_binding()
        if tid < rows:
            places[tid] = first + tid
        multiply(act, act_scale, places, w2, w2_scale, expert, column * BLOCK, total, xs, packed, wide, of_rows,
                 of_columns, part)  # fmt: skip
        for i, j in T.Parallel(BLOCK, rows):
            turned[j, i] = T.cast(total[i, j], "bfloat16")
        for j, i in T.Parallel(rows, BLOCK):
            y[first + j, column * BLOCK + i] = turned[j, i]

    return outer


def _room(shape: Shape) -> Any:
    """A macro that allocates the buffers of a tile, in shared memory and registers."""

    @T.macro
    def room() -> Any:
        return (
            T.alloc_shared((shape.rows,), "int32", scope="shared"),
            T.alloc_shared((shape.rows, BLOCK), "float8_e4m3fn"),
            T.alloc_shared((BLOCK, BLOCK // 2), "uint8"),
            T.alloc_shared((BLOCK, BLOCK), "float8_e4m3fn"),
            T.alloc_shared((shape.rows,), "float32", scope="shared"),
            T.alloc_shared((BLOCK,), "float32", scope="shared"),
            T.alloc_shared((shape.rows, BLOCK), "bfloat16"),
            T.alloc_fragment((BLOCK, shape.rows), "float32"),
            T.alloc_fragment((BLOCK, shape.rows), "float32"),
            T.alloc_fragment((BLOCK, shape.rows), "float32"),
            T.alloc_fragment((shape.rows, BLOCK), "float32"),
            T.alloc_fragment((shape.rows,), "float32"),
        )

    return room


def linear_1(shape: Shape) -> Any:
    """Rows x [n, hidden] FP8 -> act [rows of tiles, inner] FP8. Row p of the tiles is row place[p] of x.

    tiles [tiles, 2] int32: the first row and the expert. route [rows] float32. Scales of weights [experts, out, in /
    128] are read four e8m0 bytes at a time.
    """
    h, d, inner = shape.hidden, shape.inner, _inner(shape)
    n, p, e, t = (T.dynamic(name) for name in ("n", "p", "e", "t"))

    @T.prim_func
    def wavefold_linear_1(  # type: ignore[no-untyped-def]
        x: T.Tensor((n, h), "float8_e4m3fn"), x_scale: T.Tensor((n, h // BLOCK), "uint8"),
        place: T.Tensor((p,), "int32"), route: T.Tensor((p,), "float32"), tiles: T.Tensor((t, 2), "int32"),
        w1: T.Tensor((e, d, h // 2), "uint8"), w1_scale: T.Tensor((e, d, h // BLOCK), "uint32"),
        w3: T.Tensor((e, d, h // 2), "uint8"), w3_scale: T.Tensor((e, d, h // BLOCK), "uint32"),
        act: T.Tensor((p, d), "float8_e4m3fn"), act_scale: T.Tensor((p, d // BLOCK), "uint8"),
    ):  # fmt: skip
        with T.Kernel(d // BLOCK, t, threads=THREADS) as (column, tile):
            T.import_source(DEVICE_SOURCE)
            room = _room(shape)()
            inner(x, x_scale, place, route, w1, w1_scale, w3, w3_scale, act, act_scale, tiles[tile, 0], column,
                  tiles[tile, 1], room)  # fmt: skip

    return wavefold_linear_1


def linear_2(shape: Shape) -> Any:
    """act [rows of tiles, inner] FP8 -> y [rows of tiles, hidden] bfloat16."""
    h, d, outer = shape.hidden, shape.inner, _outer(shape)
    p, e, t = (T.dynamic(name) for name in ("p", "e", "t"))

    @T.prim_func
    def wavefold_linear_2(  # type: ignore[no-untyped-def]
        act: T.Tensor((p, d), "float8_e4m3fn"), act_scale: T.Tensor((p, d // BLOCK), "uint8"),
        tiles: T.Tensor((t, 2), "int32"),
        w2: T.Tensor((e, h, d // 2), "uint8"), w2_scale: T.Tensor((e, h, d // BLOCK), "uint32"),
        y: T.Tensor((p, h), "bfloat16"),
    ):  # fmt: skip
        with T.Kernel(h // BLOCK, t, threads=THREADS) as (column, tile):
            T.import_source(DEVICE_SOURCE)
            room = _room(shape)()
            outer(act, act_scale, w2, w2_scale, y, tiles[tile, 0], column, tiles[tile, 1], room)

    return wavefold_linear_2


def _pull(shape: Shape) -> Any:
    """A macro that carries out one `pull` task: rows of a peer, and their scales."""
    h = shape.hidden

    @T.macro
    def pull(pointers: Any, peer: Any, tokens: Any, stage: Any, stage_scale: Any, first: Any, count: Any,
             free_at: Any, picoseconds: Any) -> None:  # fmt: skip
        T.call_extern("handle", "wf_link_begin", T.address_of(free_at[0]), picoseconds, count * (h + h // BLOCK))
        peer_rows = T.make_tensor_from_addr(pointers[0, peer], (1 << 20, h), "float8_e4m3fn")
        their_scale = T.make_tensor_from_addr(pointers[1, peer], (1 << 20, h // BLOCK), "uint8")
        for i in T.serial(count):
            for j in T.Parallel(h):
                stage[first + i, j] = peer_rows[tokens[first + i], j]
            for j in T.Parallel(h // BLOCK):
                stage_scale[first + i, j] = their_scale[tokens[first + i], j]
        T.call_extern("handle", "wf_link_end", T.address_of(free_at[0]), picoseconds)

    return pull


def _fetch(shape: Shape) -> Any:
    """A macro that carries out one `fetch` task: results of a peer."""
    h = shape.hidden

    @T.macro
    def fetch(pointers: Any, peer: Any, pairs: Any, back: Any, first: Any, count: Any, free_at: Any,
              picoseconds: Any) -> None:  # fmt: skip
        T.call_extern("handle", "wf_link_begin", T.address_of(free_at[0]), picoseconds, count * 2 * h)
        results = T.make_tensor_from_addr(pointers[2, peer], (1 << 22, h), "bfloat16")
        for i in T.serial(count):
            for j in T.Parallel(h):
                back[pairs[first + i, 1], j] = results[pairs[first + i, 0], j]
        T.call_extern("handle", "wf_link_end", T.address_of(free_at[0]), picoseconds)

    return fetch


def _add(shape: Shape) -> Any:
    """A macro that carries out one `add` task."""
    h, slots = shape.hidden, shape.slots

    @T.macro
    def add(back: Any, out: Any, first: Any, count: Any, total: Any) -> None:
        for c in T.serial(h // BLOCK):
            T.clear(total)
            for slot in T.serial(slots):
                for i, j in T.Parallel(CHUNK, BLOCK):
                    if i < count:
                        total[i, j] += T.cast(back[(first + i) * slots + slot, c * BLOCK + j], "float32")
            for i, j in T.Parallel(CHUNK, BLOCK):
                if i < count:
                    out[first + i, c * BLOCK + j] = T.cast(total[i, j], "bfloat16")

    return add


def _carry_out(shape: Shape, num_ranks: int) -> Any:
    """A macro that waits for the flags of a task, carries it out, and signals."""
    inner, outer, pull, fetch, add = (make(shape) for make in (_inner, _outer, _pull, _fetch, _add))

    @T.macro
    def carry_out(task: Any, pointers: Any, flags: Any, need: Any, tokens: Any, stage: Any, stage_scale: Any,
                  place: Any, route: Any, w1: Any, w1_scale: Any, w3: Any, w3_scale: Any, w2: Any, w2_scale: Any,
                  act: Any, act_scale: Any, y: Any, pairs: Any, back: Any, out: Any, picoseconds: Any, free_at: Any,
                  room: Any, total: Any) -> None:  # fmt: skip
        first = task[Column.FIRST]
        count = task[Column.COUNT]
        column = task[Column.COLUMN]
        expert = task[Column.EXPERT]
        peer = task[Column.PEER]
        for i in T.serial(2):
            T.call_extern("handle", "wf_wait", T.address_of(flags[0]), T.address_of(need[0]),
                          task[Column.WAIT + 2 * i], task[Column.WAIT_END + 2 * i])  # fmt: skip
        if task[Column.KIND] == Kind.PULL:
            pull(pointers, peer, tokens, stage, stage_scale, first, count, free_at, picoseconds)
        elif task[Column.KIND] == Kind.INNER:
            inner(stage, stage_scale, place, route, w1, w1_scale, w3, w3_scale, act, act_scale, first, column, expert,
                  room)  # fmt: skip
        elif task[Column.KIND] == Kind.OUTER:
            outer(act, act_scale, w2, w2_scale, y, first, column, expert, room)
        elif task[Column.KIND] == Kind.FETCH:
            fetch(pointers, peer, pairs, back, first, count, free_at, picoseconds)
        elif task[Column.KIND] == Kind.ADD:
            add(back, out, first, count, total)
        T.call_extern(
            "handle", "wf_signal", T.address_of(flags[0]), T.address_of(need[0]), task[Column.DONE],
            T.address_of(pointers[3, 0]), num_ranks, task[Column.TOLD], task[Column.VALUE],
        )  # fmt: skip

    return carry_out


def fused(shape: Shape, num_ranks: int, link_blocks: int, blocks: int) -> Any:
    """The whole part of a rank, by its tasks: `link_blocks` blocks carry out `links`, the others `computes`.

    A link block takes every link_blocks-th task of its list. The others take the next free task. All blocks must be
    resident at once: at most one per multiprocessor. `pointers` has x, x_scale, y and flags of each rank, in the order
    of ranks. `picoseconds` per byte pace the link (0: unpaced).
    """
    if not 0 < link_blocks < blocks:
        raise ValueError(f"{link_blocks} of {blocks} blocks for the link is not allowed; expected 1 to {blocks - 1}")
    return _fused(shape, num_ranks, link_blocks, blocks)


def _fused(shape: Shape, num_ranks: int, link_blocks: int, blocks: int) -> Any:
    """The kernel of `fused`."""
    h, d, slots, carry_out = shape.hidden, shape.inner, shape.slots, _carry_out(shape, num_ranks)
    n, u, p, e, m, nl, nc, nf = (T.dynamic(s) for s in ("n", "u", "p", "e", "m", "nl", "nc", "nf"))

    @T.prim_func
    def wavefold_fused(  # type: ignore[no-untyped-def]
        pointers: T.Tensor((4, num_ranks), "int64"), flags: T.Tensor((nf,), "int32"), need: T.Tensor((nf,), "int32"),
        links: T.Tensor((nl, WIDTH), "int32"), computes: T.Tensor((nc, WIDTH), "int32"),
        tokens: T.Tensor((u,), "int32"), stage: T.Tensor((u, h), "float8_e4m3fn"),
        stage_scale: T.Tensor((u, h // BLOCK), "uint8"),
        place: T.Tensor((p,), "int32"), route: T.Tensor((p,), "float32"),
        w1: T.Tensor((e, d, h // 2), "uint8"), w1_scale: T.Tensor((e, d, h // BLOCK), "uint32"),
        w3: T.Tensor((e, d, h // 2), "uint8"), w3_scale: T.Tensor((e, d, h // BLOCK), "uint32"),
        w2: T.Tensor((e, h, d // 2), "uint8"), w2_scale: T.Tensor((e, h, d // BLOCK), "uint32"),
        act: T.Tensor((p, d), "float8_e4m3fn"), act_scale: T.Tensor((p, d // BLOCK), "uint8"),
        y: T.Tensor((p, h), "bfloat16"), pairs: T.Tensor((m, 2), "int32"), back: T.Tensor((n * slots, h), "bfloat16"),
        out: T.Tensor((n, h), "bfloat16"), picoseconds: T.int32,
    ):  # fmt: skip
        with T.Kernel(blocks, threads=THREADS) as block:
            T.import_source(DEVICE_SOURCE)
            ticket_room = T.alloc_shared((1,), "int32", scope="shared")
            free_at = T.alloc_shared((1,), "int64", scope="shared")
            task = T.alloc_local((WIDTH,), "int32")
            room = _room(shape)()
            total = T.alloc_fragment((CHUNK, BLOCK), "float32")
            turn = T.alloc_var("int32", init=0)
            end = T.alloc_var("int32", init=0)
            free_at[0] = T.int64(0)
            if block < link_blocks:
                turn = block
                end = nl
            else:
                turn = T.call_extern("int32", "wf_ticket", T.address_of(flags[0]), T.address_of(ticket_room[0]))
                end = nc
            while turn < end:
                for i in T.serial(WIDTH):
                    if block < link_blocks:
                        task[i] = links[turn, i]
                    else:
                        task[i] = computes[turn, i]
                carry_out(task, pointers, flags, need, tokens, stage, stage_scale, place, route, w1, w1_scale, w3,
                          w3_scale, w2, w2_scale, act, act_scale, y, pairs, back, out, picoseconds, free_at, room,
                          total)  # fmt: skip
                if block < link_blocks:
                    turn = turn + link_blocks
                else:
                    turn = T.call_extern("int32", "wf_ticket", T.address_of(flags[0]), T.address_of(ticket_room[0]))

    return wavefold_fused
