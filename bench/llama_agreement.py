"""Whether llama.cpp's server and we agree about a GGUF file: greedy answers, and probabilities of the whole vocabulary.

    python bench/llama_agreement.py FILE.gguf --llama-server PROGRAM [--prompts 24] [--tokens 24] [--out FILE]

The file is one of `wavefold convert` or `wavefold quantize`; its tokens are those of the model that ships. The server
goes on from pieces of a held-out text, greedy; at each of its tokens our exact arithmetic reads what it has read.
Prints a JSON line: mean and largest KL in nats, and the share of tokens that are our likeliest too.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import wavefold
from wavefold.bench.circumstances import append, circumstances
from wavefold.chat import Tokenizer
from wavefold.data.corpus import load_corpus
from wavefold.locate import default_model

PROMPT, APART = 96, 300
"""Tokens of a prompt, and from one prompt to the next."""
LETTERS = 8
"""Of text for each token, more than it has."""


@contextmanager
def serving(program: Path, file: Path) -> Iterator[str]:
    """Yields the address of llama.cpp's server, once it answers."""
    command = [str(program), "-m", str(file), "--port", "0", "-c", "1024", "-np", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as server:
        assert server.stderr is not None
        try:
            lines = (re.search(r"listening on (http://127\.0\.0\.1:\d+)", line) for line in server.stderr)
            found = next((match for match in lines if match), None)
            if found is None:
                raise SystemExit(f"{program} does not serve {file}; run it by hand to see why")
            threading.Thread(target=server.stderr.read, daemon=True).start()
            yield found[1]
        finally:
            server.terminate()


def asked(address: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(f"{address}/completion", json.dumps(body).encode())
    request.add_header("content-type", "application/json")
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--llama-server", type=Path, required=True, metavar="PROGRAM")
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
    with serving(args.llama_server, args.file) as address:
        for first in range(0, args.prompts * APART, APART):
            prompt = ids[first : first + PROMPT]
            answer = asked(address, {"prompt": prompt, "n_predict": args.tokens, "temperature": 0, "n_probs": size,
                                     "return_tokens": True, "cache_prompt": False})  # fmt: skip
            with torch.no_grad():
                ours = model(torch.tensor([prompt + answer["tokens"]]))[0].double().log_softmax(-1)[PROMPT - 1 :]
            steps = zip(answer["completion_probabilities"], answer["tokens"], ours, strict=False)
            for step, token, mine in steps:
                theirs = torch.full((size,), -torch.inf, dtype=torch.double)
                for one in step["top_logprobs"]:
                    theirs[one["id"]] = one["logprob"]
                distances.append(float(torch.nn.functional.kl_div(theirs, mine, log_target=True, reduction="sum")))
                num_same += int(mine.argmax()) == token
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
