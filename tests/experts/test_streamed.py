"""Experts that are read into slots: bytes and tokens are those of mapped files, whatever fits, and after faults."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from tests.small import SMALL, small_model
from wavefold import LLM, Sampling, ops
from wavefold.checkpoint import load, random_checkpoint
from wavefold.experts import ExpertTable
from wavefold.experts.reading import Reader
from wavefold.experts.streamed import StreamedExperts
from wavefold.model import Transformer
from wavefold.ops import native

CONFIG = SMALL.replace(
    vocab_size=300, n_routed_experts=16, num_experts_per_tok=3, o_lora_rank=128, num_hash_layers=1,
    moe_intermediate_size=512,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("streamed") / "model", CONFIG)


@pytest.fixture(scope="module")
def mapped(folder: Path) -> Transformer:
    return load(folder)


@pytest.fixture
def table(mapped: Transformer) -> ExpertTable:
    return mapped.experts.store.table


def same(streamed: object, mapped: object) -> bool:
    return all(
        torch.equal(mine.codes.view(torch.uint8), other.codes.view(torch.uint8))
        and (mine.scales is None or torch.equal(mine.scales.view(torch.uint8), other.scales.view(torch.uint8)))
        for mine, other in zip(streamed, mapped, strict=True)  # type: ignore[call-overload]
    )


class TestStore:
    @pytest.mark.parametrize("num_slots", [2, 3, 8, 64])
    def test_groups_have_the_bytes_of_the_files(self, mapped: Transformer, table: ExpertTable, num_slots: int) -> None:
        """Each once, in order if so asked; hints for any layer come between."""
        store, draws = StreamedExperts(table, num_slots, in_flight=3), random.Random(num_slots)
        for _ in range(120):
            layer = draws.randrange(table.num_layers)
            ids = sorted(draws.sample(range(16), draws.randrange(1, 17)))
            in_order = draws.random() < 0.5
            groups, seen = store.groups(layer, ids, in_order), []
            store.expect(draws.randrange(table.num_layers), draws.sample(range(16), 3))
            for view in groups:
                for expert in view:
                    assert same(view[expert], mapped.experts.store.stored(layer, expert))
                seen += list(view)
            assert (seen if in_order else sorted(seen)) == ids
        assert store.counts.asked.sum() == store.counts.hits.sum() + store.counts.read.sum()
        self.check_at_rest(store)

    def test_those_that_are_here_come_first(self, table: ExpertTable, monkeypatch: pytest.MonkeyPatch) -> None:
        """And an empty view before anything is waited for, so that other work can be done meanwhile."""
        store = StreamedExperts(table, 8)
        with store.acquire(0, [3, 5]):
            pass
        original = Reader._read
        go = threading.Event()
        monkeypatch.setattr(Reader, "_read", lambda *given: go.wait(20) and original(*given))
        groups = store.groups(0, [1, 3, 5], in_order=False)
        assert list(next(groups)) == [3, 5]
        others = store.groups(1, [2, 4], in_order=False)
        assert list(next(others)) == []
        go.set()
        assert [expert for view in groups for expert in view] == [1]
        assert sorted(expert for view in others for expert in view) == [2, 4]
        self.check_at_rest(store)

    def test_acquired_experts_stay_while_they_are_held(self, mapped: Transformer, table: ExpertTable) -> None:
        store = StreamedExperts(table, 6)
        with store.acquire(1, [2, 5, 9]) as held:
            for layer in range(table.num_layers):
                for _ in store.groups(layer, range(16)):
                    pass
            assert all(same(held[expert], mapped.experts.store.stored(1, expert)) for expert in (2, 5, 9))
            with pytest.raises(ValueError, match="all slots for routed experts are pinned"):
                store.acquire(0, [0, 1, 2, 3])
        with pytest.raises(ValueError, match="7 experts at once do not fit 6 slots"):
            store.acquire(0, range(7))
        self.check_at_rest(store)

    def test_groups_that_are_left_early_give_their_slots_back(self, table: ExpertTable) -> None:
        store = StreamedExperts(table, 4)
        for layer in (0, 1, 2):
            groups = store.groups(layer, range(16))
            next(groups)
            del groups
        unread = store.groups(0, range(16))
        del unread
        self.check_at_rest(store)

    def test_put_and_stored(self, mapped: Transformer, table: ExpertTable, folder: Path) -> None:
        store = StreamedExperts(load(folder).experts.store.table, 2)
        other = mapped.experts.store.stored(0, 7)
        store.put(2, 3, other)
        with store.acquire(2, [3]) as view:
            assert same(view[3], other)
        assert same(store.stored(1, 4), mapped.experts.store.stored(1, 4))
        assert store.num_bytes == mapped.experts.store.num_bytes
        store.close()
        with pytest.raises(ValueError, match="the store of the routed experts is closed"):
            store.acquire(0, [0])

    def test_threads_end_with_the_store(self, table: ExpertTable) -> None:
        before = threading.active_count()
        store = StreamedExperts(table, 3)
        assert threading.active_count() > before
        del store
        assert threading.active_count() == before

    def test_too_few_slots(self, table: ExpertTable) -> None:
        with pytest.raises(ValueError, match="1 slots for routed experts are not allowed; expected 2 at least"):
            StreamedExperts(table, 1)

    def test_a_disk_error_ends_the_pass_and_not_the_store(
        self, mapped: Transformer, table: ExpertTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One in 23 reads fails, those of hints too; whoever asks again gets the bytes."""
        store, calls, preadv = StreamedExperts(table, 5, in_flight=2), iter(range(10**6)), os.preadv

        def failing(*arguments: object) -> int:
            if next(calls) % 23 == 4:
                raise OSError(5, "Input/output error")
            return preadv(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "preadv", failing)
        failed = 0
        for number in range(60):
            layer = number % table.num_layers
            try:
                groups = store.groups(layer, range(0, 16, 2))
                store.expect((layer + 1) % table.num_layers, [1, 3])
                for view in groups:
                    assert all(same(view[expert], mapped.experts.store.stored(layer, expert)) for expert in view)
            except ValueError as error:
                failed += 1
                assert "could not be read (Input/output error)" in str(error)
        assert 10 < failed < 60
        monkeypatch.undo()
        for view in store.groups(0, range(16)):
            assert all(same(view[expert], mapped.experts.store.stored(0, expert)) for expert in view)
        self.check_at_rest(store)

    @staticmethod
    def check_at_rest(store: StreamedExperts) -> None:
        """Nothing is pinned or being read; what is remembered fits the slots."""
        for read in list(store._reads.values()):
            read.exception(10)
        deadline = 100
        while store._reads and deadline:
            threading.Event().wait(0.01)
            deadline -= 1
        assert store.slots.num_open() == store.slots.num_slots
        assert len(store._weights) == len(store.slots) <= store.slots.num_slots


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("num_slots", [3, 7, 20])
def test_logits_are_those_of_mapped_experts(folder: Path, backend: str, num_slots: int) -> None:
    """To the bit: a prompt in one pass and in parts, then tokens one by one, in batches of three sequences."""
    if backend == "auto" and not native.available():
        pytest.skip("the CPU kernels are not built")
    with ops.using(backend=backend):
        models = load(folder), load(folder, num_slots=num_slots)
        for lengths in ([1], [5], [150], [3, 40, 1]):
            tokens = torch.randint(0, 300, (sum(lengths),), generator=torch.Generator().manual_seed(len(lengths)))
            logits = []
            for model in models:
                pool = model.new_pool(1024)
                sequences = [pool.open() for _ in lengths]
                rows = [model.extend(tokens, sequences, lengths)]
                for step in range(4):
                    ids = torch.arange(len(lengths)) + step
                    rows.append(model.extend(ids, sequences, [1] * len(lengths)))
                logits.append(model.logits(torch.cat(rows)))
            assert torch.equal(*logits)


@pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")
@pytest.mark.parametrize("num_tokens", [10, 100])
def test_passes_of_many_experts_read_the_next_layer_ahead(folder: Path, num_tokens: int) -> None:
    """When the last experts of a layer are here, all reads are free for the next one."""
    model = load(folder, num_slots=16)
    store, layers = model.experts.store, len(model.config.main_layers)
    assert isinstance(store, StreamedExperts)
    sequence = model.new_pool(1024).open()
    with ops.using(backend="auto"):
        model.extend(torch.arange(num_tokens), [sequence], [num_tokens])
    assert (store.counts.asked[:layers] > store.most_reads).all()
    assert (store.counts.ahead_used[:layers] > 0).all()


@pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")
class TestUnderABudget:
    @pytest.fixture(autouse=True)
    def on_the_kernels(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A process whose libraries take 1 MB: what the budget leaves for this small model is then what counts."""
        monkeypatch.setattr("wavefold.engine.budget.rss_bytes", lambda: 1 << 20)
        monkeypatch.setattr("wavefold.engine.budget.OVERHEAD", 0)
        monkeypatch.setattr("wavefold.experts.pressure.rss_bytes", lambda: 1 << 20)

    def least(self, folder: Path) -> int:
        with pytest.raises(ValueError, match=r"is not enough for .*; expected .* at least: ") as caught:
            LLM(folder, memory=2_000_000)
        assert "of dense weights" in str(caught.value)
        from wavefold.engine.budget import budget_of

        low, high = 2_000_000, 1 << 30
        while high - low > 1:
            middle = (low + high) // 2
            try:
                budget_of(folder, ops.Arithmetic("released"), middle)
                high = middle
            except ValueError:
                low = middle
        return high

    def test_tokens_are_those_of_the_resident_run(self, folder: Path) -> None:
        """Under the least budget that is not refused, and some above it: greedy, drawn, together, with guesses."""
        prompts: list[str | list[int]] = ["def f(", [7] * 200, "x", [9, 8, 7]]
        samplings = [Sampling(12, 0), Sampling(12, 1.0, seed=3), Sampling(12, 0.7, 0.9, seed=4), Sampling(20, 0)]
        with ops.using(backend="auto"):
            with LLM(folder, batch_invariant=True) as llm:
                expected = [answer.tokens for answer in llm.generate(prompts, samplings)]
            least = self.least(folder)
            for memory in (least, least + 300_000, f"{(least + 1_000_000) / 2**20:.3f}M"):
                for depth in (0, 2):
                    with LLM(folder, batch_invariant=True, memory=memory, draft_depth=depth, drafts="lookup") as llm:
                        assert llm.budget is not None and llm.budget.num_slots is not None
                        assert isinstance(llm.model.experts.store, StreamedExperts)
                        assert (
                            llm.budget.base
                            + llm.budget.dense
                            + llm.budget.pool
                            + llm.budget.passes
                            + (llm.budget.num_slots * llm.model.experts.store.slot_bytes)
                            <= llm.budget.total
                        )
                        assert [answer.tokens for answer in llm.generate(prompts, samplings)] == expected

    def test_with_room_for_all_the_files_are_mapped(self, folder: Path) -> None:
        with LLM(folder, memory="1G") as llm:
            assert llm.budget is not None and llm.budget.num_slots is None
            assert not isinstance(llm.model.experts.store, StreamedExperts)

    def test_more_than_the_machine_has(self, folder: Path) -> None:
        with pytest.raises(ValueError, match=r"memory = .* GiB is not allowed; this process may have"):
            LLM(folder, memory="900T")

    def test_a_truncated_file_ends_its_request_alone(self, tmp_path: Path) -> None:
        """With file and reason; another request, once the file is whole again, is answered."""
        folder = small_model(tmp_path / "model", CONFIG)
        with ops.using(backend="auto"), LLM(folder, memory=self.least(folder)) as llm:
            before = llm.generate([[5, 6, 7]], Sampling(6, 0))[0].tokens
            path = max(folder.glob("*.safetensors"), key=lambda path: path.stat().st_size)
            data, status = path.read_bytes(), path.stat()
            os.truncate(path, len(data) // 2)
            with pytest.raises(ValueError, match=f"{path}: was replaced since the model was loaded; load it again"):
                llm.generate([[9] * 100], Sampling(6, 0))
            path.write_bytes(data)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            assert llm.generate([[5, 6, 7]], Sampling(6, 0))[0].tokens == before


MEASURED = """
import sys
from wavefold import LLM, Sampling, ops
from wavefold.system import peak_rss_bytes
with ops.using(backend="auto"), LLM(sys.argv[1], memory=int(sys.argv[2]), threads=1) as llm:
    for turn in range(3):
        llm.generate([[5 + turn] * 300, [7, 8], [9] * 40], Sampling(8, 0))
    print(llm.budget.num_slots, llm.budget.num_experts, peak_rss_bytes())
"""


@pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")
def test_resident_memory_stays_below_the_budget(tmp_path: Path) -> None:
    """A process of its own, and a checkpoint of which a third fits."""
    config = CONFIG.replace(n_routed_experts=64, hidden_size=512, moe_intermediate_size=1024, num_experts_per_tok=4)
    random_checkpoint(config, tmp_path / "model", 1)
    size = sum(path.stat().st_size for path in (tmp_path / "model").glob("*.safetensors"))
    asked = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path / "model"), str(1 << 20)], capture_output=True, text=True,
    )  # fmt: skip
    least = float(asked.stderr.split("expected ")[-1].split(" GiB")[0])
    memory = int((least + 0.01) * 2**30) + size // 4
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path / "model"), str(memory)], capture_output=True, text=True,
    )  # fmt: skip
    slots, experts, peak = map(int, done.stdout.split())
    assert slots < experts / 2
    assert peak <= memory
