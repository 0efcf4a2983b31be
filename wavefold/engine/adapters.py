"""The adapters that requests may name: read from their folders at once, taken away without disturbing anybody.

A request holds the adapter it was made with, so that one that is taken away or replaced goes on to the end of its
answers. Nothing waits for a pass: matrices are read and checked outside of all locks but that of the names.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from wavefold.checkpoint.adapter import read_adapter
from wavefold.config import ModelConfig
from wavefold.engine.arguments import shown
from wavefold.engine.defaults import GenerationDefaults, defaults_in
from wavefold.ops import Adapter

Adapters = str | Sequence[str | None] | None
"""The name of an adapter for all prompts, or one for each; None: the model alone."""


class Loaded(NamedTuple):
    """An adapter that was read from `folder`, and what its `generation_config.json` says of answers through it."""

    adapter: Adapter
    folder: Path
    defaults: GenerationDefaults


class LoadedAdapters:
    """Adapters of one model by name. Any thread may call it."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype):
        """`dtype`: that of the model's activations, to which matrices are rounded."""
        self._config, self._dtype = config, dtype
        self._lock = threading.Lock()
        self._adapters: dict[str, Loaded] = {}

    def load(self, name: str, folder: str | Path, takes_routed: bool = True) -> Adapter:
        """Reads an adapter with its defaults. One that has the name already is replaced for requests to come.

        Raises ValueError for a folder that holds none of this model, and for a name that is no text.
        """
        if not isinstance(name, str) or not name:
            raise ValueError(f"{shown(name)} is no name of an adapter; expected a text")
        adapter = read_adapter(folder, self._config, name, self._dtype)
        if adapter.num_experts and not takes_routed:
            raise ValueError(f"{folder}: adapts routed experts, which are not allowed on a GPU or over ranks")
        loaded = Loaded(adapter, Path(folder), defaults_in(Path(folder), self._config.vocab_size))
        with self._lock:
            self._adapters[name] = loaded
        return adapter

    def unload(self, name: str) -> None:
        """Takes an adapter away from requests to come. Its memory is given back after its last request."""
        with self._lock:
            if name not in self._adapters:
                raise self._unknown(name)
            del self._adapters[name]

    def get(self, name: str | None) -> Adapter | None:
        """Returns the adapter of this name; None for None. Raises ValueError for a name that is not loaded."""
        loaded = self.loaded(name)
        return None if loaded is None else loaded.adapter

    def loaded(self, name: str | None) -> Loaded | None:
        """Returns the adapter of this name with its defaults; otherwise as `get`."""
        if name is None:
            return None
        with self._lock:
            if not isinstance(name, str) or name not in self._adapters:
                raise self._unknown(name)
            return self._adapters[name]

    @property
    def names(self) -> list[str]:
        """The names, in order."""
        with self._lock:
            return sorted(self._adapters)

    @property
    def num_bytes(self) -> int:
        """Bytes of their matrices."""
        with self._lock:
            return sum(loaded.adapter.num_bytes for loaded in self._adapters.values())

    def _unknown(self, name: object) -> ValueError:
        known = ", ".join(sorted(self._adapters)) or "none is"
        return ValueError(f"adapter = {shown(name)} is not loaded; loaded: {known}; LLM.load_adapter reads one")


def adapters_of(adapter: Any, count: int) -> Sequence[str | None]:
    """Returns one name for each of `count` prompts. Raises ValueError for another number of names."""
    if adapter is None or isinstance(adapter, str):
        return [adapter] * count
    if not isinstance(adapter, Sequence) or len(adapter) != count:
        raise ValueError(f"adapter = {shown(adapter)} is not allowed; expected a name, or one for each prompt, or None")
    return adapter
