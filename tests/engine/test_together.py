"""`LLM` used by several threads, closed amid their work, and what progress they are told."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.small import small_model
from wavefold import LLM, Sampling
from wavefold.engine import Runner


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("together") / "model")


class TestProgress:
    def test_prompts_are_counted_pass_by_pass(self, folder: Path) -> None:
        """Beside answers that have ended: `generate` is not silent while it reads."""
        events: list[tuple[str, int, int]] = []

        def told(name: str) -> Callable[[int, int], None]:
            return lambda done, of: events.append((name, done, of))

        with LLM(folder) as llm:
            llm.generate([[5] * 3000, [6] * 500], Sampling(3, n=2), told("answers"), told("prompts"))
        read = [done for name, done, of in events if name == "prompts" and of == 7000]
        ended = [done for name, done, of in events if name == "answers" and of == 4]
        assert len(read) + len(ended) == len(events)
        assert read[0] == 0 and read[-1] == 7000 and read == sorted(set(read)) and len(read) >= 7
        assert ended[0] == 0 and ended[-1] == 4

    def test_of_scores_and_chats(self, folder: Path) -> None:
        seen: list[tuple[int, int]] = []
        with LLM(folder) as llm:
            llm.score([[5] * 1500], [[6] * 100], lambda *progress: seen.append(progress))
            assert seen[0] == (0, 1600) and seen[-1] == (1600, 1600) and len(seen) == 3
            seen.clear()
            llm.chat([{"role": "user", "content": "a"}], Sampling(2), lambda *progress: seen.append(progress))
            assert seen == [(0, 5), (5, 5)]

    def test_preemption_does_not_turn_it_back(self, folder: Path) -> None:
        """Prompts that are read twice count once."""
        seen: list[int] = []
        with LLM(folder, cache_tokens=512) as llm:
            llm.generate([[5] * 120] * 6, Sampling(100), on_prefill=lambda done, of: seen.append(done))
        assert seen == sorted(set(seen)) and seen[-1] == 720


class TestThreads:
    def test_their_requests_are_those_alone(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """With a pool that is replaced by larger ones while others ask for it, and with forms."""
        monkeypatch.setattr("wavefold.engine.room.DEFAULT_POOL_TOKENS", 128)
        samplings = [Sampling(10 + 40 * (number % 4), 0, regex="[a-d]+" if number % 3 == 0 else None)
                     for number in range(12)]  # fmt: skip
        with LLM(folder, "exact") as llm:
            alone = [llm.generate([[5 + n] * 20], samplings[n])[0].tokens for n in range(12)]
        with LLM(folder, "exact", cache_tokens=1024) as llm, ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda n: llm.generate([[5 + n] * 20], samplings[n])[0].tokens, range(12)))
        assert found == alone

    def test_one_pool_at_a_time(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A thread never gets a runner that another one replaces before the request is in it."""
        monkeypatch.setattr("wavefold.engine.room.DEFAULT_POOL_TOKENS", 128)
        add, at_the_gate, gate = Runner.add, threading.Event(), threading.Event()

        def slow(self: Runner, request: object) -> object:
            at_the_gate.set()
            gate.wait(10)
            return add(self, request)  # type: ignore[arg-type]

        monkeypatch.setattr(Runner, "add", slow)
        with LLM(folder) as llm, ThreadPoolExecutor(2) as pool:
            first = pool.submit(llm.stream, "a", Sampling(20))
            assert at_the_gate.wait(10)
            second = pool.submit(llm.generate, ["a"], Sampling(200))
            gate.set()
            with pytest.raises(ValueError, match="cannot grow while answers that run or open streams hold it"):
                second.result(30)
            assert first.result(30).finish().usage.completion_tokens == 20

    def test_close_amid_generate(self, folder: Path) -> None:
        """It goes on to its end; the memory is given back after it, and nothing new begins."""
        llm = LLM(folder)
        expected = llm.generate(["a"], Sampling(60))[0].tokens
        model, begun, closed = weakref.ref(llm.model), threading.Event(), threading.Event()

        def on_prefill(done: int, of: int) -> None:
            if done:
                begun.set()
                closed.wait(10)

        with ThreadPoolExecutor(1) as pool:
            answers = pool.submit(llm.generate, ["a"], Sampling(60), None, on_prefill)
            assert begun.wait(10)
            llm.close()
            closed.set()
            assert answers.result(60)[0].tokens == expected
            with pytest.raises(ValueError, match="is closed"):
                llm.generate(["a"])
            del answers
        assert model() is None
