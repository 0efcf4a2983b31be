"""Bytes of blocks and states, against figures computed by hand from the report's sizes (sections 2.3.4 and 3.5.1)."""

from __future__ import annotations

import pytest
import torch

from wavefold.cache import BLOCK_TOKENS, CacheLayout, Pool, layout, packed_records, plain_records
from wavefold.cache.record import Records
from wavefold.cache.state import SequenceState
from wavefold.config import ModelConfig

FLASH, PRO = ModelConfig.preset("flash"), ModelConfig.preset("pro")


def records_of(config: ModelConfig, name: str) -> Records:
    return packed_records(config) if name == "packed" else plain_records(config, getattr(torch, name))


@pytest.mark.parametrize(
    ("config", "name", "block_bytes", "bytes_per_token"),
    [
        # CSA layers x 32 x (512 + 128) values, and HCA layers x 512 values
        (FLASH, "bfloat16", 21 * 32 * 640 * 2 + 20 * 512 * 2, 6880),
        (PRO, "bfloat16", 30 * 32 * 640 * 2 + 31 * 512 * 2, 9848),
        (FLASH, "float32", 1_761_280, 13_760),
        (PRO, "float32", 2_521_088, 19_696),
        (FLASH, "packed", 449_824, 3514.25),  # 584 and 68 bytes
        (PRO, "packed", 644_024, 5031.4375),
    ],
)
def test_block_bytes(config: ModelConfig, name: str, block_bytes: int, bytes_per_token: float) -> None:
    assert CacheLayout(config, records_of(config, name)).block_bytes == block_bytes == bytes_per_token * BLOCK_TOKENS


@pytest.mark.parametrize(
    ("config", "name", "state_bytes"),
    [
        # windows of 144 rows; 24 rows of 2 x (1024 + 256) floats in a CSA layer, 144 of 2 x 512 in an HCA layer
        (FLASH, "bfloat16", 43 * 144 * 1024 + 21 * 24 * 2560 * 4 + 20 * 144 * 1024 * 4),
        (PRO, "bfloat16", 61 * 144 * 1024 + 30 * 24 * 2560 * 4 + 31 * 144 * 1024 * 4),
        (FLASH, "packed", 43 * 144 * 584 + 21 * 24 * 2560 * 4 + 20 * 144 * 1024 * 4),
        (FLASH, "float32", 29_638_656),
        (PRO, "float32", 43_646_976),
    ],
)
def test_state_bytes(config: ModelConfig, name: str, state_bytes: int) -> None:
    assert CacheLayout(config, records_of(config, name)).state_bytes == state_bytes


@pytest.mark.parametrize(("config", "state_bytes"), [(FLASH, 15_420_416), (PRO, 23_270_400)])
def test_without_room_to_rewind_a_state_is_the_released_codes(
    config: ModelConfig, state_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """128 window rows; 8 rows of each CSA tail (65,536 and 16,384 bytes), 128 of the HCA tail (524,288)."""
    monkeypatch.setattr(layout, "REWIND", 0)
    assert CacheLayout(config, packed_records(config)).state_bytes == state_bytes


@pytest.mark.parametrize("config", [FLASH, PRO], ids=["flash", "pro"])
@pytest.mark.parametrize("name", ["packed", "bfloat16", "float32"])
def test_what_is_allocated_is_what_the_layout_says(config: ModelConfig, name: str) -> None:
    records = records_of(config, name)
    sizes = CacheLayout(config, records)
    pool = Pool(config, 3 * BLOCK_TOKENS - 1, records, "meta")
    assert pool.num_bytes == 3 * sizes.block_bytes
    assert SequenceState(sizes, torch.device("meta")).num_bytes == sizes.state_bytes
    sequence = pool.open()
    assert sequence.cache_bytes == sizes.state_bytes
    assert pool.num_bytes == 3 * sizes.block_bytes + sizes.state_bytes


def test_layers_of_a_kind() -> None:
    sizes = CacheLayout(FLASH, packed_records(FLASH))
    rows = {kind.name: kind for kind in sizes.row_kinds}
    assert rows["csa"].layers == rows["index"].layers == tuple(range(2, 43, 2))
    assert rows["hca"].layers == tuple(range(3, 42, 2))
    assert (rows["csa"].record.dim, rows["index"].record.dim, rows["hca"].record.dim) == (512, 128, 512)
    assert sizes.ring_layers == range(43)
    assert CacheLayout(FLASH, packed_records(FLASH), mtp=True).ring_layers == range(44)


@pytest.mark.parametrize(("num_tokens", "num_blocks"), [(0, 0), (1, 1), (127, 1), (128, 1), (129, 2), (256, 2)])
def test_num_blocks(num_tokens: int, num_blocks: int) -> None:
    assert CacheLayout(FLASH, packed_records(FLASH)).num_blocks(num_tokens) == num_blocks
