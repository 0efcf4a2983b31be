"""The process of the engine in `bench/many_requests.py`: it answers prompts that come together.

{"prompts": [[id, ...], ...], "new": n}   ->   {"times": of each token, "steps": fields of StepTime}
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from wavefold.bench.many_requests import Passes, run_requests
from wavefold.cache import BLOCK_TOKENS
from wavefold.chat import Prompt
from wavefold.engine import Answer
from wavefold.engine.open import open_model
from wavefold.engine.request import Request
from wavefold.engine.runner import Runner
from wavefold.engine.sampling import ResolvedSampling


def main() -> None:
    settings: dict[str, Any] = json.loads(sys.argv[1])
    torch.set_num_threads(settings["threads"])
    try:
        model = open_model(
            Path(settings["model"]), settings["arithmetic"], torch.bfloat16, threads=settings["threads"],
            activations=settings["activations"],
        )  # fmt: skip
    except ValueError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    passes = Passes(model)
    print(json.dumps({"vocab": model.config.vocab_size}), flush=True)
    for line in sys.stdin:
        requests = requests_of(**json.loads(line))
        num_blocks = sum(-(-request.peak_tokens // BLOCK_TOKENS) for request in requests)
        runner = Runner(model, num_blocks, chunk_tokens=settings["chunk"])
        times, steps = run_requests(runner, requests, passes)
        print(json.dumps({"times": times, "steps": steps}), flush=True)


def requests_of(prompts: list[list[int]], new: int) -> list[Request]:
    """Requests for the most likely tokens, which nothing ends early."""
    sampling = ResolvedSampling(0.0, 1.0, 0, new, fit_window=False, eos_ids=())
    answers = [Answer(Prompt(ids), sampling) for ids in prompts]
    return [Request(number, answer.prompt.ids, new, sampling=answer) for number, answer in enumerate(answers)]


if __name__ == "__main__":
    main()
