"""A run from its settings to its files, in the order of possible errors.

check settings -> hold OUT -> read data -> compare with the state in OUT -> train -> export -> report
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from wavefold.chat.tokenizer import Tokenizer
from wavefold.checkpoint import load
from wavefold.checkpoint.fingerprint import fingerprint, identity
from wavefold.config import ModelConfig
from wavefold.data.batches import Batches, Documents, InTurn, fixed_batches
from wavefold.data.fim import FillInMiddle
from wavefold.data.long_chats import LongChats
from wavefold.locate import config_of, model_folder
from wavefold.model import Transformer
from wavefold.ops.threads import use_threads
from wavefold.train import schedule
from wavefold.train.folder import REPORT, check_places, held_by, run_reported
from wavefold.train.identity import GoingOn, Identity, check_same_run, digest_of, identity_of
from wavefold.train.lora import add_adapters
from wavefold.train.options import Options
from wavefold.train.outcome import Outcome, export_adapters, export_model, is_whole, outcome_of, report_run
from wavefold.train.recipe import Recipe
from wavefold.train.room import check_training
from wavefold.train.start import arithmetic_of, check_trainable, model_from, new_model
from wavefold.train.state import newest_state
from wavefold.train.texts import Text, read_text
from wavefold.train.trainer import Progress, Trainer
from wavefold.waves.agreement import agreed, check_alike
from wavefold.waves.group import Group


@dataclasses.dataclass(frozen=True)
class DataSizes:
    """Sizes of the data of a run, in documents and tokens, for training and held out."""

    documents: int
    tokens: int
    held_out_documents: int
    held_out_tokens: int


class Watch:
    """Observer of a run, called in its first process. This base class does nothing."""

    def data(self, sizes: DataSizes) -> None:
        """Called when the data have been read."""

    def steps(self, first: int, recipe: Recipe, out: Path) -> AbstractContextManager[Callable[[Progress], None]]:
        """Called once, after `first` earlier steps. Returns a context manager; its value is called after each step."""
        return contextlib.nullcontext(lambda progress: None)

    def held_out(self, number: int, of: int) -> None:
        """Called in an evaluation after batch `number`, from 1, of `of` held-out ones."""


def train(
    out: str | Path,
    data: str | Path = "stdlib",
    config: str | Path | ModelConfig | None = None,
    recipe: Recipe | None = None,
    init: str | Path | None = None,
    dtype: torch.dtype = torch.bfloat16,
    threads: int | None = None,
    extend: int | None = None,
    force_data: bool = False,
    long_chats: LongChats = "refuse",
    transformers: bool = False,
    watch: Watch | None = None,
    last_data: str | Path | None = None,
) -> Outcome | None:
    """Train a model, or go on with the run in the folder `out`; export it, evaluate the export, and report.

    `data`: "stdlib", a folder of text, a file of chats, token shards and more (see `corpus.load_corpus`, `texts`).
    `config`: a preset, a config.json or a ModelConfig (default nano). `init`: a checkpoint with the first weights,
    configuration and tokenizer. `recipe`: all other settings that decide the numbers of the run (default `Recipe()`).
    `dtype`: type of exact activations. `extend`: steps beyond those of the recipe. `force_data`: go on with other data.
    `transformers`: also write the model in the layout of transformers. `watch`: observer of data and steps.
    `last_data`: what the last `recipe.last_steps` steps learn from, as `data`; what is held out of `data` is evaluated.

    Every process that torchrun started calls this. Returns the outcome in the first process, None in the others. Raises
    ValueError for impossible settings before anything in `out` is changed. Messages name settings as flags.
    """
    if extend is not None and extend < 1:
        raise ValueError(f"--extend {extend} is not allowed; expected 1 or more")
    if init is not None and config is not None:
        raise ValueError(f"--config {config} is not allowed beside --init {init}, which has its own; leave one")
    use_threads(threads)
    recipe = recipe or Recipe()
    base = None if init is None else model_folder(init)
    model_config = config if isinstance(config, ModelConfig) else config_of(str(base or config or "nano"))
    options = Options(
        Path(out), str(data), model_config, dataclasses.replace(recipe, steps=recipe.steps + (extend or 0)), dtype,
        base, transformers, extend or 0, force_data, long_chats, None if last_data is None else str(last_data),
    )  # fmt: skip
    if (options.last_data is None) != (recipe.last_steps == 0):
        raise ValueError(f"--last-data {last_data} with last_steps = {recipe.last_steps} is not allowed; give both, "
                         "data and the number of steps that learn from them, or neither")  # fmt: skip
    sources = [source for source in (options.data, options.last_data) if source]
    check_places(options.out, sources, options.init, options.recipe.lora_rank > 0)
    check_trainable(options.config, options.recipe)
    if options.recipe.lora_rank and options.init is None:
        raise ValueError("lora_rank needs a model to adapt; expected --init MODEL")
    group = Group()
    check_training(options.config, options.recipe, options.dtype, group.size)
    with held_by(group, options.out):
        return _run(options, group, watch or Watch())


def _run(options: Options, group: Group, watch: Watch) -> Outcome | None:
    out, recipe = options.out, options.recipe
    state = newest_state(out / "state")
    text = agreed(lambda: (_read(options, group, options.data, anew=state is None), {}))
    last, source, begin = None, options.last_data, schedule.last_start(recipe)
    if source is not None:
        last = agreed(lambda: (_read(options, group, source, begin, tokenizer=text.tokenizer), {}))
    run_identity = _identity(options, text, last)
    if group.size > 1:
        values: dict[str, object] = {part: json.dumps(value) for part, value in run_identity.items()}
        check_alike(values | {"--extend": options.extend, "--force-data": options.force_data})
    going_on = GoingOn(options.extend, options.force_data)
    reported = run_reported(out)
    if state is not None:
        saved, step = state[1].get("run", {}), state[1]["step"]
        check_same_run(out, saved, run_identity, going_on)
        if step >= recipe.steps and reported == digest_of(saved) and is_whole(out, recipe, options.transformers):
            return outcome_of(out, step, was_finished=True) if group.first else None
    elif reported not in (None, digest_of(run_identity)):
        raise ValueError(
            f"{out}: holds the model and report of another run, whose state is gone; give another --out, or remove "
            f"{out / REPORT} to train in its place"
        )
    batches = _batches(recipe, text, last)
    held_out = fixed_batches(text.held_out, schedule.seq_len(recipe, recipe.steps - 1), recipe.batch_tokens)
    if group.first:
        held_out_tokens = sum(len(packed.tokens) for packed in held_out)
        watch.data(DataSizes(len(text.train), batches[0].num_tokens, len(text.held_out), held_out_tokens))
    else:
        watch = Watch()
    model = _first_model(options)
    trainer = Trainer(
        model, InTurn(batches, schedule.last_start(recipe)), held_out, recipe, out, group, run_identity, going_on
    )
    with watch.steps(trainer.step, recipe, out) as after_step:
        trained = trainer.run(after_step, watch.held_out)
    tensors = trainer.exported()
    gathered = trainer.shards.gathered() if recipe.lora_rank else {}
    group.leave()
    if not group.first:
        return None
    export_model(options, text, model, tensors)
    adapters = export_adapters(options, trainer, gathered, str(run_identity["init"])) if recipe.lora_rank else {}
    return report_run(
        options, text, model, tensors, held_out, trained, group.size, run_identity, adapters, watch.held_out
    )


def _read(
    options: Options, group: Group, source: str, first: int = 0, anew: bool = False, tokenizer: Tokenizer | None = None
) -> Text:
    """Reads the documents of the part from step `first` on. `tokenizer`: the run's, where it is known."""
    return read_text(
        source, options.out, options.config.vocab_size, options.init, group,
        schedule.shortest_seq_len(options.recipe, first), options.long_chats, anew, tokenizer,
    )  # fmt: skip


def _batches(recipe: Recipe, text: Text, last: Text | None) -> list[Batches]:
    """Returns the batches of the documents, and those of the last part if there is one; each counts its own steps."""
    fim = FillInMiddle.of(text.tokenizer, recipe.fim_rate, recipe.fim_lines) if recipe.fim_rate else None

    def from_step(first: int, documents: Documents) -> Batches:
        return Batches(documents, recipe.seed, lambda step: schedule.sizes(recipe, first + step), fim)

    parts = [from_step(0, text.train)]
    return parts if last is None else [*parts, from_step(schedule.last_start(recipe), last.train)]


def _identity(options: Options, text: Text, last: Text | None) -> Identity:
    """Returns the identity of the run, for its states."""
    more = {} if last is None else {"last_data": last.identity}
    weights = None if options.init is None else identity(fingerprint(options.init))
    return identity_of(
        options.recipe, data=text.identity, tokenizer=text.tokenizer.fingerprint, init=weights,
        config=options.config.to_dict(), dtype=str(options.dtype).removeprefix("torch."),
        long_chats=options.long_chats, **more,
    )  # fmt: skip


def _first_model(options: Options) -> Transformer:
    """Returns the model with the first masters, in the arithmetic of the recipe."""
    recipe, init = options.recipe, options.init
    arithmetic = arithmetic_of(recipe, options.dtype)
    if init is not None and recipe.lora_rank:
        model = load(init, arithmetic.name, arithmetic.dtype)
        model.arithmetic = arithmetic
        add_adapters(model, recipe.lora_rank, recipe.lora_alpha, recipe.seed)
        return model
    return model_from(init, arithmetic) if init else new_model(options.config, arithmetic, recipe.seed)
