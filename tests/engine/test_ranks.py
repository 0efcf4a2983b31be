"""The engine over two processes: rank 0 schedules and samples, the other follows, to the tokens of one process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.processes import by_hand, torchrun
from tests.small import SMALL, small_model
from wavefold import LLM
from wavefold.engine import ranks
from wavefold.engine.ranks import END, PASS, Leader, Message
from wavefold.engine.rows import rows_of
from wavefold.waves.faults import PassFailed
from wavefold.waves.transport import RankLost

pytestmark = pytest.mark.dist
CONFIG = SMALL.replace(
    vocab_size=300, num_nextn_predict_layers=0, compress_ratios=(0, 4, 128), o_lora_rank=128,
    max_position_embeddings=4096,
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("ranks") / "model", CONFIG, 0)


def tokens(model: Path, out: Path, processes: int, *flags: str) -> list[list[int]]:
    words = ("-m", "tests.engine.over_ranks", str(model), str(out), *flags)
    command, environment = torchrun(processes, *words) if processes > 1 else ([sys.executable, *words], None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


def test_a_mix_has_the_tokens_of_one_process(model: Path, tmp_path: Path) -> None:
    """Priorities, preemptions, closed streams, arrivals; and guesses, whose number rank 0 decides by its clock."""
    one = tokens(model, tmp_path / "one.json", 1)
    assert len(one) == 15 and sum(map(len, one)) > 200
    assert tokens(model, tmp_path / "two.json", 2) == one
    assert tokens(model, tmp_path / "drafts.json", 2, "--drafts", "3") == one


def test_a_dead_rank_ends_all_requests(model: Path, tmp_path: Path) -> None:
    words = ("-m", "tests.engine.over_ranks", str(model), str(tmp_path / "errors.json"), "--dies")
    began = time.monotonic()
    first, second = by_hand(words, words)
    assert second.returncode == -9 and "rank" in first.stdout and time.monotonic() - began < 60
    errors = json.loads((tmp_path / "errors.json").read_text())
    assert len(errors) == 3 and all("rank 1" in error for error in errors)


def test_a_message_comes_back() -> None:
    for message in (
        Message(END), Message(PASS, 512, 4, [], [(0, 0, 3)], [5, 6, 7]),
        Message(PASS, 0, 1, [3, 9], [(1, 128, 1), (12, 0, 2)], [1, 2, 3]),
    ):  # fmt: skip
        header, words = message.words()
        assert Message.of(header.tolist(), words.tolist()) == message._replace(
            closed=list(message.closed), spans=list(message.spans), tokens=list(message.tokens)
        )


def test_a_process_alone_follows_nobody(model: Path) -> None:
    with pytest.raises(ValueError, match="follow is for the processes beside rank 0"):
        LLM(model, "exact", dtype=torch.float32).follow()


def test_no_pass_follows_one_that_was_interrupted_on_rank_0_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are still in it: they would take messages of the next one for its own."""
    sent: list[torch.Tensor] = []
    monkeypatch.setattr(ranks, "_broadcast", lambda words, group: sent.append(words))
    leader, rows = Leader(None), rows_of([], [])  # type: ignore[arg-type]
    with pytest.raises(PassFailed), leader.telling([], rows):  # it has ended on all ranks
        raise PassFailed("rank 1: a disk")
    with leader.telling([], rows):
        pass
    assert len(sent) == 2
    with pytest.raises(KeyboardInterrupt), leader.telling([], rows):
        raise KeyboardInterrupt
    alone = r"ended on rank 0 alone \(KeyboardInterrupt\).* start all ranks again"
    with pytest.raises(RankLost, match=alone), leader.telling([], rows):
        raise AssertionError("it began")
    leader.end()
    assert len(sent) == 3
