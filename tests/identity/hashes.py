"""Hashes of what the program computes and writes on fixed seeds: a change that must not alter a number keeps them all.

    logits     prefill and decoding, small models and the one that ships, both arithmetics, references and kernels
    cache      the rows that a sequence's layers hold afterwards
    gradients  of the training objective
    files      a random checkpoint, its copy, a trained model
    tokens     sampled by the model that ships

Sums differ between processors, so hashes are recorded by family: `python -m tests.identity.record`.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

import wavefold
from tests.small import SMALL
from tests.train.tiny import CONFIG as TINY
from tests.train.tiny import RECIPE, tiny_trainer, write_corpus
from wavefold import ops
from wavefold.checkpoint import load, random_checkpoint, random_model, save
from wavefold.config import CSA, HCA, ModelConfig
from wavefold.engine import generate
from wavefold.locate import default_model
from wavefold.model import Transformer
from wavefold.ops import Arithmetic
from wavefold.system import cpu_name
from wavefold.train.export import export

ARITHMETICS = {
    "float32": Arithmetic("exact", torch.float32), "bfloat16": Arithmetic("exact", torch.bfloat16),
    "released": Arithmetic("released", torch.bfloat16),
}  # fmt: skip
WIDE = SMALL.replace(o_lora_rank=128, head_dim=128, hidden_size=128, index_topk=16)
"""A model whose layers run whole in the kernels."""
LENGTH = 300


def family() -> str:
    """What decides the order of sums here: torch's vector instructions and maker's library, and the kernels' own."""
    maker, vectors = cpu_name().split()[0], torch.backends.cpu.get_cpu_capability()
    return f"{maker}, torch {torch.__version__} on {vectors}, kernels {ops.current().isa}"


def digest(*tensors: Tensor) -> str:
    """Of shapes, dtypes and bytes."""
    sha = hashlib.sha256()
    for tensor in tensors:
        data = tensor.detach().contiguous()
        sha.update(f"{data.dtype} {list(data.shape)}".encode())
        sha.update(data.flatten().view(torch.uint8).numpy().tobytes() if data.numel() else b"")
    return sha.hexdigest()[:16]


def digest_of(folder: Path) -> str:
    """Of all files of a folder."""
    sha = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        sha.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return sha.hexdigest()[:16]


def all_hashes() -> Iterator[tuple[str, Callable[[], str]]]:
    """(name, what makes the hash), each on its own."""
    for model_name, config in (("small", SMALL), ("wide", WIDE)):
        for name, arithmetic in ARITHMETICS.items():
            for backend in ("reference", "auto"):
                yield f"{model_name} {name} {backend}", _model_hash(config, arithmetic, backend)
    for name in ARITHMETICS:
        yield f"shipped {name}", _shipped_hash(name)
    for backend in ("reference", "auto"):
        yield f"training {backend}", _training_hash(backend)
    yield "files", _files_hash
    yield "tokens", _tokens_hash


def _model_hash(config: ModelConfig, arithmetic: Arithmetic, backend: str) -> Callable[[], str]:
    def make() -> str:
        model = random_model(config, 5, arithmetic, packed=True)
        tokens = torch.arange(LENGTH) * 7 % config.vocab_size
        with torch.no_grad(), ops.using(backend=backend):
            return digest(model(tokens[None]), model.mtp_logits(tokens[None]), *_in_a_pool(model, tokens))

    return make


def _in_a_pool(model: Transformer, tokens: Tensor) -> Iterator[Tensor]:
    """Hidden states of a prompt, then of single tokens and a fork; then the rows of the cache."""
    pool = model.new_pool(4 * LENGTH)
    first = pool.open()
    yield model.extend(tokens[:-40], [first], [LENGTH - 40])
    second = first.fork()
    for token in tokens[-40:-30]:
        yield model.logits(model.extend(token[None], [first], [1]))
    yield model.extend(tokens[-30:], [first, second], [20, 10])
    (view,) = pool.begin([first], [1])
    for layer, ratio in enumerate(model.config.compress_ratios[: model.config.num_hidden_layers]):
        for kind in {CSA: ("csa", "index"), HCA: ("hca",)}.get(ratio, ()):
            yield view.entries(kind, layer, 0, first.num_tokens // ratio).float()
    pool.abort([view])


def _shipped_hash(name: str) -> Callable[[], str]:
    def make() -> str:
        arithmetic = ARITHMETICS[name]
        model = load(default_model(), arithmetic.name, arithmetic.dtype)
        with torch.no_grad(), ops.using(backend="auto"):
            return digest(*_in_a_pool(model, torch.arange(LENGTH) * 11 % 3000))

    return make


def _training_hash(backend: str) -> Callable[[], str]:
    """Gradients of a step, losses of a few, and the exported files."""

    def make() -> str:
        with tempfile.TemporaryDirectory() as name, ops.using(backend=backend):
            folder = Path(name)
            trainer = tiny_trainer(write_corpus(folder / "corpus"), folder / "out", torch.bfloat16)
            trainer.shards.drop_gradients()
            trainer._train_step()
            gradients = [p.grad for _, p in sorted(trainer.shards.trained.items()) if p.grad is not None]
            losses = torch.tensor([trainer.evaluate()], dtype=torch.float64)
            trainer.step = RECIPE.steps - 1
            trainer.run()
            export(TINY, trainer.exported(), folder / "model")
            return digest(*gradients, losses) + digest_of(folder / "model")

    return make


def _files_hash() -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_checkpoint(WIDE, folder / "first", 3)
        for form in ("fp8", "bf16"):
            save(load(folder / "first", "exact"), folder / form, experts=form)
        return digest_of(folder)


def _tokens_hash() -> str:
    model = wavefold.load(default_model(), "released")
    with ops.using(backend="auto"):
        return digest(torch.tensor(list(generate(model, [0, 300, 400, 500], 64, 0.8, 0.9, seed=7))))
