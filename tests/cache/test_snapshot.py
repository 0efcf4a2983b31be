"""Snapshots: a sequence opened from one goes on as if it had never stopped; blocks are records that can be moved."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.small import SMALL
from wavefold import ops
from wavefold.cache import REWIND, CacheLayout, Pool, Sequence, Snapshot, packed_records
from wavefold.checkpoint.random import random_model
from wavefold.config import ModelConfig
from wavefold.model import Transformer
from wavefold.ops import Arithmetic

CONFIG = SMALL.replace(o_lora_rank=128, head_dim=128, hidden_size=128, index_topk=16)
TOKENS = torch.randint(0, 64, (500,), generator=torch.Generator().manual_seed(0))
ARITHMETICS = {
    "exact float32": Arithmetic("exact", torch.float32), "exact bfloat16": Arithmetic("exact", torch.bfloat16),
    "released": Arithmetic("released", torch.bfloat16),
}  # fmt: skip


@pytest.fixture(scope="module", params=ARITHMETICS)
def model(request: pytest.FixtureRequest) -> Transformer:
    return random_model(CONFIG, 1, ARITHMETICS[request.param], packed=True)


@pytest.fixture(autouse=True, params=["auto", "reference"])
def backend(request: pytest.FixtureRequest) -> Iterator[None]:
    with ops.using(backend=request.param):
        yield


def read(model: Transformer, sequence: Sequence, first: int, end: int, step: int) -> torch.Tensor:
    parts = TOKENS[first:end].split(step)
    return torch.cat([model.extend(part, [sequence], [len(part)]) for part in parts])


@pytest.mark.parametrize("step", [37, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 144))])
def test_goes_on_as_if_it_had_never_stopped(model: Transformer, step: int) -> None:
    """After the first sequence went on, was closed, and while its blocks were written over."""
    pool = model.new_pool(2048, poison=True)
    first = pool.open()
    read(model, first, 0, 256, 256)
    snapshot = first.snapshot()
    expected = read(model, first, 256, 400, step)
    first.close()
    other = pool.open()
    model.extend(TOKENS.flip(0), [other], [500])
    opened = pool.open(at=snapshot)
    assert torch.equal(read(model, opened, 256, 400, step), expected)
    second = pool.open(at=snapshot)
    snapshot.close()
    assert torch.equal(read(model, second, 256, 400, step), expected)
    pool.check_integrity()
    for sequence in (other, opened, second):
        sequence.close()
    assert pool.blocks.num_free == pool.blocks.num_blocks


def test_rewinds_as_far_as_the_sequence_could(model: Transformer) -> None:
    pool = model.new_pool(1024, poison=True)
    sequence = pool.open()
    expected = read(model, sequence, 0, 270, 270)
    sequence.rewind(14)
    with sequence.snapshot() as snapshot:
        opened = pool.open(at=snapshot)
    with pytest.raises(ValueError, match="expected 0 to 2 "):
        opened.rewind(3)
    opened.rewind(2)
    sequence.rewind(2)
    ahead = read(model, opened, 254, 270, 16)
    assert torch.equal(ahead, read(model, sequence, 254, 270, 16))
    error = (ahead - expected[254:]).float().norm() / expected[254:].float().norm()
    assert error <= (2e-2 if model.arithmetic.dtype == torch.bfloat16 else 1e-5)


def test_bytes_of_a_sequence_that_had_been_further_allow_no_step_back(model: Transformer) -> None:
    """Its rings lost rows that a step back would read; from there on rewinds reach what was added."""
    pool = model.new_pool(1024, poison=True)
    sequence = pool.open()
    read(model, sequence, 0, 266, 266)
    sequence.rewind(10)
    with sequence.snapshot() as snapshot:
        moved = Snapshot.of_bytes(pool, snapshot.table, 256, bytes(snapshot.state_bytes))
    opened = pool.open(at=moved)
    with pytest.raises(ValueError, match="expected 0 to 0 "):
        opened.rewind(1)
    expected = read(model, pool.open(at=moved), 256, 300, 44)
    model.extend(TOKENS[:5], [opened], [5])
    opened.rewind(5)
    assert torch.equal(read(model, opened, 256, 300, 44), expected)


def test_blocks_and_state_can_be_moved(model: Transformer) -> None:
    """Into another pool, as a cache on disk will: the records' bytes and the state's are all there is."""
    pool, other = (model.new_pool(1024, poison=True) for _ in range(2))
    sequence = pool.open()
    read(model, sequence, 0, 256, 256)
    other.blocks.allocate(3)  # other block numbers there
    with sequence.snapshot() as snapshot:
        records = [bytes(pool.block_bytes(block)) for block in snapshot.table]
        state = bytes(snapshot.state_bytes)
    table = other.blocks.allocate(2)
    for block, record in zip(table, records, strict=True):
        other.block_bytes(block)[:] = record
    moved = Snapshot.of_bytes(other, table, 256, state)
    assert torch.equal(read(model, other.open(at=moved), 256, 400, 144), read(model, sequence, 256, 400, 144))


def test_what_is_refused(model: Transformer) -> None:
    pool = model.new_pool(512)
    sequence = pool.open()
    read(model, sequence, 0, 130, 130)
    with pytest.raises(ValueError, match="a snapshot at 130 tokens is not allowed; expected a multiple of 128"):
        sequence.snapshot()
    sequence.rewind(2)
    snapshot = sequence.snapshot()
    with pytest.raises(ValueError, match="belongs to another pool"):
        model.new_pool(512).open(at=snapshot)
    snapshot.close()
    with pytest.raises(ValueError, match="the snapshot is closed"):
        pool.open(at=snapshot)
    with pytest.raises(ValueError, match="bytes of state and 1 blocks for 128 tokens do not fit"):
        Snapshot.of_bytes(pool, pool.blocks.allocate(1), 128, b"")


@pytest.mark.parametrize("depth", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_a_draft_is_written_in_place_and_taken_back(model: Transformer, depth: int) -> None:
    """Passes of `depth` tokens that are wrong, taken back, and the right ones after them."""
    pool = model.new_pool(512, poison=True, draft_tokens=depth)
    sequence, plain = pool.open(), model.new_pool(512).open()
    read(model, sequence, 0, 200, 200)
    read(model, plain, 0, 200, 200)
    for first in range(200, 300, depth):
        model.extend(TOKENS[first : first + depth].flip(0), [sequence], [depth])
        sequence.rewind(depth)
        expected = read(model, plain, first, first + depth, depth)
        assert torch.equal(read(model, sequence, first, first + depth, depth), expected)


def test_a_margin_that_is_too_small_is_seen() -> None:
    layout = CacheLayout(ModelConfig.preset("flash"), packed_records(ModelConfig.preset("flash")), draft_tokens=3)
    layout.check_in_place(3)
    with pytest.raises(AssertionError):
        layout.check_in_place(4)
    assert layout.window_rows == 127 + REWIND + 3
    assert [kind.rows for kind in layout.tail_kinds] == [7 + REWIND + 3, 7 + REWIND + 3, 127 + REWIND + 3]


def test_mtp_layers_have_a_cache(model: Transformer) -> None:
    """Logits of the MTP module, some tokens at a time, are those of whole sequences."""
    tokens = TOKENS[:200]
    with torch.no_grad(), ops.using(backend="reference"):
        streams = model.streams(tokens[None])[0]
        expected = model.mtp_logits(tokens[None])[0]
        pool = model.new_pool(512, poison=True, mtp=True)
        sequence = pool.open()
        model.extend(tokens, [sequence], [200])
        logits, first = [], 0
        for count in (150, 1, 1, 30, 17):
            rows = slice(first, first + count)
            logits.append(model.extend_mtp(streams[rows], tokens[first + 1 : first + count + 1], [sequence], [count]))
            first += count
        assert sequence.num_mtp_tokens == 199
        difference = torch.cat(logits) - expected
    assert difference.norm() <= (2e-2 if model.arithmetic.dtype == torch.bfloat16 else 1e-5) * expected.norm()
    with pytest.raises(ValueError, match="a count of 2 MTP tokens is not allowed; expected 1 to 1"):
        model.extend_mtp(streams[:2], tokens[:2], [sequence], [2])
    with pytest.raises(ValueError, match="no rings of MTP layers; open one with mtp=True"):
        model.extend_mtp(streams[:1], tokens[:1], [model.new_pool(128).open()], [1])
    for sequences, counts, message in (
        ([sequence], [2], "1 rows of streams, 1 following tokens, 1 sequences and counts"),
        ([], [], "one sequence at least"),
        ([sequence, sequence], [1, 0], "appears twice"),
    ):
        with pytest.raises(ValueError, match=message):
            model.extend_mtp(streams[:1], tokens[:1], sequences, counts)
    sequence.close()
    with pytest.raises(ValueError, match="is closed"):
        model.extend_mtp(streams[:1], tokens[:1], [sequence], [1])


@pytest.mark.parametrize("way", ["rewind", "fork", "snapshot"])
def test_mtp_rows_whose_next_token_is_another_one_are_made_anew(model: Transformer, way: str) -> None:
    """The last token's MTP row reads the token after it, which a step back, a fork or a snapshot leaves open."""
    wrong = TOKENS[:260].clone()
    wrong[256:] = (wrong[256:] + 7) % 64
    with torch.no_grad(), ops.using(backend="reference"):
        right_streams, wrong_streams = model.streams(TOKENS[None, :300])[0], model.streams(wrong[None])[0]
        pool = model.new_pool(1024, poison=True, mtp=True)
        sequence = pool.open()
        length = 260 if way == "rewind" else 256
        rows = min(length, 259)
        model.extend(wrong[:length], [sequence], [length])
        model.extend_mtp(wrong_streams[:rows], wrong[1 : rows + 1], [sequence], [rows])
        if way == "rewind":
            sequence.rewind(4)
        elif way == "fork":
            sequence = sequence.fork()
        else:
            sequence = pool.open(at=sequence.snapshot())
        assert sequence.num_mtp_tokens == 255
        model.extend(TOKENS[256:300], [sequence], [44])
        logits = model.extend_mtp(right_streams[255:299], TOKENS[256:300], [sequence], [44])
        expected = model.mtp_logits(TOKENS[None, :300])[0, 255:]
    assert (logits - expected).norm() <= (2e-2 if model.arithmetic.dtype == torch.bfloat16 else 1e-5) * expected.norm()


def test_a_block_is_one_record() -> None:
    """Every row of every layer lies inside its block's record, each byte of it in one row."""
    config = ModelConfig.preset("flash")
    pool = Pool(config, 384, packed_records(config))
    assert len(pool.block_bytes(1)) == pool.layout.block_bytes
    for kind in pool.layout.row_kinds:
        for layer in kind.layers:
            rows, _ = pool.rows_of(kind.name, layer)
            rows[1].view(torch.uint8).fill_(1)
            assert rows[1].view(torch.uint8).numel() == kind.layer_bytes
    assert bytes(pool.block_bytes(1)) == b"\1" * pool.layout.block_bytes
