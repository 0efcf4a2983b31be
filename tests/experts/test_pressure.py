"""Slots give memory back when it becomes scarce, take it up again later, and change no bit."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.experts.test_streamed import CONFIG, same
from tests.groups import memory_group
from tests.small import small_model
from wavefold.checkpoint import load, random_checkpoint
from wavefold.experts.pressure import HOLD_S, Pressure, reserve, watch
from wavefold.experts.slots import Slots
from wavefold.experts.streamed import LEAST_SLOTS, StreamedExperts
from wavefold.model import Transformer
from wavefold.ops import native
from wavefold.system import Limit, rss_bytes

GB = 1 << 30


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    config = CONFIG.replace(hidden_size=256, moe_intermediate_size=1024)
    return load(small_model(tmp_path_factory.mktemp("pressure") / "model", config))


@pytest.fixture
def store(mapped: Transformer) -> Iterator[StreamedExperts]:
    store = StreamedExperts(mapped.experts.store.table, 40)
    yield store
    store.close()


def read_all(store: StreamedExperts, mapped: Transformer) -> None:
    for layer in range(store.table.num_layers):
        for view in store.groups(layer, range(16)):
            assert all(same(view[expert], mapped.experts.store.stored(layer, expert)) for expert in view)


class TestSlots:
    def test_the_last_slots_that_are_not_pinned_are_closed(self) -> None:
        slots = Slots(6, 1)
        for expert in range(6):
            slots.take((0, expert))
        slots.pin((0, 5))
        assert slots.close(2) == [(4, (0, 4)), (3, (0, 3))]
        assert (slots.num_usable, slots.num_open(), len(slots)) == (4, 3, 4)
        assert slots.find((0, 4)) is None and slots.find((0, 5)) == 5
        assert slots.take((0, 9)) in [(0, (0, 0)), (1, (0, 1)), (2, (0, 2))]

    def test_closed_slots_are_opened_from_the_first_one_on(self) -> None:
        slots = Slots(4, 1)
        slots.close(9)
        assert slots.num_open() == 0 and slots.take((0, 1)) is None
        assert slots.reopen(1) == 1 and slots.take((0, 1)) == (0, None)
        assert slots.reopen(9) == 3 and slots.num_usable == 4


class TestStore:
    @pytest.mark.parametrize("left", [0, 2, 3, 11, 39])
    def test_fewer_slots_give_the_same_bytes(self, store: StreamedExperts, mapped: Transformer, left: int) -> None:
        read_all(store, mapped)
        store.fit(left * store.slot_bytes)
        assert store.slots.num_usable == max(left, LEAST_SLOTS)
        for _ in range(2):
            read_all(store, mapped)
        assert len(store.slots) <= store.slots.num_usable and store.counts.least_usable == store.slots.num_usable
        for _ in range(12):
            store.fit(40 * store.slot_bytes)
        assert store.slots.num_usable == 40 and store.counts.closed == store.counts.reopened == 40 - max(left, 2)
        read_all(store, mapped)

    def test_memory_is_given_back(self, store: StreamedExperts, mapped: Transformer) -> None:
        read_all(store, mapped)
        assert store.resident_bytes == 40 * store.slot_bytes
        before = rss_bytes()
        store.fit(4 * store.slot_bytes)
        assert store.resident_bytes == 4 * store.slot_bytes
        assert before - rss_bytes() > 0.9 * 36 * store.slot_bytes - (4 << 20)

    def test_what_is_pinned_stays_and_two_slots_are_open(self, store: StreamedExperts, mapped: Transformer) -> None:
        with store.acquire(1, range(10)) as view:
            store.fit(0)
            assert store.slots.num_usable == 10 + LEAST_SLOTS
            assert all(same(view[expert], mapped.experts.store.stored(1, expert)) for expert in view)
            for others in store.groups(0, range(16)):
                assert all(same(others[expert], mapped.experts.store.stored(0, expert)) for expert in others)
        store.fit(0)
        assert store.slots.num_usable == LEAST_SLOTS
        with store.acquire(2, range(16)) as view:  # opens what it needs
            assert all(same(view[expert], mapped.experts.store.stored(2, expert)) for expert in view)

    def test_amid_passes_of_another_thread(self, store: StreamedExperts, mapped: Transformer) -> None:
        ends, errors = threading.Event(), []

        def fit() -> None:
            number = 0
            while not ends.wait(0.001):
                number += 7
                store.fit(number % 41 * store.slot_bytes)

        def reading() -> None:
            try:
                for _ in range(15):
                    store.expect(1, [3, 4])
                    read_all(store, mapped)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=fit), threading.Thread(target=reading)]
        for thread in threads:
            thread.start()
        threads[1].join()
        ends.set()
        threads[0].join()
        assert not errors and store.counts.closed > 100


class Machine:
    """Limits and a clock for `Pressure`, which the test sets."""

    def __init__(self) -> None:
        self.limits, self.time = [Limit("group", 8 * GB, 2 * GB)], 0.0

    def pressure(self, budget: int | None = None) -> Pressure:
        return Pressure(budget, lambda: self.limits, lambda: self.time)


class TestPressure:
    def test_the_tightest_limit_decides(self) -> None:
        machine = Machine()
        pressure = machine.pressure()
        assert pressure.allowed(GB) == 3 * GB - (64 << 20)
        machine.limits.append(Limit("machine", GB, -GB // 2))
        assert pressure.allowed(GB) == GB // 2 - GB // 64

    def test_the_budget_counts_resident_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("wavefold.experts.pressure.rss_bytes", lambda: 3 * GB)
        pressure = Machine().pressure(2 * GB)
        assert pressure.allowed(2 * GB) == GB - (32 << 20)

    def test_less_counts_at_once_and_more_after_a_while(self) -> None:
        machine = Machine()
        pressure = machine.pressure()
        seen = []
        for free in (2, 1, 2, 2, 2):
            machine.limits = [Limit("group", 8 * GB, free * GB)]
            seen.append(round(pressure.allowed(0) / GB))
            machine.time += HOLD_S / 3 + 0.1
        assert seen == [2, 1, 1, 1, 2]

    def test_a_store_follows(self, store: StreamedExperts, mapped: Transformer) -> None:
        """What others take is given back by the store, in a thread that ends with it."""
        machine, before = Machine(), threading.active_count()
        read_all(store, mapped)
        watch(store, machine.pressure(), 0.01)
        time.sleep(0.1)
        assert store.slots.num_usable == 40
        spare = reserve(machine.limits[0])
        machine.limits = [Limit("group", 8 * GB, spare - 15 * store.slot_bytes)]
        deadline = time.monotonic() + 10
        while store.slots.num_usable == 40 and time.monotonic() < deadline:
            time.sleep(0.01)
        machine.limits = [Limit("group", 8 * GB, spare)]  # as of a store that gave 15 slots back
        assert store.slots.num_usable <= 25 and threading.active_count() == before + 1
        read_all(store, mapped)
        store.close()
        time.sleep(0.2)
        assert threading.active_count() <= before


IN_A_GROUP = """
import json, sys
from wavefold import LLM, Sampling, ops
from wavefold.system import rss_bytes
settings = {"memory": int(sys.argv[2]), "threads": 1, "batch_invariant": True, "prefix_cache": False}
with ops.using(backend="auto"), LLM(sys.argv[1], **settings) as llm:
    for line in sys.stdin:
        tokens = [a.tokens for a in llm.generate([[int(line)] * 300, [7, 8], [9] * 40], Sampling(8, 0))]
        counts, slots = llm.model.experts.store.counts, llm.model.experts.store.slots
        print(json.dumps([tokens, slots.num_slots, slots.num_usable, counts.closed, rss_bytes()]), flush=True)
"""


@pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")
def test_a_control_group_whose_limit_is_lowered(tmp_path: Path) -> None:
    """A process under a budget whose group gets less: it goes on below the new limit, with the same tokens."""
    config = CONFIG.replace(n_routed_experts=64, hidden_size=512, moe_intermediate_size=1024, num_experts_per_tok=4)
    random_checkpoint(config, tmp_path / "model", 1)
    size = sum(path.stat().st_size for path in (tmp_path / "model").glob("*.safetensors"))
    with memory_group() as group:
        memory = least_of(tmp_path / "model") + size // 2
        command = [sys.executable, "-c", IN_A_GROUP, str(tmp_path / "model"), str(memory)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            preexec_fn=lambda: group.enter(os.getpid()),
        ) as process:  # fmt: skip
            questions, answers = process.stdin, process.stdout
            assert questions is not None and answers is not None

            def ask(number: int) -> tuple[list[list[int]], int, int, int, int]:
                questions.write(f"{number}\n")
                questions.flush()
                return json.loads(answers.readline())

            with contextlib.closing(questions):
                expected, num_slots, usable, closed, rss = ask(5)
                ask(6)
                assert usable == num_slots and closed == 0
                for spare in (12, 4, 3, 3):
                    group.limit(group.used() + (spare << 20))
                    time.sleep(1.2 if spare < 12 else 0)  # longer than the watch's period
                    tokens, _, usable, closed, _ = ask(5)
                    assert tokens == expected
                assert usable < num_slots and closed > 0
                assert ask(5)[4] < rss
        assert process.returncode == 0


def least_of(folder: Path) -> int:
    """Bytes of the least budget of a process that answers, and a little more."""
    asked = subprocess.run([sys.executable, "-c", IN_A_GROUP, str(folder), "1000000"], capture_output=True, text=True)
    return int((float(asked.stderr.split("expected ")[-1].split(" GiB")[0]) + 0.01) * 2**30)
