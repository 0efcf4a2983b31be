"""Random mixes of requests through the runner: each request's tokens are those of the request alone, bit for bit.

    python -m tests.engine.mixes --count 500 --seed 7

A mix has a tiny pool, arrivals at random steps, priorities, aborts, chunks of a few tokens, drafts or none, and answers
drawn in different ways. Alone is `generate`: another loop, a pool of its own, no scheduler. Seeds say everything.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import torch

from tests import small
from tests.engine.progress import progress
from wavefold.cache import Pool
from wavefold.chat import Prompt
from wavefold.checkpoint import random_model
from wavefold.engine import Answer, Sampling, generate
from wavefold.engine.defaults import GenerationDefaults
from wavefold.engine.drafting import Drafter
from wavefold.engine.lookup import LookupDrafts
from wavefold.engine.mtp import MTPDrafts
from wavefold.engine.proposer import Proposer, Text
from wavefold.engine.request import Request
from wavefold.engine.rows import answer_of
from wavefold.engine.runner import Runner
from wavefold.engine.speculation import Acceptance, Speculation
from wavefold.engine.trials import Trials
from wavefold.model import Transformer
from wavefold.ops import Arithmetic, Runtime

CONFIG = small.SMALL.replace(vocab_size=40, max_position_embeddings=4096, o_lora_rank=128)
PREFIX = [7, 3, 7, 3, 9]
"""Repeated in prompts, so that look-up finds something."""


class Dice(Speculation):
    """Depths by chance in place of by time."""

    def __init__(self, most: int, random: Random):
        super().__init__(most)
        self._random = random

    def depth(
        self, rows: int, others: int, acceptance: Acceptance, drafting_s: Callable[[int], float] = lambda depth: 0.0,
        behind_s: float = 0.0,
    ) -> int:  # fmt: skip
        return self._random.randint(0, self.most)

    def speed(
        self, depth: int, rows: int, others: int, acceptance: Acceptance, drafting_s: Callable[[int], float],
        behind_s: float,
    ) -> float:  # fmt: skip
        return self._random.random()

    def rest(self, trials: Trials, waited: int, rows: int) -> int:
        """Some rests are so long that streams are not wanted meanwhile."""
        return self._random.choice([0, 0, 0, 1, 3, 36])

    def pause(self, fails: int) -> int:
        return self._random.randint(0, 3)


class Tampered(MTPDrafts):
    """MTP drafts, each of which is any token with probability `wrong`, and the right one with probability `right`."""

    def __init__(self, model: Transformer, random: Random, wrong: float, right: float):
        super().__init__(model)
        self._random, self._wrong, self._right = random, wrong, right
        self._alone: dict[Request, list[int]] = {}

    def propose(self, texts: Sequence[Text], depths: Sequence[int]) -> list[Sequence[int]]:
        proposed = super().propose(texts, depths)
        return [
            list(map(self._tampered, self._rest(text), guesses)) for text, guesses in zip(texts, proposed, strict=True)
        ]

    def _rest(self, text: Text) -> list[int]:
        request = text.request
        if self._right and request not in self._alone:
            self._alone[request] = alone(self._model, request)
        return [*self._alone.get(request, [])[len(request.output) :], *[0] * 20]

    def _tampered(self, right: int, guess: int) -> int:
        number = self._random.random()
        return self._random.randrange(40) if number < self._wrong else right if number > 1 - self._right else guess


def invariant_model() -> Transformer:
    """The small random model, as kernels compute it whatever the batch."""
    model = random_model(CONFIG, 5, Arithmetic("released"), packed=True)
    model.runtime = Runtime(threads=1, batch_invariant=True)
    assert model.runs_on_kernels
    return model


def exact_model() -> Transformer:
    """The small random model in float32, by plain torch."""
    model = random_model(CONFIG, 5, Arithmetic("exact", torch.float32))
    model.runtime = Runtime(threads=1, backend="reference")
    return model


def alone(model: Transformer, request: Request) -> list[int]:
    """The tokens of a request by itself."""
    sampling = answer_of(request).sampling
    return list(generate(
        model, list(request.prompt), request.max_tokens, sampling.temperature, sampling.top_p, sampling.seed,
        sampling.stop_ids, top_k=sampling.top_k, min_p=sampling.min_p, adjustments=sampling.adjustments,
    ))  # fmt: skip


class Mix:
    """One runner under one load; `run` checks everything. `greedy`: no answer is sampled."""

    def __init__(self, model: Transformer, seed: int, greedy: bool = False, kind: type[Runner] = Runner):
        self.model, self.random, self.greedy = model, Random(seed), greedy
        random = self.random
        self.num_blocks, running = random.randint(2, 4), random.randint(1, 6)
        depth = random.choice([0, 0, 1, 3, 6])
        step_tokens = running * (1 + depth) + random.choice([1, 2, 17, 60, 300])
        self.pools: list[Pool] = []
        self.proposers = self._proposers() if depth else []
        drafter = Drafter(depth, self.proposers, Dice(depth, random)) if depth else None
        self.runner = kind(model, self.num_blocks, running, step_tokens, depth, drafter)
        with_mtp = any(proposer.window for proposer in self.proposers)
        self.counts: Counter[str] = Counter(drafts=depth > 0, mtp=with_mtp, mixes=1)
        self.requests: list[Request] = []
        self.aborted: set[int] = set()

    def _proposers(self) -> list[Proposer]:
        """Look-up, MTP, or both; now and then guesses that are tampered with."""
        kinds = self.random.choice(["lookup", "mtp", "mtp", "both", "both"])
        proposers: list[Proposer] = [] if kinds == "mtp" else [LookupDrafts()]
        if kinds != "lookup":
            wrong, right = self.random.choice([(0, 0), (0, 0), (0, 0.8), (0, 1), (0.2, 0.7), (1, 0)])
            proposers.append(Tampered(self.model, self.random, wrong, right))
        return proposers

    def run(self) -> Counter[str]:
        """Runs the mix to its end. Raises AssertionError for a wrong token, an answer without an end, a block kept."""
        new_pool = self.model.new_pool

        def watched(num_tokens: int, draft_tokens: int = 1, mtp: bool = False) -> Pool:
            self.pools.append(new_pool(num_tokens, poison=True, draft_tokens=draft_tokens, mtp=mtp))
            return self.pools[-1]

        self.model.new_pool = watched  # type: ignore[assignment]
        try:
            self._steps()
        finally:
            self.model.new_pool = new_pool  # type: ignore[method-assign]
        for pool in self.pools:
            pool.check_integrity()
            kept = len(list(pool.holder.tables())) if pool.holder else 0
            assert pool.blocks.num_free + kept == pool.blocks.num_blocks and not pool.sequences, "blocks are kept"
        self._check()
        return self.counts

    def _steps(self) -> None:
        random, left = self.random, self.random.randint(3, 7)
        for _ in range(3000):
            if left and (self.runner.idle or random.random() < 0.3):
                self.runner.add(self._request())
                left -= 1
            elif random.random() < 0.01 and self.requests:
                victim = random.choice(self.requests)
                if answer_of(victim).finish_reason is None:
                    self.aborted.add(victim.id)  # type: ignore[arg-type]
                self.runner.abort(victim.id)
            self.runner.step()
            if self.runner.idle and not left:
                return
        raise AssertionError("a request never ends")

    def _request(self) -> Request:
        random = self.random
        most = 128 * self.num_blocks
        length = random.choice([1, random.randint(1, 40), random.randint(110, 127), random.randint(1, most - 30)])
        prompt = [random.randrange(40) for _ in range(length)]
        if random.random() < 0.5:
            prompt = (PREFIX * (length // len(PREFIX) + 1))[:length]
        max_tokens = random.randint(1, min(30, most - length))
        sampling = Sampling(temperature=0) if self.greedy or random.random() < 0.3 else self._sampling()
        if random.random() < 0.3:
            sampling = replace(sampling, stop_ids=(random.randrange(40),))
        resolved = sampling.resolved(GenerationDefaults(), self.model.config)
        answer = Answer(Prompt(prompt), resolved)
        request = Request(len(self.requests), prompt, max_tokens, random.choice([0, 0, 0, 3, -2]), answer)
        self.requests.append(request)
        return request

    def _sampling(self) -> Sampling:
        random = self.random
        sampling = Sampling(temperature=random.choice([0.3, 0.8, 1.5]), seed=random.choice([0, 1, 2**62]))
        if random.random() < 0.4:
            sampling = replace(sampling, top_p=0.9, top_k=random.choice([0, 5]), min_p=random.choice([0, 0.05]))
        if random.random() < 0.3:
            sampling = replace(sampling, repetition_penalty=1.2, frequency_penalty=0.5, logit_bias={3: 2.0})
        return sampling

    def _check(self) -> None:
        for request in self.requests:
            answer = answer_of(request)
            expected = alone(self.model, request)
            if request.id in self.aborted:
                assert answer.finish_reason == "interrupted"
                expected = expected[: len(answer.tokens)]
            else:
                assert answer.finish_reason in ("length", "eos", "stop"), answer.finish_reason
            assert answer.tokens == expected, f"request {request.id}: {answer.tokens}, alone {expected}"
            self.counts["requests"] += 1
            self.counts["tokens"] += len(answer.tokens)
            self.counts["preemptions"] += request.num_preemptions
            self.counts["cached"] += answer.usage.cached_tokens
        self.counts["aborted"] += len(self.aborted)


def run(
    model: Transformer, count: int, seed: int, greedy: bool = False, kind: type[Runner] = Runner,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Counter[str]:  # fmt: skip
    """Runs `count` mixes. Returns counts of what happened. Raises AssertionError that names the seed of the mix."""
    counts: Counter[str] = Counter()
    for number in range(count):
        try:
            counts += Mix(model, seed * 1_000_003 + number, greedy, kind).run()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, mix {number}: {error}") from error
        on_progress(number + 1)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description="Random mixes of requests, each compared with the request alone.")
    parser.add_argument("--count", type=int, default=500, metavar="N", help="mixes (default 500)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the first mix (default 0)")
    args = parser.parse_args()
    counts = run(invariant_model(), args.count, args.seed, on_progress=progress(args.count, "mixes"))
    print(", ".join(f"{name} {count:,}" for name, count in counts.items()))


if __name__ == "__main__":
    main()
