"""Generation against whole forward passes without a cache, and what it leaves behind however it ends."""

from collections.abc import Iterator
from importlib import import_module

import pytest
import torch

from wavefold import Pool, Transformer
from wavefold.engine import Usage, generate
from wavefold.engine.adjust import NONE, Adjustments
from wavefold.engine.sampler import Filters, choose
from wavefold.engine.uniform import uniform

module = import_module("wavefold.engine.generate")
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]


@pytest.fixture
def pools(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Pool]]:
    """The pools that generations open; at the end no sequence may be left in one."""
    opened: list[Pool] = []
    new_pool = model.new_pool

    def watched(num_tokens: int) -> Pool:
        opened.append(new_pool(num_tokens, poison=True))
        return opened[-1]

    monkeypatch.setattr(model, "new_pool", watched)
    yield opened
    for pool in opened:
        assert pool.sequences == []
        assert pool.blocks.num_free == pool.blocks.num_blocks
        pool.check_integrity()


def without_cache(
    model: Transformer, num_tokens: int, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0
) -> list[int]:
    """The meaning of generation: the whole sequence through the model for each token."""
    filters = Filters.same(1, temperature, top_p, 0, 0.0)
    tokens = list(PROMPT)
    for _ in range(num_tokens):
        with torch.no_grad():
            logits = model(torch.tensor([tokens]))[:, -1]
        number = uniform(torch.tensor([seed]), torch.tensor([len(tokens)]))
        tokens.append(int(choose(logits, filters, number)))
    return tokens[len(PROMPT) :]


def test_greedy(model: Transformer, pools: list[Pool]) -> None:
    assert list(generate(model, PROMPT, 8, temperature=0, stop_ids=())) == without_cache(model, 8)


def test_sampled(model: Transformer, pools: list[Pool]) -> None:
    ids = list(generate(model, PROMPT, 8, 0.8, 0.9, seed=11, stop_ids=()))
    assert ids == without_cache(model, 8, 0.8, 0.9, seed=11)
    assert ids == list(generate(model, PROMPT, 8, 0.8, 0.9, seed=11, stop_ids=()))
    assert ids != list(generate(model, PROMPT, 8, 0.8, 0.9, seed=12, stop_ids=()))


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize(
    "adjustments", [NONE, Adjustments(1.8), Adjustments(presence_penalty=2.0), Adjustments(1.1, 0.5, 2.0, {7: 3.0})]
)
def test_adjusted(model: Transformer, pools: list[Pool], temperature: float, adjustments: Adjustments) -> None:
    """Against whole passes whose logits are adjusted one token after another. Each adjustment changes the answer."""
    filters, tokens = Filters.same(1, temperature, 0.95, 30, 0.001), list(PROMPT)
    for number in range(12):
        with torch.no_grad():
            logits = model(torch.tensor([tokens]))[:, -1]
        counts = torch.bincount(torch.tensor(tokens[10:], dtype=torch.int64), minlength=logits.shape[-1])
        for token in set(tokens):
            penalty = adjustments.repetition_penalty
            logits[0, token] *= penalty if logits[0, token] < 0 else 1 / penalty
        logits -= adjustments.frequency_penalty * counts + adjustments.presence_penalty * (counts > 0)
        for token, bias in adjustments.logit_bias.items():
            logits[0, token] += bias
        tokens.append(int(choose(logits, filters, uniform(torch.tensor([2]), torch.tensor([10 + number])))))
    arguments = {"temperature": temperature, "top_p": 0.95, "seed": 2, "stop_ids": (), "top_k": 30, "min_p": 0.001}
    assert list(generate(model, PROMPT, 12, adjustments=adjustments, **arguments)) == tokens[10:]  # type: ignore[arg-type]
    plain = list(generate(model, PROMPT, 12, **arguments))  # type: ignore[arg-type]
    assert (plain == tokens[10:]) == (adjustments == NONE)


def test_prefill_in_pieces(model: Transformer, pools: list[Pool], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    whole = list(generate(model, PROMPT, 4, temperature=0, stop_ids=()))
    monkeypatch.setattr(module, "PASS_TOKENS", 4)
    pieces = generate(model, PROMPT, 4, temperature=0, stop_ids=(), on_prefill=lambda *at: seen.append(at))
    assert seen == [], "nothing runs before the first token is asked for"
    assert list(pieces) == whole
    assert seen == [(0, 10), (4, 10), (8, 10), (10, 10)]


def test_stops_before_a_stop_id(model: Transformer, pools: list[Pool]) -> None:
    ids = without_cache(model, 8)
    stop = ids[5]
    generation = generate(model, PROMPT, 8, temperature=0, stop_ids=[stop])
    kept = ids[: ids.index(stop)]
    assert list(generation) == kept
    assert generation.usage.decode_tokens == len(kept), "the stop id took a step too"


def test_stops_at_eos_by_default(model: Transformer, pools: list[Pool], monkeypatch: pytest.MonkeyPatch) -> None:
    ids = without_cache(model, 6)
    monkeypatch.setattr(model, "config", model.config.replace(eos_token_id=ids[3]))
    assert list(generate(model, PROMPT, 6, temperature=0)) == ids[: ids.index(ids[3])]


@pytest.mark.parametrize(("max_tokens", "num_blocks"), [(1, 1), (119, 1), (120, 2), (247, 2), (248, 3)])
def test_pool_is_as_large_as_needed(model: Transformer, pools: list[Pool], max_tokens: int, num_blocks: int) -> None:
    """10 prompt tokens; the last token of the answer is not run."""
    generation = generate(model, PROMPT, max_tokens)
    next(generation)
    generation.close()
    assert [pool.blocks.num_blocks for pool in pools] == [num_blocks]


def test_fills_its_pool_to_the_last_token(model: Transformer, pools: list[Pool]) -> None:
    prompt = [token % 40 for token in range(125)]
    assert len(list(generate(model, prompt, 4, stop_ids=()))) == 4
    assert pools[0].blocks.num_blocks == 1


def test_usage(model: Transformer, pools: list[Pool], monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only the model's passes (1 s) and the caller (100 s) move."""
    now = 0.0
    forward_step = model.forward_step

    def slow(*args: object) -> torch.Tensor:
        nonlocal now
        now += 1.0
        return forward_step(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "forward_step", slow)
    monkeypatch.setattr(module.time, "perf_counter", lambda: now)
    generation = generate(model, PROMPT, 5, stop_ids=())
    assert generation.usage == Usage(10)
    for _ in generation:
        now += 100.0
    usage = generation.usage
    layout = pools[0].layout
    assert usage == Usage(10, 1.0, 4, 4.0, layout.block_bytes + layout.state_bytes, 5)
    assert (usage.prefill_tokens_per_s, usage.decode_tokens_per_s) == (10.0, 1.0)
    assert Usage(1).decode_tokens_per_s is Usage(1).prefill_tokens_per_s is None


def test_closed_early(model: Transformer, pools: list[Pool]) -> None:
    generation = generate(model, PROMPT, 50, stop_ids=())
    next(generation), next(generation)
    assert len(pools[0].sequences) == 1
    generation.close()
    assert pools[0].sequences == []
    assert list(generation) == []
    generate(model, PROMPT, 5).close()


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
@pytest.mark.parametrize("which", [1, 3])
def test_error_on_the_way(
    model: Transformer, pools: list[Pool], error: BaseException, which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_blocks, calls = model.run_blocks, 0

    def fails(batch: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == which:
            raise error
        return run_blocks(batch)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "run_blocks", fails)
    with pytest.raises(type(error)):
        list(generate(model, PROMPT, 5, stop_ids=()))
    assert pools[0].sequences == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_tokens": 0}, "max_tokens = 0 is not allowed; expected 1 or more"),
        ({"temperature": -1.0}, "temperature = -1.0 is not allowed"),
        ({"top_p": 0.0}, "top_p = 0.0 is not allowed"),
        ({"top_k": -1}, "top_k = -1 is not allowed"),
        ({"min_p": 2.0}, "min_p = 2.0 is not allowed"),
        ({"seed": -1}, "seed = -1 is not allowed; expected 0 to 2\\^63 - 1"),
        ({"seed": 2**63}, "seed = 9223372036854775808 is not allowed"),
        ({"tokens": []}, "the prompt has no tokens"),
        ({"tokens": [40]}, "token 40 is not allowed; expected 0 to 39"),
        ({"tokens": [-1]}, "token -1 is not allowed"),
        (
            {"max_tokens": 4088},
            "10 prompt tokens and max_tokens = 4088 are not allowed; .*embeddings = 4096",
        ),
    ],
)
def test_refused_at_once(model: Transformer, arguments: dict[str, object], message: str) -> None:
    """By the call itself, not when the first token is asked for."""
    with pytest.raises(ValueError, match=message):
        generate(model, **{"tokens": PROMPT, "max_tokens": 5} | arguments)  # type: ignore[arg-type]


def test_longest_possible(model: Transformer) -> None:
    generate(model, PROMPT, 4087).close()


def test_says_why_it_ended(model: Transformer, pools: list[Pool]) -> None:
    ids = without_cache(model, 6)
    generation = generate(model, PROMPT, 6, temperature=0, stop_ids=[ids[3]])
    assert generation.finish_reason is None
    list(generation)
    assert (generation.finish_reason, generation.stop_id) == ("stop", ids[3])
    generation = generate(model, PROMPT, 3, temperature=0, stop_ids=())
    list(generation)
    assert (generation.finish_reason, generation.stop_id) == ("length", None)
    generation = generate(model, PROMPT, 3, temperature=0, stop_ids=())
    next(generation), generation.close()
    assert generation.finish_reason is None, "it was stopped, and did not end"


def test_fits_the_window(model: Transformer, pools: list[Pool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "config", model.config.replace(max_position_embeddings=14))
    for max_tokens, num_tokens, reason in ((4, 4, "length"), (5, 5, "length"), (6, 5, "context"), (999, 5, "context")):
        generation = generate(model, PROMPT, max_tokens, temperature=0, stop_ids=(), fit_window=True)
        assert len(list(generation)) == num_tokens
        assert generation.finish_reason == reason
    with pytest.raises(ValueError, match="10 prompt tokens and max_tokens = 6"):
        generate(model, PROMPT, 6)
    with pytest.raises(ValueError, match="15 prompt tokens"):
        generate(model, [*PROMPT, *PROMPT[:5]], 6, fit_window=True)


def test_an_answer_that_memory_has_no_room_for_is_refused_before_it_begins(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wavefold.system import memory

    monkeypatch.setattr(memory, "limits", lambda: [memory.Limit("a group", 10**9, 10**6)])
    with pytest.raises(ValueError, match=r"an answer with 900 tokens .* a group allows 1.00 GB; expected a shorter"):
        generate(model, [1] * 600, 301)
    assert list(generate(model, [1], 2))
