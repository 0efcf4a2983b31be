"""Rounding that knows how columns go together. The error is measured on bytes that the `gguf` package decodes.

LLAMA_CPP holds the same error of llama.cpp's quantizer (`ggml_quantize_chunk` of commit 0c1e57098), which had the
diagonal of the moments as importance.
"""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from wavefold.quant.encode import TYPES, encode

LLAMA_CPP = {
    "q6_k": 0.000289066, "q5_k": 0.00124076, "q4_k": 0.00501814, "iq4_xs": 0.00567072, "q3_k": 0.0200734,
    "iq3_xxs": 0.0311413, "q2_k": 0.0682575, "iq2_xs": 0.0871151, "iq2_xxs": 0.104451,
}  # fmt: skip
NAMES = ("q6_k", "q5_k", "q4_k", "iq4_xs", "q3_k", "iq3_xxs", "q2_k", "iq2_xs", "iq2_xxs")


def inputs() -> tuple[Tensor, Tensor]:
    """A matrix [48, 512], and moments [2, 256, 256] of inputs that lie near 24 directions."""
    random = np.random.default_rng(11)
    values = torch.from_numpy((0.02 * random.standard_normal((48, 512))).astype(np.float32))
    x = random.standard_normal((2, 2000, 24)) @ random.standard_normal((2, 24, 256))
    x = torch.from_numpy(x + random.standard_normal(x.shape)).float()
    return values, x.mT @ x / 2000


def product_error(values: Tensor, moments: Tensor, rows: Tensor, name: str) -> tuple[float, float]:
    """The error's mean square in the product, over the product's; and how much of the product is there."""
    written = gguf.quants.dequantize(rows.numpy(), gguf.GGMLQuantizationType(TYPES[name].number)).astype(np.float64)
    x, h = values.double().numpy().reshape(48, 2, 256), moments.double().numpy()
    q = written.reshape(48, 2, 256)

    def product(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.einsum("rbi,bij,rbj->", a, h, b))

    return product(x - q, x - q) / product(x, x), product(x, q) / product(x, x)


@pytest.mark.parametrize("name", NAMES)
def test_error_of_the_product_is_below_llama_cpp_s(name: str) -> None:
    values, moments = inputs()
    columns = moments.diagonal(dim1=1, dim2=2).flatten()
    encoded = encode(values, name, columns, moments)
    error, gain = product_error(values, moments, encoded.rows, name)
    assert error < 0.3 * LLAMA_CPP[name]
    assert error < 0.3 * product_error(values, moments, encode(values, name, columns).rows, name)[0]
    assert abs(gain - 1) < 0.01
    assert encoded.error / encoded.energy == pytest.approx(error, rel=0.01)


@pytest.mark.parametrize("name", ["q2_k", "q3_k", "iq2_xxs"])
def test_products_are_as_large_as_before(name: str) -> None:
    """A search for the least error alone makes them smaller by about that error."""
    values, moments = inputs()
    columns = moments.diagonal(dim1=1, dim2=2).flatten()
    written = gguf.quants.dequantize(
        encode(values, name, columns).rows.numpy(), gguf.GGMLQuantizationType(TYPES[name].number)
    )
    weights, x = columns.double().numpy(), values.double().numpy()
    assert abs(float((weights * x * written).sum() / (weights * x * x).sum()) - 1) < 0.01


@pytest.mark.parametrize("name", NAMES)
def test_zeros_and_single_values_stay_finite(name: str) -> None:
    values, moments = torch.zeros(3, 512), inputs()[1]
    values[1, 300], values[2] = 1.0, 1e-30
    rows = encode(values, name, None, moments).rows
    written = gguf.quants.dequantize(rows.numpy(), gguf.GGMLQuantizationType(TYPES[name].number))
    assert np.isfinite(written).all() and not written[0].any()


def test_moments_of_zeros_are_none() -> None:
    values, moments = inputs()
    assert torch.equal(encode(values, "q2_k", None, torch.zeros_like(moments)).rows, encode(values, "q2_k").rows)


@pytest.mark.parametrize(
    ("moments", "message"),
    [
        (torch.zeros(1, 256, 256), r"shape \[1, 256, 256\] are not allowed; expected \[2, 256, 256\]"),
        (torch.full((2, 256, 256), torch.nan), "infinite or NaN"),
    ],
)
def test_mistakes(moments: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode(inputs()[0], "q2_k", None, moments)
