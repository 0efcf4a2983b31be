"""`wavefold quantize` and the parts that `wavefold convert` shares: fewer bits for routed experts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from wavefold.cli.terminal import bar
from wavefold.gguf import is_gguf
from wavefold.locate import model_folder
from wavefold.system.sizes import bytes_of

if TYPE_CHECKING:
    from wavefold.quantize.export import Export
    from wavefold.quantize.importance import Importance
    from wavefold.quantize.mixed import Option, Place
    from wavefold.quantize.source import Source

HELP = "write a model with fewer bits for its routed experts: GGUF, or the official layout"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="a checkpoint folder in the official layout")
    parser.add_argument("out", type=Path, metavar="OUT", help="NAME.gguf, or a folder for the official layout (mxfp4)")
    parser.add_argument("--experts", metavar="TYPE",
                        help="of routed experts: iq2_xxs, iq2_xs, q2_k, iq3_xxs, q3_k, iq4_xs, mxfp4, q4_k, q5_k, "
                        "q6_k, q8_0, bf16 or f16; or of each matrix, as w1=iq2_xxs,w2=q2_k,w3=iq2_xxs")  # fmt: skip
    parser.add_argument("--budget", metavar="SIZE",
                        help="in place of --experts: the largest file, as 96G; types by measured loss")  # fmt: skip
    parser.add_argument("--importance", type=Path, metavar="DATA",
                        help="a text, read once through the model for the importance of columns (kept beside OUT as "
                        "OUT.importance, which goes on after an interruption), or such a file")  # fmt: skip
    parser.add_argument("--tokens", type=int, default=65536, metavar="N", help="of the text at most (default 65536)")
    parser.add_argument("--keep-experts", type=int, metavar="N",
                        help="only the N experts of each layer that add the most (needs --importance)")  # fmt: skip
    parser.add_argument("--dense", default="q8_0", metavar="TYPE",
                        help="of other FP8 matrices in GGUF (default q8_0, as llama.cpp has them)")  # fmt: skip
    parser.add_argument("--imatrix", type=Path, metavar="FILE",
                        help="write the importance for llama-quantize --imatrix too")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace OUT")


def run(args: argparse.Namespace) -> int:
    """Measure what is asked for, choose types, and write the file."""
    if (args.experts is None) == (args.budget is None):
        raise ValueError("one of --experts TYPE and --budget SIZE is needed")
    check_out(args.out, args.force)
    from wavefold.quantize.export import Export
    from wavefold.quantize.prune import kept_experts
    from wavefold.quantize.source import Source

    source = Source(model_folder(args.model))
    if args.keep_experts is not None and args.importance is None:
        raise ValueError("--keep-experts needs --importance DATA, which says what experts add")
    fixed = types_of(args.experts, source) if args.experts is not None else {}
    if fixed:
        Export(source, fixed, dense=args.dense)  # a type that does not fit is refused before the long part
    importance = _importance(args, source) if args.importance is not None else None
    if importance is not None and args.imatrix is not None:
        importance.save_imatrix(args.imatrix)
    kept = None
    if args.keep_experts is not None:
        assert importance is not None
        kept = kept_experts(source.config, importance, args.keep_experts)
        print(f"experts: {args.keep_experts} of {source.config.n_routed_experts} in each layer stay")
    types = fixed or _mixed(args, source, importance, kept)
    write(Export(source, types, importance, kept, args.dense), args.out)
    return 0


def check_out(out: Path, force: bool) -> None:
    """Raises ValueError where something is in the way of OUT."""
    if out.exists() and not force and (out.is_file() or any(out.iterdir())):
        raise ValueError(f"{out}: exists already; give another name, or --force to replace it")


def types_of(text: str, source: Source) -> dict[Place, str]:
    """Returns the type of each place. Raises ValueError for a text that is no type, nor one for each matrix."""
    from wavefold.experts.table import MATRICES
    from wavefold.quant.encode import ggml_type

    by_matrix = dict.fromkeys(MATRICES, text)
    if "=" in text:
        by_matrix = dict(part.partition("=")[::2] for part in text.split(","))  # type: ignore[misc]
        if by_matrix.keys() != set(MATRICES):
            raise ValueError(f"--experts {text} is not allowed; expected one type, or w1=TYPE,w2=TYPE,w3=TYPE")
    for name in by_matrix.values():
        ggml_type(name)
    return {
        (layer, matrix): by_matrix[matrix] for layer in range(source.config.num_hidden_layers) for matrix in MATRICES
    }


def write(export: Export, out: Path) -> None:
    """Write OUT with a bar of progress, and print its size."""
    if is_gguf(out):
        with bar("written", in_bytes=True) as advance:
            export.write_gguf(out, advance)
        num_bytes = out.stat().st_size
    else:
        with bar("shards") as advance:
            export.write_official(out, advance)
        num_bytes = sum(file.stat().st_size for file in out.iterdir())
    counts: dict[str, int] = {}
    for name in export.types.values():
        counts[name] = counts.get(name, 0) + 1
    print(f"{out}: {num_bytes:,} bytes; experts {', '.join(f'{name} x {count}' for name, count in counts.items())}")


def _importance(args: argparse.Namespace, source: Source) -> Importance:
    """Returns the importance in a file, or that of a text."""
    from wavefold.quantize.importance import Importance, is_importance

    if is_importance(args.importance):
        importance = Importance.load(args.importance, source.config)
    else:
        importance = _observed(args, source)
    notes = importance.notes
    print(f"importance: {int(importance.tokens.sum()):,} routed tokens in {notes['chunks']} of {notes['of']} chunks; "
          f"{importance.num_unseen} experts were never chosen and count all columns alike")  # fmt: skip
    return importance


def _observed(args: argparse.Namespace, source: Source) -> Importance:
    from wavefold.chat import Tokenizer
    from wavefold.checkpoint import load
    from wavefold.quantize.observe import observe

    try:
        text = args.importance.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{args.importance}: cannot be read as a text ({error}); expected UTF-8") from None
    tokenizer = Tokenizer.load(source.folder)
    ids = tokenizer.encode(text, bos=True)[: args.tokens]
    with bar("importance") as advance:
        return observe(load(source.folder), ids, Path(f"{args.out}.importance"), on_chunk=advance)


def _mixed(
    args: argparse.Namespace, source: Source, importance: Importance | None, kept: list[list[int]] | None
) -> dict[Place, str]:
    """Returns types by measured loss for a file of at most --budget, and prints the choice."""
    from wavefold.quantize.export import Export
    from wavefold.quantize.mixed import choose, measure

    budget = bytes_of(args.budget)
    with bar("measured") as advance:
        options = measure(source, importance, kept or source.all_experts, on_place=advance)
    smallest = {place: min(choices, key=lambda option: option.num_bytes) for place, choices in options.items()}
    trial = Export(source, {place: option.type for place, option in smallest.items()}, importance, kept, args.dense)
    rest = trial.gguf_bytes() - sum(option.num_bytes for option in smallest.values())
    if rest > budget:
        raise ValueError(f"--budget {args.budget} is not allowed; all but the experts takes {rest:,} bytes already")
    chosen = choose(options, budget - rest)
    _print_mixed(options, chosen, importance)
    return {place: option.type for place, option in chosen.items()}


def _print_mixed(
    options: dict[Place, list[Option]], chosen: dict[Place, Option], importance: Importance | None
) -> None:
    """Print the choice, and the loss of every type that no smaller one beats everywhere."""
    from rich.console import Console
    from rich.table import Table

    from wavefold.quantize.mixed import CANDIDATES, useful_options

    unit = (
        "KL in nats a token, estimated" if importance is not None and importance.sensitivity.any() else "share of noise"
    )
    useful = {option.type for choices in options.values() for option in useful_options(choices)}
    names = [name for name in CANDIDATES if name in useful]
    table = Table("layer", "matrix", *names, "chosen", "MB", title=f"loss of types ({unit})")
    for (layer, matrix), choices in options.items():
        losses = {option.type: f"{option.loss:.2g}" for option in choices}
        pick = chosen[layer, matrix]
        table.add_row(
            str(layer), matrix, *(losses.get(name, "-") for name in names), pick.type, f"{pick.num_bytes / 1e6:,.1f}"
        )
    console = Console()
    console.print(table)
    total = sum(option.loss for option in chosen.values())
    console.print(f"experts: {sum(option.num_bytes for option in chosen.values()):,} bytes, loss {total:.3g} in all")
