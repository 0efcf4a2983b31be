"""Names, shapes and dtypes of the whole models against a table written from the released checkpoints.

The counts and byte totals are those that the two repositories publish.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

from wavefold import ModelConfig, Transformer
from wavefold.checkpoint.write import shard_names
from wavefold.model.official import official_tensors
from wavefold.ops import Arithmetic

Shape = tuple[int, ...]
BF16, FP32, I64 = torch.bfloat16, torch.float32, torch.int64
INT8, E4M3, E8M0 = torch.int8, torch.float8_e4m3fn, torch.float8_e8m0fnu


@dataclass(frozen=True)
class Sizes:
    """One column of the table: numbers that differ between the models, written out."""

    d: int
    fn: int
    heads: int
    wq_a: tuple[Shape, Shape]
    wq_b: tuple[Shape, Shape]
    wkv: tuple[Shape, Shape]
    wo_a: tuple[Shape, Shape]
    wo_b: tuple[Shape, Shape]
    index_wq_b: tuple[Shape, Shape]
    experts: int
    up: tuple[Shape, Shape]
    down: tuple[Shape, Shape]
    shared_up: tuple[Shape, Shape]
    shared_down: tuple[Shape, Shape]
    proj: tuple[Shape, Shape]
    csa: range
    hca: tuple[int, ...]
    num_layers: int
    num_tensors: int
    num_bytes: int
    num_shards: int


FLASH = Sizes(
    d=4096, fn=16384, heads=64,
    wq_a=((1024, 4096), (8, 32)), wq_b=((32768, 1024), (256, 8)), wkv=((512, 4096), (4, 32)),
    wo_a=((8192, 4096), (64, 32)), wo_b=((4096, 8192), (32, 64)), index_wq_b=((8192, 1024), (64, 8)),
    experts=256, up=((2048, 2048), (2048, 128)), down=((4096, 1024), (4096, 64)),
    shared_up=((2048, 4096), (16, 32)), shared_down=((4096, 2048), (32, 16)), proj=((4096, 4096), (32, 32)),
    csa=range(2, 43, 2), hca=tuple(range(3, 42, 2)), num_layers=43,
    num_tensors=69_187, num_bytes=159_609_485_896, num_shards=46,
)  # fmt: skip
PRO = Sizes(
    d=7168, fn=28672, heads=128,
    wq_a=((1536, 7168), (12, 56)), wq_b=((65536, 1536), (512, 12)), wkv=((512, 7168), (4, 56)),
    wo_a=((16384, 4096), (128, 32)), wo_b=((7168, 16384), (56, 128)), index_wq_b=((8192, 1536), (64, 12)),
    experts=384, up=((3072, 3584), (3072, 224)), down=((7168, 1536), (7168, 96)),
    shared_up=((3072, 7168), (24, 56)), shared_down=((7168, 3072), (56, 24)), proj=((7168, 7168), (56, 56)),
    csa=range(2, 61, 2), hca=(0, 1, *range(3, 60, 2)), num_layers=61,
    num_tensors=145_116, num_bytes=864_704_792_696, num_shards=64,
)  # fmt: skip

Row = tuple[str, Shape, torch.dtype]


def quantized(name: str, shapes: tuple[Shape, Shape], codes: torch.dtype = E4M3) -> Iterator[Row]:
    yield f"{name}.weight", shapes[0], codes
    yield f"{name}.scale", shapes[1], E8M0


def block(s: Sizes, at: str, csa: bool, hca: bool, hashed: bool) -> Iterator[Row]:
    for norm in ("attn_norm", "ffn_norm"):
        yield f"{at}.{norm}.weight", (s.d,), BF16
    for part in ("attn", "ffn"):
        yield f"{at}.hc_{part}_fn", (24, s.fn), FP32
        yield f"{at}.hc_{part}_base", (24,), FP32
        yield f"{at}.hc_{part}_scale", (3,), FP32
    yield f"{at}.attn.attn_sink", (s.heads,), FP32
    yield f"{at}.attn.q_norm.weight", s.wq_a[0][:1], BF16
    yield f"{at}.attn.kv_norm.weight", (512,), BF16
    for name in ("wq_a", "wq_b", "wkv", "wo_a", "wo_b"):
        yield from quantized(f"{at}.attn.{name}", getattr(s, name))
    if csa or hca:
        width = 1024 if csa else 512
        yield f"{at}.attn.compressor.wkv.weight", (width, s.d), BF16
        yield f"{at}.attn.compressor.wgate.weight", (width, s.d), BF16
        yield f"{at}.attn.compressor.ape", (4, 1024) if csa else (128, 512), FP32
        yield f"{at}.attn.compressor.norm.weight", (512,), BF16
    if csa:
        yield from quantized(f"{at}.attn.indexer.wq_b", s.index_wq_b)
        yield f"{at}.attn.indexer.weights_proj.weight", (64, s.d), BF16
        yield f"{at}.attn.indexer.compressor.wkv.weight", (256, s.d), BF16
        yield f"{at}.attn.indexer.compressor.wgate.weight", (256, s.d), BF16
        yield f"{at}.attn.indexer.compressor.ape", (4, 256), FP32
        yield f"{at}.attn.indexer.compressor.norm.weight", (128,), BF16
    yield f"{at}.ffn.gate.weight", (s.experts, s.d), BF16
    if hashed:
        yield f"{at}.ffn.gate.tid2eid", (129280, 6), I64
    else:
        yield f"{at}.ffn.gate.bias", (s.experts,), FP32
    for expert in range(s.experts):
        yield from quantized(f"{at}.ffn.experts.{expert}.w1", s.up, INT8)
        yield from quantized(f"{at}.ffn.experts.{expert}.w3", s.up, INT8)
        yield from quantized(f"{at}.ffn.experts.{expert}.w2", s.down, INT8)
    yield from quantized(f"{at}.ffn.shared_experts.w1", s.shared_up)
    yield from quantized(f"{at}.ffn.shared_experts.w3", s.shared_up)
    yield from quantized(f"{at}.ffn.shared_experts.w2", s.shared_down)


def hc_head(s: Sizes, dot: str) -> Iterator[Row]:
    yield f"{dot}hc_head_fn", (4, s.fn), FP32
    yield f"{dot}hc_head_base", (4,), FP32
    yield f"{dot}hc_head_scale", (1,), FP32


def table(s: Sizes) -> Iterator[Row]:
    yield "embed.weight", (129280, s.d), BF16
    yield "head.weight", (129280, s.d), BF16
    yield "norm.weight", (s.d,), BF16
    yield from hc_head(s, "")
    for layer in range(s.num_layers):
        yield from block(s, f"layers.{layer}", layer in s.csa, layer in s.hca, layer < 3)
    yield from block(s, "mtp.0", False, False, False)
    yield from quantized("mtp.0.e_proj", s.proj)
    yield from quantized("mtp.0.h_proj", s.proj)
    for norm in ("enorm", "hnorm", "norm"):
        yield f"mtp.0.{norm}.weight", (s.d,), BF16
    yield from hc_head(s, "mtp.0.")


@pytest.mark.parametrize(("name", "sizes"), [("flash", FLASH), ("pro", PRO)])
def test_whole_model(name: str, sizes: Sizes) -> None:
    config = ModelConfig.preset(name)
    tensors = dict(official_tensors(Transformer(config, Arithmetic("exact"))))
    assert {n: (tuple(t.shape), t.dtype) for n, t in tensors.items()} == {n: (s, t) for n, s, t in table(sizes)}
    assert len(tensors) == sizes.num_tensors
    assert sum(t.numel() * t.element_size() for t in tensors.values()) == sizes.num_bytes
    assert all(t.is_meta for t in tensors.values())

    shards = shard_names(list(tensors), config)
    assert len(shards) == sizes.num_shards
    assert shards[0] == ["embed.weight"]
    assert sorted(shards[-2]) == ["hc_head_base", "hc_head_fn", "hc_head_scale", "head.weight", "norm.weight"]
    for layer in range(sizes.num_layers):
        assert all(n.startswith(f"layers.{layer}.") for n in shards[layer + 1])
    assert all(n.startswith("mtp.0.") for n in shards[-1])
    assert sum(map(len, shards)) == sizes.num_tensors


@pytest.mark.parametrize(
    ("form", "codes", "up", "scale"),
    [
        ("fp8", E4M3, (2048, 4096), (16, 32)),
        ("bf16", BF16, (2048, 4096), None),
    ],
)
def test_experts_in_other_formats(form: str, codes: torch.dtype, up: Shape, scale: Shape | None) -> None:
    """The base checkpoints store routed experts in FP8 blocks of 128x128."""
    config = ModelConfig.preset("flash").cut(1, 6).replace(expert_dtype=form)
    tensors = dict(official_tensors(Transformer(config, Arithmetic("exact"))))
    weight = tensors["layers.0.ffn.experts.5.w1.weight"]
    assert (tuple(weight.shape), weight.dtype) == (up, codes)
    assert (tensors["layers.0.ffn.experts.5.w1.scale"].shape if scale else None) == scale
    assert ("layers.0.ffn.experts.5.w1.scale" in tensors) == (scale is not None)
