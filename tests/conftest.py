"""Fixtures of the whole suite."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch

from wavefold import ops

os.environ["WAVEFOLD_TUNING"] = "usual"  # nothing of this machine is read or measured, in other processes neither

DEVICES = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}


def pytest_report_header() -> str:
    return "devices: " + ", ".join(name if present else f"no {name}" for name, present in DEVICES.items())


@pytest.fixture(
    scope="session",
    params=[pytest.param(name, marks=[pytest.mark.gpu] * (name == "cuda")) for name in DEVICES if DEVICES[name]],
)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each kind of device that this machine has, in turn."""
    return torch.device(request.param)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """torch on one thread: the suite's models are small, and its workers share the cores."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def references() -> Iterator[None]:
    """The references compute, except where a test asks for the kernels: those are held against them."""
    with ops.using(backend="reference"):
        yield


@pytest.fixture
def threads() -> Callable[[int], AbstractContextManager[None]]:
    """`with threads(2):` two of them, in torch and so in the kernels' runtime."""

    @contextmanager
    def using(count: int) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    return using
