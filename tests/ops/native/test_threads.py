"""The library's threads while other Python threads call it, and scratch that cannot be had."""

from __future__ import annotations

import subprocess
import sys

import pytest

from wavefold.ops import native

pytestmark = pytest.mark.skipif(not native.available(), reason="the CPU kernels were not built")

HAMMER = """
import random, sys, threading, torch
from wavefold.ops import native
from wavefold.quant import Weight
torch.manual_seed(0)
weight, x = torch.randn(64, 256).bfloat16(), torch.randn(40, 256).bfloat16()
expected = native.linear(x, Weight.of(weight), torch.float32)
wrong = []

def hammer(seed):
    chance = random.Random(seed)
    for _ in range(150):
        torch.set_num_threads(chance.randint(1, 4))
        if not torch.equal(native.linear(x, Weight.of(weight), torch.float32), expected):
            wrong.append(seed)

threads = [threading.Thread(target=hammer, args=(seed,)) for seed in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
sys.exit(len(wrong))
"""


def test_a_pool_outlives_the_calls_of_other_python_threads() -> None:
    """In a process of its own: a pool that is destroyed under a call crashes or hangs it."""
    done = subprocess.run([sys.executable, "-c", HAMMER], timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


SHORT = """
import ctypes, resource, torch
from wavefold.ops.native.library import MatrixStruct, require, runtime
fn, base, scale, x = torch.zeros(4, 4), torch.zeros(4), torch.zeros(1), torch.zeros(4, dtype=torch.bfloat16)
matrix = MatrixStruct(3, 4, 4, fn.data_ptr(), 64, None, 0)
pointers = base.data_ptr(), scale.data_ptr(), x.data_ptr()
threads = runtime()
resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
print(require().wf_hc_head(threads, ctypes.byref(matrix), *pointers, 1 << 31, 4, 1, 1e-6, 1e-6, x.data_ptr()))
"""


def test_scratch_that_cannot_be_had_is_an_error() -> None:
    """The collapse of 2^31 tokens needs 69 GB of scratch; it must not read one of them before it has that."""
    done = subprocess.run([sys.executable, "-c", SHORT], timeout=120, capture_output=True, text=True)
    assert done.stdout.strip() == "6", done.stderr[-2000:]


STOLEN = """
import os, subprocess, sys, torch
from wavefold.ops import native
from wavefold.quant import Weight
torch.manual_seed(0)
torch.set_num_threads(4)
weight, x = torch.randn(4096, 512).bfloat16(), torch.randn(24, 512).bfloat16()
expected = native.linear(x, Weight.of(weight), torch.float32)
places = {task: os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task")}
loops = [subprocess.Popen([sys.executable, "-c", f"import os; os.sched_setaffinity(0, [{core}])\\nwhile True: pass"])
         for core in os.sched_getaffinity(0)]
try:
    wrong = sum(not torch.equal(native.linear(x, Weight.of(weight), torch.float32), expected) for _ in range(300))
finally:
    for loop in loops: loop.kill()
left = [task for task, place in places.items() if os.path.exists(f"/proc/self/task/{task}")
        and os.sched_getaffinity(int(task)) != place]
print(wrong, left)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are pinned on Linux alone")
def test_workers_whose_cores_are_taken_compute_the_same_and_go_back() -> None:
    """A loop on each core: workers lose theirs amid items, get the caller's, and have their own again afterwards."""
    done = subprocess.run([sys.executable, "-c", STOLEN], timeout=120, capture_output=True, text=True)
    assert done.stdout.split() == ["0", "[]"], done.stdout + done.stderr[-2000:]
