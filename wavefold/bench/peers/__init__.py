"""Other engines that run DeepSeek-V4 on a CPU, timed beside these kernels (`wavefold bench peers`).

Each runs in a process of its own, with the Python of a choice: peers ask for other versions of torch than each other.
A file is a peer. Its module imports the peer's package when it is used, not before.

    experts    routed experts alone: freetoken, kt-kernel     experts.py
    model      whole models of one checkpoint: llama.cpp, flyweight     models.py

worker.py is a peer's process; inputs.py has the weights and tokens that all of them get, and the float64 results.
"""

from __future__ import annotations

from typing import NamedTuple


class Peer(NamedTuple):
    """A peer by the name in tables: the module that drives it, and pip's arguments that install it."""

    name: str
    module: str
    install: str

    @property
    def command(self) -> str:
        """The command that installs it."""
        return f"pip install {self.install}"


OURS = "wavefold"
EXPERTS = (
    Peer("freetoken", "wavefold.bench.peers.freetoken", "--no-deps freetoken==0.2.1 safetensors"),
    Peer("kt-kernel", "wavefold.bench.peers.kt_kernel", "--no-deps kt-kernel==0.7.2 safetensors"),
)
"""Peers whose routed experts run alone. Without --no-deps they bring torch builds for CUDA."""
MODELS = (
    Peer("llama.cpp", "wavefold.bench.peers.llama_cpp", "llama-cpp-python==0.3.36"),
    Peer("flyweight", "wavefold.bench.peers.flyweight", "--no-deps flyweight-llm==0.23.1"),
)
"""Peers that run a whole model, of a GGUF file."""
