"""A contestant's process: loads one peer, then answers requests in lines of JSON (`bench/worker.py` is the other end).

    experts    {"case": file, "out": file | null}   ->  {"seconds": [s of each call]}
    model      {"prefill": ids} | {"decode": ids} | {"logits": ids, "out": file}   ->  {"seconds": [...]} | {}

The greeting is {}, or {"missing": package} where the peer is not installed, or {"error": why it cannot run}. A peer's
own words go to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any

import torch
from torch import Tensor


def load_case(path: str) -> dict[str, Tensor]:
    """Inputs x [calls, n, hidden] bfloat16, ids [calls, n, topk] int64 and weights [calls, n, topk] float32."""
    from safetensors.torch import load_file

    case: dict[str, Tensor] = load_file(path)
    return case


def answer_experts(experts: Any, request: dict[str, Any]) -> dict[str, object]:
    """Times `experts.run` on each call of a case, over the layers in turn. The first call's result goes to a file."""
    from safetensors.torch import save_file

    case = load_case(request["case"])
    seconds = []
    for number, (x, ids, weights) in enumerate(zip(case["x"], case["ids"], case["weights"], strict=True)):
        layer = number % experts.num_layers
        experts.load(layer, x, ids, weights)
        began = time.perf_counter()
        experts.run()
        seconds.append(time.perf_counter() - began)
        if number == 0 and request["out"]:
            save_file({"y": experts.output().contiguous().clone()}, request["out"])
    return {"seconds": seconds}


def answer_model(model: Any, request: dict[str, Any]) -> dict[str, object]:
    """Reads a prompt, decodes tokens, or writes logits [tokens, vocab] to a file."""
    if "prefill" in request:
        return {"seconds": [model.prefill(request["prefill"])]}
    if "decode" in request:
        return {"seconds": model.decode(request["decode"])}
    from safetensors.torch import save_file

    logits = torch.as_tensor(model.logits(request["logits"])).float()
    save_file({"logits": logits.contiguous()}, request["out"])
    return {}


def main(module: str, settings: dict[str, Any]) -> None:
    """Serve requests until stdin ends. `settings` are the arguments of the module's `Experts` or `Model`."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not be taken for an answer

    def say(answer: dict[str, object]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    torch.set_num_threads(settings["threads"])
    try:
        peer = importlib.import_module(module)
        is_model = hasattr(peer, "Model")
        contestant = (peer.Model if is_model else peer.Experts)(**settings)
    except ModuleNotFoundError as error:
        return say({"missing": error.name})
    except Exception as error:  # a peer may raise anything; its user is told
        return say({"error": f"{type(error).__name__}: {error}"})
    say({})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            say(answer_model(contestant, request) if is_model else answer_experts(contestant, request))
        except Exception as error:
            return say({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
