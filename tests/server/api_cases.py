"""Cases that schemathesis makes of /openapi.json, good and bad bodies alike: none may end in a 5xx.

    python -m tests.server.api_cases --count 200000

Bodies with another model's name are refused early: in most cases the name is the served one, and answers are short.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from typing import Any

import hypothesis
import schemathesis
from hypothesis import HealthCheck, Phase

from tests.server.running import running
from wavefold import LLM, ops
from wavefold.server.app import COUNTS
from wavefold.server.contexts import context_for
from wavefold.server.protocol import PROTOCOLS

LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


def shortened(path: str, body: Any, rng: random.Random) -> Any:
    """Returns a body whose model is the served one and whose answer is short, most of the time."""
    if not isinstance(body, dict) or rng.random() < 0.1:
        return body
    body = {**body, "model": "wavefold"}
    for name in LENGTHS:
        if isinstance(body.get(name), int) and not isinstance(body[name], bool) and body[name] > 4:
            body[name] = rng.randrange(1, 5)
    if path not in COUNTS and not any(isinstance(body.get(name), int) for name in LENGTHS):
        body["max_output_tokens" if "input" in body else "max_tokens"] = 2
    return body


def check(count: int, seed: int = 1) -> Counter[str]:
    """Sends about `count` cases, as many to each operation. Returns how many ended how. Fails at a 5xx."""
    seen: Counter[str] = Counter()
    rng = random.Random(seed)
    with (
        ops.using(backend="auto"), LLM(width=16, threads=1) as llm,
        running(llm, PROTOCOLS, context_for(llm, ("wavefold",)), max_queue=1000) as server,
    ):  # fmt: skip
        schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
        operations = [result.ok() for result in schema.get_all_operations()]
        posts = [one for one in operations if one.method.upper() == "POST"]
        for operation in operations:
            share = count // (2 * len(posts)) if operation in posts else max(1, count // (50 * len(operations)))

            for mode in schemathesis.GenerationMode:
                if mode == schemathesis.GenerationMode.NEGATIVE and operation not in posts:
                    continue

                @hypothesis.seed(seed)
                @hypothesis.settings(
                    max_examples=share, deadline=None, database=None, phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )  # fmt: skip
                @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
                def run(case: Any) -> None:
                    if operation in posts:  # noqa: B023
                        case.body = shortened(case.path, case.body, rng)
                    response = case.call(timeout=120)
                    seen[f"{case.path} {response.status_code}"] += 1
                    assert response.status_code < 500, (case.path, case.body, response.text)

                run()
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200_000, help="cases, about (default 200,000)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    began = time.perf_counter()
    seen = check(args.count, args.seed)
    for name, number in sorted(seen.items()):
        print(f"{number:8,} {name}")
    print(f"{sum(seen.values()):,} cases, none a 5xx, in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
