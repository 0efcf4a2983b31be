"""What a run is: the data, first weights, tokenizer, configuration, dtype and recipe that its numbers come from.

A state carries it, so that a folder is never gone on in with something else. Two ways to go on with another identity
are deliberate and written down: more steps (`extend`), and other data (`force_data`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wavefold.data.corpus import Document
from wavefold.data.shards import TokenShards
from wavefold.train.recipe import Recipe

STATE_VERSION = 2
"""Of what a state holds; a program reads states of its own version alone."""

Identity = dict[str, Any]
"""JSON values by what they identify: "state_version", "recipe", "data", "tokenizer", "init", "config", "dtype"."""


@dataclass(frozen=True)
class GoingOn:
    """How a run may go on in a folder that holds a state of another identity."""

    extend: int = 0
    """Steps beyond the recipe's. The state may be of a run of fewer steps, down to the recipe's own."""
    force_data: bool = False
    """Other data are meant."""


def identity_of(recipe: Recipe, **parts: Any) -> Identity:
    """The identity of a run, as JSON gives it back."""
    return json.loads(json.dumps({"state_version": STATE_VERSION, "recipe": asdict(recipe), **parts}))


def of_documents(train: Sequence[Document], held_out: Sequence[Document]) -> dict[str, Any]:
    """{"documents", "bytes", "sha256"} of a corpus: the hash covers each one's name, size, content and part."""
    digest, num_bytes = hashlib.sha256(), 0
    for part, documents in (("train", train), ("held out", held_out)):
        for document in documents:
            content = json.dumps(document.messages).encode() if document.messages else document.text.encode()
            num_bytes += len(content)
            digest.update(f"{part}\0{document.name}\0{len(content)}\0".encode())
            digest.update(hashlib.sha256(content).digest())
    return {"documents": len(train) + len(held_out), "bytes": num_bytes, "sha256": digest.hexdigest()}


def of_shards(shards: TokenShards) -> dict[str, Any]:
    """The same of token shards: the index, and the files themselves, large ones in samples."""
    return {"documents": len(shards), "tokens": shards.num_tokens, "sha256": shards.sampled_sha256()}


def digest_of(identity: Mapping[str, Any]) -> str:
    """One hash of an identity: which run a report is of."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def check_same_run(out: Path, saved: Mapping[str, Any], now: Identity, going_on: GoingOn) -> list[str]:
    """Compare a state's identity with this run's; returns the names of the parts that differ and may.

    Raises ValueError that lists every other difference and the ways out.
    """
    if saved.get("state_version") != STATE_VERSION:
        raise ValueError(
            f"{out}: its state is of version {saved.get('state_version', 1)}, this program reads version "
            f"{STATE_VERSION}; go on with the program that wrote it, or give another --out"
        )
    recipes = [dict(identity.get("recipe", {})) for identity in (saved, now)]
    steps = [recipe.pop("steps", None) for recipe in recipes]
    allowed = ["data"] if going_on.force_data and saved.get("data") != now.get("data") else []
    found = [f"recipe {line}" for line in _differences(recipes[0], recipes[1])]
    others = len(found)
    if steps[0] != steps[1]:
        if going_on.extend and None not in steps and steps[0] < steps[1]:
            allowed.append("steps")
        else:
            found.append(f"recipe steps: {steps[0]} there, {steps[1]} here")
    parts = [key for key in {**saved, **now} if key not in ("recipe", "state_version", *allowed)]
    others += sum(saved.get(key) != now.get(key) for key in parts if key != "data")
    for key in parts:
        if isinstance(saved.get(key), dict) and isinstance(now.get(key), dict):
            found += [f"{key} {line}" for line in _differences(saved[key], now[key])]
        elif saved.get(key) != now.get(key):
            found.append(f"{key}: {_shown(saved.get(key))} there, {_shown(now.get(key))} here")
    if found:
        raise ValueError(f"{out}: holds another run ({'; '.join(found)}). {_ways_out(saved, now, going_on, others)}")
    return allowed


def _ways_out(saved: Mapping[str, Any], now: Identity, going_on: GoingOn, others: int) -> str:
    """What would help. Deliberate ways on are named where nothing else differs; `others` counts what else does."""
    ways = "Give another --out, or what that run was given"
    there, here = (identity.get("recipe", {}).get("steps") for identity in (saved, now))
    flags = []
    if saved.get("data") != now.get("data") and not going_on.force_data:
        flags.append("--force-data (other data are meant)")
    if there is not None and here is not None and there > here:
        flags.append(f"--extend {going_on.extend + there - here} or more (it was extended)")
    elif there is not None and here is not None and there < here and not going_on.extend:
        flags.append(f"--extend {here - there} with steps={there} (more steps of the same run)")
    return f"{ways}, or add {' and '.join(flags)}" if flags and not others else ways


def _differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> Iterable[str]:
    for key in {**saved, **now}:
        if saved.get(key) != now.get(key):
            yield f"{key}: {_shown(saved.get(key))} there, {_shown(now.get(key))} here"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:16]}..."
