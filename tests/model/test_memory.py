"""The memory of a prefill: nothing that is allocated grows with the context but the cache and the hidden states."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.small import SMALL
from wavefold import random_checkpoint
from wavefold.checkpoint.random import random_model
from wavefold.model import Transformer, attention, indexer, transformer
from wavefold.model.official import official_tensors
from wavefold.ops import Arithmetic

ROOT = Path(__file__).resolve().parents[2]
CONFIG = SMALL.replace(num_attention_heads=4, index_n_heads=8, index_topk=16)

CHILD = r"""
import re, sys, torch, wavefold
from pathlib import Path
torch.set_num_threads(1)
model = wavefold.load(sys.argv[1], sys.argv[2])
num_tokens = int(sys.argv[3])
tokens = torch.randint(0, 64, (num_tokens,), generator=torch.Generator().manual_seed(0))
if len(sys.argv) > 4:
    from wavefold.model import attention, indexer, transformer
    transformer.PASS_TOKENS = attention.QUERY_CHUNK = indexer.SCORE_BLOCK = 1 << 30
model.extend(tokens, [model.new_pool(num_tokens).open()], [num_tokens])
print(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
"""


class Largest(TorchDispatchMode):
    """The largest storage, in bytes, that any operation allocates."""

    def __init__(self, *existing: Tensor):
        super().__init__()
        self.num_bytes = 0
        self._existing = {t.untyped_storage().data_ptr() for t in existing}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self._existing:
                self.num_bytes = max(self.num_bytes, tensor.untyped_storage().nbytes())
        return result


def largest_allocation(model: Transformer, num_tokens: int) -> int:
    """In a prefill of `num_tokens` tokens and three steps of decoding."""
    tokens = torch.randint(0, CONFIG.vocab_size, (num_tokens,), generator=torch.Generator().manual_seed(0))
    pool = model.new_pool(num_tokens + 3)
    sequence = pool.open()
    state = sequence.state
    parameters = [tensor for _, tensor in official_tensors(model)]
    largest = Largest(pool.storage, state.buffer, *parameters)
    with largest:
        model.extend(tokens, [sequence], [num_tokens])
        for _ in range(3):
            model.extend(tokens[:1], [sequence], [1])
    return largest.num_bytes


@pytest.fixture(scope="module", params=["exact", "released"])
def model(request: pytest.FixtureRequest) -> Transformer:
    dtype = torch.float32 if request.param == "exact" else torch.bfloat16
    return random_model(CONFIG, 0, Arithmetic(request.param, dtype), packed=True)


def test_no_tensor_grows_with_the_context(model: Transformer) -> None:
    """Only the hidden states that `extend` returns are as long as the prompt, and here they are not the largest."""
    short, long = largest_allocation(model, 2100), largest_allocation(model, 6300)
    assert 6300 * CONFIG.hidden_size * model.arithmetic.dtype.itemsize < short
    assert long == short


@pytest.mark.parametrize(
    "uncut",
    [[(transformer, "PASS_TOKENS"), (attention, "QUERY_CHUNK")], [(indexer, "SCORE_BLOCK")]],
    ids=["passes", "score blocks"],
)
def test_the_check_sees_what_grows(
    model: Transformer, uncut: list[tuple[object, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the cut into passes, or of the entries that are scored, the largest tensor grows with the context."""
    for module, name in uncut:
        monkeypatch.setattr(module, name, 1 << 30)
    longer = 5120 if (indexer, "SCORE_BLOCK") in uncut else 2100
    assert largest_allocation(model, longer) > 2 * largest_allocation(model, 700)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads a process's own peak from /proc")
@pytest.mark.parametrize("arithmetic", ["exact", "released"])
def test_peak_grows_no_faster_than_the_context(arithmetic: str, tmp_path: Path) -> None:
    """Peaks of whole processes; 30 MB is what the allocator's holes and torch's compiled kernels may add.

    Not `ru_maxrss`: a child starts with its parent's.
    """
    random_checkpoint(CONFIG, tmp_path / "model", seed=0)

    def peaks(*more: str) -> list[int]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16"}
        command = [sys.executable, "-c", CHILD, str(tmp_path / "model"), arithmetic]
        runs = (
            subprocess.run([*command, str(n), *more], check=True, capture_output=True, text=True, env=environment)
            for n in (2048, 4096, 8192)
        )
        return [int(run.stdout) * 1024 for run in runs]

    def grows_linearly(two: int, four: int, eight: int) -> bool:
        return eight - four <= 2.2 * max(0, four - two) + 30e6

    measured = peaks()
    assert grows_linearly(*measured), measured
    whole = peaks("uncut")
    assert not grows_linearly(*whole), whole
