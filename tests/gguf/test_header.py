"""Headers: what the gguf package reads is read alike, and a damaged one is a message that names what is at fault."""

from __future__ import annotations

import random
import re
import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.gguf.mutations import peak
from tests.gguf_files import TINY, keys_of, tensors_of, write
from wavefold import load
from wavefold.gguf import open_parts, read_header
from wavefold.gguf.header import OTHER_TYPES
from wavefold.gguf.types import BY_NUMBER

TINY_BYTES = TINY.read_bytes()
DATA_AT = min(tensor.data_offset for tensor in gguf.GGUFReader(TINY).tensors)


def test_keys_and_places_are_those_of_the_gguf_package():
    header, reader = read_header(TINY), gguf.GGUFReader(TINY)
    for key, (value, _, _) in keys_of(TINY).items():
        ours = header.values[key]
        assert (ours.tolist() if isinstance(ours, np.ndarray) else ours) == value, key
    assert len(header.values) == len(keys_of(TINY))
    for tensor in reader.tensors:
        place = header.tensors[tensor.name]
        assert (place.offset, place.nbytes, place.type) == (tensor.data_offset, tensor.n_bytes, tensor.tensor_type.name)
        assert place.shape == tuple(int(n) for n in reversed(tensor.shape))
    assert len(header.tensors) == len(reader.tensors)


def test_types_are_those_of_the_gguf_package():
    for number, form in BY_NUMBER.items():
        name, values, size = form.name.upper(), form.block, form.block_bytes
        kind = gguf.GGMLQuantizationType(number)
        assert kind.name == name and gguf.GGML_QUANT_SIZES[kind] == (values, size)
    for number, name in OTHER_TYPES.items():
        assert gguf.GGMLQuantizationType(number).name == name
    assert {kind.value for kind in gguf.GGMLQuantizationType} == BY_NUMBER.keys() | OTHER_TYPES.keys()


@pytest.mark.parametrize("kind", [k for k in gguf.GGUFValueType if k.name not in ("ARRAY", "STRING")])
def test_every_type_of_number_alone_and_in_an_array(kind, tmp_path):
    values = [True, False] if kind.name == "BOOL" else [0.5, 2.0] if kind.name.startswith("FLOAT") else [3, 100]
    keys = {"a": (values[1], kind, None), "b": (values, gguf.GGUFValueType.ARRAY, kind)}
    found = read_header(write(tmp_path / "numbers.gguf", keys, {"t": ("F32", np.ones(4, np.float32))})).values
    assert found["a"] == values[1] and found["b"].tolist() == values


def changed(tmp_path: Path, old: bytes, new: bytes, at: int = 0) -> Path:
    """TINY with the first `old` after byte `at` replaced."""
    place = TINY_BYTES.index(old, at)
    path = tmp_path / "model.gguf"
    path.write_bytes(TINY_BYTES[:place] + new + TINY_BYTES[place + len(old) :])
    return path


def key_bytes(name: str) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode()


TENSOR = key_bytes("blk.0.attn_norm.weight")
KINDS = {"text": 8, "array": 9}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"GGUF", b"GGML", "begins with b'GGML', expected b'GGUF'"),
        (b"GGUF\3\0\0\0", b"GGUF\0\0\0\3", "so it is big-endian; expected 2 or 3, little-endian"),
        (b"GGUF\3", b"GGUF\1", "version 1; expected 2 or 3"),
        (TINY_BYTES[8:16], struct.pack("<Q", 1 << 60), "its header has 1,152,921,504,606,846,976 tensors"),
        (TINY_BYTES[16:24], struct.pack("<Q", 1 << 40), "its header has 1,099,511,627,776 keys"),
        (key_bytes("general.type"), struct.pack("<Q", 1 << 63) + b"general.type", "the name of key 2 needs"),
        (key_bytes("general.type"), key_bytes("general.typ\xff".encode("latin1").decode("latin1"))[:19] + b"\xff",
         "the name of key 2 is no UTF-8"),
        (key_bytes("general.type") + struct.pack("<I", 8), key_bytes("general.type") + struct.pack("<I", 99),
         "key 'general.type' is of type 99"),
        (key_bytes("general.type"), key_bytes("general.name"), "key 'general.name' is there twice"),
        (key_bytes("deepseek4.embedding_length") + struct.pack("<I", 4),
         key_bytes("deepseek4.embedding_length") + struct.pack("<I", 9), "'deepseek4.embedding_length' is an array of"),
        (key_bytes("tokenizer.ggml.merges") + struct.pack("<II", 9, 8) + b"\x23",
         key_bytes("tokenizer.ggml.merges") + struct.pack("<II", 9, 8) + b"\xff", "key 'tokenizer.ggml"),
        (TENSOR + struct.pack("<I", 1), TENSOR + struct.pack("<I", 5), "tensor 'blk.0.attn_norm.weight' has 5 dim"),
        (TENSOR + struct.pack("<IQ", 1, 32), TENSOR + struct.pack("<IQ", 1, 0), "'blk.0.attn_norm.weight' has shape"),
        (TENSOR + struct.pack("<IQ", 1, 32), TENSOR + struct.pack("<IQ", 1, 1 << 63), "'blk.0.attn_norm.weight' takes"),
        (TENSOR + struct.pack("<IQI", 1, 32, 0), TENSOR + struct.pack("<IQI", 1, 32, 20),
         "'blk.0.attn_norm.weight' is of type IQ4_NL, which is not read; expected one of F32"),
        (TENSOR + struct.pack("<IQI", 1, 32, 0), TENSOR + struct.pack("<IQI", 1, 32, 77), "is of type of number 77"),
        (TENSOR + struct.pack("<IQI", 1, 32, 0), TENSOR + struct.pack("<IQI", 1, 32, 12), "whole blocks of 256 Q4_K"),
        (TENSOR, key_bytes("blk.1.attn_norm.weight"), "tensor 'blk.1.attn_norm.weight' is there twice"),
    ],
)  # fmt: skip
def test_a_damaged_header(old, new, message, tmp_path):
    path = changed(tmp_path, old, new)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_header(path)
    assert str(error.value).startswith(f"{path}: ")


def test_offsets_are_checked(tmp_path):
    at = TINY_BYTES.index(TENSOR) + len(TENSOR) + 16
    for offset, message in ((1 << 62, "its end in the file"), (8, "a multiple of 32"), (0, "overlap")):
        data = TINY_BYTES[:at] + struct.pack("<Q", offset) + TINY_BYTES[at + 8 :]
        (tmp_path / "model.gguf").write_bytes(data)
        with pytest.raises(ValueError, match=message):
            read_header(tmp_path / "model.gguf")


@pytest.mark.parametrize("alignment", [0, 24, 1 << 21])
def test_other_alignments_are_refused(alignment, tmp_path):
    keys = {"general.alignment": (alignment, gguf.GGUFValueType.UINT32, None)}
    path = tmp_path / "model.gguf"
    data = write(path, {"x": keys["general.alignment"]}, {"t": ("F32", np.ones(4, np.float32))}).read_bytes()
    longer = key_bytes("general.alignment")
    path.write_bytes(data.replace(key_bytes("x"), longer))
    with pytest.raises(ValueError, match=f"general.alignment = {alignment}; expected a power of two"):
        read_header(path)


@pytest.mark.parametrize("length", [0, 3, 23, 24, 200, 3000, DATA_AT - 40, DATA_AT, len(TINY_BYTES) - 1])
def test_a_file_that_ends_early(length, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(TINY_BYTES[:length])
    with pytest.raises(ValueError, match=re.escape(str(path))):
        read_header(path)


@pytest.mark.parametrize(
    ("name", "message"), [(b"\0" * 60000, "is of type of number 77"), (b"\xc3\xa9" * 30000 + b"\xff", "is no UTF-8")]
)
def test_a_long_name_takes_no_memory(name, message, tmp_path):
    """A message shows the first characters of a name: escapes of all of it took eight times the file."""
    of_type = TENSOR + struct.pack("<IQI", 1, 32, 0)
    path = changed(tmp_path, of_type, struct.pack("<Q", len(name)) + name + struct.pack("<IQI", 1, 32, 77))
    usual = peak(TINY)[0]
    most, found = peak(path)
    assert message in found and len(found) < 1000 and most < usual + 2 * len(name)


def test_random_damage_is_a_message_and_takes_no_memory(tmp_path):
    """200 headers with bytes changed, removed or repeated: read, or refused with the file's name. Peak memory is
    bounded by the file's size and what its undamaged header takes."""
    path, rng, size = tmp_path / "model.gguf", random.Random(0), 3 << 17
    whole = TINY_BYTES + rng.randbytes(size - len(TINY_BYTES))

    def measured() -> tuple[int, bool]:
        refused = False
        tracemalloc.start()
        try:
            read_header(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")
            refused = True
        finally:
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return most, refused

    path.write_bytes(whole)
    limit = measured()[0] + size
    num_refused = 0
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            at, kind = rng.randrange(4, DATA_AT), rng.randrange(4)
            if kind == 0:
                data[at] = rng.randrange(256)
            elif kind == 1:
                data[at : at + 8] = struct.pack("<Q", rng.choice((1 << 63, 1 << 40, 1 << 31, len(data), 0)))
            elif kind == 2:
                del data[at : at + rng.randrange(1, 40)]
            else:
                data[at:at] = data[at : at + rng.randrange(1, 40)]
        path.write_bytes(data)
        most, refused = measured()
        assert most <= limit
        num_refused += refused
    assert 100 < num_refused < 200


def test_random_damage_and_loading(tmp_path):
    """Whatever of a damaged file can be read: it is loaded, or refused with a message."""
    path, rng = tmp_path / "model.gguf", random.Random(1)
    loaded = 0
    for _ in range(80):
        data = bytearray(TINY_BYTES)
        data[rng.randrange(24, DATA_AT)] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            load(path)
        except ValueError as error:
            assert str(path) in str(error)
        else:
            loaded += 1
    assert 0 < loaded < 80


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"general.architecture": "llama"}, "general.architecture = 'llama' is not allowed; expected 'deepseek4'"),
        ({"split.no": 2, "split.count": 2}, "split.no = 2 of split.count = 2 is not allowed"),
        ({"split.no": 1, "split.count": 2}, "is part 2 of a model; give its first part: the one whose split.no is 0"),
    ],
)
def test_parts_that_are_none(keys, message, tmp_path):
    kinds = {str: gguf.GGUFValueType.STRING, int: gguf.GGUFValueType.UINT16}
    path = tmp_path / "model.gguf"
    added = {key: (value, kinds[type(value)], None) for key, value in keys.items() if key != "general.architecture"}
    write(path, added, tensors_of(TINY), keys.get("general.architecture", "deepseek4"))
    with pytest.raises(ValueError, match=re.escape(message)):
        open_parts(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        open_parts(tmp_path / "none.gguf")
