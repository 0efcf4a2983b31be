"""Two models with different settings, called from four Python threads at once: nothing of a runtime is the process's.

    python -m tests.two_models SECONDS      exits with 0, or with a message and 1; also under the address sanitizer

Each thread decodes, reads prompts, forks and closes sequences in pools of its own; what it gets is held to what the
model gave before the threads began, to the bit.
"""

from __future__ import annotations

import random
import sys
import threading
import time

import torch

from tests.small import SMALL
from wavefold import ops
from wavefold.cache import Pool
from wavefold.checkpoint.random import random_model
from wavefold.model import Step, Transformer
from wavefold.ops import Arithmetic, Runtime

CONFIG = SMALL.replace(o_lora_rank=128, head_dim=128, hidden_size=128, index_topk=16)
TOKENS = torch.randint(0, CONFIG.vocab_size, (300,), generator=torch.Generator().manual_seed(0))


def models() -> list[Transformer]:
    """One in released arithmetic on two threads, one in exact bfloat16, batch-invariant, on the plainest kernels."""
    released = random_model(CONFIG, 1, Arithmetic("released", torch.bfloat16), packed=True)
    exact = random_model(CONFIG, 2, Arithmetic("exact", torch.bfloat16), packed=True)
    released.runtime = Runtime(threads=2)
    exact.runtime = Runtime(threads=1, isa=ops.isas()[-1], batch_invariant=True)
    return [released, exact]


def answers(model: Transformer, pool: Pool) -> list[torch.Tensor]:
    """Logits of a prompt, of single tokens and of a fork; every sequence is closed."""
    sequence = pool.open()
    found = [model.forward_step(Step(TOKENS[:150], [sequence], [150], [149]))]
    fork = sequence.fork()
    for token in TOKENS[150:155]:
        found.append(model.forward_step(Step(token[None], [sequence], [1], [0])))
    found.append(model.forward_step(Step(TOKENS[155:185], [sequence, fork], [20, 10], [19, 29])))
    sequence.close()
    fork.close()
    return found


def run(seconds: float) -> int:
    """Calls that were made. Raises AssertionError where a thread got another bit."""
    both = models()
    expected = [answers(model, model.new_pool(1024)) for model in both]
    until, wrong, calls = time.monotonic() + seconds, [], []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        pools = [model.new_pool(1024) for model in both]
        while time.monotonic() < until and not wrong:
            number = chance.randrange(2)
            got = answers(both[number], pools[number])
            if not all(torch.equal(*pair) for pair in zip(got, expected[number], strict=True)):
                wrong.append(number)
            calls.append(len(got))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, f"model {wrong[0]} gave other bits to a thread"
    return sum(calls)


if __name__ == "__main__":
    print(f"{run(float(sys.argv[1])):,} calls of four threads on two models: the same bits")
