"""GGUF's block formats against the gguf package: every value to the bit, on random blocks and on edges of scales."""

import gguf
import gguf.quants
import numpy as np
import pytest
import torch

from wavefold.quant import FORMATS, Weight, decode_packed
from wavefold.quant.i_grids import grid, signs

PACKED = [form for form in FORMATS.values() if form.is_packed]
EDGES = np.array(
    [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00, 0xFE01],
    np.uint16,
)
"""float16: zeros, subnormals, the smallest normal, ones, the largest, infinities, NaN."""
SCALES_AT = {"q8_0": (0,), "q6_k": (208,), "q5_k": (0, 2), "q4_k": (0, 2), "q3_k": (108,), "q2_k": (80, 82),
             "iq4_xs": (0,), "iq3_xxs": (0,), "iq2_xs": (0,), "iq2_xxs": (0,)}  # fmt: skip


def expected(form, blocks: np.ndarray) -> np.ndarray:
    """The values by the gguf package, on an array of bytes [n, bytes of a block]."""
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[form.name.upper()])


def check(form, blocks: np.ndarray) -> None:
    ours, theirs = decode_packed(torch.from_numpy(blocks), form, torch.float32).numpy(), expected(form, blocks)
    assert np.isnan(ours).tolist() == np.isnan(theirs).tolist()
    numbers = ~np.isnan(theirs)
    assert (ours.view(np.uint32) == theirs.view(np.uint32))[numbers].all()


@pytest.mark.parametrize("form", PACKED, ids=lambda form: form.name)
def test_blocks_have_the_sizes_of_gguf(form):
    assert form.group == gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[form.name.upper()]]


@pytest.mark.parametrize("form", PACKED, ids=lambda form: form.name)
def test_random_blocks(form):
    """4,096 random blocks: each byte takes every value at every place, scales that are infinite or NaN included."""
    blocks = np.random.default_rng(0).integers(0, 256, (4096, form.group[1]), np.uint8)
    assert all(len(np.unique(column)) == 256 for column in blocks.T)
    check(form, blocks)


@pytest.mark.parametrize("form", PACKED, ids=lambda form: form.name)
def test_every_byte_beside_every_edge_of_scale(form):
    """A block of each byte, everywhere, with each edge of float16 (or each exponent) in its scales' places."""
    size = form.group[1]
    if form.name == "mxfp4":
        blocks = np.repeat(np.arange(256, dtype=np.uint8), 256)[:, None].repeat(size, 1)
        blocks[:, 1:] = np.tile(np.arange(256, dtype=np.uint8), 256)[:, None]
        return check(form, blocks)
    pairs = EDGES[:, None].repeat(len(EDGES), 1)
    for scale, low in zip(pairs.ravel(), pairs.T.ravel(), strict=True):
        blocks = np.arange(256, dtype=np.uint8)[:, None].repeat(size, 1)
        for at, value in zip(SCALES_AT[form.name], (scale, low), strict=False):
            blocks[:, at : at + 2] = np.frombuffer(value.tobytes(), np.uint8)
        check(form, blocks)


@pytest.mark.parametrize("form", PACKED, ids=lambda form: form.name)
def test_one_block_anywhere_in_memory(form):
    blocks = np.random.default_rng(2).integers(0, 128, (5, form.group[1]), np.uint8)
    for at in SCALES_AT.get(form.name, ()):
        blocks[:, at + 1] &= 0x3F
    whole = expected(form, blocks)
    memory = torch.cat((torch.zeros(3, dtype=torch.uint8), torch.from_numpy(blocks).flatten()))
    for number in range(5):
        begin = 3 + number * form.group[1]
        alone = decode_packed(memory[begin : begin + form.group[1]][None], form, torch.float32)
        assert alone.numpy().tobytes() == whole[number].tobytes()


@pytest.mark.parametrize("name", ["iq2_xxs", "iq2_xs", "iq3_xxs"])
def test_grids(name):
    theirs = getattr(gguf.quants, name.upper())
    theirs.init_grid()
    assert (grid(name, torch.device("cpu")).numpy() == theirs.grid.reshape(theirs.grid_shape)).all()


def test_signs():
    theirs = np.frombuffer(gguf.quants.IQ2_XXS.ksigns, np.uint8)[:, None] >> np.arange(8) & 1
    assert (signs(torch.device("cpu")).numpy() == 1 - 2.0 * theirs).all()


@pytest.mark.parametrize("form", PACKED, ids=lambda form: form.name)
def test_a_weight_of_many_rows_decodes_rows_of_blocks(form):
    """More rows than a chunk, three blocks a row, to bfloat16: rounded once from float32."""
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 256, (1100, 3, form.group[1]), np.uint8)
    for at in SCALES_AT.get(form.name, ()):
        blocks[..., at + 1] &= 0x3F  # no infinities
    codes = blocks.reshape(1100, -1)
    weight = Weight.of(torch.from_numpy(codes), None, form)
    assert weight.shape == (1100, 3 * form.group[0])
    assert form.codes_shape(*weight.shape) == codes.shape
    theirs = torch.from_numpy(expected(form, codes))
    assert torch.equal(weight.decode(torch.bfloat16), theirs.bfloat16())
    assert torch.equal(weight.rows(slice(1000, 1003)).decode(torch.float32), theirs[1000:1003])
    assert weight.map(torch.clone).format is form


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(2, 35, dtype=torch.uint8), r"\[2, 35\]; expected uint8, rows of whole blocks of 34 bytes"),
        (torch.zeros(2, 34, dtype=torch.int8), "q8_0 codes of torch.int8"),
    ],
)
def test_other_codes_are_refused(codes, message):
    with pytest.raises(ValueError, match=message):
        decode_packed(codes, FORMATS["q8_0"], torch.float32)
