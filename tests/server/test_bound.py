"""The bound of the page's panel is the memory's rate over the bytes of the weights that a pass reads, counted here."""

from __future__ import annotations

import pytest

from wavefold import LLM
from wavefold.server.bound import MOST_BYTES, Bound

RATE = 1e9


@pytest.fixture
def bound(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> Bound:
    monkeypatch.setattr("wavefold.server.bound.memory_read_rate", lambda size: RATE)
    return Bound(llm.model, is_streamed=False)


def bytes_of_a_pass(llm: LLM, share: float) -> float:
    """Bytes of the module's own tensors that a token meets: of its embedding one row, of the experts a share."""
    model, config = llm.model, llm.model.config
    layers = config.num_hidden_layers
    routed = model.experts.store.num_bytes * layers / (layers + len(model.mtp))
    matrices = [
        tensor.nbytes for name, tensor in model.named_parameters()
        if not name.startswith(("embed", "mtp")) and not name.endswith(("ape", "tid2eid")) and tensor.dim() > 1
    ]  # fmt: skip
    return sum(matrices) + share * routed


def test_one_token_and_so_many_that_all_experts_are_met(llm: LLM, bound: Bound) -> None:
    assert bound.tokens_per_s(1.0) is None and bound.is_wanted
    bound.measure()
    config = llm.model.config
    share = config.num_experts_per_tok / config.n_routed_experts
    for tokens, met in ((1, share), (2, 1 - (1 - share) ** 2), (10_000, 1.0)):
        expected = tokens * RATE / bytes_of_a_pass(llm, met)
        assert bound.tokens_per_s(tokens) == pytest.approx(expected, rel=0.03)
    assert bound.tokens_per_s(0.0) == bound.tokens_per_s(1.0) and not bound.is_wanted


def test_no_bound_where_another_limit_binds_or_memory_is_short(
    llm: LLM, bound: Bound, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not Bound(llm.model, is_streamed=True).is_wanted
    monkeypatch.setattr("wavefold.server.bound.available_bytes", lambda: MOST_BYTES // 64)
    bound.measure()
    assert bound.tokens_per_s(1.0) is None and not bound.is_wanted
