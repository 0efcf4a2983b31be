"""DeepSeek-V4: embedding, blocks, the last collapse of the streams, head, and the MTP module. Report section 2.

    tokens -> embed -> 4 equal streams -> Block x L -> collapse -> norm -> head -> logits

A model is built on the meta device with the official tensors' names, shapes and dtypes. `checkpoint.load` gives it
storage. `forward` runs whole sequences without a cache (gradients flow). `extend` and `forward_step` run new tokens of
sequences in a pool.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from wavefold import ops
from wavefold.cache import CacheLayout, FreshView, Pool, Records, Sequence, View, packed_records, plain_records
from wavefold.config import LayerSpec, ModelConfig
from wavefold.experts import ExpertCompute, ExpertTable, LocalExperts, ResidentExperts
from wavefold.model.batch import Batch
from wavefold.model.block import Block
from wavefold.model.cpu_layers import CpuLayers, CpuMTP, as_stored, run_layers, run_mtp, run_whole
from wavefold.model.hyper_connection import HyperConnected
from wavefold.model.mtp import MTP
from wavefold.model.origin import Origin
from wavefold.model.parameters import Linear, Norm, empty
from wavefold.model.step import Step, steps_of
from wavefold.ops import Arithmetic, Runtime, native
from wavefold.quant import Format, Weight

PASS_TOKENS = 1024
"""Tokens that `extend` sends through the layers at a time. It bounds activations whatever the prompt's length."""


P = ParamSpec("P")
R = TypeVar("R")


def on_its_runtime(method: Callable[Concatenate[Transformer, P], R]) -> Callable[Concatenate[Transformer, P], R]:
    """Makes the method run on the model's runtime, whichever runtime the caller's thread uses."""

    @functools.wraps(method)
    def run(self: Transformer, *args: P.args, **kwargs: P.kwargs) -> R:
        if self.runtime is None:
            return method(self, *args, **kwargs)
        with self.runtime.active():
            return method(self, *args, **kwargs)

    return run


class Embedding(nn.Module):
    """`weight` [vocab, hidden] bfloat16, or blocks of the format `packed`."""

    packed: Format | None = None

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.weight = empty(config.vocab_size, config.hidden_size, dtype=torch.bfloat16)

    def forward(self, tokens: Tensor, arithmetic: Arithmetic) -> Tensor:
        if self.packed is None:
            return nn.functional.embedding(tokens, self.weight).to(arithmetic.dtype)
        return self.stored.rows(tokens.flatten()).decode(arithmetic.dtype).unflatten(0, tokens.shape)

    @property
    def stored(self) -> Weight:
        """The matrix as it is stored."""
        return Weight.of(self.weight, None, self.packed)


class Transformer(HyperConnected):
    """One model. `arithmetic`: how it computes (None: released). `layers`: its layers (None: by the configuration).

    `experts` computes the routed experts. They are no modules, and `parameters()` has none of their tensors;
    `official.official_tensors` walks over all tensors.
    """

    def __init__(
        self, config: ModelConfig, arithmetic: Arithmetic | None = None, layers: Seq[LayerSpec] | None = None
    ):  # fmt: skip
        super().__init__(config)
        if layers is not None:
            config = config.with_layers(tuple(layers))
        self.config = config
        store = ResidentExperts(ExpertTable(config))
        self.experts: ExpertCompute = LocalExperts(store, arithmetic or Arithmetic(), config.swiglu_limit)
        self.arithmetic = arithmetic or Arithmetic()
        self.embed = Embedding(config)
        self.layers = nn.ModuleList(Block(config, spec) for spec in config.main_layers)
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.head = Linear(config.hidden_size, config.vocab_size, "bf16")
        if not config.layers[0].late_pre:  # else the last sublayer's `pre` collapses the streams
            self.add_head()
        self.mtp = nn.ModuleList(MTP(config, spec) for spec in config.layers[config.num_hidden_layers :])
        self.origin: Origin | None = None  # the checkpoint it was loaded from
        self.runtime: Runtime | None = None  # of its passes; None: the runtime of the caller's thread
        self._cpu, self._cpu_mtp = CpuLayers(), CpuMTP()

    @property
    def path(self) -> Path | None:
        """The folder that the model was loaded from, or None for a model that was made here."""
        return self.origin.folder if self.origin is not None else None

    @property
    def device(self) -> torch.device:
        return self.embed.weight.device

    @property
    def blocks(self) -> list[Block]:
        """The blocks of the main layers, then those of the MTP modules."""
        return [*self.layers, *self.mtp]  # type: ignore[list-item]

    @property
    def arithmetic(self) -> Arithmetic:
        """The arithmetic of the model and of its routed experts."""
        return self._arithmetic

    @arithmetic.setter
    def arithmetic(self, arithmetic: Arithmetic) -> None:
        self._arithmetic = self.experts.arithmetic = arithmetic

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Transformer:
        """Applies `fn` to each tensor, routed experts included: `to` and the like call it."""
        super()._apply(fn, recurse)
        self.experts.store.apply(fn)
        self._cpu, self._cpu_mtp = CpuLayers(), CpuMTP()  # memory of another dtype may have the old address
        return self

    @property
    def runs_on_kernels(self) -> bool:
        """True if `extend` runs whole layers in the CPU kernels, which can be batch-invariant."""
        layers: list[Block] = list(self.layers)  # type: ignore[arg-type]
        with (self.runtime or ops.current()).active():
            return ops.kernels_run(self.arithmetic.dtype, self.device) and as_stored(layers, self.experts)

    def tell_chosen(self, told: Callable[[int, Tensor], None] | None) -> None:
        """Tells `told` the layer and the experts' ids [n, k] of each layer of each pass from now on; None: nobody.

        The ids must be copied, since their memory is used again. Passes then go layer by layer, with the same bits.
        Must not be called while a pass runs.
        """
        self.experts.on_chosen = told
        self._cpu, self._cpu_mtp = CpuLayers(), CpuMTP()

    def drop_mtp(self) -> None:
        """Removes the MTP modules from this model."""
        self.config, self.mtp = self.config.without_mtp(), nn.ModuleList()

    # -- whole sequences -------------------------------------------------------------------------------------------

    @on_its_runtime
    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [B, S] int64 -> logits [B, S, vocab] float32. Caches nothing; meant for small inputs and training."""
        return self.logits(self.hidden(self._fresh(tokens))).unflatten(0, tokens.shape)

    @on_its_runtime
    def streams(self, tokens: Tensor) -> tuple[Tensor, Batch]:
        """Returns the residual streams [B * S, hc, hidden] after the last block, and their batch."""
        batch = self._fresh(tokens)
        return self.run_blocks(batch), batch

    def _fresh(self, tokens: Tensor) -> Batch:
        """Returns the batch of whole sequences tokens [B, S]."""
        if tokens.dim() != 2 or tokens.shape[1] == 0:
            raise ValueError(f"tokens of shape {list(tokens.shape)} are not allowed; expected [B, S] with S >= 1")
        tokens = self.check_tokens(tokens)
        views = [FreshView(tokens.shape[1]) for _ in range(len(tokens))]
        return Batch.of(self.config, tokens.flatten(), views)

    @on_its_runtime
    def mtp_logits(self, tokens: Tensor) -> Tensor:
        """tokens [B, S] int64 -> logits of MTP depth 1 [B, S - 1, vocab] float32, from the first MTP module.

        Row i knows the tokens up to i + 1 and predicts token i + 2. Further modules (num_nextn_predict_layers > 1) are
        loaded and not run: no released code shows their input. Raises ValueError without a module, or for S < 2.
        """
        head = self._mtp_head()
        num_rows = tokens.shape[1] - 1
        if num_rows < 1:
            raise ValueError(f"tokens of shape {list(tokens.shape)} are not allowed; expected [B, S] with S >= 2")
        streams = self.streams(tokens)[0].unflatten(0, tokens.shape)[:, :-1].flatten(0, 1)
        following = tokens[:, 1:].flatten().to(self.device)
        views = [FreshView(num_rows) for _ in range(len(tokens))]
        return self._predict(head, streams, following, views).unflatten(0, (len(tokens), num_rows))

    @torch.no_grad()
    @on_its_runtime
    def extend_mtp(
        self, streams: Tensor, following: Tensor, sequences: Seq[Sequence], counts: Seq[int],
        wanted: Seq[int] | None = None, after: Tensor | None = None, guessed: bool = False,
    ) -> Tensor:  # fmt: skip
        """Runs MTP depth 1 over new tokens of sequences whose pool has MTP rings: logits float32 [len(wanted), vocab].

        streams [n, hc, hidden] of the tokens after the last main block; following [n] int64: the token after each.
        counts[i] tokens of sequences[i], from its `num_mtp_tokens` on. `wanted`: rows (None: all); rows equal those of
        `mtp_logits`. `after` [len(wanted), hc, hidden], unless None, takes the module's own streams of those rows: with
        `guessed` they stand in for those of tokens that the main layers have not run, until
        `Sequence.forget_mtp_guesses`. Raises ValueError without a module, for a pool without the rings, and for counts
        that do not fit.
        """
        head = self._mtp_head()
        following = self.check_tokens(following)
        if not sequences or not len(streams) == len(following) == sum(counts):
            raise ValueError(
                f"{len(streams)} rows of streams, {len(following)} following tokens, {len(sequences)} sequences and "
                f"counts {list(counts)} do not fit; expected sum(counts) rows and tokens, and one sequence at least"
            )
        pool = sequences[0].pool
        self._check_pool(pool)
        if streams.shape[1:] != (self.num_streams, self.hidden_size):
            raise ValueError(
                f"streams of shape {list(streams.shape)} are not allowed; expected [n, {self.num_streams}, "
                f"{self.hidden_size}]"
            )
        rows = range(len(streams)) if wanted is None else wanted
        views = pool.begin_mtp(sequences, counts, guessed)
        if self._cpu_mtp.of(self, views):
            asked = native.Wanted(rows, () if after is None else rows, after)
            logits = run_mtp(self._cpu_mtp, streams, following, views, asked)
        else:
            batch = Batch.of(self.config, following, views)
            embedded = self.embed(following, self.arithmetic)
            x = head.run(streams, embedded, batch, self.experts, self.arithmetic)[list(rows)]
            logits = self.logits(head.final(x, self.arithmetic))
            if after is not None:
                after.copy_(x)
        pool.commit(views)
        return logits

    def _predict(self, head: MTP, streams: Tensor, following: Tensor, views: Seq[View]) -> Tensor:
        """Returns the module's logits [n, vocab] for rows of streams and the token after each."""
        batch = Batch.of(self.config, following, views)
        hidden = head.predict(streams, self.embed(following, self.arithmetic), batch, self.experts, self.arithmetic)
        return self.logits(hidden)

    def _mtp_head(self) -> MTP:
        if not self.mtp:
            raise ValueError(
                "this model has no MTP module (num_nextn_predict_layers = 0, or its tensors are not in the files)"
            )
        return self.mtp[0]  # type: ignore[return-value]

    # -- sequences in a pool ---------------------------------------------------------------------------------------

    def new_pool(
        self, num_tokens: int, records: Records | None = None, poison: bool = False, draft_tokens: int = 1,
        mtp: bool = False,
    ) -> Pool:  # fmt: skip
        """Returns a cache for `num_tokens` tokens in all, with records that store this arithmetic's rows unchanged.

        Passes of at most `draft_tokens` tokens write into the rings at once. With `mtp`, the MTP layers have rings.
        """
        return Pool(self.config, num_tokens, records or self.records, self.device, poison, draft_tokens, mtp)

    def cache_bytes(self, num_tokens: int) -> int:
        """Returns the bytes of `new_pool` for `num_tokens` tokens plus the state of one sequence."""
        return CacheLayout(self.config, self.records).bytes_for(num_tokens)

    @property
    def records(self) -> Records:
        """Packed records in released arithmetic, which rounds rows to them; else plain records."""
        if self.arithmetic.released:
            return packed_records(self.config)
        return plain_records(self.config, self.arithmetic.dtype)

    @torch.no_grad()
    @on_its_runtime
    def forward_step(self, step: Step, streams: Tensor | None = None) -> Tensor:
        """Runs a step's tokens and appends them to their sequences' pasts: logits float32 [len(step.wanted), vocab].

        `streams`, as from `new_streams`, takes those of the rows `step.streams_of` after the last main block. Raises
        ValueError for tokens outside the vocabulary and sequences that cannot take them, PoolFull when the pool has no
        room. After an error or an interruption no sequence has the step's tokens.
        """
        self._check_pool(step.pool)
        return self._run_step(step, self.check_tokens(step.tokens), None, streams)

    def new_streams(self, count: int) -> Tensor:
        """Returns room for the residual streams of `count` tokens: [count, hc, hidden], undefined."""
        shape = count, self.num_streams, self.hidden_size
        return torch.empty(shape, dtype=self.arithmetic.dtype, device=self.device)

    @torch.no_grad()
    @on_its_runtime
    def extend(self, tokens: Tensor, sequences: Seq[Sequence], counts: Seq[int]) -> Tensor:
        """Runs new tokens of several sequences and appends them to their pasts, PASS_TOKENS in a pass.

        tokens [n] int64: counts[0] tokens of sequences[0], then counts[1] of sequences[1], and so on -> hidden
        [n, hidden_size], for `logits`. Raises ValueError for tokens or counts that do not fit, PoolFull when the pool
        has no room. After an error or an interruption no sequence has tokens of a pass that did not complete.
        """
        tokens = self.check_tokens(tokens)
        whole = Step(tokens, sequences, counts)
        self._check_pool(whole.pool)
        steps = steps_of(whole, PASS_TOKENS)
        if len(steps) > 1:
            whole.pool.check_room(sequences, counts)
        hidden = tokens.new_empty(len(tokens), self.config.hidden_size, dtype=self.arithmetic.dtype)
        for rows, step in steps:
            self._run_step(step, step.tokens, hidden[rows])
        return hidden

    def _check_pool(self, pool: Pool) -> None:
        config = pool.layout.config
        if config is not self.config and (config, config.layers) != (self.config, self.config.layers):
            raise ValueError("the sequences belong to a pool of another model; open one with new_pool of this model")

    def _run_step(
        self, step: Step, tokens: Tensor, hidden: Tensor | None, streams: Tensor | None = None
    ) -> Tensor:  # fmt: skip
        """Returns logits of the wanted rows. `hidden` [n, hidden_size], unless None, takes all final hidden states."""
        pool = step.pool
        views = pool.begin(step.sequences, step.counts)
        streams_of = () if streams is None else step.streams_of
        try:
            if self._cpu.of(self, views) and self._cpu.whole is not None:
                wanted = native.Wanted(step.wanted, streams_of, streams, hidden)
                logits = run_whole(self._cpu.whole, self._cpu.layers, tokens.contiguous(), views, wanted)
            else:
                final, x = self.final_and_streams(Batch.of(self.config, tokens, views))
                logits = self.logits(final[list(step.wanted)]) if step.wanted else self._no_logits()
                if hidden is not None:
                    hidden.copy_(final)
                if streams is not None:
                    streams.copy_(x[list(streams_of)])
            self.experts.end_pass()
        except BaseException:
            pool.abort(views)
            raise
        pool.commit(views)
        return logits

    # -- parts -----------------------------------------------------------------------------------------------------

    def hidden(self, batch: Batch) -> Tensor:
        """Returns the final hidden states [n, hidden_size] of the batch's tokens."""
        return self.final_and_streams(batch)[0]

    def final_and_streams(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns final hidden states [n, hidden_size], and the streams [n, hc, hidden] that they collapse from."""
        if not self.config.layers[0].late_pre:
            streams = self.run_blocks(batch)
            return self.final(streams), streams
        streams = self.embed(batch.tokens, self.arithmetic)[:, None].expand(-1, self.num_streams, -1)
        pre = torch.zeros(streams.shape[:2], dtype=self.arithmetic.accumulate, device=streams.device)
        pre[:, 0] = 1  # before any sublayer: the first stream
        blocks: list[Block] = list(self.layers)  # type: ignore[arg-type]
        for block in blocks:
            streams, pre = block.forward_late(streams, pre, batch, self.experts, self.arithmetic)
        return self.norm(ops.hc_collapse(streams, pre), self.arithmetic), streams

    def run_blocks(self, batch: Batch) -> Tensor:
        """Embeds the batch's tokens and runs the main layers. Returns streams [n, hc, hidden]."""
        x = self.embed(batch.tokens, self.arithmetic)
        streams = x[:, None].expand(-1, self.num_streams, -1)
        layers: list[Block] = list(self.layers)  # type: ignore[arg-type]
        if self._cpu.of(self, [span.view for span in batch.spans]):
            return run_layers(self._cpu.layers, streams, batch, self.experts, self.config, self.arithmetic)
        for block in layers:
            streams = block(streams, batch, self.experts, self.arithmetic)
        return streams

    def final(self, streams: Tensor) -> Tensor:
        """Returns hidden [n, hidden_size]: the streams after collapse and norm."""
        return self.norm(self.collapse(streams, self.arithmetic), self.arithmetic)

    @on_its_runtime
    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [n, hidden_size] -> logits [n, vocab] float32."""
        return ops.linear_wide(hidden, self.head.stored, self.arithmetic)

    def _no_logits(self) -> Tensor:
        return torch.empty(0, self.config.vocab_size, dtype=torch.float32, device=self.device)

    def check_tokens(self, tokens: Tensor) -> Tensor:
        """Returns `tokens` on the model's device. Raises ValueError for ids outside the vocabulary."""
        if tokens.dtype != torch.int64:
            raise ValueError(f"tokens of dtype {tokens.dtype} are not allowed; expected torch.int64")
        ids = tokens.flatten().tolist() if tokens.numel() < 64 else tokens.aminmax()  # the list is faster
        low, high = (int(min(ids)), int(max(ids))) if tokens.numel() else (0, 0)
        if not 0 <= low <= high < self.config.vocab_size:
            outside = low if low < 0 else high
            raise ValueError(f"token {outside} is not allowed; expected 0 to {self.config.vocab_size - 1}")
        return tokens.to(self.device)
