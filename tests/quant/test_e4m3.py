"""e4m3 against ml_dtypes: every code, and torch's cast, which the encoders rely on."""

import ml_dtypes
import numpy as np
import pytest
import torch

from wavefold.quant import e4m3

ALL_CODES = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(torch.float8_e4m3fn)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(256,), (16, 16), (128, 2, 1)])
def test_every_code_decodes_as_ml_dtypes(dtype, shape):
    decoded = e4m3.decode(ALL_CODES.view(shape), dtype)
    assert decoded.dtype == dtype and decoded.shape == shape
    theirs = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    ours = decoded.float().flatten().numpy()
    assert np.array_equal(np.isnan(ours), np.isnan(theirs)) and np.isnan(ours).sum() == 2
    assert ours[~np.isnan(ours)].tobytes() == theirs[~np.isnan(theirs)].tobytes()


def test_every_pair_of_neighbours_decodes_independently():
    first, second = torch.meshgrid(ALL_CODES.float(), ALL_CODES.float(), indexing="ij")
    codes = torch.meshgrid(ALL_CODES.view(torch.uint8), ALL_CODES.view(torch.uint8), indexing="ij")
    decoded = e4m3.decode(torch.stack(codes, -1).view(torch.float8_e4m3fn))
    assert torch.equal(decoded.nan_to_num(1e9), torch.stack((first, second), -1).nan_to_num(1e9))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_cast_rounds_as_ml_dtypes(dtype):
    x = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16).to(dtype)
    x = x[x.abs() <= e4m3.LARGEST]
    if dtype == torch.float32:
        values = e4m3.decode(ALL_CODES[:0x7F])
        ties = ((values[1:] + values[:-1]) / 2).view(torch.int32)[:, None] + torch.arange(-3, 4, dtype=torch.int32)
        x = torch.cat((x, ties.view(torch.float32).flatten(), -ties.view(torch.float32).flatten()))
    theirs = x.float().numpy().astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    assert np.array_equal(x.to(torch.float8_e4m3fn).view(torch.uint8).numpy(), theirs)


def test_strides_and_no_rows():
    codes = torch.randn(6, 4).to(torch.float8_e4m3fn)
    assert torch.equal(e4m3.decode(codes.t()), codes.float().t())
    assert e4m3.decode(codes[:0]).shape == (0, 4)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"torch\.uint8.*float8_e4m3fn"):
        e4m3.decode(torch.zeros(2, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"torch\.float64.*bfloat16"):
        e4m3.decode(ALL_CODES, torch.float64)
