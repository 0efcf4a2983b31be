"""Many threads ask one model whose prefix cache is far too small for them: no wrong token, no lost block, no stop.

    python -m tests.cache.many_threads --seconds 600 --threads 64

Prompts are beginnings of a few texts, so that they share blocks, wait for each other, and push each other out; some
readers leave early. The answers were computed before, one by one, without a cache. Another thread checks the pool's
books all the while. With `--disk` blocks and states go through a folder too.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from random import Random

from tests.small import SMALL_WITH_TEXT, small_model
from wavefold import LLM, Sampling, ops
from wavefold.ops import native

CONFIG = SMALL_WITH_TEXT.replace(o_lora_rank=128, max_position_embeddings=4096)
NUM_TEXTS, NUM_PROMPTS = 6, 60
CACHE_TOKENS = 128 * 16
LEAST = 2
"""Turns of each thread, however slow the machine is."""


def questions(random: Random) -> list[tuple[list[int], Sampling]]:
    """Prompts that are beginnings of a few texts, all with the same first tokens, and how they are answered."""
    first = [random.randrange(250) for _ in range(200)]
    texts = [[*first, *(random.randrange(250) for _ in range(700))] for _ in range(NUM_TEXTS)]
    prompts = [random.choice(texts)[: random.randint(1, 900)] for _ in range(NUM_PROMPTS)]
    return [
        (prompt, Sampling(random.choice([1, 4, 30]), temperature=random.choice([0, 0.8]), seed=random.randrange(9)))
        for prompt in prompts
    ]


class Crowd:
    """Threads that ask `llm` until `seconds` are over, each `LEAST` times or more.

    `problems`: what went wrong, which ends all.
    """

    def __init__(self, llm: LLM, expected: list[tuple[list[int], Sampling, tuple[int, ...]]], seconds: float):
        self.llm, self.expected, self.end = llm, expected, time.monotonic() + seconds
        self.problems: list[str] = []
        self.counts: Counter[str] = Counter()
        self.lock = threading.Lock()

    def run(self, num_threads: int) -> None:
        threads = [threading.Thread(target=self._guarded, args=(self._ask, seed)) for seed in range(num_threads)]
        threads.append(threading.Thread(target=self._guarded, args=(self._check, 0)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, self.end - time.monotonic()) + 120)
            assert not thread.is_alive(), "a thread stands still"
        assert not self.problems, self.problems[0]

    def _guarded(self, work: object, seed: int) -> None:
        random = Random(seed)
        try:
            rounds = 0
            while (time.monotonic() < self.end or rounds < LEAST) and not self.problems:
                work(random)  # type: ignore[operator]
                rounds += 1
        except BaseException as error:
            self.problems.append(f"{type(error).__name__}: {error}")

    def _ask(self, random: Random) -> None:
        prompt, sampling, tokens = random.choice(self.expected)
        stream = self.llm.stream(prompt, sampling)
        if random.random() < 0.15:
            next(stream, None)
            stream.close()
            found = stream.completion.tokens
            assert found == tokens[: len(found)], f"{found} of an answer that is {tokens}"
        else:
            found = stream.finish().tokens
            assert found == tokens, f"{found} for an answer that is {tokens}"
        usage = stream.completion.usage
        with self.lock:
            self.counts += Counter(
                answers=1, asked=usage.prompt_tokens, computed=usage.computed_tokens, disk=usage.disk_tokens
            )

    def _check(self, random: Random) -> None:
        runner = self.llm._runner
        assert runner is not None
        with runner._lock:
            if runner._pool is not None and not runner._in_step:
                runner._pool.check_integrity()
                self.counts["checks"] += 1
        time.sleep(0.01)


def run(folder: Path, seconds: float, num_threads: int, on_disk: bool = False) -> Counter[str]:
    """Returns counts of what happened. Raises AssertionError for the first thing that went wrong."""
    asked = questions(Random(5))
    with ops.using(backend="auto"), LLM(folder, batch_invariant=True, threads=1, prefix_cache=False) as llm:
        expected = [(prompt, how, llm.generate([prompt], how)[0].tokens) for prompt, how in asked]
    kept = {"cache_dir": folder.parent / "kept", "disk_cache": "20M"} if on_disk else {}
    with (
        ops.using(backend="auto"),
        LLM(
            folder,
            batch_invariant=True,
            threads=1,
            cache_tokens=CACHE_TOKENS,
            snapshot_every=128,
            draft_depth=2,
            **kept,
        ) as llm,
    ):  # type: ignore[arg-type]
        crowd = Crowd(llm, expected, seconds)
        crowd.run(num_threads)
    return crowd.counts


def main() -> None:
    parser = argparse.ArgumentParser(description="Many threads ask one model whose prefix cache is too small for them.")
    parser.add_argument("--seconds", type=float, default=600, metavar="N", help="how long (default 600)")
    parser.add_argument("--threads", type=int, default=64, metavar="N", help="that ask (default 64)")
    parser.add_argument("--disk", action="store_true", help="with a folder that is too small as well")
    args = parser.parse_args()
    assert native.available(), "no CPU kernels, which alone are batch-invariant"
    with tempfile.TemporaryDirectory() as place:
        counts = run(small_model(Path(place) / "model", CONFIG), args.seconds, args.threads, args.disk)
    print(", ".join(f"{name} {count:,}" for name, count in counts.items()))


if __name__ == "__main__":
    main()
