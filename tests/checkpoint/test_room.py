"""What a load needs before it begins: address space on the CPU, memory on a device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from wavefold.checkpoint.room import check_load
from wavefold.system import Limit, memory

GB = 10**9
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def test_mapped_files_need_address_space_and_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, space = Limit("the machine", 2 * GB, GB), Limit("RLIMIT_AS (ulimit -v)", 9 * GB, 6 * GB, counts_maps=True)
    monkeypatch.setattr(memory, "limits", lambda: [machine])
    check_load(Path("flash"), 160 * GB, CPU)
    monkeypatch.setattr(memory, "limits", lambda: [machine, space])
    check_load(Path("small"), 6 * GB, CPU)
    with pytest.raises(ValueError, match=r"flash: mapping its files takes 160.00 GB.* RLIMIT_AS .* allows 9.00 GB"):
        check_load(Path("flash"), 160 * GB, CPU)


def test_a_copy_needs_memory_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60 * GB, 80 * GB))
    check_load(Path("small"), 60 * GB, CUDA)
    with pytest.raises(ValueError, match=r"take 160.00 GB, and 60.00 GB of the 80.00 GB of cuda:0 are free"):
        check_load(Path("flash"), 160 * GB, CUDA)
