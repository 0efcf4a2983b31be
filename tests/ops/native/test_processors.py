"""Threads get processors of their own cores, and runtimes of one process different ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from wavefold.ops import native
from wavefold.ops.native.library import by_core
from wavefold.ops.threads import use_threads

pytestmark = pytest.mark.skipif(not native.available(), reason="the CPU kernels were not built")


def topology(folder: Path, siblings: Mapping[int, str]) -> Path:
    """A folder like /sys/devices/system/cpu with the list of siblings of each processor."""
    for processor, text in siblings.items():
        place = folder / f"cpu{processor}" / "topology"
        place.mkdir(parents=True)
        (place / "thread_siblings_list").write_text(text + "\n")
    return folder


FAR = {0: "0,4", 1: "1,5", 2: "2,6", 3: "3,7", 4: "0,4", 5: "1,5", 6: "2,6", 7: "3,7"}
NEAR = {0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}


@pytest.mark.parametrize(
    ("siblings", "allowed", "order", "cores"),
    [
        pytest.param(FAR, range(8), [0, 1, 2, 3, 4, 5, 6, 7], 4, id="siblings numbered last"),
        pytest.param(NEAR, range(4), [0, 2, 1, 3], 2, id="siblings numbered side by side"),
        pytest.param(NEAR, [1, 2, 3], [1, 2, 3], 2, id="a process that may not use the first"),
        pytest.param({0: "0", 1: "1"}, range(2), [0, 1], 2, id="one processor a core"),
        pytest.param({}, [3, 5], [3, 5], 2, id="no topology"),
        pytest.param(NEAR, range(6), [0, 2, 4, 5, 1, 3], 4, id="no topology of some"),
        pytest.param({0: ""}, [0], [0], 1, id="an empty file"),
    ],
)
def test_one_processor_of_each_core_comes_first(
    siblings: dict[int, str], allowed: list[int], order: list[int], cores: int, tmp_path: Path
) -> None:
    assert by_core(list(allowed), topology(tmp_path, siblings)) == (order, cores)


def test_the_default_is_a_thread_a_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where torch counts the second processors of cores too, and nobody named a number."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    folder, before = topology(tmp_path, NEAR), torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        use_threads(None, folder)
        assert torch.get_num_threads() == 2
        torch.set_num_threads(3)  # somebody's choice
        use_threads(None, folder)
        assert torch.get_num_threads() == 3
        use_threads(4, folder)
        assert torch.get_num_threads() == 4
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
        use_threads(None, folder)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


PLACES = """
import json, os, torch
from pathlib import Path
from wavefold.ops import Runtime

def places():
    "The processors of this process's threads that are pinned to one."
    found = []
    for thread in Path("/proc/self/task").iterdir():
        allowed = os.sched_getaffinity(int(thread.name))
        if len(allowed) == 1:
            found.append(*allowed)
    return sorted(found)

all = sorted(os.sched_getaffinity(0))
first, second = Runtime(2), Runtime(2)
first.handle(), second.handle()
both = places()
del first
third = Runtime(2)
third.handle()
print(json.dumps([len(all), [all.index(place) for place in both], [all.index(place) for place in places()]]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are pinned on Linux alone")
def test_runtimes_share_the_processors() -> None:
    """Two runtimes of two threads: on two processors a worker each beside two callers, on four no processor twice."""
    done = subprocess.run([sys.executable, "-c", PLACES], timeout=120, capture_output=True, text=True, check=True)
    processors, both, later = json.loads(done.stdout)
    if processors < 2:
        pytest.skip("one processor alone")
    assert len(both) == len(later) == 2
    assert len(set(both)) == (1 if processors < 4 else 2)
    if processors < 4:
        assert both == [1, 1]  # seats 0 and 1 of the first, then 0 and 1 of the second


BOUND = """
import os, torch
from wavefold.ops import Runtime

def threads():
    return {int(name) for name in os.listdir("/proc/self/task")}

torch.set_num_threads(2)
torch.ones(4_000_000).sum()
bound, before = os.sched_getaffinity(0), threads()
runtime = Runtime(2)
runtime.handle()
print(len(bound), *(os.sched_getaffinity(worker) == bound for worker in threads() - before))
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or len(os.sched_getaffinity(0)) < 2, reason="one processor alone, or no pins"
)
def test_a_worker_does_not_share_the_processor_that_openmp_bound_its_caller_to() -> None:
    environment = os.environ | {"OMP_PROC_BIND": "true", "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", BOUND], env=environment, timeout=120, capture_output=True, text=True)
    assert done.stdout.split() == ["1", "False"], done.stderr[-2000:]
