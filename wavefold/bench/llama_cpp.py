"""llama.cpp on the same weights: a peer for figures of speed, and an outside check of logits.

    checkpoint -> convert -> .gguf [-> shrink -> .gguf] -> LlamaCpp -> prefill, decode: seconds; logits

A converted file has the routed experts bit for bit (MXFP4) and bfloat16 as it was; FP8 matrices become Q8_0, eight
bits on a scale for 32 weights, which rounds: a KL divergence of about 2e-4 nats a token on the shipped model. `shrink`
rounds bfloat16 matrices too. Tokens go in as ids: both files name them by number. Neither holds the MTP module.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wavefold.config import COMPRESSIONS, ModelConfig

REQUIREMENT = "llama-cpp-python==0.3.36"
"""Its sdist holds the converter and llama.cpp's source (commit 0c1e57098), the first release with this architecture
whose logits were compared: `pip download --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36`.
"""

RATIOS = (0, *(compression.ratio for compression in COMPRESSIONS))

BATCH_TOKENS = 2048
"""Tokens in a call, with 512 in each pass, as in llama.cpp's own tools."""

CONVERTER = """
import runpy, sys
source, folder, out = sys.argv[1:]
sys.path[:0] = [source, source + "/gguf-py"]
from conversion.deepseek import DeepseekV4Model

def set_vocab(self):
    size, writer = self.hparams["vocab_size"], self.gguf_writer
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([f"<{number}>" for number in range(size)])
    writer.add_token_types([1] * size)
    writer.add_token_merges(["< 0"])
    writer.add_vocab_size(size)

DeepseekV4Model.set_vocab = set_vocab
sys.argv = ["convert_hf_to_gguf.py", folder, "--outfile", out, "--outtype", "bf16"]
runpy.run_path(source + "/convert_hf_to_gguf.py", run_name="__main__")
"""
"""llama.cpp recognizes tokenizers by a hash of their output, and would refuse ours. Tokens become their numbers, "<7>":
ids need no tokenizer, but flyweight counts the vocabulary by its texts."""


def convert(folder: Path, sdist: Path, out: Path) -> None:
    """Write the checkpoint in `folder`, in the official layout, to the GGUF file `out`.

    `sdist` is the .tar.gz of llama-cpp-python. The converter holds the experts in memory. Raises ValueError for a
    checkpoint with other compression ratios than 0, 4 and 128, and with the converter's last words where it fails.
    """
    other = sorted({spec.ratio for spec in ModelConfig.from_file(folder).layers} - set(RATIOS))
    if other:
        raise ValueError(f"{folder}: compress ratios {other} are not allowed; llama.cpp has {list(RATIOS)}")
    with tempfile.TemporaryDirectory() as temporary:
        source = unpack(sdist, Path(temporary))
        command = [sys.executable, "-c", CONVERTER, str(source), str(folder), str(out)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        hint = "; install it with: pip install 'wavefold[test]'" if lines[-1].startswith("ModuleNotFoundError") else ""
        raise ValueError(f"{folder}: llama.cpp's converter failed: {lines[-1]}{hint}")


def ensure_gguf(gguf: Path | None, folder: Path, sdist: Path | None, num_threads: int) -> Path:
    """Returns the file `gguf` of the checkpoint in `folder`; where it does not exist, it is made with `sdist`.

    Raises ValueError where a file is not given that is needed, and as `convert` and `shrink` do.
    """
    if gguf is None:
        raise ValueError("llama.cpp needs --gguf, the file of the same weights (made with --sdist)")
    if not gguf.exists():
        if sdist is None:
            raise ValueError(f"{gguf} does not exist; --sdist FILE makes it of {folder}")
        wide = gguf.with_suffix(".bf16.gguf")
        convert(folder, sdist, wide)
        shrink(wide, gguf, num_threads)
        wide.unlink()
    return gguf


def unpack(sdist: Path, folder: Path) -> Path:
    """Unpack the converter out of the sdist. Returns the folder of llama.cpp's source."""
    wanted = ("conversion", "convert_hf_to_gguf.py", "gguf-py", "models")

    def members(file: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
        for member in file:
            parts = Path(member.name).parts
            if parts[1:3] == ("vendor", "llama.cpp") and len(parts) > 3 and parts[3] in wanted:
                yield member

    with tarfile.open(sdist) as file:
        file.extractall(folder, members(file), filter="data")
    found = list(folder.glob("*/vendor/llama.cpp"))
    if not found:
        raise ValueError(f"{sdist}: holds no vendor/llama.cpp; expected the sdist of {REQUIREMENT}")
    return found[0]


def shrink(path: Path, out: Path, num_threads: int) -> None:
    """Write a converted file again with its bfloat16 matrices as Q8_0: 3 % less on a Flash slice, and faster."""
    library = bindings()
    kept = library.GGML_TYPE_F32
    overrides = (library.llama_model_tensor_override * 3)((b"hc_", kept), (b"compressor_ape", kept))  # ends in zeros
    parameters = library.llama_model_quantize_default_params()
    parameters.nthread = num_threads
    parameters.ftype = library.LLAMA_FTYPE_MOSTLY_MXFP4_MOE
    parameters.tt_overrides = overrides
    pointer = (type(parameters) * 1)(parameters)
    if library.llama_model_quantize(str(path).encode(), str(out).encode(), pointer):
        raise ValueError(f"{path}: llama.cpp could not quantize it: {last_error()}")


def bindings() -> Any:
    """llama.cpp's own Python bindings. Raises ValueError where they are not installed."""
    try:
        library = importlib.import_module("llama_cpp")
    except ModuleNotFoundError:
        raise ValueError(f"this needs llama.cpp; install it with: pip install {REQUIREMENT}") from None
    if not _listeners:
        _listeners.append(library.llama_log_callback(_listen))
        library.llama_log_set(_listeners[0], None)
    return library


ERROR_LEVEL = 4
_errors: deque[str] = deque(maxlen=1)
_listeners: list[object] = []


def _listen(level: int, text: bytes, data: object) -> None:
    """Keep the last error, which says why a file was refused; the rest of llama.cpp's log goes nowhere."""
    if level == ERROR_LEVEL and text.strip():
        _errors.append(text.decode(errors="replace").strip())


def last_error() -> str:
    return _errors.pop() if _errors else "no reason given"


class LlamaCpp:
    """A model of one GGUF file, with one sequence of at most `max_tokens`. Close it, or use it in a `with`.

    Ids are fed as they are, without BOS. Loading reads all weights once, so that no time includes it.
    """

    name, arithmetic = "llama.cpp", "activations in 8 bits (Q8_0)"

    def __init__(self, path: Path, max_tokens: int, num_threads: int):
        """Raises ValueError for a file that llama.cpp cannot load, or without its bindings."""
        self._library = library = bindings()
        library.llama_backend_init()
        self._model = library.llama_model_load_from_file(str(path).encode(), library.llama_model_default_params())
        if not self._model:
            raise ValueError(f"{path}: llama.cpp cannot load it: {last_error()}")
        parameters = library.llama_context_default_params()
        parameters.n_ctx = max_tokens
        parameters.n_batch = min(BATCH_TOKENS, max_tokens)
        parameters.n_threads = parameters.n_threads_batch = num_threads
        parameters.swa_full = False  # as llama-bench has it; the library's default keeps and scans the whole context
        self._context = library.llama_init_from_model(self._model, parameters)
        if not self._context:
            library.llama_model_free(self._model)
            raise ValueError(f"{path}: llama.cpp has no room for {max_tokens} tokens: {last_error()}")
        self.max_tokens = max_tokens
        self.vocab_size: int = library.llama_vocab_n_tokens(library.llama_model_get_vocab(self._model))
        self.num_tokens = 0
        self._batch_tokens: int = parameters.n_batch
        self._batch = library.llama_batch_init(self._batch_tokens, 0, 1)
        library.llama_set_warmup(self._context, True)
        self._extend([0])
        library.llama_set_warmup(self._context, False)
        self._clear()

    def prefill(self, tokens: Sequence[int]) -> float:
        """Read `tokens` as a new sequence, with the logits of the last one. Returns the seconds."""
        self._check(tokens)
        self._clear()
        began = time.perf_counter()
        self._extend(tokens)
        return time.perf_counter() - began

    def decode(self, tokens: Sequence[int]) -> list[float]:
        """Go on with `tokens`, one at a time and with the logits of each. Returns the seconds of each."""
        self._check(tokens, self.num_tokens)
        seconds = []
        for token in tokens:
            began = time.perf_counter()
            self._extend([token])
            seconds.append(time.perf_counter() - began)
        return seconds

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """Logits [tokens, vocab] in float32 after each of `tokens`, which are a new sequence."""
        self._check(tokens)
        self._clear()
        parts = [np.empty((0, self.vocab_size), np.float32)]
        for at in range(0, len(tokens), self._batch_tokens):
            part = tokens[at : at + self._batch_tokens]
            self._pass(part, all_logits=True)
            rows = self._library.llama_get_logits(self._context)
            parts.append(np.ctypeslib.as_array(rows, (len(part), self.vocab_size)).copy())
        return np.concatenate(parts)

    def close(self) -> None:
        """Give the memory back."""
        if self._context:
            self._library.llama_batch_free(self._batch)
            self._library.llama_free(self._context)
            self._library.llama_model_free(self._model)
            self._context = self._model = None

    def __enter__(self) -> LlamaCpp:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _check(self, tokens: Sequence[int], start: int = 0) -> None:
        if start + len(tokens) > self.max_tokens:
            raise ValueError(f"{start + len(tokens)} tokens are not allowed; this context has {self.max_tokens}")
        if tokens and not 0 <= min(tokens) <= max(tokens) < self.vocab_size:
            raise ValueError(f"ids {min(tokens)} to {max(tokens)} are not allowed; expected 0 to {self.vocab_size - 1}")

    def _clear(self) -> None:
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)
        self.num_tokens = 0

    def _extend(self, tokens: Sequence[int]) -> None:
        for at in range(0, len(tokens), self._batch_tokens):
            self._pass(tokens[at : at + self._batch_tokens])

    def _pass(self, tokens: Sequence[int], all_logits: bool = False) -> None:
        batch = self._batch
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, self.num_tokens + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = all_logits or i == len(tokens) - 1
        code = self._library.llama_decode(self._context, batch)
        assert code == 0, f"llama_decode returned {code}"
        self._library.llama_synchronize(self._context)
        self.num_tokens += len(tokens)
