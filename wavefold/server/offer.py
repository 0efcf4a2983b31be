"""What a pool offers: the models of a folder and its settings, read again while the server runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from wavefold.pool.folder import Entry, entries
from wavefold.pool.settings import FILE_NAME, read_settings
from wavefold.server.protocol import Refused
from wavefold.server.protocol.errors import no_such_model

log = logging.getLogger("wavefold.server")


class Offer:
    """The models of `folder` by name, with those that cannot be used, and what `pool.toml` says."""

    def __init__(self, folder: Path):
        """Raises ValueError for a folder without models, and settings that are not allowed."""
        self.folder = folder
        self.entries = entries(folder)
        if not self.entries:
            raise ValueError(f"{folder}: holds no models; expected folders with config.json, or .gguf files")
        self.settings = read_settings(folder)
        self._seen, self._fault = self.entries, ""
        self._unsettled: set[str] = set()
        """Names that the last look found anew, changed, or no more."""
        self._unknown = self._without_a_model()
        self._tell_unknown()

    @property
    def names(self) -> Sequence[str]:
        """The models that can be used."""
        return [name for name, entry in self.entries.items() if not self.fault(entry)]

    def base_of(self, name: str) -> Entry:
        """Returns the model behind a name, of an adapter its base.

        Raises Refused for one that is not offered, with a code to try again where that may change in a moment.
        """
        entry = self.entries.get(name)
        wanted = name if entry is None else entry.base
        if wanted is not None and wanted not in self.entries:
            self.check_settled(wanted)
        if entry is None:
            raise no_such_model(name, self.names)
        if fault := self.fault(entry):
            raise Refused(404, f"model {name!r} cannot be used: {fault}", "model_not_found", "model")
        return entry if entry.base is None else self.entries[entry.base]

    def check_settled(self, name: str) -> None:
        """Raises Refused, to try again, for a model that the last look found anew, changed, or no more."""
        if name in self._unsettled:
            raise Refused(503, f"model {name!r} has just come, changed or gone, and may not be whole; try again",
                          "overloaded", "model")  # fmt: skip

    def fault(self, entry: Entry) -> str:
        """Returns why a model cannot be used: its own fault, or its base's; an empty text if there is none."""
        if entry.fault or entry.base is None:
            return entry.fault
        base = self.entries.get(entry.base)  # it may be one that is being copied
        fault = "is not there" if base is None else base.fault
        return f"its base {entry.base!r}: {fault}" if fault else ""

    async def read_again(self) -> None:
        """Reads folder and settings. What was there before holds where they cannot be read; the log says so once.

        A model is offered once two looks have found the same of it: one that is being copied is not whole yet. One that
        has changed answers as it was until then, if it is in memory.
        """
        told, self._fault = self._fault, ""
        try:
            found = await asyncio.to_thread(entries, self.folder)
            settled = {name: entry for name, entry in found.items() if entry == self._seen.get(name)}
            before = {name: entry for name, entry in self.entries.items() if name in found}
            self._unsettled = found.keys() - settled.keys() | self._seen.keys() - found.keys()
            self.entries, self._seen = dict(sorted((before | settled).items())), found
            self.settings = await asyncio.to_thread(read_settings, self.folder)
        except (OSError, ValueError) as error:
            self._fault = str(error)
        if self._fault and self._fault != told:
            log.warning("%s could not be read again: %s", self.folder, self._fault)
        unknown, self._unknown = self._unknown, self._without_a_model()
        if self._unknown != unknown:
            self._tell_unknown()

    def _without_a_model(self) -> list[str]:
        return sorted(name for name in self.settings.models if name not in self._seen)

    def _tell_unknown(self) -> None:
        if self._unknown:
            names = ", ".join(f"[models.{name}]" for name in self._unknown)
            log.warning("%s: %s: there is no such model", self.folder / FILE_NAME, names)
