"""A run of `wavefold train` from its flags to its files, in the order in which things can be wrong.

    lock OUT -> sweep what killed runs left -> read data -> compare with the state in OUT -> train -> export -> report

OUT holds state/, log.jsonl, tokenizer.json, then model/, adapters, curve.svg, and report.json, which is written last:
it says that the run is finished.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from wavefold.atomic import holding, sweep, write_json
from wavefold.checkpoint import load
from wavefold.checkpoint.fingerprint import fingerprint, identity
from wavefold.checkpoint.side_files import side_files
from wavefold.checkpoint.transformers_layout import save_transformers
from wavefold.checkpoint.write import check_replaceable
from wavefold.cli.texts import INSTRUCT, SOURCE, Text, read_text
from wavefold.model import Transformer
from wavefold.parallel.agreement import agreed, check_alike
from wavefold.parallel.group import Group
from wavefold.train import schedule
from wavefold.train.batches import Batches, PackedBatch, fixed_batches
from wavefold.train.export import export, origin_of
from wavefold.train.fim import FillInMiddle
from wavefold.train.identity import GoingOn, Identity, check_same_run, digest_of, identity_of
from wavefold.train.kept_delta import kept_products, kept_report
from wavefold.train.long_chats import LongChats
from wavefold.train.lora import add_adapters, save_adapters
from wavefold.train.objective import Objective, evaluate
from wavefold.train.peft_layout import save_peft
from wavefold.train.report import draw_curve, held_out_report, hours_of
from wavefold.train.room import check_training
from wavefold.train.start import arithmetic_of, check_trainable, model_from, new_model
from wavefold.train.state import newest_state, sweep_states
from wavefold.train.trainer import Progress, Trainer

if TYPE_CHECKING:
    from wavefold.config import ModelConfig
    from wavefold.train.recipe import Recipe

REPORT = "report.json"
WRITTEN = ("model", "adapter", "transformers", SOURCE, "tokenizer.json", "tokenizer_config.json", "log.jsonl", REPORT)
"""What a run writes into OUT in one step each."""
Reporting = Callable[[int], AbstractContextManager[Callable[[Progress], None]]]
"""From the step that a run begins at to what is called after each step."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What a run is told. `recipe` has the steps of `extend` added."""

    out: Path
    data: str
    config: ModelConfig
    recipe: Recipe
    dtype: str = "bfloat16"
    init: Path | None = None
    transformers: bool = False
    extend: int = 0
    force_data: bool = False
    long_chats: LongChats = "refuse"


def run(options: Options, reporting: Reporting) -> int:
    """Train, or go on with what is in OUT; export, evaluate the export, and report. Returns the exit code.

    Raises ValueError for what cannot be, before anything in OUT is changed.
    """
    _check_places(options)
    check_trainable(options.config, options.recipe)
    group = Group()
    check_training(options.config, options.recipe, getattr(torch, options.dtype), group.size)
    options.out.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _only_process(options.out, group):
        if group.first:
            sweep_states(options.out / "state")
            for name in WRITTEN:
                sweep(options.out / name)
        group.wait()
        return _run(options, group, reporting)


def _run(options: Options, group: Group, reporting: Reporting) -> int:
    out, recipe = options.out, options.recipe
    state = newest_state(out / "state")
    text = agreed(lambda: (_read(options, group, anew=state is None), {}))
    run_identity = _identity(options, text)
    if group.size > 1:
        values: dict[str, object] = {part: json.dumps(value) for part, value in run_identity.items()}
        values |= {"--extend": options.extend, "--force-data": options.force_data}
        check_alike(values)
    going_on = GoingOn(options.extend, options.force_data)
    reported = _reported(out)
    if state is not None:
        saved = state[1].get("run", {})
        check_same_run(out, saved, run_identity, going_on)
        if state[1]["step"] >= recipe.steps and reported == digest_of(saved) and _is_whole(options):
            if group.first:
                print(f"{out}: is finished, {state[1]['step']} steps; nothing was changed. For more steps of the same "
                      f"run: --extend STEPS, more than {options.extend}; for another run: another --out")  # fmt: skip
            return 0
    elif reported not in (None, digest_of(run_identity)):
        raise ValueError(
            f"{out}: holds the model and report of another run, whose state is gone; give another --out, or remove "
            f"{out / REPORT} to train in its place"
        )
    fim = FillInMiddle.of(text.tokenizer, recipe.fim_rate) if recipe.fim_rate else None
    batches = Batches(text.train, recipe.seed, functools.partial(schedule.sizes, recipe), fim)
    held_out = fixed_batches(text.held_out, schedule.seq_len(recipe, recipe.steps - 1), recipe.batch_tokens)
    if group.first:
        print(
            f"{len(text.train)} documents, {batches.num_tokens} tokens to train on; {len(text.held_out)} held out, "
            f"{sum(len(packed.tokens) for packed in held_out)} tokens"
        )
    model = _first_model(options)
    trainer = Trainer(model, batches, held_out, recipe, out, group, run_identity, going_on)
    with reporting(trainer.step) if group.first else contextlib.nullcontext(lambda progress: None) as reporter:
        trained = trainer.run(reporter)
    tensors = trainer.exported()
    whole = trainer.shards.gathered() if recipe.lora_rank else {}
    group.leave()
    if group.first:
        _export(options, text, model, tensors)
        adapters = _save_adapters(options, trainer, whole, str(run_identity["init"])) if recipe.lora_rank else {}
        _report(options, text, model, held_out, trained, group.size, run_identity, adapters)
    return 0


def _check_places(options: Options) -> None:
    """Raises ValueError for folders that a run would train on, overwrite, or find full at its end."""
    out, init = options.out.resolve(), options.init
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {options.out}: is a file; give a folder")
    if (out / "config.json").is_file():
        raise ValueError(f"--out {options.out}: holds a checkpoint; give a folder for the run, which gets model/ in it")
    if init is not None and (init.resolve().is_relative_to(out) or out.is_relative_to(init.resolve())):
        raise ValueError(
            f"--init {init} and --out {options.out} lie in each other; copy the model out of the run first"
        )
    data = Path(options.data.removeprefix(INSTRUCT))
    if data.is_dir() and out.is_relative_to(data.resolve()):
        raise ValueError(f"--out {options.out} lies in --data {data}, and would be trained on; give another --out")
    for name in ("model", "transformers"):
        check_replaceable(options.out / name)
    if init is not None:
        list(side_files(init))  # too large ones are refused now


def _read(options: Options, group: Group, anew: bool) -> Text:
    """The run's documents and tokenizer."""
    return read_text(
        options.data, options.out, options.config.vocab_size, options.init, group,
        schedule.shortest_seq_len(options.recipe), options.long_chats, anew,
    )  # fmt: skip


def _is_whole(options: Options) -> bool:
    """True if all that the run was to write is there."""
    names = ["model/config.json", *["transformers/config.json"] * options.transformers]
    names += ["adapters.safetensors", "adapter/adapter_config.json"] * bool(options.recipe.lora_rank)
    return all((options.out / name).is_file() for name in names)


@contextlib.contextmanager
def _only_process(out: Path, group: Group) -> Iterator[None]:
    """Hold the run's folder for this group of processes. Raises ValueError, in all of them, where another has it."""
    with contextlib.ExitStack() as stack:

        def hold() -> tuple[None, dict[str, object]]:
            if group.first:
                try:
                    stack.enter_context(holding(out / ".lock"))
                except ValueError as error:
                    raise ValueError(
                        f"{error}; a run is going on in {out}: wait for it, or give another --out"
                    ) from None
            return None, {}

        agreed(hold)
        yield


def _identity(options: Options, text: Text) -> Identity:
    """What the run is, for its states."""
    weights = None if options.init is None else identity(fingerprint(options.init))
    return identity_of(
        options.recipe, data=text.identity, tokenizer=text.tokenizer.fingerprint, init=weights,
        config=options.config.to_dict(), dtype=options.dtype, long_chats=options.long_chats,
    )  # fmt: skip


def _reported(out: Path) -> str | None:
    """Of which run the report in OUT is; None where there is none."""
    try:
        return str(json.loads((out / REPORT).read_text())["run"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _first_model(options: Options) -> Transformer:
    """The masters that the run begins with, computing as the recipe says."""
    recipe, init = options.recipe, options.init
    arithmetic = arithmetic_of(recipe, getattr(torch, options.dtype))
    if recipe.lora_rank:
        if init is None:
            raise ValueError("lora_rank needs a model to adapt; expected --init MODEL")
        model = load(init, arithmetic.name, arithmetic.dtype)
        model.arithmetic = arithmetic
        add_adapters(model, recipe.lora_rank, recipe.lora_alpha, recipe.seed)
        return model
    return model_from(init, arithmetic) if init else new_model(options.config, arithmetic, recipe.seed)


def _export(options: Options, text: Text, model: Transformer, tensors: dict[str, torch.Tensor]) -> None:
    """Write the model."""
    out = options.out
    origin = origin_of(model.config, options.init)
    export(model.config, tensors, out / "model", origin, lambda folder: text.tokenizer.save(folder))
    if options.transformers:
        save_transformers(load(out / "model"), out / "transformers")


def _save_adapters(options: Options, trainer: Trainer, whole: dict[str, torch.Tensor], base: str) -> dict[str, Any]:
    """Write the adapters alone, in our layout and in PEFT's; what the report says of them."""
    save_adapters(trainer.model, whole, options.out / "adapters.safetensors", base)
    save_peft(trainer.model, whole, options.out / "adapter", options.recipe, str(options.init))
    return {"adapters": kept_report(kept_products(trainer.masters, whole))}


def _report(
    options: Options, text: Text, model: Transformer, held_out: list[PackedBatch], trained: float, size: int,
    run_identity: Identity, adapters: dict[str, Any],
) -> None:  # fmt: skip
    """Evaluate the export, hold it against what was trained, and write the report, which ends the run."""
    out, recipe = options.out, options.recipe
    exported = load(out / "model", model.arithmetic.name, model.arithmetic.dtype)
    exported.arithmetic = model.arithmetic
    nats, tokens = evaluate(Objective(exported), held_out)
    # One process's experts are summed in another order than several ones' waves: there the last bits may differ.
    if recipe.quantize == "fp4" and not math.isclose(
        nats / tokens, trained, rel_tol=1e-5 if recipe.expert_waves else 0
    ):
        raise RuntimeError(f"{out / 'model'}: evaluates to {nats / tokens}, but what was trained to {trained}")
    facts: dict[str, Any] = {
        "nats_a_token": nats / tokens, "tokens": tokens, "recipe": dataclasses.asdict(recipe),
        "hours": hours_of(out / "log.jsonl"), "processes": size, "threads": torch.get_num_threads(),
        "torch": torch.__version__, "run": digest_of(run_identity), **adapters,
    }  # fmt: skip
    if text.held_out_text:
        report = held_out_report(nats / tokens, tokens, text.held_out_text)
        facts |= dataclasses.asdict(report)
        draw_curve(out / "log.jsonl", report.num_bytes / report.num_tokens, out / "curve.svg")
        print(f"held-out files, {report.num_bytes} bytes, bits per byte:")
        print(f"  model {report.model:.3f}   xz -9 {report.xz:.3f}   gzip -9 {report.gzip:.3f}")
    else:
        print(f"held out: {nats / tokens:.4f} nats a token")
    write_json(out / REPORT, facts)
    trial = "-p TEXT" if text.held_out_text else "--chat"
    print(f"the model is in {out / 'model'}; try: wavefold run {out / 'model'} {trial}")
