"""A model of lm-eval (EleutherAI's evaluation harness): tasks ask, the engine answers all requests together.

    python -m wavefold.lm_eval --model wavefold --model_args path=DIR,arithmetic=exact --tasks TASK --include_path DIR

The command line is lm-eval's own. Texts become tokens as for lm-eval's `hf` model: special tokens' strings in them are
special tokens, and BOS comes before them if `tokenizer_config.json` or `add_bos_token` says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from wavefold.engine import Sampling
from wavefold.llm import LLM

AT_ONCE = 256
"""Requests that are given to the engine together."""
MAX_GEN_TOKS = 256
Pair = tuple[tuple[str, str], list[int], list[int]]
"""Context and continuation: as texts, then the ids of each."""


@register_model("wavefold")
class WavefoldLM(TemplateLM):
    """`path` (None: the model that ships), `arithmetic`, `threads`, `batch_invariant`, `activations`: see `LLM`.

    `batch_size`, `max_batch_size` and `device` are lm-eval's own arguments: the engine batches by itself, on the CPU.
    Raises ValueError for another device, for a folder without a tokenizer, and for what `LLM` refuses.
    """

    def __init__(
        self, path: str | None = None, arithmetic: str = "released", threads: int | None = None,
        batch_invariant: bool = False, activations: str = "bf16", add_bos_token: bool | None = None,
        max_gen_toks: int = MAX_GEN_TOKS, batch_size: object = None, max_batch_size: object = None,
        device: object = None,
    ):  # fmt: skip
        super().__init__()
        if str(device or "cpu") != "cpu":
            raise ValueError(f"device = {device} is not allowed; expected cpu")
        self.llm = LLM(
            path, arithmetic, threads=threads, batch_invariant=batch_invariant, activations=activations,
            prefix_cache=False,
        )  # fmt: skip
        if self.llm.tokenizer is None:
            raise ValueError(f"{self.llm.folder}: holds no tokenizer that can be used; lm-eval's tasks are texts")
        self._tokenizer = self.llm.tokenizer
        self._bos = _bos_of(self.llm.folder) if add_bos_token is None else add_bos_token
        self.max_gen_toks = max_gen_toks

    @property
    def eot_token_id(self) -> int:
        return self._tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        return self._tokenizer.bos_id

    @property
    def max_length(self) -> int:
        """Tokens of the model's window."""
        return self.llm.model.config.max_position_embeddings

    @property
    def tokenizer_name(self) -> str:
        return str(self.llm.folder)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **unused: object) -> list[int]:
        """Returns the ids of a text, after BOS where that is configured and `add_special_tokens` is not False."""
        ids = self._tokenizer.encode(string, allow_special=True)
        wants_bos = self._bos if add_special_tokens is None else add_special_tokens and self._bos
        return [self._tokenizer.bos_id, *ids] if wants_bos and ids[:1] != [self._tokenizer.bos_id] else ids

    # -- log probabilities -------------------------------------------------------------------------------------------

    def _loglikelihood_tokens(
        self, requests: Sequence[Pair], disable_tqdm: bool = False, **unused: object
    ) -> list[tuple[float, bool]]:
        """Of each continuation its log probability, and whether every token of it is the most likely one.

        A pair that is longer than the window loses the beginning of its context.
        """
        found: list[tuple[float, bool]] = []
        for first in tqdm(range(0, len(requests), AT_ONCE), "log probabilities", disable=disable_tqdm):
            part = requests[first : first + AT_ONCE]
            contexts, continuations = [], []
            for _, context, continuation in part:
                room = self.max_length - len(continuation)
                contexts.append(context[-room:] if room > 0 else context[:1])
                continuations.append(continuation)
            for (texts, _, _), scores in zip(part, self.llm.score(contexts, continuations), strict=True):
                answer = sum(score.logprob for score in scores), all(score.rank == 0 for score in scores)
                self.cache_hook.add_partial("loglikelihood", texts, answer)
                found.append(answer)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Of whole texts: windows that do not overlap, each token after as many before it as there is room for."""
        found = []
        for request in requests:
            windows = map(
                make_disjoint_window,
                get_rolling_token_windows(
                    self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length - 1, 1
                ),
            )
            pairs: list[Pair] = [(("", ""), list(context), list(tokens)) for context, tokens in windows]
            found.append(sum(value for value, _ in self._loglikelihood_tokens(pairs, disable_tqdm=True)))
        return found

    # -- answers -----------------------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers up to one of their stop texts, which is not part of them."""
        texts: list[str] = []
        for first in tqdm(range(0, len(requests), AT_ONCE), "answers", disable=disable_tqdm):
            part = [request.args for request in requests[first : first + AT_ONCE]]
            samplings = [self._sampling(values) for _, values in part]
            prompts = [
                self.tok_encode(context)[-(self.max_length - (sampling.max_tokens or 0)) :]
                for (context, _), sampling in zip(part, samplings, strict=True)
            ]
            for (context, values), answer in zip(part, self.llm.generate(prompts, samplings), strict=True):
                if answer.error:
                    raise ValueError(answer.error)
                texts.append(answer.text or "")
                self.cache_hook.add_partial("generate_until", (context, values), texts[-1])
        return texts

    def _sampling(self, values: Mapping[str, Any]) -> Sampling:
        """The sampling of a task's `generation_kwargs`. Raises ValueError for one that is not known."""
        rest = dict(values)
        until = rest.pop("until", None) or ()
        is_drawn = bool(rest.pop("do_sample", rest.get("temperature", 0) > 0))
        temperature = float(rest.pop("temperature", 1.0)) if is_drawn else 0.0
        rest.pop("temperature", None)
        max_tokens = int(rest.pop("max_gen_toks", self.max_gen_toks))
        sampling = Sampling(
            max_tokens, temperature, float(rest.pop("top_p", 1.0)), top_k=int(rest.pop("top_k", 0)),
            stop=(until,) if isinstance(until, str) else tuple(text for text in until if text),
        )  # fmt: skip
        if rest:
            raise ValueError(
                f"generation_kwargs {', '.join(sorted(rest))} are not honoured here; expected until, max_gen_toks, "
                "do_sample, temperature, top_p, top_k"
            )
        return sampling


def _bos_of(folder: Path) -> bool:
    """True if a folder's `tokenizer_config.json` asks for BOS before every text."""
    path = folder / "tokenizer_config.json"
    return path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("add_bos_token") is True


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
