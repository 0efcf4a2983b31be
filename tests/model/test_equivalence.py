"""However its tokens arrive, a sequence is the same: whole, in chunks, one by one, or in a batch.

Cutting a run changes the shapes of the matrix products and so their rounding: such pairs agree to 2e-5 of the RMS in
float32 and choose the same entries. What shares or forgets state is in test_forks.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from tests.small import SMALL
from wavefold import ops
from wavefold.cache import PagedView, View
from wavefold.cache import paged_view as paging
from wavefold.checkpoint.random import random_model
from wavefold.model import Transformer, attention, indexer, transformer
from wavefold.model.batch import Batch
from wavefold.model.indexer import Indexer
from wavefold.ops import Arithmetic

CONFIG = SMALL.replace(
    num_hidden_layers=5, head_dim=96, compress_ratios=(0, 4, 128, 4, 128, 0), index_n_heads=8, num_hash_layers=2
)
LENGTH = 396
TOKENS = torch.randint(0, CONFIG.vocab_size, (3, LENGTH), generator=torch.Generator().manual_seed(5))
TOLERANCE = 2e-5
TIE = 1e-5  # of the scores' RMS: closer than that, rounding may choose

CUTS = (1, 2, 3, 4, 5, 7, 8, 9, 16, 123, 124, 125, 126, 127, 128, 129, 130, 131, 132, 133, 143, 144, 145, 252, 254, 255,
        256, 257, 258, 260, 382, 383, 384, 385, 388, 395)  # fmt: skip
SIZES = (3, 4, 5, 31, 32, 33, 64, 127, 128, 129, 143, 144, 145)


@pytest.fixture(scope="module")
def exact() -> Transformer:
    return random_model(CONFIG, seed=1, arithmetic=Arithmetic("exact"))


class Choices:
    """What the indexers chose, by layer and sequence: sorted entries [n, topk], and how clear each choice was."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, int], list[Tensor]] = {}
        self.gaps: list[Tensor] = []
        self._owners: list[object] = []  # kept, so that no other gets its id

    def take(self, layer: Indexer, q: Tensor, weights: Tensor, visible: Tensor, view: View, chosen: Tensor) -> None:
        owner = getattr(view, "sequence", view)
        self._owners.append(owner)
        padded = torch.full((len(chosen), layer.topk), -1)
        padded[:, : chosen.shape[1]] = chosen
        self.rows.setdefault((layer.layer, id(owner)), []).append(padded.sort().values)
        keys = view.entries("index", layer.layer, 0, view.end // 4)
        scores = ops.index_scores(q, weights, keys, Arithmetic("exact"))
        rms = scores.square().mean().sqrt()
        scores = scores.masked_fill(torch.arange(len(keys)) >= visible[:, None], -torch.inf)
        best = scores.topk(min(layer.topk + 1, len(keys))).values
        if best.shape[1] > layer.topk:
            self.gaps.append(((best[:, -2] - best[:, -1]) / rms).nan_to_num(torch.inf, torch.inf))

    def of(self, number: int = 0) -> Tensor:
        """The `number`-th sequence's choices: [CSA layers, n, topk]."""
        owners = list(dict.fromkeys(owner for _, owner in self.rows))
        layers = sorted({layer for layer, _ in self.rows})
        return torch.stack([torch.cat(self.rows[layer, owners[number]]) for layer in layers])

    @property
    def num_ties(self) -> int:
        return int(sum((gap < TIE).sum() for gap in self.gaps))


def record(patch: pytest.MonkeyPatch, recorded: list[Choices]) -> None:
    """Choices made from now on go to the last of `recorded`."""
    select = Indexer.select

    def recording(self, q, weights, visible, view, arithmetic):  # type: ignore[no-untyped-def]
        chosen = select(self, q, weights, visible, view, arithmetic)
        recorded[-1].take(self, q, weights, visible, view, chosen)
        return chosen

    patch.setattr(Indexer, "select", recording)


@pytest.fixture
def choices(monkeypatch: pytest.MonkeyPatch) -> list[Choices]:
    recorded = [Choices()]
    record(monkeypatch, recorded)
    return recorded


def whole(model: Transformer, tokens: Tensor) -> Tensor:
    """The hidden states [n, hidden] of one sequence, without a cache."""
    with torch.no_grad():
        return model.final(model.streams(tokens[None])[0])


def chunked(model: Transformer, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
    """The same through a poisoned pool, in runs of these lengths."""
    assert sum(lengths) == len(tokens)
    sequence = model.new_pool(len(tokens), poison=True).open()
    hidden = torch.cat([model.extend(part, [sequence], [len(part)]) for part in tokens.split(list(lengths))])
    sequence.pool.check_integrity()
    return hidden


def assert_close(got: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    """Every row's RMS error is within `tolerance` of the whole's RMS."""
    error = (got - expected).square().mean(-1).sqrt() / expected.square().mean().sqrt()
    assert error.max() <= tolerance, f"row {int(error.argmax())}: {float(error.max()):.2e} of the RMS"


def assert_same_choices(recorded: list[Choices], expected: Choices) -> None:
    got, want = recorded[-1].of(), expected.of()
    differing = (got != want).any(-1).nonzero().tolist()
    assert not differing, f"{len(differing)} choices differ, {expected.num_ties} are ties; (layer, token) {differing}"


@pytest.fixture(scope="module")
def reference(exact: Transformer) -> tuple[Tensor, Choices]:
    """What TOKENS[0] gives whole: hidden states and choices."""
    recorded = [Choices()]
    with pytest.MonkeyPatch.context() as patch:
        record(patch, recorded)
        return whole(exact, TOKENS[0]), recorded[0]


class Checker:
    """Runs TOKENS[0] in chunks and compares hidden states and choices with the whole."""

    def __init__(self, model: Transformer, recorded: list[Choices], reference: tuple[Tensor, Choices]):
        self.model, self.recorded, self.reference = model, recorded, reference

    def __call__(self, lengths: Sequence[int]) -> None:
        expected, choices = self.reference
        self.recorded.append(Choices())
        assert_close(chunked(self.model, TOKENS[0], lengths), expected)
        assert_same_choices(self.recorded, choices)


@pytest.fixture
def check(exact: Transformer, choices: list[Choices], reference: tuple[Tensor, Choices]) -> Checker:
    return Checker(exact, choices, reference)


def test_the_choice_binds_and_is_clear(reference: tuple[Tensor, Choices]) -> None:
    """What the tests below rest on: most queries see more entries than they may choose, and ties are rare."""
    picked = reference[1].of()
    assert picked.shape == (2, LENGTH, CONFIG.index_topk)
    assert (picked[:, 4 * CONFIG.index_topk :] >= 0).all()
    newest = torch.arange(LENGTH)[:, None] // 4 - torch.arange(CONFIG.index_topk, 0, -1)
    assert (picked[:, LENGTH // 2 :] != newest[LENGTH // 2 :]).any(-1).all()
    assert reference[1].num_ties <= 2
    assert [spec.ratio for spec in CONFIG.main_layers].count(4) == CONFIG.compress_ratios.count(128) == 2
    assert attention.DENSE_ENTRIES * CONFIG.index_topk < LENGTH // 4  # masked at first, gathered later


def test_logits_are_the_head_of_hidden(exact: Transformer) -> None:
    with torch.no_grad():
        logits = exact(TOKENS)
    for row, tokens in zip(logits, TOKENS, strict=True):
        assert_close(row, exact.logits(whole(exact, tokens)))
        assert_close(exact.logits(chunked(exact, tokens, (100, LENGTH - 100))), row)


@pytest.mark.parametrize("shape", [(0,), (0, 5), (3,), (3, 20), (70,), (2, 40)])
def test_tokens_of_any_shape_are_checked(exact: Transformer, shape: tuple[int, ...]) -> None:
    tokens = torch.randint(0, CONFIG.vocab_size, shape)
    assert torch.equal(exact.check_tokens(tokens), tokens)
    for outside in (-1, CONFIG.vocab_size) if tokens.numel() else ():
        tokens.view(-1)[-1] = outside
        with pytest.raises(ValueError, match=f"token {outside} is not allowed; expected 0 to"):
            exact.check_tokens(tokens)


def test_in_one_go(check: Checker) -> None:
    check([LENGTH])


def test_token_by_token(check: Checker) -> None:
    check([1] * LENGTH)


@pytest.mark.parametrize("cut", CUTS)
def test_cut_in_two(check: Checker, cut: int) -> None:
    check([cut, LENGTH - cut])


@pytest.mark.parametrize("cut", [1, 3, 4, 7, 122, 125, 126, 127, 128, 129, 143, 250, 255, 256, 380, 384])
def test_prefill_and_decode(check: Checker, cut: int) -> None:
    """A prompt, then six tokens one by one."""
    steps = min(6, LENGTH - cut)
    check([cut, *[1] * steps, *([LENGTH - cut - steps] if cut + steps < LENGTH else [])])


@pytest.mark.parametrize("size", SIZES)
def test_equal_chunks(check: Checker, size: int) -> None:
    check([size] * (LENGTH // size) + [LENGTH % size] * (LENGTH % size > 0))


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 12))])
def test_random_chunks(check: Checker, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    largest = (3, 10, 40, 140)[seed % 4]
    lengths: list[int] = []
    while sum(lengths) < LENGTH:
        length = int(torch.randint(1, largest + 1, (), generator=generator))
        lengths.append(min(length, LENGTH - sum(lengths)))
    check(lengths)


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (transformer, "PASS_TOKENS", 7),
        (transformer, "PASS_TOKENS", 129),
        (attention, "QUERY_CHUNK", 5),
        (attention, "QUERY_CHUNK", 1024),
        (attention, "EXACT_PIECE", 3),
        (attention, "GATHER_PIECE", 3),
        (attention, "DENSE_ENTRIES", 0),
        (attention, "DENSE_ENTRIES", 1000),
        (indexer, "SCORE_BLOCK", 7),
    ],
    ids=lambda value: str(value) if isinstance(value, (str, int)) else "",
)
def test_sizes_of_pieces_do_not_matter(
    check: Checker, module: object, name: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, value)
    check([LENGTH])
    check([250, LENGTH - 250])


@pytest.mark.parametrize(
    "steps",
    [
        [(130, 57, 1), (1, 1, 1), (4, 200, 127), (1, 3, 128), (260, 1, 1)],
        [(1, 127, 256), (127, 1, 128), (128, 128, 4), (1, 1, 1), (1, 1, 1)],
        [(7, 0, 0), (0, 129, 0), (5, 126, 383), (3, 3, 3), (0, 1, 1), (381, 0, 9)],
    ],
    ids=["mixed", "boundaries", "taking turns"],
)
def test_batches_of_sequences(exact: Transformer, choices: list[Choices], steps: list[tuple[int, ...]]) -> None:
    """Sequences of different lengths and pasts in one call, each as if alone."""
    totals = [sum(step[i] for step in steps) for i in range(3)]
    expected, references = [], []
    for tokens, total in zip(TOKENS, totals, strict=True):
        choices.append(Choices())
        expected.append(whole(exact, tokens[:total]))
        references.append(choices[-1].of())
    choices.append(Choices())
    pool = exact.new_pool(4 * LENGTH, poison=True)
    sequences = [pool.open() for _ in range(3)]
    outputs: list[list[Tensor]] = [[], [], []]
    for step in steps:
        some = [i for i in range(3) if step[i]]
        runs = [TOKENS[i, sequences[i].num_tokens :][: step[i]] for i in some]
        hidden = exact.extend(torch.cat(runs), [sequences[i] for i in some], [step[i] for i in some])
        for i, rows in zip(some, hidden.split([step[i] for i in some]), strict=True):
            outputs[i].append(rows)
    for i in range(3):
        assert_close(torch.cat(outputs[i]), expected[i])
        assert torch.equal(choices[-1].of(i), references[i])


def test_a_call_larger_than_a_pass(exact: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes are cut anywhere: inside a sequence, between two, and with several in one."""
    expected = [whole(exact, tokens) for tokens in TOKENS]
    for pass_tokens in (50, 100, 396, 500):
        monkeypatch.setattr(transformer, "PASS_TOKENS", pass_tokens)
        pool = exact.new_pool(4 * LENGTH, poison=True)
        sequences = [pool.open() for _ in range(3)]
        hidden = exact.extend(torch.cat((TOKENS[0], TOKENS[1, :99], TOKENS[2])), sequences, [LENGTH, 99, LENGTH])
        for rows, want in zip(hidden.split([LENGTH, 99, LENGTH]), expected, strict=True):
            assert_close(rows, want[: len(rows)])


def drop_the_previous_block(patch: pytest.MonkeyPatch) -> None:
    original = ops.compress_blocks

    def pooled(kv: Tensor, score: Tensor, ratio: int, overlap: bool, has_previous: bool) -> Tensor:
        if has_previous:
            return original(kv[ratio:], score[ratio:], ratio, overlap, False)
        return original(kv, score, ratio, overlap, False)

    patch.setattr(ops, "compress_blocks", pooled)


def window_of_127(patch: pytest.MonkeyPatch) -> None:
    original = PagedView.window
    patch.setattr(PagedView, "window", lambda self, layer, kv: original(self, layer, kv)[-126 - len(kv) :])


def ring_off_by_one(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(paging, "ring_rows", lambda ring, first, end: ring_rows(ring, first + 1, end + 1))


def positions_from_zero(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Batch, "entry_table", lambda self, first, end, ratio: entry_table(self, 0, end - first, ratio))


def visible_a_token_late(patch: pytest.MonkeyPatch) -> None:
    select = Indexer.select
    patch.setattr(
        Indexer,
        "select",
        lambda self, q, weights, visible, view, arithmetic: select(
            self, q, weights, visible - int(len(q) == 1), view, arithmetic
        ),
    )


def index_keys_not_stored(patch: pytest.MonkeyPatch) -> None:
    append = PagedView.append
    patch.setattr(
        PagedView,
        "append",
        lambda self, kind, layer, rows, first: append(self, kind, layer, rows * (kind != "index"), first),
    )


ring_rows, entry_table = paging.ring_rows, Batch.entry_table
MUTANTS = (
    drop_the_previous_block, window_of_127, ring_off_by_one, positions_from_zero, visible_a_token_late,
    index_keys_not_stored,
)  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_mutants_differ(
    exact: Transformer, reference: tuple[Tensor, Choices], mutant: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison of a prompt and decoded tokens with the whole sequence sees each of these."""
    expected, _ = reference
    lengths = [201, *[1] * 12, LENGTH - 213]
    assert_close(chunked(exact, TOKENS[0], lengths), expected)
    mutant(monkeypatch)
    with pytest.raises(AssertionError, match="of the RMS"):
        assert_close(chunked(exact, TOKENS[0], lengths), expected)
