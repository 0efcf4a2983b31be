"""Checkpoint folders of full size that take no room on the disk: real headers, and files of holes."""

from __future__ import annotations

from pathlib import Path

import torch

from wavefold.atomic import write_json
from wavefold.checkpoint.index import CONFIG_NAME, INDEX_NAME
from wavefold.checkpoint.write import Entry, layout, shard_names
from wavefold.config import ModelConfig
from wavefold.model import Transformer
from wavefold.model.official import official_tensors
from wavefold.ops import Arithmetic


def write_hollow(config: ModelConfig, folder: Path) -> int:
    """Write a checkpoint of zeros in the official layout of `config`; returns how many tensors it has.

    Raises OSError where the file system has no holes of that size.
    """
    folder.mkdir(parents=True)
    entries = {
        name: Entry(tuple(tensor.shape), tensor.dtype, lambda: torch.empty(0))
        for name, tensor in official_tensors(Transformer(config, Arithmetic("exact")))
    }
    shards = shard_names(list(entries), config)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file_name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _, header = layout({name: entries[name] for name in names})
        with (folder / file_name).open("wb") as file:
            file.write(header)
            file.truncate(len(header) + sum(entries[name].num_bytes for name in names))
        weight_map |= dict.fromkeys(names, file_name)
    total = sum(entry.num_bytes for entry in entries.values())
    write_json(folder / INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": weight_map})
    write_json(folder / CONFIG_NAME, config.to_dict())
    return len(entries)
