"""What tests of the released arithmetic share: the official code's recorded values, and how ours are held to them."""

import functools
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

import wavefold
from wavefold import Transformer
from wavefold.ops import Arithmetic

VECTORS = Path(__file__).parent / "vectors"
RELEASED = Arithmetic("released", torch.bfloat16)
EXACT = Arithmetic("exact", torch.float32)


class Recorded(NamedTuple):
    """A small model with official weights' formats, and what the official code computed with it."""

    model: Transformer
    values: dict[str, Tensor]


@functools.cache
def op_vectors() -> dict[str, Tensor]:
    """Inputs and outputs of the official code's single operations; codes and scales as raw bytes."""
    return load_file(VECTORS / "ops" / "vectors.safetensors")


@functools.cache
def recorded(name: str) -> Recorded:
    """The model small-a or small-b, in released arithmetic."""
    folder = VECTORS / name
    return Recorded(wavefold.load(folder, arithmetic="released"), load_file(folder / "vectors.safetensors"))


@functools.cache
def exact_model(name: str) -> Transformer:
    """The same weights in exact float32."""
    return wavefold.load(VECTORS / name, "exact")


def assert_agrees(what: str, ours: Tensor, theirs: Tensor, error: float, equal: float) -> None:
    """Relative error at most `error`, share of equal values at least `equal`; infinities in the same places.

    -0 equals 0. The figures are printed: `pytest -rP` shows them.
    """
    assert ours.shape == theirs.shape, f"{what}: shape {tuple(ours.shape)}, expected {tuple(theirs.shape)}"
    finite = theirs.isfinite()
    assert torch.equal(ours.isfinite(), finite), f"{what}: not finite where the reference is, or the reverse"
    a, b = ours[finite].double(), theirs[finite].double()
    relative, share = float((a - b).norm() / b.norm()), float((a == b).double().mean())
    line = f"{what:32} error {relative:.1e}   equal {share:9.4%}"
    print(line)
    assert relative <= error and share >= equal, f"{line}; expected at most {error:.1e} and at least {equal:.4%}"


def bf16_steps(ours: Tensor, theirs: Tensor) -> Tensor:
    """How many bfloat16 values lie between the two, per element; -0 and 0 are one value."""
    assert ours.dtype == theirs.dtype == torch.bfloat16 and ours.shape == theirs.shape
    bits = [x.contiguous().view(torch.int16).int() for x in (ours, theirs)]
    ordered = [torch.where(b < 0, -(b & 0x7FFF), b) for b in bits]
    return (ordered[0] - ordered[1]).abs()


def assert_single_steps(what: str, ours: Tensor, theirs: Tensor, share: float) -> None:
    """All values within one bfloat16 step of the reference's, at most `share` of them not equal."""
    steps = bf16_steps(ours, theirs)
    moved = int((steps > 0).sum())
    print(f"{what:32} {moved} of {steps.numel()} values moved, by at most {int(steps.max())} bfloat16 steps")
    assert int(steps.max()) <= 1, f"{what}: {int(steps.max())} bfloat16 steps apart at {steps.argmax()}"
    assert moved <= share * steps.numel(), f"{what}: {moved} of {steps.numel()} values are a step off"


def mean_kl(ours: Tensor, theirs: Tensor) -> float:
    """Mean over rows of KL(theirs || ours), nats, from logits."""
    a, b = ours.double().log_softmax(-1), theirs.double().log_softmax(-1)
    return float((b.exp() * (b - a)).sum(-1).mean())


def assert_logits_agree(what: str, ours: Tensor, theirs: Tensor, kl: float) -> None:
    """Mean KL at most `kl` nats. Prints it with the relative error and how often the argmax is the same."""
    value = mean_kl(ours, theirs)
    error = float((ours - theirs).double().norm() / theirs.double().norm())
    same = float((ours.argmax(-1) == theirs.argmax(-1)).double().mean())
    rows = float((ours == theirs).all(-1).double().mean())
    print(f"{what:32} KL {value:.1e}   error {error:.1e}   same argmax {same:.1%}   rows bit-equal {rows:.1%}")
    assert value <= kl, f"{what}: mean KL {value:.1e}, expected at most {kl:.1e}"
