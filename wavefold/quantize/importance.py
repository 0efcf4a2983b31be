"""What a text says about a model's experts: the mean square of each input column, and how much each expert adds.

    tokens, some at a time -> the model's layers -> h of each routed expert -> sum(h^2) by column       for w1 and w3
                                                    silu(w1 h) * w3 h * route -> sum of squares          for w2
                                                    norm of what the expert adds -> sum                  for pruning
    products of inputs within 256 columns -> sums, for rounding that knows how errors add up (quant/encode/descent.py)

The squares are llama.cpp's "importance matrix"; route weights are inside w2's input, as in the released arithmetic. The
mean norm of what an expert adds to its tokens, route weight included, is REAP's saliency (Cerebras, 2025).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from wavefold.atomic import write_bytes
from wavefold.checkpoint.write_gguf import GgufTensor, Value, write_gguf
from wavefold.config import ModelConfig
from wavefold.experts.table import MATRICES
from wavefold.gguf.table import experts_name
from wavefold.gguf.types import SUPER
from wavefold.quant.encode import TYPES, as_bytes

PARTS = ("h", "inner", "tokens", "norms", "sensitivity")
MOMENTS = ("h_moments", "inner_moments")
MOST_MOMENT_BYTES = 1 << 31
"""Of each of the two: of a larger model, h's are kept for a layer in place of an expert, those of w2 are not."""
KIND = "wavefold importance"


@dataclass
class Importance:
    """Sums over the tokens of a text, for the main layers of a model."""

    h: Tensor
    """Squares of the inputs of w1 and w3: float32 [layers, experts, hidden]."""
    inner: Tensor
    """Squares of the inputs of w2: float32 [layers, experts, inter]."""
    tokens: Tensor
    """Tokens that were routed: float32 [layers, experts], whole."""
    norms: Tensor
    """Norms of what the experts added: float32 [layers, experts]."""
    sensitivity: Tensor
    """KL divergence of the logits in nats, over the squared relative noise in the products of all w1, w2 or w3 of a
    layer: float32 [layers, 3].

    0 where it was not measured."""
    h_moments: Tensor
    """Products of the inputs of w1 and w3 in super-blocks: float32 [layers, experts or 1 or 0, blocks, 256, 256]."""
    inner_moments: Tensor
    """Of the inputs of w2: float32 [layers, experts or 0, blocks, 256, 256]."""
    notes: dict[str, str] = field(default_factory=dict)
    """What was read: `text`, a fingerprint of the ids; `chunk`, tokens at a time; `chunks`, how many of `of`."""

    @classmethod
    def empty(cls, config: ModelConfig) -> Importance:
        layers, experts = config.num_hidden_layers, config.n_routed_experts
        shapes = [(layers, experts, config.hidden_size), (layers, experts, config.moe_intermediate_size)]
        h, inner = (torch.zeros(shape) for shape in shapes)
        moments = (
            _empty_moments(layers, (experts, 1), config.hidden_size),
            _empty_moments(layers, (experts,), config.moe_intermediate_size),
        )
        counts = torch.zeros(layers, experts), torch.zeros(layers, experts), torch.zeros(layers, len(MATRICES))
        return cls(h, inner, *counts, *moments)

    def add(self, layer: int, expert: int, h: Tensor, inner: Tensor, y: Tensor) -> None:
        """Count what an expert saw and made of some tokens: h [tokens, hidden], inner [tokens, inter], y as h."""
        h, inner = h.float(), inner.float()
        self.h[layer, expert] += h.square().sum(0)
        self.inner[layer, expert] += inner.square().sum(0)
        self.tokens[layer, expert] += len(h)
        self.norms[layer, expert] += y.float().norm(dim=1).sum()
        for sums, inputs in ((self.h_moments, h), (self.inner_moments, inner)):
            if sums.shape[1] * sums.shape[2]:
                blocks = inputs.unflatten(1, (-1, SUPER)).transpose(0, 1)
                sums[layer, expert if sums.shape[1] > 1 else 0] += blocks.mT @ blocks

    def moments(self, layer: int, expert: int, matrix: str) -> Tensor | None:
        """Returns means of products of input columns of a matrix [columns / 256, 256, 256]; None without them."""
        sums = self.inner_moments if matrix == "w2" else self.h_moments
        if not sums.shape[1] * sums.shape[2]:
            return None
        if sums.shape[1] == 1:
            return sums[layer, 0] / self.tokens[layer].sum().clamp(min=1)
        return sums[layer, expert] / self.tokens[layer, expert].clamp(min=1)

    def columns(self, layer: int, expert: int, matrix: str) -> Tensor:
        """Returns the mean squares of a matrix's input columns: zeros for an expert that was never chosen."""
        sums = self.inner if matrix == "w2" else self.h
        return sums[layer, expert] / self.tokens[layer, expert].clamp(min=1)

    def saliency(self, layer: int) -> Tensor:
        """Returns the mean norm of what each expert adds to its tokens: [experts]."""
        return self.norms[layer] / self.tokens[layer].clamp(min=1)

    @property
    def num_unseen(self) -> int:
        """Experts that no token was routed to."""
        return int((self.tokens == 0).sum())

    def save(self, path: Path) -> None:
        """Write the file in one step."""
        tensors = {name: getattr(self, name).contiguous() for name in PARTS + MOMENTS}
        write_bytes(path, save(tensors, {"kind": KIND, "notes": json.dumps(self.notes)}))

    @classmethod
    def load(cls, path: Path, config: ModelConfig) -> Importance:
        """Reads a file for a model. Raises ValueError where it is none, or of a model of other sizes."""
        expected = cls.empty(config)
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("kind") != KIND:
                    raise ValueError(f"its kind is {metadata.get('kind')!r}; expected {KIND!r}")
                tensors = {name: file.get_tensor(name) for name in PARTS + MOMENTS}
                notes = json.loads(metadata["notes"])
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise ValueError(f"{path}: not a readable importance file ({error})") from None
        for name, tensor in tensors.items():
            wanted = getattr(expected, name)
            if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
                raise ValueError(
                    f"{path}: {name} is {tensor.dtype} {list(tensor.shape)}; this model needs {wanted.dtype} "
                    f"{list(wanted.shape)}"
                )
            if not (tensor.isfinite() & ((tensor >= 0) | (name in MOMENTS))).all():
                raise ValueError(f"{path}: {name} holds numbers that are infinite, NaN or negative")
        return cls(**tensors, notes=notes)

    def save_imatrix(self, path: Path) -> None:
        """Write the squares as llama.cpp's importance matrix, a GGUF file that `llama-quantize --imatrix` reads."""
        chunks, chunk = int(self.notes.get("chunks", 1)), int(self.notes.get("chunk", 1))
        keys = {
            "general.type": Value("string", "imatrix"),
            "imatrix.datasets": Value("string", [self.notes.get("text", "unknown")]),
            "imatrix.chunk_count": Value("u32", chunks),
            "imatrix.chunk_size": Value("u32", chunk),
        }
        tensors = {}
        for layer in range(len(self.h)):
            for matrix, sums in (("w1", self.h), ("w2", self.inner), ("w3", self.h)):
                name = experts_name(layer, matrix)
                tensors[f"{name}.in_sum2"] = _plain(sums[layer])
                tensors[f"{name}.counts"] = _plain(self.tokens[layer][:, None])
        write_gguf(path, keys, tensors)


def _empty_moments(layers: int, counts: tuple[int, ...], columns: int) -> Tensor:
    """Returns zeros for the first count of experts of which they are not too large; for none otherwise."""
    blocks = columns // SUPER if columns % SUPER == 0 else 0
    fits = [n for n in counts if 4 * layers * n * blocks * SUPER * SUPER <= MOST_MOMENT_BYTES]
    return torch.zeros(layers, fits[0] if fits else 0, blocks, SUPER, SUPER)


def is_importance(path: Path) -> bool:
    """True for a file that `Importance.save` wrote; a text is none."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("kind") == KIND
    except (OSError, SafetensorError):
        return False


def _plain(values: Tensor) -> GgufTensor:
    return GgufTensor(tuple(values.shape), TYPES["f32"], lambda: [as_bytes(values)])
