"""Traces: what a model chose, their files, and policies over them beside oracles that are not ours."""

from __future__ import annotations

import functools
import itertools
import random
import stat
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from tests.small import SMALL, small_model
from wavefold import LLM, Sampling, load, ops
from wavefold.experts.slots import Slots
from wavefold.experts.traces import Recorder, Trace, read_trace, write_trace
from wavefold.experts.traces.optimum import Optimum
from wavefold.experts.traces.policies import Forgetful, Frequency, HotList, LayerRecency, Policy, Recency
from wavefold.experts.traces.replay import replay
from wavefold.experts.traces.sizes import OPTIMUM, OURS, Sizes, compared, knee
from wavefold.experts.traces.synthetic import zipf_trace
from wavefold.experts.traces.trace import FORMAT, VERSION, Asking
from wavefold.ops import native


def random_askings(draws: random.Random, count: int, layers: int, experts: int, most: int) -> list[Asking]:
    return [
        Asking(number % layers, tuple(sorted(draws.sample(range(experts), draws.randint(1, most)))))
        for number in range(count)
    ]


def requests(askings: list[Asking]) -> list[tuple[int, int]]:
    return [(layer, expert) for layer, experts in askings for expert in experts]


def most_hits(askings: list[Asking], num_slots: int, begin: frozenset[tuple[int, int]] | None) -> int:
    """By trying every expert that may leave, and every set of experts at the beginning where none is given."""
    keys = requests(askings)

    @functools.cache
    def best(now: int, here: frozenset[tuple[int, int]]) -> int:
        if now == len(keys):
            return 0
        if keys[now] in here:
            return 1 + best(now + 1, here)
        if len(here) < num_slots:
            return best(now + 1, here | {keys[now]})
        return max(best(now + 1, here - {left} | {keys[now]}) for left in here)

    if begin is not None:
        return best(0, begin)
    return max(best(0, frozenset(here)) for here in itertools.combinations(sorted(set(keys)), num_slots))


class TestOracles:
    @pytest.mark.parametrize("seed", range(40))
    def test_the_optimum_is_that_of_brute_force(self, seed: int) -> None:
        draws = random.Random(seed)
        layers, experts, num_slots = draws.randint(1, 2), draws.randint(3, 4), draws.randint(2, 3)
        askings = random_askings(draws, 8, layers, experts, 3)
        if len(set(requests(askings))) < num_slots:
            return
        found = replay(askings, Optimum(num_slots, askings), num_slots, experts)
        assert found == most_hits(askings, num_slots, None)

    @pytest.mark.parametrize("num_slots", [4, 7, 12])
    def test_recency_is_an_lru_cache(self, num_slots: int) -> None:
        askings = random_askings(random.Random(num_slots), 400, 3, 6, 3)

        @functools.lru_cache(maxsize=num_slots)
        def cached(key: tuple[int, int]) -> None: ...

        for key in requests(askings):
            cached(key)
        assert replay(askings, Recency(num_slots), num_slots, 6) == cached.cache_info().hits > 0

    def test_recency_of_a_layer_is_an_lru_cache_of_each(self) -> None:
        askings, hits = random_askings(random.Random(0), 400, 3, 6, 3), 0
        caches: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(3)]
        for layer, expert in requests(askings):
            cache, share = caches[layer], (4, 3, 3)[layer]
            hits += expert in cache
            cache[expert] = None
            cache.move_to_end(expert)
            if len(cache) > share:
                cache.popitem(last=False)
        assert replay(askings, LayerRecency(10, 3), 10, 6) == hits > 0

    @pytest.mark.parametrize("seed", range(60))
    def test_no_policy_beats_the_optimum(self, seed: int) -> None:
        """Whatever it holds at the beginning; also where a pass asks for more experts than there are slots."""
        draws = random.Random(seed)
        layers, experts, num_slots = draws.randint(1, 4), draws.randint(4, 16), draws.randint(4, 12)
        first, second = (random_askings(draws, 120, layers, experts, draws.randint(1, experts)) for _ in range(2))
        hot = set(requests(first)[: num_slots - 2])
        policies: list[Policy] = [
            Recency(num_slots), LayerRecency(num_slots, layers), Frequency(num_slots, layers, experts),
            HotList(num_slots, hot), Slots(num_slots, layers), Forgetful(num_slots, layers),
        ]  # fmt: skip
        bound = replay(second, Optimum(num_slots, second), num_slots, experts)
        for policy in policies:
            replay(first, policy, num_slots, experts)
            assert replay(second, policy, num_slots, experts) <= bound, policy

    def test_experts_of_an_asking_do_not_push_each_other_out(self) -> None:
        """Slots for one asking: all are there at its end, whatever was asked for before."""
        draws = random.Random(3)
        for policy in (Slots(5, 2), Frequency(5, 2, 12), Recency(5)):
            for asking in random_askings(draws, 300, 2, 12, 4):
                replay([asking], policy, 5, 12)
                assert all((asking.layer, expert) in policy for expert in asking.experts)


@pytest.fixture(scope="module")
def sizes() -> Sizes:
    return Sizes(zipf_trace([40] + [1] * 600, 4, 32, 3, 1.0, topic_tokens=100, expert_bytes=1000))


class TestSizes:
    def test_memory_of_those_that_left_is_worth_several_points(self, sizes: Sizes) -> None:
        for num_slots in (16, 32):
            hits = sizes.size(num_slots).hits
            assert hits[OURS] > hits["forgetful"] + 0.03
            assert hits[OURS] > hits["LRU"] + 0.03
            assert max(hits.values()) == hits[OPTIMUM]

    def test_all_experts_in_memory_are_found(self, sizes: Sizes) -> None:
        row = sizes.size(128)
        assert row.hits["LRU"] == row.hits[OURS] > 0.99
        assert row.tokens_per_s(1e9) > 1e6

    def test_bytes_are_those_of_what_is_read(self, sizes: Sizes) -> None:
        row = sizes.ours(32)
        assert row.bytes_per_token * sizes.num_tokens == pytest.approx((1 - row.hits[OURS]) * sizes.num_asked * 1000)
        assert row.tokens_per_s(2e6) == pytest.approx(2e6 / row.bytes_per_token)

    def test_the_fewest_slots(self, sizes: Sizes) -> None:
        row = sizes.fewest(0.2)
        assert 1 - row.hits[OURS] <= 0.2 < 1 - sizes.ours(row.num_slots - 2).hits[OURS]
        with pytest.raises(ValueError, match=r"a share of 1.5 to read is not allowed; expected 0 to 1"):
            sizes.fewest(1.5)

    def test_the_knee_is_farthest_above_the_chord(self, sizes: Sizes) -> None:
        rows = compared(sizes, [8, 16, 64, 128])
        assert [row.num_slots for row in rows] == [8, 16, 64, 128]
        slope = (rows[3].hits[OURS] - rows[0].hits[OURS]) / 120
        heights = [row.hits[OURS] - slope * row.num_slots for row in rows]
        assert knee(rows) is rows[heights.index(max(heights))]

    @pytest.mark.parametrize("num_slots", [3, 129])
    def test_slots_that_cannot_be(self, sizes: Sizes, num_slots: int) -> None:
        with pytest.raises(ValueError, match=f"{num_slots} slots are not allowed; expected 4"):
            compared(sizes, [32, num_slots])


class TestSynthetic:
    def test_frequencies_follow_the_law(self) -> None:
        trace = zipf_trace([1] * 20_000, 1, 8, 1, 1.0, locality=0)
        counts = np.sort(np.bincount(trace.ids.ravel(), minlength=8))[::-1] / 20_000
        law = 1 / np.arange(1, 9)
        assert counts == pytest.approx(law / law.sum(), abs=0.015)

    def test_topics_have_experts_of_their_own(self) -> None:
        """The experts of neighbouring tokens are alike, those of far ones are not."""
        trace = zipf_trace([1] * 6000, 1, 64, 2, 1.5, locality=1, topic_tokens=500, num_topics=50)
        sets = [set(ids.ravel().tolist()) for ids in trace.ids]
        near, far = (np.mean([len(sets[n] & sets[n + d]) for n in range(3000)]) for d in (5, 2900))
        assert near > 2 * far

    def test_experts_of_a_token_are_distinct_and_a_seed_is_a_trace(self) -> None:
        traces = [zipf_trace([7, 1, 3], 3, 9, 4, 1.0, seed=seed) for seed in (1, 1, 2)]
        assert all(len(set(ids)) == 4 for ids in traces[0].ids.reshape(-1, 4).tolist())
        assert np.array_equal(traces[0].ids, traces[1].ids) and not np.array_equal(traces[0].ids, traces[2].ids)

    def test_what_cannot_be_drawn(self) -> None:
        with pytest.raises(ValueError, match="topk = 5 is not allowed; expected 1 to num_experts = 4"):
            zipf_trace([1], 1, 4, 5, 1.0)
        with pytest.raises(ValueError, match="locality = 2 is not allowed"):
            zipf_trace([1], 1, 4, 2, 1.0, locality=2)


class TestFile:
    trace = zipf_trace([5, 1, 1], 3, 300, 2, 1.0, expert_bytes=77)

    def test_round_trip_and_mode(self, tmp_path: Path) -> None:
        path = tmp_path / "a.trace"
        write_trace(path, self.trace)
        again = read_trace(path)
        assert np.array_equal(again.rows, self.trace.rows) and np.array_equal(again.ids, self.trace.ids)
        assert again.ids.dtype == np.uint16 and (again.num_experts, again.expert_bytes) == (300, 77)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.trace"]

    def test_any_damage_is_an_error_or_another_valid_trace(self, tmp_path: Path) -> None:
        path, draws = tmp_path / "a.trace", random.Random(0)
        write_trace(path, self.trace)
        content = path.read_bytes()
        refused = 0
        for number in range(400):
            damaged = bytearray(content[: draws.randrange(len(content))] if number % 4 == 0 else content)
            for _ in range(number % 4):
                damaged[draws.randrange(len(damaged))] = draws.randrange(256)
            path.write_bytes(damaged)
            try:
                assert read_trace(path).ids.max() < 10**15
            except ValueError as error:
                refused += 1
                assert str(path) in str(error)
        assert refused > 200

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"format": "other"}, "is no trace; expected a file that `wavefold trace` wrote"),
            ({"version": "2"}, "has version 2; expected 1"),
            ({"num_experts": "-1"}, "num_experts = '-1' is not allowed; expected a whole number"),
            ({"num_experts": "9" * 5000}, "is not allowed; expected a whole number"),
            ({"num_experts": "7"}, "is not allowed; expected less than num_experts = 7"),
            ({"expert_bytes": "0"}, "expert_bytes = 0 is not allowed"),
            ({"rows": np.array([5, 1], np.int32)}, "6 rows in all and ids of 7 tokens do not fit"),
            ({"rows": np.array([8, -1], np.int32)}, "are not allowed; expected int32 [passes], 1 or more"),
            ({"rows": np.array([7.0])}, "rows float64 [1] are not allowed"),
            ({"ids": np.zeros((7, 3), np.uint8)}, "ids uint8 [7, 3] are not allowed"),
            ({"ids": np.zeros((7, 3, 2), np.int64)}, "ids int64"),
            ({"more": np.zeros(3)}, "holds ids, more, rows; expected ids and rows"),
        ],
    )
    def test_what_is_no_trace(self, tmp_path: Path, change: dict[str, object], says: str) -> None:
        arrays = {"rows": self.trace.rows, "ids": self.trace.ids}
        texts = {"format": FORMAT, "version": VERSION, "num_experts": "300", "expert_bytes": "77"}
        for name, value in change.items():
            (texts if isinstance(value, str) else arrays)[name] = value  # type: ignore[index]
        (tmp_path / "a").write_bytes(save(arrays, texts))
        with pytest.raises(ValueError, match=r"a: ") as error:
            read_trace(tmp_path / "a")
        assert says in str(error.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = SMALL.replace(
        vocab_size=300, n_routed_experts=16, num_experts_per_tok=3, moe_intermediate_size=512, o_lora_rank=128
    )  # fmt: skip
    return small_model(tmp_path_factory.mktemp("traces") / "model", config)


@pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")
class TestRecorder:
    def recorded(self, folder: Path, num_slots: int | None, backend: str = "auto") -> tuple[Trace, list[object]]:
        with ops.using(backend=backend):
            llm = LLM(folder)
            if num_slots is not None:
                from wavefold.experts.streamed import StreamedExperts

                llm.model.experts.store = StreamedExperts(llm.model.experts.store.table, num_slots)
            with llm:
                recorder = Recorder(llm.model.experts.store.table)
                llm.model.tell_chosen(recorder)
                answers = llm.generate([[5, 6, 7, 8], [9, 10]], Sampling(max_tokens=6, temperature=0))
        return recorder.trace(), [answer.tokens for answer in answers]

    def test_streamed_and_resident_choose_the_same(self, folder: Path) -> None:
        """Tokens are those of the call that nobody watches, and passes, tokens and layers are all there."""
        (trace, tokens), (streamed, same) = self.recorded(folder, None), self.recorded(folder, 4)
        with ops.using(backend="auto"), LLM(folder) as llm:
            answers = llm.generate([[5, 6, 7, 8], [9, 10]], Sampling(max_tokens=6, temperature=0))
            assert [answer.tokens for answer in answers] == tokens == same
        assert np.array_equal(trace.ids, streamed.ids) and np.array_equal(trace.rows, streamed.rows)
        assert trace.rows.tolist() == [6, 2, 2, 2, 2, 2]
        assert trace.ids.shape == (16, 3, 3) and trace.num_experts == 16

    def test_ids_are_those_of_the_router(self, folder: Path) -> None:
        """A hashed layer's are in its table; in torch another layer's are those of a whole pass."""
        trace, _ = self.recorded(folder, None)
        model = load(folder)
        table = model.layers[0].ffn.gate.tid2eid  # type: ignore[union-attr, operator]
        assert trace.ids[:6, 0].tolist() == table[torch.tensor([5, 6, 7, 8, 9, 10])].tolist()
        chosen: dict[int, torch.Tensor] = {}
        model.tell_chosen(lambda layer, ids: chosen.__setitem__(layer, ids.clone()))
        model(torch.tensor([[5, 6, 7, 8]]))
        assert sorted(chosen) == [0, 1, 2]
        torch_trace, _ = self.recorded(folder, None, "reference")
        for layer in range(3):
            assert torch_trace.ids[:4, layer].tolist() == chosen[layer].tolist()

    def test_one_call_a_pass_when_nobody_is_told(self, folder: Path) -> None:
        with ops.using(backend="auto"):
            model = load(folder)
            sequence = model.new_pool(256).open()
            for told, is_whole in ((None, True), (Recorder(model.experts.store.table), False), (None, True)):
                model.tell_chosen(told)
                model.extend(torch.tensor([5]), [sequence], [1])
                assert (model._cpu.whole is not None) == is_whole

    def test_a_pass_that_failed_leaves_nothing(self, folder: Path) -> None:
        recorder = Recorder(load(folder).experts.store.table)
        with pytest.raises(ValueError, match="no pass was recorded"):
            recorder.trace()
        for layer in (0, 1, 0, 1, 2, 3, 0):  # a pass that ends early, a whole one with an MTP layer, and a beginning
            recorder(layer, torch.full((2, 3), layer))
        assert recorder.trace().rows.tolist() == [2]
        assert recorder.trace().ids[0].tolist() == [[0] * 3, [1] * 3, [2] * 3]
