"""A record against transformers' own attention weights, indexer, router and probabilities, in exact float32.

Its eager attention returns the softmax that it multiplies values with; its indexer and its routers are watched by hooks
on its modules. Rows that a near-tie can reach (tests/model/test_transformers.py) are not looked at.
"""

import functools
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers", reason="transformers is not installed: pip install 'wavefold[test]'")

from tests.model.test_transformers import NearTies, random_config, random_tokens
from tests.transformers_bridge import transformers_model
from wavefold import Transformer
from wavefold.checkpoint import random_model
from wavefold.inside import LayerSeen, Seen, look_at, read, row
from wavefold.inside.masses import Masses
from wavefold.inside.row import RowWatcher
from wavefold.model.attention import Attention
from wavefold.ops import Arithmetic

QUICK = (3, 9, 11, 13, 17)
"""Every kind of layer, choices among entries, windows that have moved."""
SEEDS = [pytest.param(seed, marks=[] if seed in QUICK else [pytest.mark.slow]) for seed in range(24)]
MOST_ERROR = 2e-5
"""Largest error of a mass, a weight of an expert or a probability."""
SCORE_ERROR = 1e-4
"""Largest error of an index score over the largest of its row."""
CPU = torch.device("cpu")


class Theirs(NamedTuple):
    """What transformers computed for one sequence of S tokens, by layer."""

    masses: list[Tensor]  # [S, S + entries]: window tokens, then entries; mean over heads, without the sink
    chosen: dict[int, Tensor]  # [S, k], -1 for none
    scores: dict[int, Tensor]  # [S, entries]
    weights: list[Tensor]  # [S, k]
    experts: list[Tensor]  # [S, k]
    probabilities: Tensor  # [S, vocab]


def theirs_of(model: Transformer, tokens: Tensor) -> Theirs:
    other = transformers_model(model)
    masses, chosen, scores, weights, experts = [], {}, {}, [], []

    def gate_hook(module: Any, inputs: Any, output: Any) -> None:
        weights.append(output[1])
        experts.append(output[2])

    for number, layer in enumerate(other.model.layers):
        attention = layer.self_attn
        attention.register_forward_hook(lambda module, inputs, output: masses.append(output[1][0].mean(0)))
        layer.mlp.gate.register_forward_hook(gate_hook)
        if (indexer := getattr(attention.compressor, "indexer", None)) is not None:
            indexer.register_forward_hook(lambda module, inputs, output, at=number: chosen.__setitem__(at, output[0]))
            indexer.scorer.register_forward_hook(
                lambda module, inputs, output, at=number: scores.__setitem__(at, output[0])
            )
    logits = other(tokens[None], use_cache=False).logits[0]
    return Theirs(masses, chosen, scores, weights, experts, logits.softmax(-1))


class Case(NamedTuple):
    model: Transformer
    tokens: Tensor
    theirs: Theirs
    positions: list[int]


@functools.cache
def case(seed: int) -> Case:
    config, _, length = random_config(seed)
    model = random_model(config, seed, Arithmetic("exact"))
    tokens = random_tokens(config, 1, length, seed, CPU)
    ties = NearTies()
    with torch.no_grad(), ties.watch():
        model(tokens)
    kept = (ties.found(tokens).cumsum(1) == 0)[0].nonzero().flatten().tolist()
    positions = sorted({kept[place] for place in (0, len(kept) // 3, len(kept) // 2, -2 if len(kept) > 1 else -1, -1)})
    with torch.no_grad():
        return Case(model, tokens[0], theirs_of(model, tokens[0]), positions)


def look_there(seed: int, position: int) -> Seen:
    return look_at(case(seed).model, case(seed).tokens.tolist(), position)


def check(seed: int, position: int) -> None:
    theirs, seen = case(seed).theirs, look_there(seed, position)
    length = len(case(seed).tokens)
    assert [layer.spec.layer for layer in seen.layers] == list(range(len(theirs.masses)))
    for layer in seen.layers:
        number = layer.spec.layer
        masses = theirs.masses[number][position]
        window = torch.zeros(length)
        window[layer.first(position) : position + 1] = layer.window
        assert_close(window, masses[:length], "window")
        assert_close(torch.tensor(layer.sink), 1 - masses.sum(), "sink")
        check_entries(layer, position, masses[length:], theirs)
        order, others = layer.experts.argsort(), theirs.experts[number][position].argsort()
        assert layer.experts[order].tolist() == theirs.experts[number][position][others].tolist()
        assert_close(layer.weights[order], theirs.weights[number][position][others], "weights of experts")
    probabilities = theirs.probabilities[position]
    for token, probability in seen.top:
        assert abs(probability - float(probabilities[token])) < MOST_ERROR
    assert seen.top[0][1] == pytest.approx(float(probabilities.max()), abs=MOST_ERROR)
    if position + 1 < length:
        following = float(probabilities[case(seed).tokens[position + 1]])
        assert seen.next_probability == pytest.approx(following, abs=MOST_ERROR)


def check_entries(layer: LayerSeen, position: int, masses: Tensor, theirs: Theirs) -> None:
    number, spec, entries = layer.spec.layer, layer.spec, layer.entries
    if not spec.compressed:
        assert entries is None
        return
    assert entries is not None and entries.num_complete == (position + 1) // spec.ratio
    if not spec.indexed:
        assert entries.chosen is None
        assert_close(entries.mass, masses[: entries.num_complete], "entries")
        assert not masses[entries.num_complete :].any()
        return
    chosen = theirs.chosen.get(number, torch.empty(position + 1, 0, dtype=torch.int64))[position]
    assert entries.chosen is not None and entries.scores is not None
    assert sorted(entries.chosen.tolist()) == sorted(chosen[chosen >= 0].tolist())
    mass = torch.zeros_like(masses)
    mass[entries.chosen] = entries.mass
    assert_close(mass, masses, "chosen entries")
    if len(entries.chosen):
        scores = theirs.scores[number][position]
        error = (entries.scores - scores[entries.chosen]).abs().max() / scores.abs().max()
        assert error < SCORE_ERROR
        assert entries.scores.tolist() == sorted(entries.scores.tolist(), reverse=True)


def assert_close(ours: Tensor, theirs: Tensor, what: str) -> None:
    assert ours.shape == theirs.shape, what
    if ours.numel():
        error = float((ours - theirs).abs().max())
        assert error < MOST_ERROR, f"{what}: off by {error:.1e}"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_record_is_transformers_own(seed: int) -> None:
    for position in case(seed).positions:
        check(seed, position)


def test_the_quick_cases_cover_the_architecture() -> None:
    seen = [look_there(seed, case(seed).positions[-1]) for seed in QUICK]
    layers = [layer for one in seen for layer in one.layers]
    choosing = [one.entries for one in layers if one.entries and one.entries.chosen is not None]
    assert sum(1 < len(one.mass) < one.num_complete for one in choosing) >= 1
    assert sum(one.spec.ratio == 128 and one.entries.num_complete > 1 for one in layers if one.entries) > 2
    assert {one.spec.hashed for one in layers} == {True, False}
    assert sum(one.layers[0].first(one.position) > 0 for one in seen) >= 3


# -- mutants: what this comparison must not let through ----------------------------------------------------------------


def shifted(patch: pytest.MonkeyPatch) -> None:
    """A layer's record is that of the layer before."""
    run = read._Look.run

    def wrong(self: Any) -> Seen:
        seen = run(self)
        layers = (seen.layers[-1], *seen.layers[:-1])
        return seen._replace(layers=tuple(a._replace(spec=b.spec) for a, b in zip(layers, seen.layers, strict=True)))

    patch.setattr(read._Look, "run", wrong)


def wrong_masses(patch: pytest.MonkeyPatch, change: Any) -> None:
    masses_of = row.masses_of
    patch.setattr(row, "masses_of", lambda *a: change(masses_of, *a))


def wrong_ratio(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(row, "num_visible", lambda position, ratio: position // ratio)


def own_row_missing(patch: pytest.MonkeyPatch) -> None:
    project = Attention.project

    def wrong(self: Any, h: Tensor, batch: Any, arithmetic: Any) -> Any:
        qr, q, kv = project(self, h, batch, arithmetic)
        return qr, q, torch.zeros_like(kv) if batch.watcher is not None else kv

    patch.setattr(Attention, "project", wrong)


MUTANTS: dict[str, Any] = {
    "nothing": lambda patch: None,
    "a layer shifted by one": shifted,
    "entries of another ratio": wrong_ratio,
    "window shifted by one": lambda patch: wrong_masses(
        patch, lambda f, q, w, e, s: (m := f(q, w, e, s))._replace(window=m.window.roll(1))
    ),
    "no sink": lambda patch: wrong_masses(patch, lambda f, q, w, e, s: f(q, w, e, torch.full_like(s, -torch.inf))),
    "another scale": lambda patch: wrong_masses(patch, lambda f, q, w, e, s: f(q * 1.01, w, e, s)),
    "first head alone": lambda patch: wrong_masses(patch, lambda f, q, w, e, s: f(q[:1], w, e, s[:1])),
    "entries in another order": lambda patch: wrong_masses(
        patch, lambda f, q, w, e, s: (m := f(q, w, e, s))._replace(entries=m.entries.flip(0))
    ),
    "own row missing": own_row_missing,
    "last entry chosen in place of the best": lambda patch: patch.setattr(
        row, "chosen_entries", lambda indexer, q, w, view, *a: torch.arange(
            (view.start + 1) // 4 - min(indexer.topk, (view.start + 1) // 4), (view.start + 1) // 4)
    ),
    "unweighted experts": lambda patch: patch.setattr(
        RowWatcher, "routed", lambda self, layer, weights, ids, f=RowWatcher.routed: f(
            self, layer, torch.full_like(weights, float(weights.mean())), ids)
    ),
}  # fmt: skip


MUTANT = 9, 179
"""Seed and position: layers of all kinds, beyond the window, where an entry is complete, and no near-tie before."""


@pytest.mark.parametrize("name", list(MUTANTS))
def test_a_mutant_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MUTANT[1] < max(case(MUTANT[0]).positions)
    MUTANTS[name](monkeypatch)
    if name == "nothing":
        check(*MUTANT)
        return
    with pytest.raises(AssertionError):
        check(*MUTANT)


def test_masses_are_a_softmax() -> None:
    """By hand: two keys and a sink that weigh 1, 2 and 3."""
    q, keys = torch.ones(1, 4), torch.zeros(2, 4)
    keys[1] = torch.log(torch.tensor(2.0)) / 2  # z = q . k / 2
    found: Masses = row.masses_of(q, keys[:1], keys[1:], torch.log(torch.tensor([3.0])))
    assert found.window.tolist() == pytest.approx([1 / 6])
    assert found.entries.tolist() == pytest.approx([2 / 6])
    assert found.sink == pytest.approx(3 / 6)
    assert torch.allclose(found.out, keys[1:] / 3)
