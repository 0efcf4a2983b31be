"""The front door: a model with its tokenizer, which completes texts and answers chats.

with LLM() as llm:
    llm.generate(["def main():"], Sampling(max_tokens=32))       a list of Completion
    llm.stream("def main():")                                    pieces of text as they are computed
    llm.stream_async("def main():")                              the same for an event loop
    llm.score(["def "], ["main():"])                             log probabilities of the second after the first
    llm.chat([{"role": "user", "content": "Hello"}])             in DeepSeek-V4's encoding

text -> BOS and ids, the last token open to another one (chat/healing.py) -> Request, Answer -> Runner -> text
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from wavefold.cache import BLOCK_TOKENS
from wavefold.chat import Prompt, tokenizer_of
from wavefold.chat.encoding import chat_ids, turn_ids
from wavefold.engine import AsyncTextStream, Completion, ResolvedSampling, Runner, Sampling, TextStream
from wavefold.engine import settings as llm_settings
from wavefold.engine.adapters import Adapters, adapters_of
from wavefold.engine.arguments import PROGRESS
from wavefold.engine.batch import add_all, answers_of_each, run_added
from wavefold.engine.budget import Share, checked_budget, watch_budget
from wavefold.engine.defaults import generation_defaults
from wavefold.engine.drafting import Drafts
from wavefold.engine.logprobs import TokenLogprob
from wavefold.engine.open import OverRanks, open_model
from wavefold.engine.prefixes import SNAPSHOT_EVERY
from wavefold.engine.prompts import Samplings, TextOrIds, listed, one_sampling, samplings_of
from wavefold.engine.ranks import Leader, follow, quiet_group
from wavefold.engine.request import Request
from wavefold.engine.requests import Requests
from wavefold.engine.room import check_in_pool, pool_blocks
from wavefold.engine.runner import MAX_RUNNING
from wavefold.engine.runners import asked_tokens, new_runner, open_disk, prefix_settings, usable_drafts
from wavefold.engine.scheduler import blocks_of
from wavefold.experts import LocalExperts
from wavefold.locate import model_path
from wavefold.model import Transformer
from wavefold.ops import DEFAULT_ARITHMETIC, Arithmetic
from wavefold.plan.tensors import tensor_kinds
from wavefold.waves.agreement import is_first, num_ranks

Message = Mapping[str, object]
"""{"role": "system", "user" or "assistant", "content": text}."""

Progress = Callable[[int, int], None]
"""Is told what is done, and of how much."""


class LLM:
    """A model in a checkpoint folder or a GGUF file, ready to answer. `close`, or the end of `with`, gives memory back.

    Several threads may use it: their requests are computed together.

    `arithmetic` is "released" (DeepSeek's rounding, bfloat16) or "exact" (the architecture's own mathematics, by
    default in float32; `dtype` says otherwise). `threads`: of the CPU kernels, 1 to 1,024 (None: torch's number,
    which also computes float32). `strict` refuses a checkpoint with tensors that the model does not use.
    `batch_invariant`: the same bits however tokens arrive, in one pass or one by one. `over_ranks`: see
    `engine.open`. `kernels`: "tilelang" lets a GPU's kernels compute the routed experts. `activations`: "int8"
    rounds the input of products with FP4 and FP8 matrices to 8 bits, for faster prompts (docs/arithmetic.md).
    `huge_pages`: weights are copied into memory of 2 MiB pages, which must have room for them. `cache_tokens`: of
    all answers that are computed together (None: as many as suit). `draft_depth`: tokens that are guessed and
    verified in one pass, at most (0: none, to 15); measured time decides how many, so that without
    `batch_invariant` the last bits of logits depend on it. `drafts`: who guesses, "lookup" (what followed in the
    text so far), "mtp" (the checkpoint's MTP module, in one process) or "both"; None: all that the model has.
    `memory`: the most resident memory of this process, in bytes or as "24G"; routed experts that do not fit are read
    as they are needed (None: 80 % of what is allowed, for larger checkpoints; over ranks files are mapped). `width`:
    of answers that are computed together, at most; others wait. `prefix_cache`: a prompt that begins like an earlier
    text goes on from there (on a CPU, in one process; docs/prefix.md), from a state that is taken every
    `snapshot_every` tokens and at the ends of prompts and answers. `cache_dir`: a folder, of at most `disk_cache`
    bytes, where this outlives the process. `adapters`: folders in PEFT's layout by name, as `load_adapter` reads them.
    """

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
        cache_tokens: int | None = None,
        draft_depth: int = 0,
        drafts: Drafts | None = None,
        memory: int | str | Share | None = None,
        width: int = MAX_RUNNING,
        prefix_cache: bool = True,
        snapshot_every: int = SNAPSHOT_EVERY,
        cache_dir: str | Path | None = None,
        disk_cache: int | str | None = None,
        adapters: Mapping[str, str | Path] | None = None,
    ):
        """Loads the checkpoint in `path`; None: the model that ships. Raises ValueError for what cannot be used."""
        used = llm_settings.used(locals())
        self.folder = model_path(path)
        self.tokenizer = tokenizer_of(self.folder)
        self._width = used["width"]
        numbers = Arithmetic(arithmetic, dtype), memory, used["cache_tokens"], self._width
        prefix = prefix_settings(
            prefix_cache, used["snapshot_every"], cache_dir, disk_cache, over_ranks is None, str(device)
        )
        self.budget = checked_budget(self.folder, *numbers, device, over_ranks is not None, *prefix.in_budget)
        """What lies where in memory; None: files are mapped, under no budget."""
        self._model: Transformer | None = open_model(
            self.folder, arithmetic, dtype, device, strict, batch_invariant, over_ranks, kernels, used["threads"],
            activations, huge_pages, self.budget.num_slots if self.budget else None,
        )  # fmt: skip
        watch_budget(self._model, self.budget)
        config = self._model.config
        defaults = generation_defaults(self.folder, config.vocab_size)
        self._made_by = Requests(self.folder, self.tokenizer, config, defaults, self._model.arithmetic.dtype)
        self._is_alone = over_ranks is None
        for name, folder in (used["adapters"] or {}).items():
            self.load_adapter(name, folder)
        self._group = quiet_group() if over_ranks is not None and num_ranks() > 1 else None
        self._leader = Leader(self._group) if self._group is not None and is_first() else None
        drafts = usable_drafts(self._model, drafts, 1 if self._group is None else num_ranks())
        self._cache_tokens, self._asked = used["cache_tokens"], asked_tokens(self.budget, used["cache_tokens"])
        self._disk, space = open_disk(self._model, self.folder, prefix)
        self._lock = threading.RLock()
        """Of the runner's choice. It is free while passes run."""
        self._runner: Runner | None = new_runner(
            self._model, self.budget, self._cache_tokens, self._width, used["draft_depth"], drafts, self._leader,
            prefix, space,
        )  # fmt: skip
        self._streams: weakref.WeakSet[TextStream] = weakref.WeakSet()

    @property
    def model(self) -> Transformer:
        """The model. Memory of a closed LLM is given back once nobody else refers to its model."""
        if self._model is None:
            raise ValueError(f"this LLM of {self.folder} is closed; make another one with LLM({str(self.folder)!r})")
        return self._model

    def generate(
        self, prompts: Sequence[TextOrIds], sampling: Samplings | None = None, on_progress: Progress | None = None,
        on_prefill: Progress | None = None, adapter: Adapters = None,
    ) -> list[Completion]:  # fmt: skip
        """Complete the prompts, texts or token ids, all together. Returns the answers in order, `n` for each prompt.

        A text is run after BOS, and special tokens' strings in it are ordinary characters. Token ids are run as they
        are. `sampling` is one for all prompts or a list of one for each; None: as the checkpoint says.
        `on_progress(done, of)` counts answers that have ended, `on_prefill(done, of)` tokens of all prompts that have
        been read, pass by pass. `adapter`: the name of a loaded adapter, for all prompts or one for each; None: the
        model alone. An answer that meets logits that are NaN has the finish reason "error". Raises
        ValueError, before anything runs, for a prompt or sampling that cannot be used, and for one text in place of a
        list.
        """
        prompts = listed("prompts", prompts)
        progress = PROGRESS.used("on_progress", on_progress), PROGRESS.used("on_prefill", on_prefill)
        requests: list[Request] = []
        wanted = samplings_of(sampling, len(prompts)), adapters_of(adapter, len(prompts))
        for prompt, one, name in zip(prompts, *wanted, strict=True):
            requests += self.requests.of(prompt, one, name)
        return run_added(self.add(requests), requests, *progress)

    def each(
        self, jobs: Iterable[tuple[int, TextOrIds | Sequence[Message], Sampling]]
    ) -> Iterator[tuple[int, list[Completion] | ValueError]]:  # fmt: skip
        """Answers numbered prompts, at most `width` at a time; yields number and answers, `n` of them, as each ends.

        A prompt may be a chat's messages. `jobs` is asked for the next one when there is room. In place of answers
        there is a ValueError for what cannot be run. Leaving the iterator ends what runs.
        """
        return answers_of_each(self._width, jobs, self._job_requests, self.add, self.has_place)

    def _job_requests(self, prompt: TextOrIds | Sequence[Message], sampling: Sampling) -> list[Request]:
        if isinstance(prompt, (list, tuple)) and prompt and isinstance(prompt[0], Mapping):
            prompt, sampling = self._turn(prompt, sampling)
        return self.requests.of(prompt, sampling)  # type: ignore[arg-type]

    def score(
        self, prompts: Sequence[TextOrIds], continuations: Sequence[str | Sequence[int]],
        on_prefill: Progress | None = None,
    ) -> list[list[TokenLogprob]]:  # fmt: skip
        """The log probabilities of the tokens of each continuation after its prompt, all pairs together.

        Prompt and continuation become tokens separately, and no last token is open to another one. The prompt "" is BOS
        alone: its continuation is scored as the beginning of a text. `on_prefill`: as in `generate`. Raises ValueError
        for lists of different lengths, a prompt of no ids, a continuation without a token, tokens that cannot be run,
        and for logits that are NaN.
        """
        prompts, continuations = listed("prompts", prompts), listed("continuations", continuations)
        progress = PROGRESS.used("on_prefill", on_prefill)
        if len(prompts) != len(continuations):
            raise ValueError(f"{len(continuations)} continuations of {len(prompts)} prompts; expected one for each")
        requests = [self.requests.scored(*pair) for pair in zip(prompts, continuations, strict=True)]
        scored = run_added(self.add(requests), requests, on_prefill=progress)
        for completion in scored:
            if completion.error:
                raise ValueError(completion.error)
        return [[entry for entry in completion.prompt_logprobs or () if entry is not None] for completion in scored]

    def stream(
        self, prompt: TextOrIds, sampling: Sampling | None = None, on_prefill: Progress | None = None,
        adapter: str | None = None,
    ) -> TextStream:  # fmt: skip
        """The pieces of one completion's text, computed as they are asked for; `completion` has all of the answer.

        Other streams may be open: each of them computes the answers of all, and `close` gives one's cache back.
        `on_prefill(done, of)` reports how many of the prompt's tokens have been read. `adapter`: as in `generate`.
        Raises ValueError as `generate`, for `n` > 1, and where other open streams leave a pool that cannot hold this
        answer.
        """
        progress, sampling = PROGRESS.used("on_prefill", on_prefill), one_sampling(sampling)
        if sampling.n != 1:
            raise ValueError(f"n = {sampling.n} is not allowed for a stream; expected 1, or `generate`")
        [request] = self.requests.of(prompt, sampling, adapter)
        stream = TextStream(self.add([request]), request, progress)
        self._streams.add(stream)
        return stream

    def stream_async(
        self, prompt: TextOrIds, sampling: Sampling | None = None, on_prefill: Progress | None = None,
        adapter: str | None = None,
    ) -> AsyncTextStream:  # fmt: skip
        """`stream` for an event loop: `async for`, while threads compute. Raises what `stream` does, at once."""
        return AsyncTextStream(self.stream(prompt, sampling, on_prefill, adapter))

    def chat(
        self, messages: Sequence[Message], sampling: Sampling | None = None, on_prefill: Progress | None = None,
        adapter: str | None = None,
    ) -> Completion:  # fmt: skip
        """Answer a chat whose last message is a user's. The answer ends where a next turn would begin.

        Raises ValueError for messages that cannot be encoded, for another last message, and for a tokenizer without the
        markers of V4's chats.
        """
        return self.stream_chat(messages, sampling, on_prefill, adapter).finish()

    def stream_chat(
        self, messages: Sequence[Message], sampling: Sampling | None = None, on_prefill: Progress | None = None,
        adapter: str | None = None,
    ) -> TextStream:  # fmt: skip
        """The pieces of an answer's text in a chat, computed as they are asked for. Raises ValueError as `chat`."""
        return self.stream(*self._turn(messages, one_sampling(sampling)), on_prefill, adapter)

    def _turn(self, messages: Sequence[Message], sampling: Sampling) -> tuple[Prompt, Sampling]:
        """Returns a chat as a prompt, and the sampling of an answer that ends where a next turn would begin."""
        tokenizer = self.requests.needs_tokenizer()
        turns = replace(sampling, stop_ids=(*sampling.stop_ids, *turn_ids(tokenizer)))
        return Prompt(chat_ids(tokenizer, messages)), turns

    def prompt(self, text: str, allow_special: bool = False) -> Prompt:
        """`text` after BOS, as DeepSeek's models are used to; its last token may become another one.

        `allow_special`: special tokens' strings in the text become those tokens. Raises ValueError without a tokenizer.
        """
        return self.requests.prompt(text, allow_special)

    def resolved(self, sampling: Sampling, adapter: str | None = None) -> ResolvedSampling:
        """The sampling that applies. Values that `sampling` leaves open are the adapter's, the checkpoint's, defaults.

        Raises ValueError for values out of range, and an adapter that is not loaded. Warns once with a Notice that
        names the keys of `generation_config.json` that would change answers and are not honoured.
        """
        return self.requests.resolved(sampling, adapter)

    def load_adapter(self, name: str, folder: str | Path) -> None:
        """Reads the adapter in `folder` (PEFT's layout), which requests name as `adapter` from now on.

        A `generation_config.json` in it says how answers through it are chosen, where a request leaves that open.

        What runs goes on as it is, also where the name is taken already. Raises ValueError for a folder that holds no
        adapter of this model, for options of it that would change numbers and are not honoured, and over ranks.
        """
        if not self._is_alone:
            raise ValueError("adapters are not allowed over several processes; expected one process")
        self.requests.adapters.load(name, folder, isinstance(self.model.experts, LocalExperts))

    def unload_adapter(self, name: str) -> None:
        """Takes an adapter away. Requests that go through it run to their ends. Raises ValueError for no such name."""
        self.requests.adapters.unload(name)

    @property
    def adapters(self) -> list[str]:
        """The names of the loaded adapters."""
        return self.requests.adapters.names

    def close(self) -> None:
        """Give the model's memory back at once and end its streams; other ranks then end `follow`.

        Who reads a stream that had not ended gets its last text, then a ValueError. A `generate` or `score` that runs
        in another thread goes on to its end, and the memory is given back after it. Closing twice changes nothing.
        """
        with self._lock:
            model, self._model, self._runner = self._model, None, None
        for stream in list(self._streams):
            stream.close(f"this LLM of {self.folder} was closed before the answer ended")
        if self._leader is not None and model is not None:
            self._leader.end()
        if self._disk is not None:
            self._disk.close()

    def follow(self) -> None:
        """Run the passes of rank 0, in every other process that torchrun started, until rank 0 closes its LLM.

        Raises ValueError in rank 0 and in a process on its own, RankLost if rank 0 is gone.
        """
        if self._group is None or self._leader is not None:
            raise ValueError("follow is for the processes beside rank 0 that torchrun started with over_ranks")
        follow(self.model, self._group)

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

    # -- for those who run the engine themselves -------------------------------------------------------------------

    @property
    def requests(self) -> Requests:
        """What makes requests of prompts. Raises ValueError where this LLM is closed."""
        _ = self.model
        return self._made_by

    @property
    def runner(self) -> Runner:
        """Who computes them; its `beside` is for the passes of others. Raises ValueError where this LLM is closed."""
        _ = self.model
        assert self._runner is not None
        return self._runner

    def has_place(self, request: Request) -> bool:
        """False if a request has to wait until nothing runs, so that the pool can grow for it."""
        runner = self.runner
        return runner.idle or self._cache_tokens is not None or blocks_of(request.peak_tokens) <= runner.num_blocks

    def add(self, requests: Sequence[Request]) -> Runner:
        """Returns the runner, which has the requests from now on. Its pool grows where it is idle and too small.

        Raises ValueError for a request that cannot be run; then none is added.
        """
        if self._group is not None and self._leader is None:
            raise ValueError("rank 0 answers, and this process follows it; call LLM.follow() here")
        with self._lock:
            runner = self.runner
            largest = max(requests, key=lambda request: request.peak_tokens, default=None)
            if largest is not None:
                may_grow = self._cache_tokens is None and runner.idle
                if may_grow and largest.peak_tokens > runner.num_blocks * BLOCK_TOKENS:
                    runner.grow(max(runner.num_blocks, pool_blocks(self.model, largest.peak_tokens, self._asked)))
                check_in_pool(largest, runner.num_blocks, self._cache_tokens, runner.num_open)
            add_all(runner, requests)
            return runner
