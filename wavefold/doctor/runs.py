"""The same tokens in other ways: again, in chunks, one by one, from a fork, without a cache, streamed.

Ways that compute the same sums must give the same bits. Others differ by orders of sums alone, which a KL divergence
measures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from wavefold import ops
from wavefold.cache import BLOCK_TOKENS
from wavefold.checkpoint import load
from wavefold.doctor.finding import OF_THE_MACHINE, Finding, failed, passed, skipped
from wavefold.doctor.patient import Patient
from wavefold.engine.logprobs import divergence
from wavefold.experts.streamed import LEAST_SLOTS
from wavefold.model import Transformer

TOKENS, TOKENS_OF_LARGE = 176, 24
MOST_KL = 0.05
"""Mean nats a token. Orders of sums make up to 0.006 of a trained model, and more of a random one."""
ONE_BY_ONE = 6
MOST_STREAMED_BYTES = 1 << 30


@torch.no_grad()
def runs(patient: Patient) -> Iterator[Finding]:
    model = patient.model
    assert model is not None
    tokens = patient.tokens(TOKENS_OF_LARGE if patient.is_large else TOKENS)
    n = len(tokens)
    whole = prefilled(model, tokens, [n])
    yield _judged("again", "a prompt, read twice", _kl(prefilled(model, tokens, [n]), whole), same_bits=True)
    one_by_one = [n - ONE_BY_ONE, *[1] * ONE_BY_ONE]
    for part, text, cuts in (
        ("chunks", "a prompt in chunks against whole", [1, 7, n // 2, n - 8 - n // 2]),
        ("decode", "tokens one by one against a prompt", one_by_one),
    ):
        yield _judged(part, text, _kl(prefilled(model, tokens, cuts), whole))
    if not patient.is_large:
        yield _judged("cache", "with a cache against without", _kl(whole, model.forward(tokens[None])[0]))
    if n > BLOCK_TOKENS:
        yield _judged("fork", "from a snapshot against straight on", _kl(*_forked(model, tokens)), same_bits=True)
    yield from _invariant(model, tokens, one_by_one, whole)


def prefilled(model: Transformer, tokens: Tensor, counts: Sequence[int]) -> Tensor:
    """Returns the logits [n, vocab] of tokens that arrive in chunks of these counts."""
    pool = model.new_pool(len(tokens))
    sequence, hidden, first = pool.open(), [], 0
    for count in counts:
        hidden.append(model.extend(tokens[first : first + count], [sequence], [count]))
        first += count
    sequence.close()
    return model.logits(torch.cat(hidden))


def _forked(model: Transformer, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the logits behind the first block, from a snapshot of it, and of the sequence itself."""
    pool = model.new_pool(3 * len(tokens))
    sequence, rest = pool.open(), tokens[BLOCK_TOKENS:]
    model.extend(tokens[:BLOCK_TOKENS], [sequence], [BLOCK_TOKENS])
    with sequence.snapshot() as snapshot:
        other = pool.open(at=snapshot)
        straight = model.extend(rest, [sequence], [len(rest)])
        forked = model.extend(rest, [other], [len(rest)])
    return model.logits(forked), model.logits(straight)


def _invariant(model: Transformer, tokens: Tensor, cuts: list[int], whole: Tensor) -> Iterator[Finding]:
    if not model.runs_on_kernels:
        yield skipped("batch invariance", "is the kernels', which do not run this model")
        return
    runtime = model.runtime or ops.current()
    try:
        model.runtime = runtime.but(batch_invariant=True)
        logits = prefilled(model, tokens, [len(tokens)])
        distance = _kl(prefilled(model, tokens, cuts), logits)
    finally:
        model.runtime = runtime
    yield _judged("batch invariance", "one by one against a prompt", distance, same_bits=True)
    yield _judged("batch invariance", "batch-invariant kernels against the others", _kl(logits, whole))


@torch.no_grad()
def streamed(patient: Patient) -> Iterator[Finding]:
    """Routed experts read as they are needed, against all of them in memory."""
    model = patient.model
    assert model is not None
    if patient.num_bytes > MOST_STREAMED_BYTES:
        yield skipped("streamed experts", "this file is too large to hold in memory beside them")
        return
    tokens = patient.tokens(24)
    resident = load(patient.path)
    slots = max(LEAST_SLOTS, model.config.num_experts_per_tok)
    other = load(patient.path, num_slots=slots)
    try:
        distance = _kl(*(prefilled(one, tokens, [len(tokens) - 4, 1, 1, 1, 1]) for one in (other, resident)))
    finally:
        for one in (other, resident):
            one.experts.store.close()
    yield _judged("streamed experts", f"{slots} in memory at a time against all", distance, same_bits=True)


def _judged(part: str, text: str, distance: tuple[float, bool], same_bits: bool = False) -> Finding:
    nats, equal = distance
    if equal:
        return passed(part, f"{text}: the same bits")
    if same_bits or not nats <= MOST_KL:
        expected = "the same bits" if same_bits else f"at most {MOST_KL}"
        return failed(part, f"{text}: {nats:.2g} nats a token apart; expected {expected}", OF_THE_MACHINE)
    return passed(part, f"{text}: {nats:.1g} nats a token apart")


def _kl(found: Tensor, expected: Tensor) -> tuple[float, bool]:
    """Returns the mean KL divergence from `expected` [n, vocab], and True if the bits are the same."""
    return float(divergence(expected, found).mean()), bool(torch.equal(found, expected))
