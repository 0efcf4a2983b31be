"""Faults of one rank amid a pass: every rank learns of them at its end, and no rank waits for another in vain.

A rank that cannot read an expert goes on with zeros in its place, so that all messages of the pass are sent. At the end
each rank tells the others how long its error's text is, 0 without one; texts follow if there are any.
"""

from __future__ import annotations

import torch

from wavefold.waves.exchange import gather_rows
from wavefold.waves.transport import Program, Transport


class PassFailed(ValueError):
    """A rank could not do its part of a pass. Raised on all ranks for the same pass; the next pass may be run."""


def check_faults(transport: Transport, fault: BaseException | None) -> Program[None]:
    """Tells all ranks of this rank's `fault`. Raises PassFailed on every rank where any has one, with its number."""
    text = b"" if fault is None else (str(fault) or type(fault).__name__).encode()
    message = torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8)
    lengths = (yield from gather_rows(transport, torch.tensor([len(text)]), [1] * transport.size)).tolist()
    if not any(lengths):
        return
    texts = (yield from gather_rows(transport, message, lengths)).split(lengths)
    named = [
        f"rank {rank}: {bytes(words.tolist()).decode(errors='replace')}"
        for rank, words in enumerate(texts)
        if len(words)
    ]
    raise PassFailed("; ".join(named))
