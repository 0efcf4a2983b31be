"""Random conversations through the prefix cache: every answer is the one that a run without a cache gives.

    python -m tests.cache.conversations --count 1000 --seed 7

A conversation begins with a system text that others share, goes on turn by turn, is forked, edited, cut, asked again,
cancelled, some at a time. Between turns the process restarts (what is on disk stays) or another model takes its place
(in the same store). The cold run is `generate`: another loop, a pool of its own, no cache. Where the arithmetic is
batch-invariant, the bytes of each sequence's cache are compared too, with a sequence that read the same text at once.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable
from random import Random

import torch

from tests.cache.spaces import MemorySpace
from tests.engine import mixes
from tests.engine.progress import progress
from wavefold.cache import BLOCK_TOKENS, CacheLayout, Sequence, Space
from wavefold.cache.state import ring_rows
from wavefold.chat import Prompt
from wavefold.checkpoint import random_model
from wavefold.engine import Answer, Sampling, generate
from wavefold.engine.defaults import GenerationDefaults
from wavefold.engine.drafting import Drafter
from wavefold.engine.lookup import LookupDrafts
from wavefold.engine.prefixes import Keeping
from wavefold.engine.request import Request
from wavefold.engine.rows import answer_of, known_tokens
from wavefold.engine.runner import Runner
from wavefold.model import Transformer
from wavefold.ops import Arithmetic, Runtime

NUM_BLOCKS = 14
MOST_TOKENS = 128 * 7
ARITHMETICS = {
    "released": Arithmetic("released"), "exact bfloat16": Arithmetic("exact", torch.bfloat16),
    "exact float32": Arithmetic("exact", torch.float32),
}  # fmt: skip
INVARIANT = "released", "exact bfloat16"


def model_of(name: str, seed: int = 5) -> Transformer:
    """A small random model. In bfloat16 the kernels compute it, whatever the batch; in float32 plain torch does."""
    arithmetic = ARITHMETICS[name]
    model = random_model(mixes.CONFIG, seed, arithmetic, packed=arithmetic.dtype == torch.bfloat16)
    model.runtime = (
        Runtime(threads=1, batch_invariant=True) if name in INVARIANT else Runtime(threads=1, backend="reference")
    )
    return model


def live_rows(sequence: Sequence, num_tokens: int) -> list[torch.Tensor]:
    """All rows that the tokens after `num_tokens` may read: entries, keys, windows and tails of the main layers."""
    pool, layout = sequence.pool, sequence.pool.layout
    rows = []
    for kind in layout.row_kinds:
        for layer in kind.layers:
            storage, _ = pool.rows_of(kind.name, layer)
            count = num_tokens * kind.rows // BLOCK_TOKENS
            rows.append(storage[sequence.table].flatten(0, 1)[:count].clone().view(torch.uint8))
    first = max(0, num_tokens - layout.config.sliding_window + 1)
    windows = sequence.state.windows[: layout.config.num_hidden_layers]
    rows += [ring_rows(ring, first, num_tokens).view(torch.uint8) for ring in windows]
    for tail in layout.tail_kinds:
        first = max(0, num_tokens - tail.reach)
        rows += [ring_rows(ring, first, num_tokens).view(torch.uint8) for ring in sequence.state.tails[tail.name]]
    return rows


class Watched(Runner):
    """Notes the rows of each sequence before it is closed, beside its tokens."""

    seen: list[tuple[list[int], list[torch.Tensor]]]

    def _close(self, requests: Iterable[Request]) -> None:
        requests = list(requests)
        for request in requests:
            sequence = self._sequences.get(request)
            if sequence is not None and sequence.num_tokens:
                count = min(sequence.num_tokens, request.num_tokens)
                self.seen.append((known_tokens(request, 0, count), live_rows(sequence, count)))
        super()._close(requests)


class Store:
    """What outlives a process: a space for each root."""

    def __init__(self, random: Random, faults: float):
        self.random, self.faults = random, faults
        self.spaces: dict[bytes, MemorySpace] = {}

    def space_of(self, root: bytes) -> Callable[[CacheLayout], tuple[bytes, Space | None]]:
        def space_of(layout: CacheLayout) -> tuple[bytes, Space | None]:
            digest = root + bytes([layout.draft_tokens])
            return digest, self.spaces.setdefault(digest, MemorySpace(self.random, self.faults))

        return space_of


class Conversation:
    """One store, and requests one after another or some at a time; `run` checks all of them."""

    def __init__(
        self, models: list[Transformer], seed: int, invariant: bool, snapshot_every: int, kind: type[Watched] = Watched
    ):
        self.models, self.random, self.invariant, self.kind = models, Random(seed), invariant, kind
        random = self.random
        self.snapshot_every = snapshot_every
        self.store = None if random.random() < 0.4 else Store(random, random.choice([0, 0, 0.2]))
        self.max_states = random.choice([1, 3, 8, 50, 50])
        self.num_blocks = random.choice([10, NUM_BLOCKS, 40])
        self.depth = random.choice([0, 0, 3])
        self.step_tokens = random.choice([70, 200, 300, 1024])
        self.system = self._tokens(random.choice([20, 128, 250, 400] if invariant else [20, 140]))
        self.texts = [list(self.system)]
        """All texts so far, each of which may go on."""
        self.counts: Counter[str] = Counter(conversations=1)
        self.number = 0
        self.cold: dict[object, list[int]] = {}
        self.restart()

    def _tokens(self, count: int) -> list[int]:
        return [self.random.randrange(40) for _ in range(count)]

    def restart(self, other: bool = False) -> None:
        """A new process: its memory is lost. `other`: with another model."""
        self.model = self.models[1] if other else self.models[0]
        root = b"other" if other else b"first"
        space = {"space_of": self.store.space_of(root)} if self.store else {}
        drafter = Drafter(self.depth, [LookupDrafts()], mixes.Dice(self.depth, self.random)) if self.depth else None
        self.runner = self.kind(
            self.model, self.num_blocks, self.random.randint(1, 6), self.step_tokens, self.depth, drafter,
            chunk_tokens=self.random.choice([30, 256]), keeping=Keeping(self.max_states, self.snapshot_every, **space),
        )  # fmt: skip
        self.runner.seen = []

    def run(self, num_turns: int) -> Counter[str]:
        new_pools = [(model, model.new_pool) for model in self.models]
        for model, new_pool in new_pools:
            model.new_pool = lambda *args, new_pool=new_pool, **more: new_pool(*args, poison=True, **more)  # type: ignore[method-assign]
        try:
            for _ in range(num_turns):
                self._turn()
        finally:
            for model, new_pool in new_pools:
                model.new_pool = new_pool  # type: ignore[method-assign]
        return self.counts

    def _turn(self) -> None:
        random = self.random
        if random.random() < 0.15:
            self.restart(other=len(self.models) > 1 and random.random() < 0.4)
            self.counts["restarts"] += 1
        prompts = [self._prompt() for _ in range(random.choice([1, 1, 1, 2, 4]))]
        if random.random() < 0.15:
            prompts = [prompts[0]] * random.randint(2, 4)
        requests = [self._request(prompt) for prompt in prompts]
        for request in requests:
            self.runner.add(request)
        cancelled = random.choice(requests) if random.random() < 0.15 else None
        wait = random.randint(0, 12)
        while not self.runner.idle:
            if cancelled is not None and (wait := wait - 1) < 0:
                self.counts["cancelled"] += answer_of(cancelled).finish_reason is None
                self.runner.abort(cancelled.id)
                cancelled = None
            self.runner.step()
            assert self.runner._pool is not None
            self.runner._pool.check_integrity()
        for request in requests:
            self._check(request)
        self._check_rows()

    def _prompt(self) -> list[int]:
        """A text that goes on, is forked, edited or cut, or is asked again."""
        random, text = self.random, self.random.choice(self.texts[-6:])
        way = random.random()
        if way < 0.1:
            text = [*self.system, *self._tokens(random.randint(1, 200))]
        elif way < 0.25:  # an old turn is edited
            place = random.randrange(len(text))
            text = [*text[:place], (text[place] + 1) % 40, *text[place + 1 :]]
        elif way < 0.4:
            text = text[: random.randint(1, len(text))]
        elif way < 0.5:  # the end of a template changes
            text = text[: max(1, len(text) - random.randint(1, 17))]
        if random.random() < 0.85:
            text = [*text, *self._tokens(random.choice([1, 5, 30, 127, 200]))]
        if len(text) > (MOST_TOKENS - 60 if self.invariant else 500):
            text = [*self.system, *self._tokens(10)]
        return text

    def _request(self, prompt: list[int]) -> Request:
        random = self.random
        sampling = Sampling(temperature=0) if not self.invariant or random.random() < 0.4 else Sampling(
            temperature=random.choice([0.5, 1.2]), seed=random.randrange(5)
        )  # fmt: skip
        if random.random() < 0.05:
            sampling = Sampling(temperature=0, prompt_logprobs=0)
        resolved = sampling.resolved(GenerationDefaults(), self.model.config)
        self.number += 1
        answer = Answer(Prompt(prompt), resolved, scored_from=random.randint(1, len(prompt)))
        most = random.choice([1, 8, 20, 50] if self.invariant else [1, 3, 6])  # float32 is slow
        return Request(self.number, prompt, most, sampling=answer)

    def _check(self, request: Request) -> None:
        answer = answer_of(request)
        sampling = answer.sampling
        key = self.model, tuple(request.prompt), request.max_tokens, sampling.temperature, sampling.seed
        if (expected := self.cold.get(key)) is None:
            expected = self.cold[key] = list(generate(
                self.model, list(request.prompt), request.max_tokens, sampling.temperature, sampling.top_p,
                sampling.seed, sampling.stop_ids,
            ))  # fmt: skip
        if answer.finish_reason == "interrupted":
            expected = expected[: len(answer.tokens)]
        assert answer.tokens == expected, f"request {request.id}: {answer.tokens}, cold {expected}"
        usage = answer.usage
        assert usage.computed_tokens >= 1 and usage.cached_tokens + usage.disk_tokens <= usage.left_chain_at
        self.counts += Counter(
            requests=1, asked=usage.prompt_tokens, cached=usage.cached_tokens, disk=usage.disk_tokens,
            computed=usage.computed_tokens, preemptions=request.num_preemptions, tokens=len(answer.tokens),
        )  # fmt: skip
        self.texts.append([*request.prompt, *answer.tokens])

    def _check_rows(self) -> None:
        """The cache of each sequence that was closed, to the bit, beside one that read its text in one piece."""
        seen, self.runner.seen = self.runner.seen, []
        if not self.invariant:
            return
        for tokens, rows in seen:
            pool = self.model.new_pool(len(tokens))
            sequence = pool.open()
            self.model.extend(torch.tensor(tokens), [sequence], [len(tokens)])
            for ours, cold in zip(rows, live_rows(sequence, len(tokens)), strict=True):
                assert torch.equal(ours, cold), f"the cache of {len(tokens)} tokens has other bytes than a cold one"
            self.counts["caches compared"] += 1


def run(
    count: int, seed: int, names: Iterable[str] = ARITHMETICS, distances: Iterable[int] = (128, 256, 512),
    num_turns: int = 4, kind: type[Watched] = Watched, on_progress: Callable[[int], None] = lambda done: None,
) -> Counter[str]:  # fmt: skip
    """Runs `count` conversations, over all arithmetics and distances in turn. Returns counts of what happened."""
    circumstances = [(name, every) for name in names for every in distances]
    models = {name: [model_of(name, 5), model_of(name, 6)] for name in {name for name, _ in circumstances}}
    counts: Counter[str] = Counter()
    for number in range(count):
        name, every = circumstances[number % len(circumstances)]
        conversation = Conversation(models[name], seed * 1_000_003 + number, name in INVARIANT, every, kind)
        try:
            counts += conversation.run(num_turns)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, conversation {number} ({name}, {every}): {error}") from error
        on_progress(number + 1)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description="Random conversations, each answer compared with a cold run's.")
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="conversations (default 1000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the first one (default 0)")
    args = parser.parse_args()
    torch.set_num_threads(1)  # beside others, threads of such small operations wait for each other
    counts = run(args.count, args.seed, on_progress=progress(args.count, "conversations"))
    print(", ".join(f"{name} {count:,}" for name, count in counts.items()))


if __name__ == "__main__":
    main()
