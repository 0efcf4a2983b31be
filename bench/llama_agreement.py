"""Whether llama.cpp's server and we agree about a GGUF file: greedy answers, and probabilities of the whole vocabulary.

    python bench/llama_agreement.py FILE.gguf --llama-server PROGRAM [--prompts 24] [--tokens 24] [--out FILE]

The file is one of `wavefold convert` or `wavefold quantize`; its tokens are those of the model that ships. The server
goes on from pieces of a held-out text, greedy; at each of its tokens our exact arithmetic reads what it has read.
Prints a JSON line: mean and largest KL in nats, and the share of tokens that are our likeliest too.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

import wavefold
from wavefold.bench.circumstances import append, circumstances
from wavefold.bench.llama_server import LlamaServer
from wavefold.chat import Tokenizer
from wavefold.data.corpus import load_corpus
from wavefold.engine.logprobs import divergence
from wavefold.locate import default_model

PROMPT, APART = 96, 300
"""Tokens of a prompt, and from one prompt to the next."""
LETTERS = 8
"""Of text for each token, more than it has."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--llama-server", required=True, metavar="PROGRAM")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--out", type=Path, help="a file to append the JSON line to")
    args = parser.parse_args()
    text = "".join(one.text for one in load_corpus("stdlib").held_out)[: LETTERS * APART * args.prompts]
    ids = Tokenizer.load(default_model()).encode(text)
    model = wavefold.load(args.file, "exact")
    size = model.config.vocab_size
    distances: list[float] = []
    num_same = 0
    with LlamaServer(args.llama_server, args.file, 1, PROMPT + args.tokens, torch.get_num_threads()) as server:
        for first in range(0, args.prompts * APART, APART):
            prompt = ids[first : first + PROMPT]
            tokens, steps = server.likelihoods(prompt, args.tokens, size)
            theirs = torch.tensor([[step[number] for number in range(size)] for step in steps])
            with torch.no_grad():
                ours = model(torch.tensor([prompt + tokens]))[0, PROMPT - 1 :][: len(steps)]
            distances += divergence(ours, theirs).tolist()
            num_same += int((ours.argmax(-1) == torch.tensor(tokens[: len(steps)])).sum())
            print(f"\r{first // APART + 1} of {args.prompts}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    count = len(distances)
    line = circumstances(1) | {"bench": "llama_agreement", "tokens": count, "mean_kl": sum(distances) / count,
                               "most_kl": max(distances), "same_token": num_same / count}  # fmt: skip
    print(json.dumps(line))
    if args.out:
        append(args.out, [line])


if __name__ == "__main__":
    main()
