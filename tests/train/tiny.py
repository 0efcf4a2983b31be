"""A model and a corpus small enough to train in a second."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import torch

from tests.processes import torchrun as processes_of
from wavefold.chat.tokenizer import byte_tokenizer
from wavefold.config import ModelConfig
from wavefold.data.batches import Batches, fixed_batches
from wavefold.data.corpus import Corpus, load_corpus
from wavefold.train import schedule
from wavefold.train.recipe import Recipe
from wavefold.train.start import arithmetic_of, new_model
from wavefold.train.trainer import Trainer

CONFIG = ModelConfig.preset("nano").replace(
    vocab_size=320, hidden_size=32, num_hidden_layers=3, compress_ratios=(0, 4, 128, 0), head_dim=64,
    qk_rope_head_dim=16, q_lora_rank=32, o_groups=1, o_lora_rank=32, index_n_heads=2, index_head_dim=32, index_topk=8,
    n_routed_experts=4, moe_intermediate_size=32, num_hash_layers=1,
)  # fmt: skip

RECIPE = Recipe(
    steps=8, length_stages=((0, 160),), batch_tokens=320, warmup=2, decay_steps=4, mtp_every=2, eval_every=4,
    save_every=3, peak_lr=1e-2,
)  # fmt: skip


def write_corpus(folder: Path, sign: str = "*") -> Path:
    """Forty small files of Python-like text, in which functions use an operator."""
    folder.mkdir()
    for number in range(40):
        lines = [f"def f{number}_{i}(x):\n    return x {sign} {i} + {number}\n\n" for i in range(number % 7 + 3)]
        (folder / f"file{number}.py").write_text("".join(lines))
    return folder


def tokenize(corpus: Corpus) -> tuple[list[list[int]], list[list[int]]]:
    """Training and held-out documents as ids, between BOS and EOS."""
    tokenizer = byte_tokenizer()
    parts = (corpus.train, corpus.held_out)
    train, held_out = ([tokenizer.encode_document(d.text) for d in part] for part in parts)
    return train, held_out


def tiny_trainer(folder: Path, out: Path, dtype: torch.dtype = torch.float32, recipe: Recipe = RECIPE) -> Trainer:
    """A trainer of the tiny model on the corpus in `folder`."""
    train, held_out = tokenize(load_corpus(str(folder)))
    batches = Batches(train, recipe.seed, functools.partial(schedule.sizes, recipe))
    model = new_model(CONFIG, arithmetic_of(recipe, dtype), recipe.seed)
    return Trainer(model, batches, fixed_batches(held_out, 160, recipe.batch_tokens), recipe, out)


def torchrun(processes: int, folder: Path, data: Path, *settings: str) -> tuple[list[str], dict[str, str]]:
    """The command, and its environment, of a run of the tiny model over several processes, into `folder`/out."""
    config = folder / "config.json"
    config.write_text(json.dumps(CONFIG.to_dict()))
    files = ["--config", str(config), "--data", str(data), "--out", str(folder / "out")]
    flags = ["--dtype", "float32", "--threads", "1", "--set", "length_stages=((0,160),)", "batch_tokens=480",
             "warmup=2", "decay_steps=3", *settings]  # fmt: skip
    return processes_of(processes, "-m", "wavefold", "train", *files, *flags)
