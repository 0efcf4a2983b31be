"""MODEL on the command line: the folder that it names, what to do where it is none, and the model in it."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from wavefold.cli import ranks
from wavefold.config import PRESETS_DIR

if TYPE_CHECKING:
    from wavefold.chat import Tokenizer
    from wavefold.model import Transformer

DEFAULT_MODEL = Path(__file__).parents[1] / "models" / "default"

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


def model_folder(path: Path | None) -> Path:
    """The checkpoint folder `path` (None: the shipped model's). Raises ValueError that says what to do for others."""
    if path is None:
        return default_model()
    check_model(path)
    if not path.is_dir():
        raise ValueError(f"{path}: is a file; give the folder with its config.json and *.safetensors")
    return path


def check_model(path: Path) -> None:
    """Raises ValueError, with what to do, unless `path` is a folder with a `config.json`, or some JSON file."""
    name = str(path)
    if path.suffix == ".gguf":
        raise ValueError(f"{name}: GGUF is not read yet; use the official safetensors: {_download('ID', 'DIR')}")
    if not path.exists():
        raise ValueError(f"{name}: no such folder{_advice(path)}")
    if path.suffix == ".safetensors":
        raise ValueError(f"{name}: holds weights alone; give its folder, which must hold config.json too")
    if path.suffix in OTHER_WEIGHTS:
        raise ValueError(f"{name}: is not read, as it may hold code; use the official safetensors: "
                         f"{_download('ID', 'DIR')}")  # fmt: skip
    if path.is_dir() and not (path / "config.json").is_file():
        raise ValueError(f"{name}: holds no config.json{_advice(path)}")


def _advice(path: Path) -> str:
    """What a user may have meant by a `path` that is no checkpoint folder, from the semicolon on."""
    name = str(path)
    if path.is_dir():
        if snapshots := sorted((path / "snapshots").glob("*/config.json")):
            return f"; it is a folder of the hub's cache: give {snapshots[-1].parent}"
        if any(path.glob("*.gguf")):
            return f", and GGUF is not read yet; use the official safetensors: {_download('ID', 'DIR')}"
        if any(path.glob("*.safetensors")):
            return "; add the config.json that belongs to its weights"
        inside = sorted(file.parent.name for file in path.glob("*/config.json"))
        if inside:
            return f"; give a folder in it that does: {', '.join(inside[:5])}"
    elif name in sorted(preset.stem for preset in PRESETS_DIR.glob("*.json")):
        return f"; it is a preset, which has no weights: wavefold init --config {name} --out DIR makes random ones"
    elif not path.is_absolute() and (found := REPOSITORY.fullmatch(name)):
        repository = found[1]
        return f"; if it is a repository, {_download(repository, repository.rpartition('/')[2])}"
    return "; expected a folder with an official config.json and *.safetensors"


def _download(repository: str, folder: str) -> str:
    return f"download it with `hf download {repository} --local-dir {folder}`, then `wavefold run {folder}`"


def load_tokenizer(folder: Path) -> Tokenizer | None:
    """The folder's tokenizer; None where it has none, which leaves `--tokens`."""
    from wavefold.chat import Tokenizer

    return Tokenizer.load(folder) if (folder / "tokenizer.json").exists() else None


def load_model(folder: Path, args: argparse.Namespace) -> Transformer:
    """The model in `folder`, as the flags say: threads, device, arithmetic, dtype, ranks.

    Raises ValueError for a folder or flags that cannot be used.
    """
    import torch

    from wavefold.checkpoint import load
    from wavefold.experts.gpu import kernel_experts

    if args.threads is not None:
        if args.threads < 1:
            raise ValueError(f"--threads {args.threads} is not allowed; expected 1 or more")
        torch.set_num_threads(args.threads)
    try:
        device = torch.device(args.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch's for a name it does not know, and for a device it lacks
        raise ValueError(f"--device {args.device} cannot be used: {str(error).splitlines()[0]}") from None
    if ranks.is_over_ranks(args):
        if device.type != "cpu":
            raise ValueError(
                f"--device {args.device} is not allowed over several processes or with --waves; expected cpu"
            )
        return ranks.load_over_ranks(folder, args)
    dtype = None if args.dtype is None else getattr(torch, args.dtype)
    model = load(folder, args.arithmetic, dtype, device, strict=getattr(args, "strict", False))
    if device.type == "cuda":
        try:
            model.experts = kernel_experts(model.experts, model.config, model.device)
        except ValueError as error:
            print(f"wavefold: routed experts run on plain torch: {error}", file=sys.stderr)
    return model
