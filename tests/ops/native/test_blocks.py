"""The CPU kernels on GGUF's packed blocks: float32 values to the bit those of the package gguf, products near float64.

The digests are of `gguf.quants.dequantize` (gguf 0.19.0) of the same blocks, as float32 bytes with -0 as 0.
"""

from __future__ import annotations

import ctypes
import hashlib
import random
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from wavefold import ops
from wavefold.ops import native
from wavefold.ops.native.library import MatrixStruct, check, require, runtime

pytestmark = pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")


class Block(NamedTuple):
    """A form of csrc/wavefold.h: values and bytes of a block, the places of its float16 numbers, and the digest."""

    form: int
    values: int
    size: int
    floats: tuple[int, ...]
    digest: str


BLOCKS = {
    "Q8_0": Block(4, 32, 34, (0,), "812f12304712c4bf"),
    "Q6_K": Block(5, 256, 210, (208,), "f77762c5c4b7498c"),
    "Q5_K": Block(6, 256, 176, (0, 2), "afa06ad6b1823f8d"),
    "Q4_K": Block(7, 256, 144, (0, 2), "8069982420a45169"),
    "Q3_K": Block(8, 256, 110, (108,), "e182ddf38c149691"),
    "Q2_K": Block(9, 256, 84, (80, 82), "0ddc35dd020aa49a"),
    "IQ4_XS": Block(10, 256, 136, (0,), "95f0bf465896dd90"),
    "IQ3_XXS": Block(11, 256, 98, (0,), "44825c430ae62214"),
    "IQ2_XS": Block(12, 256, 74, (0,), "d34dcb51f96b7201"),
    "IQ2_XXS": Block(13, 256, 66, (0,), "c2ff7cb9f4dd0761"),
    "MXFP4": Block(14, 32, 17, (), "98de677a7b368504"),
    "F16": Block(15, 1, 2, (0,), "b7180aa6362c929c"),
}


def matrix(name: str, rows: int, columns: int, seed: int = 0) -> MatrixStruct:
    """Random blocks whose scales are numbers of both signs between 2^-7 and 2^-5 (MXFP4: 2^-16 to 2^-1)."""
    block = BLOCKS[name]
    count = rows * columns // block.values
    data = bytearray(random.Random(seed).randbytes(count * block.size))
    for first in range(0, len(data), block.size):
        for at in block.floats:
            data[first + at + 1] = data[first + at + 1] & 0x83 | 0x20
        if name == "MXFP4":
            data[first] = 112 + data[first] % 16
    codes = torch.frombuffer(data, dtype=torch.uint8)
    struct = MatrixStruct(block.form, rows, columns, codes.data_ptr(), codes.nbytes, None, 0)
    struct.kept = codes, None
    return struct


def linear(x: Tensor, weight: MatrixStruct) -> Tensor:
    y = torch.empty(len(x), weight.rows)
    check(require().wf_linear(runtime(), ctypes.byref(weight), x.data_ptr(), len(x), 0, y.data_ptr(), 0))
    return y


def decoded(weight: MatrixStruct) -> Tensor:
    """The float32 values, which plain C++ multiplies by one and adds to zeros."""
    with ops.using(isa="generic"):
        return linear(torch.eye(weight.columns, dtype=torch.bfloat16), weight).T.contiguous()


def normal(rows: int, columns: int, seed: int = 1) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).bfloat16()


@pytest.mark.parametrize("name", BLOCKS)
def test_values_are_those_of_gguf(name: str) -> None:
    """By tiles of many rows, and by eight rows of x at a time."""
    weight = matrix(name, 96, 512)
    values = decoded(weight) + 0.0
    with ops.using(isa="generic"):
        parts = [linear(rows.contiguous(), weight) for rows in torch.eye(512, dtype=torch.bfloat16).split(8)]
    assert torch.equal(torch.cat(parts).T, values)
    assert hashlib.sha256(values.numpy().tobytes()).hexdigest()[:16] == BLOCKS[name].digest


@pytest.mark.parametrize("name", BLOCKS)
def test_decoding_rounds_to_bfloat16(isa: str, name: str) -> None:
    weight = matrix(name, 20, 512)
    out = torch.empty(20, 512, dtype=torch.bfloat16)
    check(require().wf_decode(runtime(), ctypes.byref(weight), 0, 20, out.data_ptr(), out.nbytes))
    assert torch.equal(out, decoded(weight).bfloat16())


@pytest.mark.parametrize(("rows", "columns"), [(96, 512), (7, 256), (33, 2304), (10, 800)])
@pytest.mark.parametrize("name", BLOCKS)
def test_products_of_few_rows(isa: str, name: str, rows: int, columns: int) -> None:
    """x in fixed point of 16 bits loses up to 6e-6 (RMS) of normal values. A row's bytes alone are any batch's."""
    if columns % BLOCKS[name].values:
        columns = 768
    weight = matrix(name, rows, columns)
    values = decoded(weight).double()
    x = normal(8, columns)
    alone = torch.cat([linear(row[None].contiguous(), weight) for row in x])
    exact, size = x.double() @ values.T, x.double().abs() @ values.abs().T
    assert ((alone - exact).abs() <= 2e-5 * size).all()
    assert (alone - exact).square().mean().sqrt() <= 1e-5 * exact.square().mean().sqrt()
    for count in range(2, 9):
        assert torch.equal(linear(x[:count], weight), alone[:count])


@pytest.mark.parametrize("name", BLOCKS)
def test_columns_of_very_different_size(isa: str, name: str) -> None:
    """Columns a thousand times as large as those beside them: every value keeps 2^-23 of the largest of its 256."""
    weight = matrix(name, 40, 1024)
    values = decoded(weight).double()
    x = normal(2, 1024)
    x[:, 3::100] *= 1024
    exact = x.double() @ values.T
    largest = x.double().abs().view(2, -1, 256).amax(-1).repeat_interleave(256, -1)
    size = (x.double().abs() + largest / 8) @ values.abs().T
    assert ((linear(x, weight) - exact).abs() <= 1e-6 * size).all()


def rounded(x: Tensor) -> Tensor:
    """x in int8, a scale amax / 127 for 256 columns, in float64: the steps of csrc/blocks.cpp."""
    out = torch.zeros(x.shape, dtype=torch.float64)
    for first in range(0, x.shape[1], 256):
        part = x[:, first : first + 256].float()
        amax = part.abs().amax(-1, keepdim=True)
        factor = torch.full_like(amax, 127) / amax  # (127 / amax would be 127 times a reciprocal)
        out[:, first : first + 256] = (part * factor).round().double() * (amax / 127).double()
    return out


@pytest.mark.parametrize("name", [name for name in BLOCKS if name != "F16"])
def test_products_of_int8_activations(isa: str, name: str) -> None:
    weight = matrix(name, 50, 768)
    values = decoded(weight).double()
    x = normal(5, 768)
    exact, size = rounded(x) @ values.T, rounded(x).abs() @ values.abs().T
    with ops.using(backend="auto", activations="int8"):
        y = linear(x, weight)
        assert torch.equal(linear(x[2:3].contiguous(), weight), y[2:3])
    assert ((y - exact).abs() <= 1e-6 * size).all()
    plain = (x.double() @ values.T - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert 1e-3 < plain < 0.02  # (that int8 was in use)
    assert not torch.allclose(y, linear(x, weight), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", BLOCKS)
def test_products_of_many_rows(isa: str, name: str) -> None:
    """Tiles: in float32, or of values rounded to bfloat16 where an instruction set multiplies these."""
    weight = matrix(name, 70, 1280)
    values = decoded(weight)
    if isa == "avx512bf16" and name != "F16":
        values = values.bfloat16()
    x = normal(130, 1280)
    exact, size = x.double() @ values.double().T, x.double().abs() @ values.double().abs().T
    assert ((linear(x, weight) - exact).abs() <= 2e-6 * size).all()


@pytest.mark.parametrize("name", BLOCKS)
def test_tiles_hold_the_values(isa: str, name: str) -> None:
    """Many rows, which are those of the identity: each value, or its bfloat16, to the bit."""
    weight = matrix(name, 70, 1280, seed=5)
    values = decoded(weight)
    if isa == "avx512bf16" and name != "F16":
        values = values.bfloat16().float()
    assert torch.equal(linear(torch.eye(1280, dtype=torch.bfloat16), weight).T, values)


@pytest.mark.parametrize("rows", [9, 17, 130])
@pytest.mark.parametrize("name", [name for name in BLOCKS if BLOCKS[name].values == 256])
def test_products_of_many_rows_of_int8_activations(isa: str, name: str, rows: int) -> None:
    """Sums of 256 columns are exact, whatever rows stand beside one."""
    weight = matrix(name, 70, 1280)
    values = decoded(weight).double()
    x = normal(rows, 1280)
    exact, size = rounded(x) @ values.T, rounded(x).abs() @ values.abs().T
    with ops.using(backend="auto", activations="int8"):
        y = linear(x, weight)
        assert torch.equal(linear(x[-9:].contiguous(), weight), y[-9:])
    assert ((y - exact).abs() <= 1e-6 * size).all()


@pytest.mark.parametrize("name", [name for name in BLOCKS if BLOCKS[name].values == 256])
def test_largest_codes_of_int8_activations(isa: str, name: str) -> None:
    """Blocks of ones alone, of zeros, and of the lowest scales, by columns of one size: the largest sums there are."""
    weight = matrix(name, 6, 512)
    codes = weight.kept[0].view(-1, BLOCKS[name].size)
    for value, block in ((0xFF, 0), (0x00, 4), (0x80, 8)):
        codes[block : block + 2] = value
        for at in BLOCKS[name].floats:
            codes[block : block + 2, at : at + 2] = torch.tensor([0x55, 0x2C], dtype=torch.uint8)
    values = decoded(weight).double()
    x = torch.ones(12, 512).bfloat16() * (1 - 2 * (torch.arange(12) % 2))[:, None].bfloat16()
    with ops.using(backend="auto", activations="int8"):
        y = linear(x, weight)
    assert ((y - x.double() @ values.T).abs() <= 1e-6 * values.abs().sum(-1)).all()


@pytest.mark.parametrize("name", BLOCKS)
def test_a_value_that_is_not_finite(isa: str, name: str) -> None:
    weight = matrix(name, 9, 512)
    x = normal(3, 512)
    expected = linear(x[:2], weight)
    x[2, 300] = float("inf")
    y = linear(x, weight)
    assert not y[2].isfinite().any()
    assert torch.equal(y[:2], expected)


@pytest.mark.parametrize("name", BLOCKS)
def test_sizes_that_do_not_fit(name: str) -> None:
    x, y = normal(1, 512), torch.zeros(8)

    def error(**change: int) -> int:
        weight = matrix(name, 4, 512)
        for field, value in change.items():
            setattr(weight, field, value)
        return require().wf_linear(runtime(), ctypes.byref(weight), x.data_ptr(), 1, 0, y.data_ptr(), 0)

    assert error() == 0
    assert error(codes_bytes=matrix(name, 4, 512).codes_bytes - 1) == 3
    assert error(rows=5) == 3
    assert error(form=16) == 4
    if BLOCKS[name].values > 1:
        assert error(columns=512 - BLOCKS[name].values // 2) == 2
