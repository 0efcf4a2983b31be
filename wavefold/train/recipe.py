"""All that decides a run beside its data and model. A recipe file is Python that defines `recipe = Recipe(...)`."""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

Quantise = Literal["fp4", "none"]
Optimizer = Literal["muon", "adamw"]
Activations = Literal["exact", "released"]

WORDS = {"quantise": Quantise, "optimizer": Optimizer, "activations": Activations}
POSITIVE = {"steps", "batch_tokens", "peak_lr", "clip", "mtp_every", "lora_alpha", "spike", "eval_every", "save_every"}


@dataclass(frozen=True)
class Recipe:
    """The defaults train the nano preset. Report section 4.2 has the published recipe; lengths are in tokens."""

    steps: int = 2600
    length_stages: tuple[tuple[int, int], ...] = ((0, 1024),)
    """(first step, tokens of a sequence), in order, the first from step 0."""
    batch_tokens: int = 4096
    batch_first: int = 0
    """Tokens of the first batch (0: `batch_tokens`), growing over `batch_ramp` steps."""
    batch_ramp: int = 0

    optimizer: Optimizer = "muon"
    """"muon": matrices by Muon, the rest by AdamW; "adamw": all by AdamW."""
    peak_lr: float = 1.6e-3
    final_lr: float = 0.1
    """What the last cosine ends at, times `peak_lr`."""
    warmup: int = 100
    decay_steps: int = 1300
    """Steps of the last cosine; before it the rate is constant."""
    weight_decay: float = 0.1
    momentum: float = 0.95
    clip: float = 1.0

    mtp_weight: float = 0.3
    mtp_final: float = 0.1
    """The MTP loss's weight while the learning rate decays."""
    mtp_every: int = 4

    dense_steps: int = 0
    """Steps in which CSA layers attend to all entries and the indexer rests."""
    indexer_warmup: int = 0
    """Steps after those in which only the indexer learns."""
    index_weight: float = 1.0
    balance_speed: float = 1e-3
    balance_weight: float = 1e-4

    quantise: Quantise = "fp4"
    """"fp4": weights as an export holds them, FP4 experts and index; "none": weights in bfloat16."""
    quantise_from: int = 0
    """The step from which it holds; before it, weights in bfloat16 and the index unrounded."""
    activations: Activations = "exact"
    """"released": inputs of quantised products and KV entries through FP8 too."""
    fim_rate: float = 0.0
    """Share of documents that become fill-in-the-middle."""

    lora_rank: int = 0
    """Adapters of this rank on attention and shared parts are trained, and nothing else (0: everything is)."""
    lora_alpha: float = 16.0

    expert_waves: int = 0
    """Each process has its share of the routed experts, which work in so many waves (0: all experts in each)."""
    recompute: bool = False
    """Keep only each block's input, and run blocks again for their gradients."""
    anticipate: int = 0
    """Anticipatory routing after a loss spike: experts are chosen by the weights of this many steps ago (0: never)."""
    spike: float = 1.5
    """A loss above this times its running mean is a spike: the run goes back to its last state."""
    eval_every: int = 500
    save_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name in WORDS or name in ("length_stages", "recompute"):
                continue
            if not isinstance(value, int | float) or not value >= 0 or (value == 0 and name in POSITIVE):
                raise ValueError(f"{name} = {value!r} is not allowed; expected a positive number")
        for name, allowed in WORDS.items():
            if getattr(self, name) not in get_args(allowed):
                expected = " or ".join(map(repr, get_args(allowed)))
                raise ValueError(f"{name} = {getattr(self, name)!r} is not allowed; expected {expected}")
        firsts = [first for first, _ in self.length_stages]
        if not firsts or firsts[0] != 0 or firsts != sorted(set(firsts)) or min(n for _, n in self.length_stages) < 1:
            raise ValueError(
                f"length_stages = {self.length_stages} is not allowed; expected (first step, tokens) in ascending "
                "order, the first from step 0"
            )


def with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """`recipe` with other values for some keys. Raises ValueError for a key that it does not have."""
    known = {f.name for f in fields(Recipe)}
    if unknown := sorted(set(settings) - known):
        raise ValueError(f"recipe key {unknown[0]!r} is not known; expected one of {', '.join(sorted(known))}")
    return replace(recipe, **settings)


def load_recipe(path: Path) -> Recipe:
    """The `recipe` that a Python file of yours defines; the file is run. Raises ValueError when it defines none."""
    if not path.is_file():
        raise ValueError(f"{path}: no such recipe; expected a Python file that defines recipe = Recipe(...)")
    try:
        found = runpy.run_path(str(path)).get("recipe")
    except TypeError as error:  # Recipe(...) with a key that it does not have
        raise ValueError(f"{path}: {error}; keys are {', '.join(f.name for f in fields(Recipe))}") from None
    if not isinstance(found, Recipe):
        raise ValueError(f"{path}: defines no recipe; expected recipe = Recipe(...)")
    return found
