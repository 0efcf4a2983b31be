"""A loaded model and the flags that say how it answers: prompts in, answers out.

text -> healed ids, or a chat's ids -> generate -> text on stdout and figures on stderr, or JSON
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

from wavefold.chat import Prompt, Tokenizer, heal
from wavefold.cli import ranks
from wavefold.cli.answers import PrefillBar, Stream, facts, report
from wavefold.cli.chat import Chat
from wavefold.cli.models import load_model, load_tokenizer, model_folder
from wavefold.cli.sampling import sampling_of
from wavefold.engine import Generation, generate
from wavefold.model import Transformer
from wavefold.ops import current
from wavefold.system import Notice


class Session:
    """Answers prompts. In a chat each is the user's next message; otherwise nothing is remembered."""

    def __init__(self, args: argparse.Namespace):
        """Loads the model. Raises ValueError for a folder or flags that cannot be used."""
        self.args = args
        folder = model_folder(args.model)
        self.tokenizer = load_tokenizer(folder)
        self.chat = Chat(self._tokenizer(folder), args.system) if args.chat else None
        self.model = load_model(folder, args)
        self.model.runtime = current().but(batch_invariant=args.batch_invariant)
        if args.batch_invariant:
            check_batch_invariant(self.model)
        self.sampling = sampling_of(args, folder, self.model.config, self.chat.turn_ids if self.chat else ())

    def prompt(self, text: str) -> Prompt:
        """`text` after BOS, as DeepSeek's models are used to; its last token may become another one. Or a chat's."""
        if self.chat:
            return self.chat.prompt(text)
        tokenizer = self._tokenizer(self.model.path)
        return heal(tokenizer, tokenizer.encode(text, bos=True, allow_special=self.args.allow_special))

    def answer_text(self, text: str, stoppable: bool = False) -> None:
        """Answer a prompt and show the answer. `stoppable`: Ctrl-C ends the answer, not the program."""
        answer = self.answer(self.prompt(text), stoppable)
        if self.chat:
            assert answer is not None
            self.chat.keep(text, answer)

    def answer(self, prompt: Prompt, stoppable: bool = False) -> str | None:
        """Answer `prompt` and show the answer. Returns its text without special tokens; None without a tokenizer."""
        ids: list[int] = []
        show_special = self.args.show_special
        with PrefillBar(len(prompt.ids)) as bar:
            generation = self.generate(prompt, bar)
            stream = None if self.args.json else Stream(self.tokenizer, prompt, show_special)
            try:
                for token in generation:
                    bar.stop()
                    ids.append(token)
                    if stream:
                        stream.push(token)
            except KeyboardInterrupt:
                if not stoppable:
                    raise
            finally:
                generation.close()
            if stream:
                stream.finish()
        text = None if self.tokenizer is None else self.tokenizer.decode(ids, len(prompt.taken), show_special)
        if self.args.json:
            print(json.dumps(facts(self.model, self.sampling, prompt, generation, ids, text)), flush=True)
        if ranks.is_first():
            if not self.args.json:
                report(self.sampling, prompt, generation, len(ids))
            if generation.stop_reason == "context":
                window = self.model.config.max_position_embeddings
                message = f"the answer ended because the context window is full: max_position_embeddings = {window}"
                warnings.warn(message, Notice, stacklevel=2)
        return None if self.tokenizer is None else self.tokenizer.decode(ids, len(prompt.taken))

    def generate(self, prompt: Prompt, bar: PrefillBar) -> Generation:
        """The answer to `prompt`, not yet computed. Raises ValueError for a prompt or sampling that cannot be used."""
        sampling = self.sampling
        return generate(
            self.model,
            prompt.ids,
            sampling.max_tokens,
            sampling.temperature,
            sampling.top_p,
            sampling.seed,
            stop_ids=sampling.stop_ids,
            first_ids=prompt.first_ids,
            on_prefill=bar.update,
            fit_window=sampling.fit_window,
        )

    def values(self, prompt: Prompt) -> dict[str, object]:
        """What decides the tokens of an answer, beside the model: all ranks need the same."""
        text = f"{prompt.ids} and {prompt.taken!r}" if prompt.taken else str(prompt.ids)
        return {"prompt": text, "first_ids": str(prompt.first_ids), **self.sampling.values()}

    def _tokenizer(self, folder: Path | None) -> Tokenizer:
        if self.tokenizer is None:
            raise ValueError(f"{folder}: holds no tokenizer.json; give token ids with --tokens FILE")
        return self.tokenizer


def check_batch_invariant(model: Transformer) -> None:
    """Raises ValueError unless the CPU kernels compute all layers: what torch multiplies may depend on the batch."""
    if not model.runs_on_kernels:
        raise ValueError(
            "--batch-invariant holds for the CPU kernels alone, which compute in bfloat16 and take parameters of the "
            "official files' types and widths; expected --dtype bfloat16 on the CPU, such a checkpoint, and an "
            "installation with the kernels"
        )
