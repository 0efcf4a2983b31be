"""Damage to GGUF files: each is read, or refused by a message that names the key, the tensor or the header's fault.

    python -m tests.gguf.mutations --headers 1000000 [--seed 0]
    python -m tests.gguf.mutations --bodies 100000 [--seed 0]

Headers: one to three changes (a byte, a number at a limit of integers, a part cut out or there twice, a part moved, the
file's end) before the data of a small file with keys of all kinds and tensors of all types. Python's memory is measured
for one in fifty: at most the file's size beyond what the whole file takes. Bodies: random bytes as the blocks of each
type, decoded and multiplied by the kernels. For an answer about memory they have to be built with -DWF_SANITIZE=ON:

    WAVEFOLD_NATIVE=build/sanitize/libwavefold_kernels.so ASAN_OPTIONS=detect_leaks=0 \
        LD_PRELOAD=$(gcc -print-file-name=libasan.so) python -m tests.gguf.mutations --bodies 100000

Prints counts; ends with 1 where an error was not ours or named nothing.
"""

from __future__ import annotations

import argparse
import random
import re
import struct
import sys
import tempfile
import tracemalloc
from collections import Counter
from pathlib import Path

import torch

from wavefold import ops
from wavefold.checkpoint.write_gguf import GgufTensor, Value, write_gguf
from wavefold.gguf.header import read_header
from wavefold.gguf.types import TYPES
from wavefold.ops import Arithmetic
from wavefold.quant import Weight
from wavefold.quant.format import FORMATS

LIMITS = (0, 1, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
NAMED = re.compile(
    r"(the name of )?(key|tensor|tensors) ['\"\d]|its header|it begins with|version \d|general\.alignment =|\d bytes; "
)
MEASURED = 50


def small_file(path: Path) -> int:
    """Write a file with keys of all kinds and a tensor of each type. Returns where its data begin."""
    keys = {
        "general.architecture": Value("string", "deepseek4"), "general.alignment": Value("u32", 32),
        "a.number": Value("f32", 1.5), "a.truth": Value("bool", True), "a.large": Value("u64", 1 << 40),
        "numbers": Value("i32", list(range(40))), "texts": Value("string", [f"text {i}" for i in range(12)]),
    }  # fmt: skip
    tensors = {
        f"blk.0.{name}.weight": GgufTensor(
            (2, 256), form, lambda form=form: [torch.zeros(2 * form.row_bytes(256), dtype=torch.uint8)]
        )
        for name, form in TYPES.items()
    }
    write_gguf(path, keys, tensors)
    return min(place.offset for place in read_header(path).tensors.values())


def damaged(whole: bytes, data_at: int, rng: random.Random) -> bytes:
    """Returns the file with one to three changes before its data."""
    data = bytearray(whole)
    for _ in range(rng.randrange(1, 4)):
        at, size = rng.randrange(data_at), rng.randrange(1, 40)
        kind = rng.randrange(7)
        if kind == 0:
            data[at : at + 1] = rng.randbytes(1)
        elif kind == 1:
            data[at : at + 8] = struct.pack("<Q", rng.choice(LIMITS))
        elif kind == 2:
            data[at : at + 4] = struct.pack("<I", rng.choice(LIMITS) & 0xFFFFFFFF)
        elif kind == 3:
            del data[at : at + size]
        elif kind == 4:
            data[at:at] = data[at : at + size]
        elif kind == 5:
            data[at : at + size] = data[(other := rng.randrange(data_at)) : other + size]
        elif rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
    return bytes(data)


def headers(count: int, seed: int, folder: Path) -> Counter[str]:
    """Returns how many files were read, refused, and wrong in which way."""
    path, rng, found = folder / "model.gguf", random.Random(seed), Counter[str]()
    data_at = small_file(path)
    whole = path.read_bytes()
    limit = peak(path)[0] + len(whole)
    for number in range(count):
        path.write_bytes(damaged(whole, data_at, rng))
        try:
            most, error = peak(path) if number % MEASURED == 0 else (0, refusal(path))
        except Exception as unexpected:  # all of them are findings
            found[f"WRONG: {type(unexpected).__name__}: {unexpected}"] += 1
            continue
        if most > limit:
            found[f"WRONG: {most:,} bytes of memory, at most {limit:,} are allowed"] += 1
        if error is not None and not NAMED.search(error.removeprefix(f"{path}: ")):
            found[f"WRONG: a message that names nothing: {error}"] += 1
        found["read" if error is None else "refused"] += 1
    return found


def refusal(path: Path) -> str | None:
    """Returns the message of a file that is refused."""
    try:
        read_header(path)
    except ValueError as error:
        return str(error)
    return None


def peak(path: Path) -> tuple[int, str | None]:
    """Returns the largest memory of Python's while a header is read, and the message."""
    tracemalloc.start()
    try:
        message = refusal(path)
        return tracemalloc.get_traced_memory()[1], message
    finally:
        tracemalloc.stop()


def bodies(count: int, seed: int) -> Counter[str]:
    """Decode and multiply random blocks in buffers of their exact sizes. Returns how many of each type."""
    rng, found = random.Random(seed), Counter[str]()
    generator = torch.Generator().manual_seed(seed)
    names = [form.name for form in FORMATS.values() if form.is_packed]
    for _ in range(count):
        name, rows = rng.choice(names), rng.choice((1, 2, 3, 5, 8, 17))
        columns, tokens = 256 * rng.choice((1, 2, 3)), rng.choice((1, 2, 4, 7, 13, 33))
        codes = torch.randint(
            256, (rows, TYPES[name].row_bytes(columns)), dtype=torch.uint8, generator=generator
        )  # fmt: skip
        weight = Weight.of(codes, packed=FORMATS[name])
        x = torch.randn(tokens, columns, generator=generator).to(rng.choice((torch.bfloat16, torch.float32)))
        y = ops.linear(x, weight, Arithmetic("exact", x.dtype))
        found[name if y.shape == (tokens, rows) else f"WRONG: {name} gave {list(y.shape)}"] += 1
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--headers", type=int, default=0)
    parser.add_argument("--bodies", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = headers(args.headers, args.seed, Path(folder)) + bodies(args.bodies, args.seed)
    for event, count in found.most_common():
        print(f"{count:>9,}  {event}")
    return int(any(event.startswith("WRONG") for event in found))


if __name__ == "__main__":
    sys.exit(main())
