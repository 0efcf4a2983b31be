"""A program over ranks, as torchrun starts it: rank 0 answers a mix of requests, the others follow.

    torchrun --nproc-per-node 2 -m tests.engine.over_ranks FOLDER OUT [--drafts N] [--dies]

OUT gets the tokens of all requests. The mix has priorities by order, a pool that is too small for all (preemptions),
drafts or none, streams that are closed early, and requests that arrive while others run. `--dies`: rank 1 is killed
after a few passes, and OUT gets the error of each request.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
from pathlib import Path
from random import Random

import torch

from wavefold import LLM, Sampling
from wavefold.engine.open import OverRanks
from wavefold.waves import agreement
from wavefold.waves.transport import RankLost


def mix(llm: LLM) -> list[list[int]]:
    random = Random(3)
    vocab = llm.model.config.vocab_size

    def prompt() -> list[int]:
        again = [random.randrange(vocab) for _ in range(random.randint(1, 12))]
        return (again * 40)[: random.choice([1, 5, 60, 130, 200])]

    def sampling(number: int) -> Sampling:
        temperature = random.choice([0.0, 0.8])
        return Sampling(random.randint(1, 60), temperature, seed=number, stop_ids=(5,), top_p=0.9)

    streams = [llm.stream(prompt(), sampling(number)) for number in range(3)]
    for stream in streams:
        for _ in range(2):
            next(stream, None)
    streams[1].close()
    answers = llm.generate([prompt() for _ in range(12)], [sampling(number) for number in range(12)])
    return [list(stream.finish().tokens) for stream in streams] + [list(answer.tokens) for answer in answers]


def killed_after(llm: LLM, passes: int) -> None:
    forward = llm.model.forward_step
    left = [passes]

    def step(*arguments: object) -> torch.Tensor:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return forward(*arguments)  # type: ignore[arg-type]

    llm.model.forward_step = step  # type: ignore[method-assign]


def errors(llm: LLM) -> list[str | None]:
    streams = [llm.stream([7, 8, 9 + number], Sampling(50, 0.0)) for number in range(3)]
    try:
        streams[0].finish()
    except RankLost as error:
        print(error, flush=True)
    return [stream.completion.error for stream in streams]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--drafts", type=int, default=0)
    parser.add_argument("--dies", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with agreement.joined() if agreement.num_ranks() > 1 else open(os.devnull):
        llm = LLM(
            args.folder, dtype=torch.bfloat16, threads=1, batch_invariant=True, over_ranks=OverRanks(2, None, "bf16"),
            cache_tokens=768, draft_depth=args.drafts,
        )  # fmt: skip
        if not agreement.is_first():
            if args.dies:
                killed_after(llm, 4)
            llm.follow()
            return
        if args.dies:
            args.out.write_text(json.dumps(errors(llm)))
            os._exit(1)
        with llm:
            args.out.write_text(json.dumps(mix(llm)))


if __name__ == "__main__":
    main()
