"""The meaning of a model's name: a checkpoint's folder, a GGUF file, a preset or a `config.json`; advice for others."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from wavefold.config import ModelConfig, preset_names, read_config
from wavefold.gguf import is_gguf
from wavefold.system import Notice

DEFAULT_MODEL = Path(__file__).parent / "models" / "default"

REPOSITORY = re.compile(r"(?:https?:/+(?:www\.)?(?:huggingface\.co|hf\.co)/)?([\w.-]+/[\w.-]+)(?:/tree/.*)?/?")
"""A repository's id on the Hugging Face hub, or its address."""

OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def default_model() -> Path:
    """The folder of the shipped model. Raises ValueError where the installation lacks it."""
    if not (DEFAULT_MODEL / "config.json").is_file():
        raise ValueError(
            f"no MODEL given, and the model that ships is not in {DEFAULT_MODEL}; give a folder, or install again"
        )
    return DEFAULT_MODEL


def model_path(path: str | Path | None) -> Path:
    """The checkpoint folder or GGUF file `path` (None: the shipped model's). Raises ValueError as `model_folder`."""
    if path is not None and is_gguf(path):
        check_model(Path(path))
        return Path(path)
    return model_folder(path)


def model_folder(path: str | Path | None) -> Path:
    """The checkpoint folder `path` (None: the shipped model's). Raises ValueError, with advice, for other paths."""
    if path is None:
        return default_model()
    path = Path(path)
    check_model(path)
    if is_gguf(path):
        raise ValueError(f"{path}: is a GGUF file, which is not read here; give a folder with the official safetensors")
    if not path.is_dir():
        raise ValueError(f"{path}: is a file; give a GGUF file, or the folder with its config.json and *.safetensors")
    return path


def config_of(name: str) -> ModelConfig:
    """The preset `name`, else the configuration of a `config.json`, folder or GGUF file. Raises ValueError for others.

    Warns with a Notice that names the keys that nobody knows.
    """
    if name in preset_names():
        return ModelConfig.preset(name)
    if not Path(name).exists() and "/" not in name and not name.endswith(".gguf"):
        raise ValueError(f"{name}: no such file, nor a preset; presets are {', '.join(preset_names())}")
    check_model(Path(name))
    config, values = read_config(name)
    if unknown := ModelConfig.unknown_keys(values):
        warnings.warn(f"{name}: keys that nobody knows have no effect: {', '.join(unknown)}", Notice, stacklevel=2)
    return config


def check_model(path: Path) -> None:
    """Raises ValueError, with advice, unless `path` is a folder with a `config.json`, a GGUF file, or a JSON file."""
    name = str(path)
    if not path.exists():
        raise ValueError(f"{name}: no such folder{_advice(path)}")
    if path.suffix == ".safetensors":
        raise ValueError(f"{name}: holds weights alone; give its folder, which must hold config.json too")
    if path.suffix in OTHER_WEIGHTS:
        raise ValueError(f"{name}: is not read, as it may hold code; use the official safetensors: "
                         f"{_download('ID', 'NAME')}")  # fmt: skip
    if path.is_dir() and not (path / "config.json").is_file():
        raise ValueError(f"{name}: holds no config.json{_advice(path)}")


def _advice(path: Path) -> str:
    """The likely intention behind a `path` that is no checkpoint folder: the end of an error, from the semicolon on."""
    name = str(path)
    if path.is_dir():
        if snapshots := sorted((path / "snapshots").glob("*/config.json")):
            return f"; it is a folder of the hub's cache: give {snapshots[-1].parent}"
        if files := sorted(path.glob("*.gguf")):
            return f"; give its GGUF file, of several parts the first: {files[0]}"
        if any(path.glob("*.safetensors")):
            return "; add the config.json that belongs to its weights"
        inside = sorted(file.parent.name for file in path.glob("*/config.json"))
        if inside:
            return f"; give a folder in it that does: {', '.join(inside[:5])}"
    elif name in preset_names():
        return f"; it is a preset, which has no weights: wavefold init --config {name} --out DIR makes random ones"
    elif not path.is_absolute() and (found := REPOSITORY.fullmatch(name)):
        repository = found[1]
        return f"; if it is a repository, {_download(repository, repository.rpartition('/')[2])}"
    return "; expected a GGUF file, or a folder with an official config.json and *.safetensors"


def _download(repository: str, name: str) -> str:
    return f"get it with `wavefold pull {repository} --models DIR`, then `wavefold run DIR/{name}`"
