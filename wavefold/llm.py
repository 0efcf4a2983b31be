"""The front door: a model with its tokenizer, which completes texts and answers chats.

with LLM() as llm:
    llm.generate(["def main():"], Sampling(max_tokens=32))       a list of Completion
    llm.stream("def main():")                                    pieces of text as they are computed
    llm.chat([{"role": "user", "content": "Hello"}])             in DeepSeek-V4's encoding

text -> BOS and ids, the last token open to another one (chat/healing.py) -> engine -> text
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from wavefold.chat import Prompt, Tokenizer, heal
from wavefold.chat.encoding import encode_chat, turn_ids
from wavefold.engine import Completion, ResolvedSampling, Sampling, TextStream, generate
from wavefold.engine.defaults import FILE_NAME, generation_defaults
from wavefold.engine.open import OverRanks, open_model
from wavefold.locate import model_folder
from wavefold.model import Transformer
from wavefold.ops import DEFAULT_ARITHMETIC
from wavefold.plan.tensors import tensor_kinds
from wavefold.system import Notice

Message = Mapping[str, object]
"""{"role": "system", "user" or "assistant", "content": text}."""

AS_THE_CHECKPOINT_SAYS = Sampling()
NOT_HONOURED = {"logprobs": None, "prompt_logprobs": None, "n": 1, "echo": False}
"""Fields of `Sampling` that the front door refuses, with the values that ask for nothing."""


class LLM:
    """A model in a checkpoint folder, ready to answer. `close`, or the end of a `with` block, gives its memory back."""

    def __init__(
        self,
        path: str | Path | None = None,
        arithmetic: str = DEFAULT_ARITHMETIC,
        dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
        threads: int | None = None,
        strict: bool = False,
        batch_invariant: bool = False,
        over_ranks: OverRanks | None = None,
        kernels: str | None = None,
        activations: str = "bf16",
        huge_pages: bool = False,
    ):
        """Load the checkpoint in the folder `path`; None: the model that ships.

        `arithmetic` is "released" (DeepSeek's rounding, bfloat16) or "exact" (the architecture's own mathematics, by
        default in float32; `dtype` says otherwise). `threads`: of the CPU kernels (None: torch's number, which also
        computes float32). `strict` refuses a checkpoint with tensors that the model does not use. `batch_invariant`:
        the same bits however tokens arrive, in one pass or one by one. `over_ranks`: see `engine.open`. `kernels`:
        "tilelang" lets a GPU's kernels compute the routed experts. `activations`: "int8" rounds the input of products
        with FP4 and FP8 matrices to 8 bits, for faster prompts (docs/arithmetic.md). `huge_pages`: weights are copied
        into memory of 2 MiB pages, which must have room for them, rather than mapped. Raises ValueError for a folder or
        settings that cannot be used.
        """
        self.folder = model_folder(path)
        self.tokenizer = Tokenizer.load(self.folder) if (self.folder / "tokenizer.json").exists() else None
        self._model: Transformer | None = open_model(
            self.folder,
            arithmetic,
            dtype,
            device,
            strict,
            batch_invariant,
            over_ranks,
            kernels,
            threads,
            activations,
            huge_pages,
        )
        self._defaults = generation_defaults(self.folder, self._model.config.vocab_size)
        self._streams: weakref.WeakSet[TextStream] = weakref.WeakSet()
        self._warned: set[str] = set()

    @property
    def model(self) -> Transformer:
        """The model. Memory of a closed LLM is given back once nobody else refers to its model."""
        if self._model is None:
            raise ValueError(f"this LLM of {self.folder} is closed; make another one with LLM({str(self.folder)!r})")
        return self._model

    def generate(
        self, prompts: Sequence[str | Sequence[int] | Prompt], sampling: Sampling = AS_THE_CHECKPOINT_SAYS
    ) -> list[Completion]:
        """Complete each prompt, a text or token ids, in order.

        A text is run after BOS, and special tokens' strings in it are ordinary characters. Token ids are run as they
        are. Raises ValueError for a prompt or sampling that cannot be used, and for one text in place of a list.
        """
        if isinstance(prompts, str):
            raise ValueError(f"prompts = {prompts!r} is a single text; expected a list: [{prompts!r}]")
        return [self.stream(prompt, sampling).finish() for prompt in prompts]

    def stream(
        self,
        prompt: str | Sequence[int] | Prompt,
        sampling: Sampling = AS_THE_CHECKPOINT_SAYS,
        on_prefill: Callable[[int, int], None] = lambda done, of: None,
    ) -> TextStream:
        """The pieces of one completion's text, computed as they are asked for; `completion` has all of the answer.

        `on_prefill(done, of)` reports how many of the prompt's tokens have been read. Raises ValueError as `generate`.
        """
        if isinstance(prompt, str):
            prompt = self.prompt(prompt)
        elif not isinstance(prompt, Prompt):
            prompt = Prompt(list(prompt))
        resolved = self.resolved(sampling)
        generation = generate(
            self.model, prompt.ids, resolved.max_tokens, resolved.temperature, resolved.top_p, resolved.seed,
            resolved.stop_ids, prompt.first_ids, on_prefill, resolved.fit_window, resolved.top_k, resolved.min_p,
            resolved.adjustments,
        )  # fmt: skip
        stream = TextStream(generation, prompt, resolved, self.tokenizer, sampling.show_special)
        self._streams.add(stream)
        return stream

    def chat(self, messages: Sequence[Message], sampling: Sampling = AS_THE_CHECKPOINT_SAYS) -> Completion:
        """Answer a chat whose last message is a user's. The answer ends where a next turn would begin.

        Raises ValueError for messages that cannot be encoded, and for a tokenizer without the markers of V4's chats.
        """
        return self.stream_chat(messages, sampling).finish()

    def stream_chat(self, messages: Sequence[Message], sampling: Sampling = AS_THE_CHECKPOINT_SAYS) -> TextStream:
        """The pieces of an answer's text in a chat, computed as they are asked for."""
        tokenizer = self._needs_tokenizer()
        prompt = Prompt(encode_chat(tokenizer, messages).ids)
        return self.stream(prompt, replace(sampling, stop_ids=(*sampling.stop_ids, *turn_ids(tokenizer))))

    def prompt(self, text: str, allow_special: bool = False) -> Prompt:
        """`text` after BOS, as DeepSeek's models are used to; its last token may become another one.

        `allow_special`: special tokens' strings in the text become those tokens. Raises ValueError without a tokenizer.
        """
        tokenizer = self._needs_tokenizer()
        return heal(tokenizer, tokenizer.encode(text, bos=True, allow_special=allow_special))

    def resolved(self, sampling: Sampling) -> ResolvedSampling:
        """The sampling that applies. Values that `sampling` leaves open are the checkpoint's, else the defaults.

        Raises ValueError for values out of range, and for fields of `Sampling` that are not honoured here. Warns once
        with a Notice that names the keys of `generation_config.json` that would change answers and are not honoured.
        """
        sampling.check(self.model.config.vocab_size)
        if sampling.stop:
            self._needs_tokenizer()
        for name, nothing in NOT_HONOURED.items():
            if (value := getattr(sampling, name)) != nothing:
                raise ValueError(f"{name} = {value!r} is not honoured by LLM; expected {nothing!r}")
        resolved = sampling.resolved(self._defaults, self.model.config)
        ignored = self._defaults.ignored(resolved.temperature)
        if ignored and not self._warned.issuperset(key for key, _ in ignored):
            self._warned.update(key for key, _ in ignored)
            named = ", ".join(f"{key} = {value!r}" for key, value in ignored)
            message = f"{self.folder / FILE_NAME}: {named}: not honoured here; answers are chosen without"
            warnings.warn(message, Notice, stacklevel=2)
        return resolved

    def close(self) -> None:
        """Give the model's memory back at once and end its streams. Closing twice changes nothing."""
        for stream in list(self._streams):
            stream.close()
        self._model = None

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._model is None:
            return f"<LLM {self.folder}: closed>"
        config = self._model.config
        weight_bytes = self._model.experts.store.num_bytes + sum(tensor.nbytes for tensor in self._model.parameters())
        num_parameters = sum(kind.values for kind in tensor_kinds(config) if kind.precision != "int64")
        return (
            f"<LLM {self.folder}: {config.num_hidden_layers} layers, {config.n_routed_experts} experts, "
            f"{num_parameters:,} parameters in {weight_bytes / 1e6:,.1f} MB; "
            f"{self._model.arithmetic} arithmetic, {self._model.device}>"
        )

    def _needs_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise ValueError(f"{self.folder}: holds no tokenizer.json; give token ids in place of text")
        return self.tokenizer
