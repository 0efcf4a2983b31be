"""What comes amid something: a bad block in a restored chain, more states than may be kept, interruptions, aborts."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from random import Random

import pytest
import torch

from tests.cache.conversations import mixes, model_of
from tests.cache.spaces import MemorySpace
from tests.engine.test_prefixes import request_of
from wavefold.cache import BLOCK_TOKENS, Chain, PrefixCache, disk_read
from wavefold.cache.disk import DiskCache
from wavefold.engine import runner as runners
from wavefold.engine.drafting import Drafter
from wavefold.engine.lookup import LookupDrafts
from wavefold.engine.prefixes import Keeping, Prefixes
from wavefold.engine.request import Request
from wavefold.engine.rows import answer_of
from wavefold.engine.runner import Runner
from wavefold.model import Transformer
from wavefold.ops import native

pytestmark = pytest.mark.skipif(not native.available(), reason="no CPU kernels, which alone are batch-invariant")
ROOT = bytes(32)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return model_of("released")


def tokens(seed: int, count: int) -> list[int]:
    return torch.randint(0, 40, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def stored(model: Transformer, space: MemorySpace, text: list[int]) -> None:
    """Reads a text of whole blocks, and puts its blocks and last state into the space."""
    cache = PrefixCache(model.new_pool(20 * BLOCK_TOKENS), 8, ROOT, space)
    sequence = cache.pool.open()
    model.extend(torch.tensor(text), [sequence], [len(text)])
    cache.keep(sequence, Chain(ROOT, text), sequence.tip(len(text)))


class OneBad(MemorySpace):
    """Finds one record bad when it is read."""

    bad = b""

    def _is_bad(self, records: dict[bytes, bytes], key: bytes, place: memoryview) -> bool:
        return key == self.bad


def test_a_bad_block_amid_a_chain_leaves_its_head_the_more_recent(model: Transformer) -> None:
    """Else the head would be given up before its tail when room is needed."""
    space, text = OneBad(), tokens(1, 512)
    stored(model, space, text)
    space.bad = Chain(ROOT, text).keys[2]
    cache = PrefixCache(model.new_pool(5 * BLOCK_TOKENS), 8, ROOT, space)
    assert cache.open(Chain(ROOT, [*text, 1]), 512).sequence is None
    sequence = cache.pool.open()
    model.extend(torch.tensor(tokens(2, 512)), [sequence], [512])
    cache.pool.check_integrity()


def test_restored_states_are_as_few_as_kept_ones(model: Transformer) -> None:
    space = MemorySpace()
    for seed in range(6):
        stored(model, space, tokens(seed, 256))
    cache = PrefixCache(model.new_pool(20 * BLOCK_TOKENS), 2, ROOT, space)
    for seed in range(6):
        opened = cache.open(Chain(ROOT, [*tokens(seed, 256), 1]), 256)
        assert opened.sequence is not None and opened.on_disk == 256
        opened.sequence.close()
        assert cache.num_bytes <= 2 * cache.pool.layout.state_bytes


def new_runner(model: Transformer, space: MemorySpace | None = None, drafter: Drafter | None = None) -> Runner:
    depth = 8 if drafter else 0
    return Runner(model, 30, 4, 1024, depth, drafter, keeping=Keeping(50, 256, lambda layout: (ROOT, space)))


def run(runner: Runner, request: Request) -> list[int]:
    runner.add(request)
    while not runner.idle:
        runner.step()
    return list(answer_of(request).tokens)


def test_a_request_that_lost_a_pass_is_taken_up_again(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interruption after the pass was committed: released and admitted in one step, with a new sequence."""
    runner, text = new_runner(model), tokens(3, 300)
    run(runner, request_of(model, 0, text, 8))
    request = request_of(model, 1, [*text, 1, 2], 8)
    runner.add(request)
    real, calls = runners.verdicts, [0]

    def verdicts(*arguments: object) -> object:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(runners, "verdicts", verdicts)
    with pytest.raises(KeyboardInterrupt):
        while not runner.idle:
            runner.step()
    while not runner.idle:
        runner.step()
    assert calls[0] > 3 and list(answer_of(request).tokens) == mixes.alone(model, request)


def test_an_interruption_while_a_text_is_opened_loses_no_block(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, text = new_runner(model), tokens(4, 300)
    run(runner, request_of(model, 0, text, 8))
    with monkeypatch.context() as patched:

        def marks(*arguments: object) -> list[int]:
            raise KeyboardInterrupt

        patched.setattr(Prefixes, "_marks", marks)
        runner.add(request_of(model, 1, [*text, 1], 8))
        with pytest.raises(KeyboardInterrupt):
            runner.step()
    assert runner._pool is not None and not runner._pool.sequences
    runner._pool.check_integrity()
    assert runner._pool.blocks.num_free == 30
    request = request_of(model, 2, tokens(5, 700), 8)
    assert run(runner, request) == mixes.alone(model, request)


def test_an_abort_amid_a_step_keeps_nothing_beyond_the_text(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a stream is collected after drafts went over a block's end, before the step's tokens count."""
    texts, space = (tokens(seed, 200) for seed in range(6, 40)), MemorySpace()
    answers = ((text, mixes.alone(model, request_of(model, 0, text, 200))) for text in texts)
    text, cold = next(pair for pair in answers if len(pair[1]) == 200)  # which ends early depends on the processor
    drafter = Drafter(8, [LookupDrafts()], mixes.Dice(8, Random(1)))
    known = [*text, *cold]
    monkeypatch.setattr(drafter, "propose", lambda due, count: [known[r.num_tokens : r.num_tokens + 8] for r in due])
    runner, real, aborted = new_runner(model, space, drafter), Prefixes.passed, []

    def passed(self: Prefixes, request: Request, *rest: object, **named: object) -> None:
        real(self, request, *rest, **named)  # type: ignore[arg-type]
        crossed = self._texts[request].crossed
        if crossed and crossed.num_tokens == 384 and request.num_tokens < 384 and not aborted:
            aborted.append(request.num_tokens)
            runner.abort(request.id)

    with monkeypatch.context() as patched:
        patched.setattr(Prefixes, "passed", passed)
        run(runner, request_of(model, 1, text, 200))
    assert aborted, "the drafts went over no block's end in one step"
    keys = Chain(ROOT, known).keys
    assert keys[1] not in space.states, "a state of 384 tokens under the key of 256"
    monkeypatch.setattr(drafter, "propose", lambda due, count: [() for _ in due])
    again = request_of(model, 2, [*known[:258], 1, 2, 3], 20)
    assert run(new_runner(model, space, drafter), again) == mixes.alone(model, again)


def test_an_interrupted_restore_ends_after_its_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else they would write into blocks that others have by then. The disk is slower than the interruption."""
    key, block, disk_is_ready = b"k" * 32, b"b" * 9000, threading.Event()
    with DiskCache(tmp_path, 1 << 20) as cache:
        cache.space(ROOT, 9000, 4000, "").put(key, ROOT, memoryview(block), None)
        cache.flush()
    real = disk_read.DirectFile.__init__

    def opened(*arguments: object) -> None:
        disk_is_ready.wait(30)
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(disk_read.DirectFile, "__init__", opened)
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored where a shell started this behind itself
    with DiskCache(tmp_path, 1 << 20) as cache:
        space, target = cache.space(ROOT, 9000, 4000, ""), bytearray(9000)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        threading.Timer(0.8, disk_is_ready.set).start()
        with pytest.raises(KeyboardInterrupt):
            space.read([key], [memoryview(target)])
        assert disk_is_ready.is_set() and bytes(target) == block
    signal.signal(signal.SIGINT, before)


def test_a_forked_process_reads_nothing(tmp_path: Path) -> None:
    """The threads that would read are not there."""
    key = b"k" * 32
    with DiskCache(tmp_path, 1 << 20) as cache:
        space = cache.space(ROOT, 9000, 4000, "")
        space.put(key, ROOT, memoryview(b"b" * 9000), None)
        cache.flush()
        assert space.find([key])[0].block
        child = os.fork()
        if not child:
            os._exit(int(space.find([key])[0].block))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
