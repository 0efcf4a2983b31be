"""`python -m tests.doctor.clean_files [FOLDER]`: files with nothing wrong, and what the doctor says about each.

The shipped model, its quantizations, random models of several presets and sizes, and theirs. A failure in any of them
is a false alarm; the exit code is 1 then.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from tests.gguf_files import CONFIG, TINY, WIDE, official_folder
from tests.small import SMALL, SMALL_WITH_TEXT, small_model
from wavefold.chat import byte_tokenizer
from wavefold.checkpoint import random_checkpoint
from wavefold.config import ModelConfig
from wavefold.doctor import Patient, examine
from wavefold.experts.table import MATRICES
from wavefold.locate import default_model
from wavefold.quantize.export import Export
from wavefold.quantize.source import Source

Maker = Callable[[Path], Path]
"""Writes a file at a path, or below it. Returns it."""


def exported(source: Maker, experts: str, dense: str = "q8_0") -> Maker:
    """A GGUF file of another one, its experts in a type."""

    def make(path: Path) -> Path:
        checkpoint = Source(source(path.with_name(f"{path.name}-source")))
        types = {
            (layer, matrix): experts for layer in range(checkpoint.config.num_hidden_layers) for matrix in MATRICES
        }
        Export(checkpoint, types, dense=dense).write_gguf(path.with_suffix(".gguf"))
        return path.with_suffix(".gguf")

    return make


def random(config: ModelConfig, seed: int = 1) -> Maker:
    def make(path: Path) -> Path:
        fits = byte_tokenizer().vocab_size <= config.vocab_size
        random_checkpoint(config, path, seed, finish=byte_tokenizer().save if fits else lambda folder: None)
        return path

    return make


def shipped(path: Path) -> Path:
    return default_model()


NANO, FLASH = ModelConfig.preset("nano"), ModelConfig.preset("flash")
FEW: dict[str, Maker] = {
    "small": small_model,
    "small, mxfp4": exported(small_model, "mxfp4"),
    "tiny.gguf of llama.cpp's converter": lambda path: TINY,
    "wide, q2_k": exported(random(WIDE), "q2_k"),
}
FILES: dict[str, Maker] = {
    **FEW,
    "shipped": shipped,
    **{f"shipped, {name}": exported(shipped, name) for name in
       ("mxfp4", "q8_0", "q6_k", "q5_k", "q4_k", "iq4_xs", "q3_k", "iq3_xxs", "q2_k", "iq2_xs", "iq2_xxs")},
    "shipped, mxfp4 with dense bf16": exported(shipped, "mxfp4", "bf16"),
    "nano, seed 1": random(NANO),
    "nano, seed 2": random(NANO, 2),
    "nano, 2 layers of 4 experts": random(NANO.cut(2, 4)),
    "nano, q4_k": exported(random(NANO.cut(3, 4)), "q4_k"),
    "small with MTP, without a tokenizer": random(SMALL),
    "small, seed 9": lambda path: small_model(path, seed=9),
    "small, one expert each": lambda path: small_model(path, SMALL_WITH_TEXT.replace(num_experts_per_tok=1)),
    "small, no hashed layer": lambda path: small_model(path, SMALL_WITH_TEXT.replace(num_hash_layers=0)),
    "small, windows alone": lambda path: small_model(path, SMALL_WITH_TEXT.without_entries(32)),
    "small, experts in fp8": lambda path: small_model(path, SMALL_WITH_TEXT.replace(expert_dtype="fp8")),
    "tiny's folder": official_folder,
    "tiny's config, seed 3": random(CONFIG, 3),
    "wide": random(WIDE),
    "wide, iq2_xxs": exported(random(WIDE), "iq2_xxs"),
    "flash, 3 layers of 8 experts": random(FLASH.cut(3, 8, 2048)),
    "flash, 2,048 columns": random(FLASH.cut(3, 8, 2048).replace(hidden_size=2048, num_attention_heads=32), 2),
    "nano, 4 layers of 8 experts: a near tie of experts": random(NANO.cut(4, 8), 10),
}  # fmt: skip


def main(folder: Path) -> int:
    warnings.simplefilter("ignore")
    alarms = 0
    for number, (name, make) in enumerate(FILES.items()):
        path = make(folder / str(number))
        card = examine(Patient(path))
        alarms += not card.is_healthy
        words = f"{len(card.failures)} false alarms" if card.failures else "healthy"
        print(f"{number + 1:2} {name}: {words}, {card.seconds:.0f} s", flush=True)
        for finding in card.failures:
            print(f"     {finding.check}: {finding.part}: {finding.text}", flush=True)
        for left in folder.glob(f"{number}*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    print(f"{len(FILES)} files, {alarms} with a false alarm")
    return int(alarms > 0)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(main(Path(sys.argv[1])))
    with tempfile.TemporaryDirectory() as scratch:
        sys.exit(main(Path(scratch)))
