"""The number formats, bit for bit, as the official code computed them: see tests/vectors/ops/README.md."""

import pytest
import torch

from wavefold.quant import (
    act_quant,
    dequantize,
    e8m0,
    fp4_quant,
    fp4_sim,
    fp4_to_fp8,
    fp8_sim,
    fp8_to_fp4,
    hadamard,
)


def assert_same_bytes(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    ours, theirs = ours.contiguous().view(torch.uint8), theirs.contiguous().view(torch.uint8)
    different = (ours != theirs).nonzero()
    assert not len(different), f"{len(different)} bytes differ, first at {different[0].tolist()}"


def test_act_quant(op_vectors):
    codes, scale = act_quant(op_vectors["act_quant.x"])
    assert_same_bytes(codes, op_vectors["act_quant.codes"])
    assert_same_bytes(scale, op_vectors["act_quant.scales"])


def test_act_quant_inplace64(op_vectors):
    assert_same_bytes(fp8_sim(op_vectors["act_quant.x"]), op_vectors["act_quant_inplace64.y"])


def test_fp4_quant(op_vectors):
    packed, scale = fp4_quant(op_vectors["fp4_quant.x"])
    assert_same_bytes(packed, op_vectors["fp4_quant.packed"])
    assert_same_bytes(scale, op_vectors["fp4_quant.scales"])


def test_fp4_quant_inplace(op_vectors):
    assert_same_bytes(fp4_sim(op_vectors["fp4_quant.x"]), op_vectors["fp4_quant_inplace.y"])


def test_hadamard(op_vectors):
    assert_same_bytes(hadamard(op_vectors["hadamard.x"]), op_vectors["hadamard.y"])


def test_fp4_to_fp8(op_vectors):
    packed, scale = op_vectors["fp4_to_fp8.packed"], op_vectors["fp4_to_fp8.scales"]
    codes, block_scale = fp4_to_fp8(packed, scale)
    assert_same_bytes(codes, op_vectors["fp4_to_fp8.codes"])
    assert_same_bytes(block_scale, op_vectors["fp4_to_fp8.block_scales"])
    # The converter makes minus zero plain zero; so does adding zero.
    expected = dequantize(packed, scale) + 0.0
    assert_same_bytes(dequantize(codes, block_scale), expected)
    assert_same_bytes(dequantize(*fp8_to_fp4(codes, block_scale)), expected)


def exponent_rounded_down(monkeypatch):
    original = e8m0.ceil_scale
    monkeypatch.setattr(e8m0, "ceil_scale", lambda amax, largest: original(amax / 2, largest))


@pytest.mark.parametrize("test", [test_act_quant, test_act_quant_inplace64, test_fp4_quant, test_fp4_quant_inplace])
def test_a_wrong_scale_is_caught(monkeypatch, op_vectors, test):
    exponent_rounded_down(monkeypatch)
    with pytest.raises(AssertionError):
        test(op_vectors)
