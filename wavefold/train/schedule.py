"""Schedules of a run: learning rate, batch size, sequence length, attention, MTP weight. Report section 4.2.

    learning rate   warm-up ----- constant ----------------- cosine to a tenth
    batch           ramp -------- full
    length          512 --- 2K --- 8K                                      (stages)
    attention       dense -- warm-up of the indexer -- sparse
    MTP weight      0.3 -------------------------------- 0.1 from where the learning rate decays

Everything is a function of the step alone.
"""

from __future__ import annotations

import math

from wavefold.model.training_pass import AttentionStage
from wavefold.train.recipe import Quantize, Recipe


def learning_rate(recipe: Recipe, step: int) -> float:
    """Returns the rate: linear warm-up, constant, then a cosine to `final_lr` times the peak over `decay_steps`."""
    if step < recipe.num_warmup:
        return recipe.peak_lr * (step + 1) / recipe.num_warmup
    progress = (step - decay_start(recipe)) / max(1, recipe.num_decay)
    if progress <= 0:
        return recipe.peak_lr
    low = recipe.final_lr
    return recipe.peak_lr * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def decay_start(recipe: Recipe) -> int:
    """Returns the first step of the decay."""
    return max(recipe.num_warmup, recipe.steps - recipe.num_decay)


def batch_tokens(recipe: Recipe, step: int) -> int:
    """Returns the tokens of a batch, which grow linearly over the ramp."""
    if step >= recipe.batch_ramp:
        return recipe.batch_tokens
    first = recipe.batch_first or recipe.batch_tokens
    return round(first + (recipe.batch_tokens - first) * step / recipe.batch_ramp)


def seq_len(recipe: Recipe, step: int) -> int:
    """Returns the tokens of a sequence in the stage of `step`."""
    return next(length for first, length in reversed(recipe.length_stages) if step >= first)


def shortest_seq_len(recipe: Recipe, first: int = 0) -> int:
    """Returns the tokens of the shortest sequences from step `first` on. What must not be cut has to fit into them."""
    later = [length for step, length in recipe.length_stages if step > first]
    return min([seq_len(recipe, first), *later])


def last_start(recipe: Recipe) -> int:
    """Returns the first step of the last part, which learns from other data. Without one it is `steps`."""
    return recipe.steps - recipe.last_steps


def sizes(recipe: Recipe, step: int) -> tuple[int, int]:
    """Returns (tokens of a sequence, tokens of a batch), for `Batches`."""
    return seq_len(recipe, step), batch_tokens(recipe, step)


def mtp_weight(recipe: Recipe, step: int) -> float:
    """Returns the weight of the MTP loss."""
    return recipe.mtp_weight if step < decay_start(recipe) else recipe.mtp_final


def quantize(recipe: Recipe, step: int) -> Quantize:
    """Returns the `quantize` of the recipe from step `quantize_from` on, and "none" before."""
    return recipe.quantize if step >= recipe.quantize_from else "none"


def attention(recipe: Recipe, step: int) -> AttentionStage:
    """Returns the attention of indexed layers: dense, dense while only the indexer learns, or sparse."""
    if step < recipe.dense_steps:
        return "dense"
    return "warmup" if step < recipe.dense_steps + recipe.indexer_warmup else "sparse"
