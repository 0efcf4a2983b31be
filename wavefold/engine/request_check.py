"""What a runner asks of a request before it takes it: tokens that the model has, a window and memory that hold it."""

from __future__ import annotations

import numpy as np
import torch

from wavefold.engine.generate import fitted
from wavefold.engine.request import Request
from wavefold.engine.room import check_answer, check_scored
from wavefold.engine.rows import answer_of
from wavefold.model import Transformer


def check_request(model: Transformer, request: Request, step_tokens: int) -> None:
    """Raises ValueError for a request that cannot be run in passes of at most `step_tokens` tokens."""
    answer = answer_of(request)
    if request.prompt:
        model.check_tokens(torch.from_numpy(np.asarray(request.prompt, np.int64)))
    fitted(len(request.prompt), request.max_tokens, model.config.max_position_embeddings, fit_window=False)
    if request.prompt and request.max_tokens > 0:  # else the scheduler refuses it
        check_answer(model, min(len(request.prompt), step_tokens), request.peak_tokens)
    if answer.next_scored is not None:
        check_scored(model, min(len(request.prompt), step_tokens))
