"""What a request asks of its logits before they become probabilities: penalties for tokens that came, and biases.

    logits -> repetition penalty -> frequency and presence penalties -> bias -> sampler.py

Repetition: transformers' `RepetitionPenaltyLogitsProcessor`. Frequency, presence, bias: OpenAI's completions API.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Adjustments:
    """Of one request; the defaults change nothing.

    `repetition_penalty` divides positive logits, and multiplies negative ones, of tokens in prompt or answer.
    `presence_penalty` is subtracted for tokens in the answer, `frequency_penalty` as often as a token is there.
    `logit_bias` is added, by token id.
    """

    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)

    @property
    def penalties(self) -> tuple[float, float, float]:
        """Repetition, presence, frequency."""
        return self.repetition_penalty, self.presence_penalty, self.frequency_penalty

    @property
    def change_nothing(self) -> bool:
        return self == Adjustments()


NONE = Adjustments()


def adjusted(
    logits: Tensor, adjustments: Sequence[Adjustments], prompts: Sequence[Sequence[int]],
    outputs: Sequence[Sequence[int]],
) -> Tensor:  # fmt: skip
    """logits float32 [n, vocab] of n requests with their prompts and answers so far -> the same shape, adjusted.

    Raises IndexError for a bias outside the vocabulary; `Sampling.check` refuses it before.
    """
    counts = torch.stack([count_tokens(output, logits) for output in outputs])
    seen = torch.stack([count_tokens(prompt, logits) for prompt in prompts]) + counts > 0
    penalties = logits.new_tensor([adjustment.penalties for adjustment in adjustments])
    repetition, presence, frequency = penalties.T[..., None]
    bias = torch.zeros_like(logits)
    for row, adjustment in enumerate(adjustments):
        for token, value in adjustment.logit_bias.items():
            bias[row, token] = value
    return penalized(logits, seen, counts, repetition, presence, frequency) + bias


def penalized(
    logits: Tensor, seen: Tensor, counts: Tensor, repetition: Tensor, presence: Tensor, frequency: Tensor
) -> Tensor:  # fmt: skip
    """logits [n, vocab] and penalties [n, 1] -> [n, vocab].

    `seen` bool [n, vocab]: tokens in prompt or answer. `counts` int64 [n, vocab]: how often each is in the answer.
    """
    repeated = torch.where(logits < 0, logits * repetition, logits / repetition)
    logits = torch.where(seen, repeated, logits)
    return logits - frequency * counts - presence * (counts > 0)


def count_tokens(tokens: Sequence[int], logits: Tensor) -> Tensor:
    """Returns how often each token of the vocabulary is in `tokens`, int64 [vocab] on the device of logits."""
    ids = torch.tensor(list(tokens), dtype=torch.int64, device=logits.device)
    return torch.bincount(ids, minlength=logits.shape[-1])
