"""The models in a folder: what can be asked for by name.

    DIR/flash/           config.json, *.safetensors          the official layout
        tiny.gguf        or several parts, or in a folder    GGUF
        cron/            adapter_config.json                 an adapter in PEFT's layout -> base:cron

A name is that of the folder or of the file without its ending. An adapter is asked for as `base:name`. Its
`base_model_name_or_path` ends with the base's name in the same folder. What cannot be used is listed with the reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Kind = Literal["official", "gguf", "adapter"]

ADAPTER_CONFIG, GENERATION_CONFIG = "adapter_config.json", "generation_config.json"
READ = ("config.json", GENERATION_CONFIG, "tokenizer.json", "tokenizer_config.json",
        "model.safetensors.index.json")  # fmt: skip
"""What is read of a folder in the official layout, beside its weights."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
"""Names that are offered: they stand in requests, addresses and commands."""
PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-\d{5}")
"""The name of one file of a GGUF model in parts."""


@dataclass(frozen=True)
class Entry:
    """A model that can be asked for. `path`: what `LLM` opens, or an adapter's folder. `num_bytes`: on disk.

    `stamps`: names, times of change and numbers of its files, which differ for another model of the same size.
    """

    name: str
    path: Path
    kind: Kind
    num_bytes: int
    stamps: tuple[tuple[str, int, int], ...]
    base: str | None = None
    """Of an adapter: the name of the model that it adapts."""
    fault: str = ""
    """Why it cannot be used; empty where nothing is known against it."""


def entries(folder: Path) -> dict[str, Entry]:
    """Returns the models of a folder by name, in the order of names. Nothing but names, sizes and JSON is read.

    Raises ValueError for what is no folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: is no folder; expected one with models in it (folders or .gguf files)")
    models: dict[str, Entry] = {}
    adapters: list[Entry] = []
    for place in sorted(folder.iterdir()):
        for entry in _found(place):
            if entry.kind == "adapter":
                adapters.append(entry)
            elif entry.name in models:
                other = models[entry.name].path.name
                fault = f"{other} and {place.name} have one name; rename one"
                models[entry.name] = replace(models[entry.name], fault=fault)
            else:
                models[entry.name] = entry
    named = {f"{entry.base or '?'}:{entry.name}": entry for entry in adapters}
    for name, entry in named.items():
        base = models.get(entry.base or "")
        fault = "" if base is not None else f"its base {entry.base!r} is not in {folder}"
        models[name] = replace(entry, name=name, fault=entry.fault or fault)
    return dict(sorted(models.items()))


def _found(place: Path) -> Iterator[Entry]:
    """Yields the model that a folder or file is, if it is one."""
    name = place.stem if place.suffix == ".gguf" else place.name
    part = PART.fullmatch(place.stem) if place.suffix == ".gguf" else None
    if part is not None:
        if int(part["number"]) != 1:
            return
        name = part["stem"]
    if not NAME.fullmatch(name):
        return
    if place.suffix == ".gguf" and place.is_file():
        files = sorted(place.parent.glob(f"{_escaped(part['stem'])}-*-of-*.gguf")) if part is not None else [place]
        yield Entry(name, place, "gguf", *_seen(files))
    elif (place / ADAPTER_CONFIG).is_file():
        base, fault = _base_of(place / ADAPTER_CONFIG)
        others = place / ADAPTER_CONFIG, place / GENERATION_CONFIG
        yield Entry(name, place, "adapter", *_seen(place.glob("*.safetensors"), *others), base, fault)
    elif place.is_dir() and (weights := sorted(place.glob("*.safetensors"))) and (place / "config.json").is_file():
        yield Entry(name, place, "official", *_seen(weights, *(place / file for file in READ)))
    elif place.is_dir() and (files := sorted(place.glob("*.gguf"))):
        yield Entry(name, files[0], "gguf", *_seen(files), fault=_one_model(files))
    elif (place / "config.json").is_file():
        yield Entry(name, place, "official", 0, (), fault="it holds no *.safetensors")


def _one_model(files: list[Path]) -> str:
    """Returns why GGUF files of a folder are not one model, or an empty text."""
    stems = {part["stem"] if (part := PART.fullmatch(file.stem)) else file.stem for file in files}
    return "" if len(stems) == 1 else f"it holds {len(stems)} GGUF models; expected one in a folder"


def _base_of(path: Path) -> tuple[str | None, str]:
    """Returns the name of an adapter's base, and why it cannot be used, if so."""
    try:
        values = json.loads(path.read_bytes())
        base = values["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None, f"{path.name} names no base_model_name_or_path"
    name = base.rstrip("/").rpartition("/")[2].removesuffix(".gguf") if isinstance(base, str) else ""
    return (name, "") if NAME.fullmatch(name) else (None, f"base_model_name_or_path = {str(base)[:80]!r} is no name")


def _seen(weights: Iterable[Path], *others: Path) -> tuple[int, tuple[tuple[str, int, int], ...]]:
    """Returns the bytes of weights, and the stamps of all these files."""
    found = [(file, file.stat()) for file in sorted(weights) if file.is_file()]
    num_bytes = sum(values.st_size for _, values in found)
    found += [(file, file.stat()) for file in others if file.is_file()]
    return num_bytes, tuple((file.name, values.st_mtime_ns, values.st_ino) for file, values in found)


def _escaped(text: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", text)
