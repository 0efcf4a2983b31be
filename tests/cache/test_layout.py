"""Bytes of blocks and states, against figures computed by hand from the report's sizes (sections 2.3.4 and 3.5.1)."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from wavefold.cache import BLOCK_TOKENS, CacheLayout, Pool, Record, layout, record_for
from wavefold.cache.state import SequenceState
from wavefold.config import ModelConfig

FLASH, PRO = ModelConfig.preset("flash"), ModelConfig.preset("pro")
BF16, FP32 = record_for(torch.bfloat16), record_for(torch.float32)


@dataclass(frozen=True)
class DeployedRecord(Record):
    """Sizes of the deployed cache: FP8 entries of 584 bytes, FP4 index keys of 68."""

    def num_bytes(self, dim: int) -> int:
        return {512: 448 + 64 * 2 + 7 + 1, 128: 128 // 2 + 4}[dim]


@pytest.mark.parametrize(
    ("config", "record", "block_bytes", "bytes_per_token"),
    [
        # CSA layers x 32 x (512 + 128) values, and HCA layers x 512 values
        (FLASH, BF16, 21 * 32 * 640 * 2 + 20 * 512 * 2, 6880),
        (PRO, BF16, 30 * 32 * 640 * 2 + 31 * 512 * 2, 9848),
        (FLASH, FP32, 1_761_280, 13_760),
        (PRO, FP32, 2_521_088, 19_696),
        (FLASH, DeployedRecord(torch.uint8), 449_824, 3514.25),
        (PRO, DeployedRecord(torch.uint8), 644_024, 5031.4375),
    ],
)
def test_block_bytes(config: ModelConfig, record: Record, block_bytes: int, bytes_per_token: float) -> None:
    assert CacheLayout(config, record).block_bytes == block_bytes == bytes_per_token * BLOCK_TOKENS


@pytest.mark.parametrize(
    ("config", "record", "state_bytes"),
    [
        # windows of 144 rows; 24 rows of 2 x (1024 + 256) floats in a CSA layer, 144 of 2 x 512 in an HCA layer
        (FLASH, BF16, 43 * 144 * 1024 + 21 * 24 * 2560 * 4 + 20 * 144 * 1024 * 4),
        (PRO, BF16, 61 * 144 * 1024 + 30 * 24 * 2560 * 4 + 31 * 144 * 1024 * 4),
        (FLASH, FP32, 29_638_656),
        (PRO, FP32, 43_646_976),
    ],
)
def test_state_bytes(config: ModelConfig, record: Record, state_bytes: int) -> None:
    assert CacheLayout(config, record).state_bytes == state_bytes


@pytest.mark.parametrize(("config", "state_bytes"), [(FLASH, 15_420_416), (PRO, 23_270_400)])
def test_without_room_to_rewind_a_state_is_the_released_codes(
    config: ModelConfig, state_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """128 window rows; 8 rows of each CSA tail (65,536 and 16,384 bytes), 128 of the HCA tail (524,288)."""
    monkeypatch.setattr(layout, "REWIND", 0)
    assert CacheLayout(config, DeployedRecord(torch.uint8)).state_bytes == state_bytes


@pytest.mark.parametrize("config", [FLASH, PRO], ids=["flash", "pro"])
@pytest.mark.parametrize("record", [BF16, FP32], ids=["bf16", "fp32"])
def test_what_is_allocated_is_what_the_layout_says(config: ModelConfig, record: Record) -> None:
    sizes = CacheLayout(config, record)
    pool = Pool(config, 3 * BLOCK_TOKENS - 1, record, "meta")
    assert pool.num_bytes == 3 * sizes.block_bytes
    assert SequenceState(sizes, torch.device("meta")).num_bytes == sizes.state_bytes
    sequence = pool.open()
    assert sequence.cache_bytes == sizes.state_bytes
    assert pool.num_bytes == 3 * sizes.block_bytes + sizes.state_bytes


def test_layers_of_a_kind() -> None:
    rows = {kind.name: kind for kind in CacheLayout(FLASH, BF16).row_kinds}
    assert rows["csa"].layers == rows["index"].layers == tuple(range(2, 43, 2))
    assert rows["hca"].layers == tuple(range(3, 42, 2))
    assert (rows["csa"].dim, rows["index"].dim, rows["hca"].dim) == (512, 128, 512)
    assert CacheLayout(FLASH, BF16).main_layers == range(43)  # the MTP layer caches nothing here


@pytest.mark.parametrize(("num_tokens", "num_blocks"), [(0, 0), (1, 1), (127, 1), (128, 1), (129, 2), (256, 2)])
def test_num_blocks(num_tokens: int, num_blocks: int) -> None:
    assert CacheLayout(FLASH, BF16).num_blocks(num_tokens) == num_blocks


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_plain_record_keeps_every_bit(dtype: torch.dtype) -> None:
    record = record_for(dtype)
    rows: Tensor = torch.randn(5, 7, dtype=dtype)
    stored = record.encode(rows)
    assert stored.numel() * stored.element_size() == 5 * record.num_bytes(7)
    assert torch.equal(record.decode(stored), rows)
    record.poison(stored)
    assert stored.isnan().all()
