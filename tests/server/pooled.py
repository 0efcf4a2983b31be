"""Three random models in a folder, a pool of them behind a server, and what each answers alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.running import Running, running_models
from wavefold import LLM, ModelConfig, Sampling, random_checkpoint
from wavefold.engine.budget import OVERHEAD
from wavefold.locate import DEFAULT_MODEL
from wavefold.pool.folder import entries
from wavefold.pool.settings import ModelSettings
from wavefold.server.opening import Opening
from wavefold.server.pool import PooledModels
from wavefold.system import rss_bytes

NAMES = "one", "two", "three"
PROMPT = {"prompt": "def f(", "max_tokens": 6, "temperature": 0}
OPENING = {"arithmetic": "released", "width": 4, "cache_tokens": 1024, "settings": {"threads": 1}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three random models with the shipped one's tokenizer."""
    folder = tmp_path_factory.mktemp("models")
    config = ModelConfig.preset("nano").cut(2)
    for seed, name in enumerate(NAMES):
        random_checkpoint(config, folder / name, seed)
        for file in DEFAULT_MODEL.glob("tokenizer*.json"):
            shutil.copy(file, folder / name)
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, str]:
    """What each model answers by itself."""
    texts = {}
    for name in NAMES:
        with LLM(folder / name, threads=1) as llm:
            texts[name] = llm.generate([PROMPT["prompt"]], Sampling(max_tokens=6, temperature=0))[0].text
    assert len(set(texts.values())) == len(NAMES)
    return texts


def pool_of(folder: Path, models: float, **settings: Any) -> PooledModels:
    """A pool with room for so many models. `settings`: of each LLM."""
    opening = Opening(**{**OPENING, "settings": {"threads": 1, **settings}})
    need = max(opening.needs(entry, ModelSettings()).whole for entry in entries(folder).values() if not entry.base)
    return PooledModels(folder, rss_bytes() + OVERHEAD + int(models * need), opening)


@pytest.fixture
def server(folder: Path, tmp_path: Path) -> Iterator[Running]:
    """A server of a folder of its own, with room for one of its models."""
    shutil.copytree(folder, tmp_path / "models")
    with running_models(pool_of(tmp_path / "models", 1.5)) as server:
        yield server


def pool(server: Running) -> PooledModels:
    assert isinstance(server.served.models, PooledModels)
    return server.served.models


def complete(server: Running, name: str) -> str:
    status, _, body = server.ask("/v1/completions", {"model": name, **PROMPT})
    assert status == 200, body
    return str(json.loads(body)["choices"][0]["text"])


def states(server: Running) -> dict[str, str]:
    status, _, body = server.ask("/v1/wavefold/models")
    assert status == 200
    return {one["name"]: one["state"] for one in json.loads(body)["models"]}
