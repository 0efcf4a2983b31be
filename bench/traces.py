"""Policies over numbers of slots, on synthetic traces and on one of the model that ships: the tables of docs/traces.md.

    python bench/traces.py

Nothing is timed: the figures are the same on every machine, but for the trace of the model that ships, whose last bits
depend on the processor.
"""

from __future__ import annotations

from wavefold import LLM, Sampling
from wavefold.experts.traces import Recorder, Trace
from wavefold.experts.traces.sizes import Sizes, compared
from wavefold.experts.traces.synthetic import zipf_trace

LAYERS, EXPERTS, TOPK = 12, 128, 6
PROMPTS = (
    "def read_file(path):\n", "class Parser:\n    def __init__(self", "import os\n\ndef main():\n    ",
    "class TestQueue(unittest.TestCase):\n",
)  # fmt: skip
SYNTHETIC = {
    "exponent 1, a topic lasts 256 tokens": ([1] * 2000, 1.0, 0.5, 256),
    "exponent 1, 64 tokens": ([1] * 2000, 1.0, 0.5, 64),
    "exponent 1, no topics": ([1] * 2000, 1.0, 0.0, 256),
    "exponent 0.7, 256 tokens": ([1] * 2000, 0.7, 0.5, 256),
    "exponent 1, 256 tokens, passes of 16": ([16] * 120, 1.0, 0.5, 256),
    "exponent 1, 256 tokens, passes of 100": ([100] * 40, 1.0, 0.5, 256),
}
"""Rows of passes, exponent, locality, tokens of a topic."""


def shipped() -> Trace:
    """Four answers of 256 tokens, one after another."""
    with LLM(threads=1, prefix_cache=False) as llm:
        recorder = Recorder(llm.model.experts.store.table)
        llm.model.tell_chosen(recorder)
        for prompt in PROMPTS:
            llm.generate([prompt], Sampling(max_tokens=256, temperature=1, seed=1))
    return recorder.trace()


def show(name: str, trace: Trace, slots: list[int] | None = None) -> None:
    """Print a table."""
    sizes = Sizes(trace)
    rows = compared(sizes, slots or [sizes.num_experts * part // 8 for part in (1, 2, 4, 6)])
    names = list(rows[0].hits)
    print(f"\n**{name}**: {trace.num_tokens:,} tokens in {len(trace.rows):,} passes\n")
    print("| slots | " + " | ".join(names) + " |\n|" + "---|" * (1 + len(names)))
    for row in rows:
        share = f"{row.num_slots:,} ({row.num_slots / sizes.num_experts:.0%})"
        print(f"| {share} | " + " | ".join(f"{100 * row.hits[name]:.1f}" for name in names) + " |", flush=True)


def main() -> None:
    for name, (rows, exponent, locality, topic_tokens) in SYNTHETIC.items():
        trace = zipf_trace(
            rows, LAYERS, EXPERTS, TOPK, exponent, locality=locality, topic_tokens=topic_tokens
        )  # fmt: skip
        show(name, trace)
    show("the model that ships", shipped(), [6, 9, 12, 15, 18, 21])


if __name__ == "__main__":
    main()
