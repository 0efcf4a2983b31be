"""What went wrong in prefix caches elsewhere, each as a test of the whole way: prompt, pool, disk, answer.

a stale window or tail after a hit         tests/cache/test_prefix.py: a_text_goes_on, a_stale_ring_is_caught
prompts of clients that had left           tests/engine/test_prefixes.py: a_cancelled_prompt_is_not_read_again
another request's prompt in an answer      tests/cache/many_threads.py
the others                                 here
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cache.conversations import model_of
from tests.cache.many_threads import CONFIG
from tests.engine.test_prefixes import TOKENS, check_alone, finish, known, request_of, runner_of
from tests.small import small_model
from wavefold import LLM, Sampling, Transformer, ops
from wavefold.cache.disk_inspect import look, verify
from wavefold.cache.segment import PAGE
from wavefold.ops import native

pytestmark = pytest.mark.skipif(not native.available(), reason="no CPU kernels, which alone are batch-invariant")
GREEDY = Sampling(8, 0)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return model_of("released")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model") / "tiny", CONFIG)


@pytest.fixture
def kernels() -> Iterator[None]:
    with ops.using(backend="auto"):
        yield


def ask(checkpoint: Path, kept: Path | None, *prompts: list[int], **settings: Any) -> list[tuple[list[int], int, int]]:
    """In a process's life of its own: tokens of each answer, tokens from the disk, tokens computed."""
    settings = {"cache_dir": kept, **settings} if kept else {"prefix_cache": False, **settings}
    found = []
    with LLM(checkpoint, batch_invariant=True, **settings) as llm:
        for prompt in prompts:
            answer = llm.generate([prompt], GREEDY)[0]
            found.append((list(answer.tokens), answer.usage.disk_tokens, answer.usage.computed_tokens))
    return found


@pytest.mark.parametrize("cached", [1, 2, 99, 126, 127, 128, 129, 143, 144, 255, 256, 257, 300, 498, 499, 500])
def test_an_answer_does_not_depend_on_how_much_was_cached(model: Transformer, cached: int) -> None:
    """Elsewhere a hit went on otherwise than a cold run, for some lengths of what was cached."""
    runner = runner_of(model, every=4096)
    finish(runner, request_of(model, 1, TOKENS[:cached], 1))
    whole = request_of(model, 2, TOKENS[:500], 12)
    (usage,) = finish(runner, whole)
    assert known(usage)[0] == (min(cached, 499) if cached >= 32 else 0), "a state of fewer tokens is not worth it"
    check_alone(model, whole)


@pytest.mark.usefixtures("kernels")
def test_states_are_written_at_ends_and_distances_alone(checkpoint: Path, tmp_path: Path) -> None:
    """Elsewhere the state of every block was stored: 300 GB for a million tokens. Here 2,600 tokens have three."""
    prompt = [7 * n % 250 for n in range(2600)]
    ask(checkpoint, tmp_path / "kept", prompt, snapshot_every=1024)
    (space,) = look(tmp_path / "kept").spaces.values()
    assert space.num_blocks == 2600 // 128
    assert space.num_states == 3, "behind 1,024 and 2,048 tokens, and the prompt's last whole block"
    _, (_, on_disk, computed) = ask(checkpoint, tmp_path / "kept", prompt[:1100], prompt, snapshot_every=1024)
    assert (on_disk, computed) == (2560 - 1100 // 128 * 128, 40)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("length", [257, 300, 383, 384, 385, 512, 513])
def test_short_prompts_hit_and_whole_ones_leave_an_answer(checkpoint: Path, tmp_path: Path, length: int) -> None:
    """Elsewhere nothing below 4,096 tokens hit, and a prompt that was cached as a whole had no token left to run."""
    prompt = [11 * n % 250 for n in range(length)]
    ((tokens, _, _),) = ask(checkpoint, None, prompt)
    ask(checkpoint, tmp_path / "kept", prompt)
    again = ask(checkpoint, tmp_path / "kept", prompt, prompt)
    found = (length - 1) // 128 * 128
    assert again[0] == (tokens, found, length - found)
    assert again[1] == (tokens, 0, 1), "in memory all but the last token"


@pytest.mark.usefixtures("kernels")
@pytest.mark.filterwarnings("ignore::wavefold.system.Notice")
def test_a_stale_record_is_computed_once(checkpoint: Path, tmp_path: Path) -> None:
    """Elsewhere a record that a kill had left made a server retry for ever."""
    kept, prompt = tmp_path / "kept", [13 * n % 250 for n in range(700)]
    ((tokens, _, _),) = ask(checkpoint, None, prompt)
    ask(checkpoint, kept, prompt)
    path = next(path for path in kept.glob("*.segment") if "-0-" in path.name)
    data = bytearray(path.read_bytes())
    data[PAGE + 100] ^= 1
    path.write_bytes(data)
    assert ask(checkpoint, kept, prompt) == [(tokens, 0, 700)]
    for _ in range(3):
        assert ask(checkpoint, kept, prompt) == [(tokens, 640, 60)]
    num_right, wrong = verify(look(kept))
    assert (num_right, len(wrong)) == (6, 1), "5 blocks and a state; the damaged one still lies there"


@pytest.mark.usefixtures("kernels")
def test_an_edited_timestamp_shows_its_place(checkpoint: Path, tmp_path: Path) -> None:
    """Elsewhere a time in the system text made every prompt new, and nothing said so."""
    text = "You are a careful agent. Now it is 2026-11-29 23:0{}. " + "Use the tools that you have. " * 30
    with LLM(checkpoint, cache_dir=tmp_path / "kept") as llm:
        llm.generate([text.format(1)], GREEDY)
    with LLM(checkpoint, cache_dir=tmp_path / "kept") as llm:
        for minute, place in ((2, 0), (3, text.index("{}") + 1)):
            usage = llm.generate([text.format(minute)], GREEDY)[0].usage
            assert usage.left_chain_at == place, "a disk knows whole blocks, memory each token"
    assert usage.prefix_line == f"0 in memory, 0 on disk, {usage.prompt_tokens} computed, known up to {place}"
