"""`wavefold run`: completes a prompt, or one prompt after another as they are typed."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from wavefold.cli import prompts, ranks
from wavefold.system import peak_rss_bytes

if TYPE_CHECKING:
    from wavefold.chat import Prompt, Tokenizer
    from wavefold.engine import Generation
    from wavefold.model import Transformer

HELP = "complete a prompt with a model"

DEFAULT_MODEL = Path(__file__).parents[1] / "models" / "default"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", type=Path, metavar="MODEL",
                        help="a checkpoint folder (default: the shipped model)")  # fmt: skip
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument(
        "-p", "--prompt", metavar="TEXT", help="the text to complete; without it, prompts are asked for"
    )
    prompt.add_argument("--tokens", metavar="FILE",
                        help="token ids to complete, as a JSON list or plain numbers; '-' is stdin")  # fmt: skip
    parser.add_argument("--max-tokens", type=int, default=256, metavar="N", help="longest answer (default 256)")
    parser.add_argument("--temperature", type=float, default=1.0, metavar="T",
                        help="0 always takes the most likely token (default 1)")  # fmt: skip
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P",
                        help="keep only the most likely tokens, up to probability P (default 1)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampling (default 0)")
    parser.add_argument("--arithmetic", choices=("exact", "released"), default="released",
                        help="the architecture's own mathematics, or DeepSeek's rounding (default)")  # fmt: skip
    parser.add_argument("--dtype", choices=("float32", "bfloat16"),
                        help="of the activations (default: bfloat16 for released, float32 for exact)")  # fmt: skip
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's choice)")
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of text and figures")
    ranks.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Load the model; complete the prompt given, or ask for prompts until the input ends."""
    interactive = args.prompt is None and args.tokens is None
    if interactive and args.json:
        raise ValueError("--json needs a prompt; give one with -p TEXT or --tokens FILE")
    if ranks.num_ranks() > 1:
        if interactive:
            raise ValueError(
                "several processes need a prompt that all of them have; give one with -p TEXT or --tokens FILE"
            )
        if not ranks.is_first():  # all compute the same; one speaks
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    given = None if args.tokens is None else read_tokens(args.tokens)
    session = Session(args)
    if interactive:
        return session.loop()
    return session.once(session.encode(args.prompt) if given is None else session.as_given(given))


class Session:
    """A loaded model and the flags that say how it answers."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        folder = args.model or default_model()
        self.tokenizer = load_tokenizer(folder)
        self.model = load_model(folder, args)

    def encode(self, text: str) -> Prompt:
        """`text` after BOS, as DeepSeek's models are used to; its last token may become another one."""
        if self.tokenizer is None:
            raise ValueError(f"{self.model.path}: holds no tokenizer.json; give token ids with --tokens FILE")
        from wavefold.chat import heal

        return heal(self.tokenizer, self.tokenizer.encode(text, bos=True))

    def as_given(self, ids: list[int]) -> Prompt:
        """Ids that are run as they are."""
        from wavefold.chat import Prompt

        return Prompt(ids)

    def once(self, prompt: Prompt) -> int:
        """Complete `prompt` and print the answer, or all about it as JSON."""
        with PrefillBar(len(prompt.ids)) as bar:
            generation = self.generate(prompt, bar)
            if self.args.json:
                ids = list(generation)
                print(json.dumps(self.facts(prompt, generation, ids)))
                return 0
            try:
                self.write(prompt, generation, bar)
            finally:
                generation.close()
        self.report(generation)
        return 0

    def loop(self) -> int:
        """Ask for prompts and complete each, forgetting the one before. Ctrl-C stops an answer, Ctrl-D the program."""
        self.encode("")
        if sys.stdin.isatty():
            print(f"{self.model.path}: completes what you type. A line that ends in \\ goes on in the next one; "
                  "Ctrl-C stops an answer, Ctrl-D ends.", file=sys.stderr)  # fmt: skip
        with prompts.history():
            while (text := prompts.read()) is not None:
                with PrefillBar(len(text)) as bar:
                    prompt = self.encode(text)
                    generation = self.generate(prompt, bar)
                    try:
                        self.write(prompt, generation, bar)
                    except KeyboardInterrupt:
                        print()
                    finally:
                        generation.close()
                self.report(generation)
        if sys.stdin.isatty():
            print()  # after the Ctrl-D
        return 0

    def generate(self, prompt: Prompt, bar: PrefillBar) -> Generation:
        from wavefold.engine import generate

        args = self.args
        return generate(
            self.model,
            prompt.ids,
            args.max_tokens,
            args.temperature,
            args.top_p,
            args.seed,
            first_ids=prompt.first_ids,
            on_prefill=bar.update,
        )

    def write(self, prompt: Prompt, generation: Generation, bar: PrefillBar) -> None:
        """Stream the answer to stdout: text, or ids where there is no tokenizer."""
        from wavefold.chat import StreamDecoder

        decoder = None if self.tokenizer is None else StreamDecoder(self.tokenizer, len(prompt.taken))
        on_terminal = sys.stdout.isatty()
        for token in generation:
            bar.stop()
            piece = f"{token} " if decoder is None else decoder.push(token)
            print(printable(piece) if on_terminal else piece, end="", flush=True)
        print("" if decoder is None else decoder.finish())

    def facts(self, prompt: Prompt, generation: Generation, ids: list[int]) -> dict[str, object]:
        stats = generation.stats
        return {
            "text": None if self.tokenizer is None else self.tokenizer.decode(ids, len(prompt.taken)),
            "tokens": ids,
            "prompt_tokens": stats.prompt_tokens,
            "prefill_s": stats.prefill_s,
            "decode_s": stats.decode_s,
            "decode_tokens_per_s": stats.decode_tokens_per_s,
            "cache_bytes": stats.cache_bytes,
            "peak_rss_bytes": peak_rss_bytes(),
            "prefill_tokens_per_s": stats.prefill_tokens_per_s,
            "weight_bytes": sum(p.nbytes for p in self.model.parameters() if not p.is_meta),
        }

    def report(self, generation: Generation) -> None:
        """One dim line of figures on stderr."""
        if not ranks.is_first():
            return
        from rich.console import Console

        stats = generation.stats
        line = (
            f"prompt {stats.prompt_tokens} tokens, {stats.prefill_tokens_per_s:.1f}/s; "
            f"answer {stats.decode_tokens_per_s:.1f} tokens/s; "
            f"cache {stats.cache_bytes / 1e6:.2f} MB; peak memory {peak_rss_bytes() / 1e6:,.0f} MB"
        )
        Console(stderr=True).print(line, style="dim", highlight=False, soft_wrap=True)


class PrefillBar:
    """A bar on the terminal while a prompt of more than one pass is read."""

    def __init__(self, num_tokens: int):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("prompt"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("", total=num_tokens)
        self._shown = False

    def __enter__(self) -> PrefillBar:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def update(self, done: int, of: int) -> None:
        from wavefold.model.transformer import PASS_TOKENS

        if done == 0 and of > PASS_TOKENS and sys.stderr.isatty():
            self._bar.start()
            self._shown = True
        self._bar.update(self._task, completed=done, total=of)

    def stop(self) -> None:
        if self._shown:
            self._bar.stop()
            self._shown = False


def default_model() -> Path:
    """The folder of the shipped model. Raises ValueError where the installation lacks it."""
    if not (DEFAULT_MODEL / "config.json").is_file():
        raise ValueError(
            f"no MODEL given, and the model that ships is not in {DEFAULT_MODEL}; give a folder, or install again"
        )
    return DEFAULT_MODEL


def load_tokenizer(folder: Path) -> Tokenizer | None:
    """The folder's tokenizer; None where it has none, which leaves `--tokens`."""
    from wavefold.chat import Tokenizer

    return Tokenizer.load(folder) if (folder / "tokenizer.json").exists() else None


def load_model(folder: Path, args: argparse.Namespace) -> Transformer:
    import torch

    from wavefold.checkpoint import load
    from wavefold.model.kernel_experts import use_kernels

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
    model = load(folder, args.arithmetic, None if args.dtype is None else getattr(torch, args.dtype), device)
    if device.type == "cuda":
        try:
            use_kernels(model)
        except ValueError as error:
            print(f"wavefold: routed experts run on plain torch: {error}", file=sys.stderr)
    return model


def read_tokens(name: str) -> list[int]:
    """The ids in the file `name` ("-": stdin): a JSON list, or numbers with blanks or commas between them."""
    text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    items: object
    try:
        items = json.loads(text) if text.lstrip().startswith("[") else text.replace(",", " ").split()
    except json.JSONDecodeError as error:
        raise ValueError(f"--tokens {name}: not a JSON list ({error})") from None
    assert isinstance(items, list)
    tokens = []
    for item in items:
        try:
            if type(item) not in (int, str):
                raise ValueError
            tokens.append(int(item))
        except ValueError:
            raise ValueError(f"--tokens {name}: {item!r} is not a token id; expected whole numbers") from None
    return tokens


def printable(text: str) -> str:
    """`text` for a terminal: control characters, which could change its state, become U+FFFD."""
    return "".join("\ufffd" if (ord(c) < 0x20 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 else c for c in text)
