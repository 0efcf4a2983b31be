"""What a streamed store was asked for, and what it read: by layer, for tables and for switching look-ahead off."""

from __future__ import annotations

import numpy as np


class StreamCounts:
    """Counts since the store was made, int64 [layers] each; `bytes`, and slots `closed` and `reopened`, in all."""

    def __init__(self, num_layers: int):
        self.asked, self.hits, self.read, self.ahead_used, self.ahead_unused = (
            np.zeros(num_layers, np.int64) for _ in range(5)
        )
        """Distinct experts of passes; those that were in memory, ahead of time or from before; those that a pass waited
        for; experts read ahead that the next pass used, and did not use."""
        self.recent = np.zeros((num_layers, 2), np.int64)
        """Used and all experts that were read ahead, since look-ahead was last judged."""
        self.bytes = self.closed = self.reopened = 0
        self.least_usable: int | None = None
        """The fewest slots that were in use since the first was closed; None before that."""

    def totals(self) -> tuple[int, int, int, int, int]:
        """Returns bytes read, then experts asked for, waited for, read ahead and used, read ahead and not used."""
        counts = self.asked, self.read, self.ahead_used, self.ahead_unused
        return self.bytes, *(int(count.sum()) for count in counts)  # type: ignore[return-value]

    def given_back(self) -> str:
        """Returns a phrase about slots whose memory was given back under pressure."""
        least = "" if self.least_usable is None else f", {self.least_usable:,} in use at the least"
        return f"slots given back under pressure: {self.closed:,}, taken up again: {self.reopened:,}{least}"
