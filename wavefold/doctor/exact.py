"""The bytes of two tensors of the same type and shape, piece by piece."""

from __future__ import annotations

import os

from wavefold.checkpoint.index import TensorRef

MOST_BYTES = 4 << 30
"""Of both files together, to compare all of them."""
PIECE = 4 << 20


def difference(ref: TensorRef, other: TensorRef) -> str:
    """Returns where two tensors of one size differ first; "" where nowhere. Raises OSError for an unreadable file."""
    descriptors = os.open(ref.path, os.O_RDONLY), os.open(other.path, os.O_RDONLY)
    try:
        for place in range(0, ref.nbytes, PIECE):
            count = min(PIECE, ref.nbytes - place)
            found, expected = (
                os.pread(descriptor, count, one.offset + place)
                for descriptor, one in zip(descriptors, (ref, other), strict=True)
            )
            if found != expected:
                first = next((n for n, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), 0)
                return f"differs from byte {place + first:,} of {ref.nbytes:,} on"
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return ""
