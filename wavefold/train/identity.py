"""Identity of a run: the data, first weights, tokenizer, configuration, dtype and recipe that decide its numbers.

A state carries it, so a run never resumes with anything else. Two differences are allowed on request, and logged: more
steps (`extend`), and other data (`force_data`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from wavefold.data.corpus import Document
from wavefold.data.shards import TokenShards
from wavefold.train.recipe import Recipe

STATE_VERSION = 2
"""Version of the content of a state. A program reads only states of its own version."""

Identity = dict[str, Any]
"""JSON values by key: "state_version", "recipe", "data", "tokenizer", "init", "config", "dtype"."""


@dataclass(frozen=True)
class GoingOn:
    """Allowed differences between a run and the state that it resumes from."""

    extend: int = 0
    """Steps beyond those of the recipe. The state may come from a run of fewer steps, down to those of the recipe."""
    force_data: bool = False
    """Allows other data."""


def identity_of(recipe: Recipe, **parts: Any) -> Identity:
    """Returns the identity of a run, after a round trip through JSON."""
    return json.loads(json.dumps({"state_version": STATE_VERSION, "recipe": asdict(recipe), **parts}))


def of_documents(train: Sequence[Document], held_out: Sequence[Document]) -> dict[str, Any]:
    """Returns {"documents", "bytes", "sha256"}. The hash covers name, size, content and part of each document."""
    digest, num_bytes = hashlib.sha256(), 0
    for part, documents in (("train", train), ("held out", held_out)):
        for document in documents:
            content = json.dumps(document.messages).encode() if document.messages else document.text.encode()
            num_bytes += len(content)
            digest.update(f"{part}\0{document.name}\0{len(content)}\0".encode())
            digest.update(hashlib.sha256(content).digest())
    return {"documents": len(train) + len(held_out), "bytes": num_bytes, "sha256": digest.hexdigest()}


def of_shards(shards: TokenShards) -> dict[str, Any]:
    """Returns {"documents", "tokens", "sha256"} of token shards. The hash covers the index and samples of the files."""
    return {"documents": len(shards), "tokens": shards.num_tokens, "sha256": shards.sampled_sha256()}


def digest_of(identity: Mapping[str, Any]) -> str:
    """Returns a hash of an identity. A report names its run by it."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def check_same_run(out: Path, saved: Mapping[str, Any], now: Identity, going_on: GoingOn) -> list[str]:
    """Compares the identity of a state with this run. Returns the names of parts with allowed differences.

    Raises ValueError that lists every other difference and the possible remedies.
    """
    if saved.get("state_version") != STATE_VERSION:
        raise ValueError(
            f"{out}: its state is of version {saved.get('state_version', 1)}, this program reads version "
            f"{STATE_VERSION}; go on with the program that wrote it, or give another --out"
        )
    recipes = [_DEFAULTS | identity.get("recipe", {}) for identity in (saved, now)]
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


_DEFAULTS = {field.name: field.default for field in fields(Recipe) if field.name != "steps"}
"""Values of keys that a state was written without, by a program that did not have them yet."""


def _ways_out(saved: Mapping[str, Any], now: Identity, going_on: GoingOn, others: int) -> str:
    """Returns the remedies. Flags are named only if nothing else differs. `others`: number of other differences."""
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
