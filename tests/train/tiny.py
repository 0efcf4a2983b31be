"""A model and a corpus small enough to train in a second."""

from __future__ import annotations

from pathlib import Path

import torch

from wavefold.chat.tokenizer import byte_tokenizer
from wavefold.config import ModelConfig
from wavefold.ops import Arithmetic
from wavefold.train import schedule
from wavefold.train.batches import Batches, fixed_batches
from wavefold.train.corpus import Corpus, load_corpus
from wavefold.train.recipe import Recipe
from wavefold.train.start import new_model
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


def write_corpus(folder: Path) -> Path:
    """Forty small files of Python-like text."""
    folder.mkdir()
    for number in range(40):
        lines = [f"def f{number}_{i}(x):\n    return x * {i} + {number}\n\n" for i in range(number % 7 + 3)]
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
    batches = Batches(
        train, recipe.seed, lambda step: (schedule.seq_len(recipe, step), schedule.batch_tokens(recipe, step))
    )
    released = recipe.activations == "released"
    arithmetic = Arithmetic(recipe.activations, dtype, not released and recipe.quantise == "fp4")
    model = new_model(CONFIG, arithmetic, recipe.seed)
    return Trainer(model, batches, fixed_batches(held_out, 160, recipe.batch_tokens), recipe, out)
