"""How far llama.cpp's logits and ours are from transformers' in float32: same checkpoint, same held-out text.

    python bench/kl.py --gguf nano.gguf [--windows 3] [--length 512] [--out FILE]
    python bench/kl.py --gguf nano.q2_k.gguf --blocks       both on the file; true is exact float32 on its values

The GGUF file is made of the model that ships (`wavefold.bench.llama_cpp.convert`). It is not the same file: llama.cpp's
converter stores FP8 matrices as Q8_0 whatever is asked (0.55 % RMS), so that its distance contains that step.

Prints a table and one JSON line: mean KL in nats a token, the share of tokens whose most likely successor is
the true one, and that share among the tokens where transformers' two best logits are more than 0.05 apart.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import wavefold
from wavefold import ops
from wavefold.bench.circumstances import append, circumstances
from wavefold.bench.llama_cpp import LlamaCpp
from wavefold.bench.peers.models import mean_kl
from wavefold.bench.peers.our_model import new_logits
from wavefold.chat import Tokenizer
from wavefold.data.corpus import load_corpus
from wavefold.locate import default_model

MARGIN = 0.05
WINDOWS_APART = 10000


def ours(path: Path, arithmetic: str, dtype: torch.dtype, activations: str = "bf16") -> Callable[[list[int]], Tensor]:
    model = wavefold.load(path, arithmetic, dtype)
    model.runtime = ops.current().but(activations=activations)
    return partial(new_logits, model)


def transformers() -> Callable[[list[int]], Tensor]:
    from transformers import DeepseekV4ForCausalLM, FineGrainedFP8Config

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = DeepseekV4ForCausalLM.from_pretrained(
            default_model(), quantization_config=FineGrainedFP8Config(dequantize=True), dtype=torch.float32,
            attn_implementation="eager",
        ).float()  # fmt: skip

    @torch.no_grad()
    def logits(tokens: list[int]) -> Tensor:
        return model(torch.tensor([tokens])).logits[0]

    return logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--blocks", action="store_true", help="ours run on the GGUF file, and it is what is true")
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    tokenizer = Tokenizer.load(default_model())
    ids: list[int] = []
    for document in load_corpus("stdlib").held_out:
        ids += tokenizer.encode_document(document.text)
    windows = [ids[at * WINDOWS_APART :][: args.length] for at in range(args.windows)]
    path, of = (args.gguf, "the file's values") if args.blocks else (default_model(), "transformers")
    reference = ours(path, "exact", torch.float32) if args.blocks else transformers()
    true = torch.cat([reference(window) for window in windows]).double()
    best = true.topk(2).values
    clear = best[:, 0] - best[:, 1] > MARGIN
    rows = []
    table = Table("", "mean KL", "top-1", f"top-1 where the margin is above {MARGIN}",
                  title=f"against {of} in float32, {args.windows} x {args.length} held-out tokens")  # fmt: skip
    with LlamaCpp(args.gguf, args.length, torch.get_num_threads()) as llama:
        contestants: dict[str, Callable[[list[int]], Tensor]] = {
            "llama.cpp": lambda tokens: torch.from_numpy(llama.logits(tokens)),
            "exact, float32": ours(path, "exact", torch.float32),
            "exact, bfloat16": ours(path, "exact", torch.bfloat16),
            "exact, bfloat16, int8": ours(path, "exact", torch.bfloat16, "int8"),
            "released": ours(path, "released", torch.bfloat16),
            "released, int8": ours(path, "released", torch.bfloat16, "int8"),
        }
        for name, logits in contestants.items():
            other = torch.cat([logits(window) for window in windows]).double()
            same = other.argmax(-1) == true.argmax(-1)
            row = {"name": name, "kl": mean_kl(true, other), "top1": float(same.double().mean()),
                    "top1_clear": float(same[clear].double().mean())}  # fmt: skip
            rows.append(row)
            table.add_row(name, f"{row['kl']:.2e}", f"{row['top1']:.2%}", f"{row['top1_clear']:.2%}")
    Console().print(table)
    line = circumstances(1) | {"bench": "kl", "of": of, "clear": float(clear.double().mean()), "rows": rows}
    print(json.dumps(line))
    if args.out:
        append(args.out, [line])


if __name__ == "__main__":
    main()
