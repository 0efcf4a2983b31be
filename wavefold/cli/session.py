"""A loaded model and the flags of its answers: prompts in, answers out.

text -> healed ids, or a chat's ids -> LLM -> text on stdout and figures on stderr, or JSON
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterable
from dataclasses import replace

from rich.console import Console

from wavefold.chat import Prompt, Tokenizer
from wavefold.chat.encoding import turn_ids
from wavefold.cli.answers import PrefillBar, Screen, report, values_of
from wavefold.cli.budget import print_budget
from wavefold.cli.conversation import Conversation
from wavefold.cli.flags import as_flags
from wavefold.cli.form import form_of, has_form
from wavefold.cli.models import arithmetic_of, dtype_of, prefix_of
from wavefold.cli.ranks import over_ranks
from wavefold.cli.stopping import Stopped, stopping
from wavefold.engine import Completion, Sampling
from wavefold.llm import LLM
from wavefold.ops.threads import use_threads
from wavefold.system import Notice
from wavefold.waves.agreement import is_first


class Session:
    """Answers prompts. In a chat each is the user's next message; otherwise nothing is remembered."""

    def __init__(self, args: argparse.Namespace):
        """Loads the model. Raises ValueError for a folder or flags that cannot be used."""
        self.args = args
        sampling = Sampling(
            args.max_tokens, args.temperature, args.top_p, args.seed, show_special=args.show_special, **form_of(args)
        )
        kept = prefix_of(args)
        with as_flags():
            use_threads(args.threads)
            self.llm = LLM(
                args.model, arithmetic_of(args), dtype_of(args.dtype), args.device, None, args.strict,
                args.batch_invariant, over_ranks(args), args.kernels, args.activations, args.huge_pages,
                draft_depth=args.draft_depth, memory=args.memory,
                prefix_cache=bool(kept) or (args.prompt is None and args.tokens is None), **kept,
            )  # fmt: skip
        self.adapter = None if args.adapter is None else args.adapter.resolve().name
        if self.adapter is not None:
            self.llm.load_adapter(self.adapter, args.adapter)
        if self.llm.budget is not None and not args.json:
            print_budget(Console(stderr=True), self.llm.budget)
        self.conversation = Conversation(self.tokenizer, args.system, args.think) if args.chat else None
        self.use(replace(sampling, stop_ids=turn_ids(self.tokenizer) if args.chat else ()))

    def use(self, sampling: Sampling) -> None:
        """Answers are chosen so from now on. Raises ValueError, and changes nothing, for values out of range."""
        self.resolved = self.llm.resolved(sampling, self.adapter)
        self.sampling = sampling

    def prompt(self, text: str) -> Prompt:
        """The prompt of a text to complete, or the chat's with this message."""
        if self.conversation:
            return self.conversation.prompt(text)
        tokenizer = self.tokenizer
        if has_form(self.args):  # no last token may become another one
            return Prompt(tokenizer.encode(text, bos=True, allow_special=self.args.allow_special))
        return self.llm.prompt(text, self.args.allow_special)

    def answer_text(self, text: str, stoppable: bool = False) -> None:
        """Answer a prompt and show the answer. `stoppable`: Ctrl-C ends the answer, not the program."""
        completion = self.answer(self.prompt(text), stoppable)
        if self.conversation:
            self.conversation.keep(text, completion.tokens)

    def answer(self, prompt: Prompt, stoppable: bool = False, sampling: Sampling | None = None) -> Completion:
        """Answer `prompt` and show the answer, which is chosen as the session's are, unless `sampling` says."""
        screen = None if self.args.json else Screen(self.conversation is not None and self.conversation.thinks)
        with PrefillBar(len(prompt.ids)) as bar, stopping(stoppable) as stop:
            stream = self.llm.stream(prompt, sampling or self.sampling, stop.checking(bar.update), self.adapter)
            try:
                for piece in stream:
                    bar.stop()
                    if screen:
                        screen.push(piece)
                    stop.check()
            except (Stopped, KeyboardInterrupt):
                if not stoppable:
                    raise
            finally:
                stream.close()
            if screen:
                screen.finish("".join(stream))
        completion = stream.completion
        if self.args.json:
            print(json.dumps(values_of(self.llm.model, self.resolved, completion)), flush=True)
        if is_first():
            if not self.args.json:
                report(completion)
            if completion.finish_reason == "context":
                window = self.llm.model.config.max_position_embeddings
                message = f"the answer ended because the context window is full: max_position_embeddings = {window}"
                warnings.warn(message, Notice, stacklevel=2)
        return completion

    def converse(self, prompts: Iterable[str]) -> None:
        """Answer typed prompts. Ctrl-C stops an answer."""
        print(f"{self.llm.model.path}: completes what you type. A line that ends in \\ goes on in the next one; "
              "Ctrl-C stops an answer, Ctrl-D ends.", file=sys.stderr)  # fmt: skip
        for text in prompts:
            self.answer_text(text, stoppable=True)

    def values(self, prompt: Prompt) -> dict[str, object]:
        """The values that decide the tokens of an answer, beside the model: all ranks need the same."""
        text = f"{prompt.ids} and {prompt.taken!r}" if prompt.taken else str(prompt.ids)
        return {"prompt": text, "first_ids": str(prompt.first_ids), **self.resolved.values()}

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises ValueError for a model without one."""
        if self.llm.tokenizer is None:
            raise ValueError(
                f"{self.llm.folder}: holds no tokenizer that can be used; give token ids with --tokens FILE"
            )
        return self.llm.tokenizer
