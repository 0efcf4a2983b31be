"""Memory for routed experts, shared by the models that stream them: by how much each is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Streams(NamedTuple):
    """What a model's routed experts may take: `least` bytes to run, `most` to have all. `use`: how much it is asked."""

    use: float
    least: int
    most: int


def shared_out(num_bytes: int, models: Mapping[str, Streams]) -> dict[str, int]:
    """Returns bytes for each model: its least, and of the rest a part in proportion to its use, up to its most.

    What one does not take is shared by the others. Together they take `num_bytes`, unless that is less than all need.
    """
    shares = {name: one.least for name, one in models.items()}
    rest = num_bytes - sum(shares.values())
    open_ones = {name for name, one in models.items() if one.most > one.least}
    while rest > 0 and open_ones:
        uses = {name: max(models[name].use, 1e-9) for name in sorted(open_ones)}
        together = sum(uses.values())
        full = {name for name, use in uses.items() if shares[name] + rest * use / together >= models[name].most}
        if not full:
            for name, use in uses.items():
                shares[name] += int(rest * use / together)
            break
        for name in sorted(full):
            rest -= models[name].most - shares[name]
            shares[name] = models[name].most
        open_ones -= full
    return shares
