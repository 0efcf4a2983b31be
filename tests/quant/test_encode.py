"""Matrices in GGUF's types: bytes that the `gguf` package decodes, with no more weighted error than llama.cpp's.

The `gguf` package's decoders are the oracle of layouts. LLAMA_CPP holds the errors of llama.cpp's own quantizer
(`ggml_quantize_chunk` of commit 0c1e57098, with the same importance) on the same inputs.
"""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from wavefold.quant import dequantize, quantize_fp4
from wavefold.quant.encode import MATRIX_TYPES, TYPES, encode, fitting, mxfp4_of_fp4

SEARCHED = [name for name in MATRIX_TYPES if name not in ("f16", "bf16", "q8_0")]

LLAMA_CPP = {
    ("normal", "mxfp4"): 0.0134048,
    ("normal", "q6_k"): 0.000253809,
    ("normal", "q5_k"): 0.00105624,
    ("normal", "q4_k"): 0.00412817,
    ("normal", "iq4_xs"): 0.00493858,
    ("normal", "q3_k"): 0.0174745,
    ("normal", "iq3_xxs"): 0.0174756,
    ("normal", "q2_k"): 0.051899,
    ("normal", "iq2_xs"): 0.054365,
    ("normal", "iq2_xxs"): 0.0848349,
    ("heavy", "mxfp4"): 0.0178318,
    ("heavy", "q6_k"): 0.000448539,
    ("heavy", "q5_k"): 0.00169691,
    ("heavy", "q4_k"): 0.00617439,
    ("heavy", "iq4_xs"): 0.00774423,
    ("heavy", "q3_k"): 0.0273852,
    ("heavy", "iq3_xxs"): 0.0261237,
    ("heavy", "q2_k"): 0.0678251,
    ("heavy", "iq2_xs"): 0.0826609,
    ("heavy", "iq2_xxs"): 0.11937,
    ("fp4", "mxfp4"): 0,
    ("fp4", "q6_k"): 0.000169892,
    ("fp4", "q5_k"): 0.000924769,
    ("fp4", "q4_k"): 0.00328993,
    ("fp4", "iq4_xs"): 0.00440924,
    ("fp4", "q3_k"): 0.0175252,
    ("fp4", "iq3_xxs"): 0.0194148,
    ("fp4", "q2_k"): 0.0525847,
    ("fp4", "iq2_xs"): 0.0578805,
    ("fp4", "iq2_xxs"): 0.0849131,
}  # fmt: skip


def inputs(kind: str) -> tuple[Tensor, Tensor]:
    """A matrix [48, 512] and the importance of its columns."""
    random = np.random.default_rng(7)
    x = random.standard_t(4, (48, 512)) if kind == "heavy" else random.standard_normal((48, 512))
    values = torch.from_numpy((0.02 * x).astype(np.float32))
    if kind == "fp4":
        values = dequantize(*quantize_fp4(values), torch.float32)
    return values, torch.from_numpy((random.random(512) ** 3 * 10 + 0.01).astype(np.float32))


def decoded(encoded: Tensor, name: str) -> np.ndarray:
    return gguf.quants.dequantize(encoded.numpy(), gguf.GGMLQuantizationType(TYPES[name].number))


def weighted_error(values: Tensor, importance: Tensor, encoded: Tensor, name: str) -> float:
    """The weighted error over the weighted square of the values."""
    weights, x = importance.double().numpy(), values.double().numpy()
    return float((weights * (decoded(encoded, name) - x) ** 2).sum() / (weights * x**2).sum())


@pytest.mark.parametrize("kind", ["normal", "heavy", "fp4"])
@pytest.mark.parametrize("name", SEARCHED)
def test_error_is_at_most_that_of_llama_cpp(kind: str, name: str) -> None:
    values, importance = inputs(kind)
    ours = weighted_error(values, importance, encode(values, name, importance).rows, name)
    assert ours <= LLAMA_CPP[kind, name]


@pytest.mark.parametrize("name", SEARCHED)
def test_importance_moves_the_error_to_columns_that_matter_less(name: str) -> None:
    values, importance = inputs("normal")
    with_it, without = (encode(values, name, weights).rows for weights in (importance, None))
    assert weighted_error(values, importance, with_it, name) < weighted_error(values, importance, without, name)
    even = torch.ones(512)
    assert weighted_error(values, even, without, name) < weighted_error(values, even, with_it, name)


@pytest.mark.parametrize("name", MATRIX_TYPES)
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-7, 1.0, 3e4])
def test_any_scale_stays_finite(name: str, scale: float) -> None:
    values = inputs("normal")[0][:3].clamp(-0.04, 0.04) * 50 * scale
    encoded = encode(values, name).rows
    assert encoded.shape == (3, TYPES[name].row_bytes(512))
    found = decoded(encoded, name)
    assert np.isfinite(found).all()
    if scale == 0:
        assert not found.any()


@pytest.mark.parametrize("name", SEARCHED)
def test_one_large_value_and_zeros(name: str) -> None:
    values = torch.zeros(2, 512)
    values[0, 300], values[1, 5] = 1.0, -1.0
    found = decoded(encode(values, name).rows, name)
    most = 0.6 if name.startswith("iq") else 0.05  # a magnitude of an IQ format is never zero
    assert abs(found[0, 300] - 1) < most and abs(found[1, 5] + 1) < most


def test_q8_0_has_the_bytes_of_the_gguf_package() -> None:
    values = inputs("heavy")[0]
    values[0, :32], values[1, :32] = 0, torch.arange(32) - 15.5
    expected = gguf.quants.quantize(values.numpy(), gguf.GGMLQuantizationType.Q8_0)
    assert encode(values, "q8_0").rows.numpy().tobytes() == expected.tobytes()


def test_fp4_experts_keep_their_values() -> None:
    random = np.random.default_rng(3)
    codes = torch.from_numpy(random.integers(0, 256, (16, 64), np.uint8)).view(torch.int8)
    scales = torch.from_numpy(random.integers(100, 140, (16, 4), np.uint8)).view(torch.float8_e8m0fnu)
    blocks = mxfp4_of_fp4(codes, scales)
    assert (decoded(blocks, "mxfp4") == dequantize(codes, scales, torch.float32).numpy()).all()


def test_values_of_fp4_are_found_without_error() -> None:
    values, importance = inputs("fp4")
    assert (decoded(encode(values, "mxfp4", importance).rows, "mxfp4") == values.numpy()).all()


@pytest.mark.parametrize(
    ("values", "name", "importance", "message"),
    [
        (torch.zeros(2, 320), "q4_k", None, "rows of 320 values.*multiple of 256.*q8_0, mxfp4"),
        (torch.zeros(2, 256), "q4_0", None, "'q4_0' is not allowed; expected one of f16"),
        (torch.full((2, 256), torch.inf), "q4_k", None, "infinity, NaN or"),
        (torch.zeros(2, 256), "q4_k", torch.ones(255), r"shape \[255\]"),
        (torch.zeros(2, 256), "q4_k", -torch.ones(256), "negative"),
    ],
)
def test_mistakes(values: Tensor, name: str, importance: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode(values, name, importance)


def test_sizes_are_those_of_the_gguf_package() -> None:
    for form in TYPES.values():
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(form.number)] == (form.block, form.block_bytes)
        assert gguf.GGMLQuantizationType(form.number).name.lower() == form.name
    assert fitting(320) == ["f16", "bf16", "q8_0", "mxfp4"]


@pytest.mark.parametrize("name", MATRIX_TYPES)
def test_the_measured_error_is_that_of_the_bytes(name: str) -> None:
    values, importance = inputs("heavy")
    encoded = encode(values, name, importance)
    expected = weighted_error(values, importance, encoded.rows, name)
    assert encoded.error / encoded.energy == pytest.approx(expected, rel=1e-3)
