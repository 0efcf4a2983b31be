"""Near-duplicates among documents: MinHash with banding finds pairs, and the exact Jaccard index decides.

A document is the set of its runs of `WORDS` words. Two documents are nearly the same if they share `SAME` of all their
runs. The 16 bands of 8 values find a pair at 0.7 with a probability of 0.61, at 0.8 of 0.95, at 0.9 of 0.9999. (Broder
1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3.)
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable

import numpy as np

WORDS = 5
SAME = 0.7
BANDS, BAND = 16, 8
WORD = re.compile(r"[A-Za-z0-9_]+")


def near_duplicates(documents: Iterable[tuple[str, str]], num_fixed: int = 0) -> dict[str, str]:
    """Returns name -> name of the earlier document that it nearly equals, for (name, text) pairs in order.

    The first `num_fixed` documents are never duplicates themselves. A document that is a duplicate is compared with
    nothing after it. Raises ValueError where datasketch is not installed.
    """
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError:
        raise ValueError("near-duplicates need datasketch; install it with: pip install 'wavefold[corpus]'") from None
    index = MinHashLSH(num_perm=BANDS * BAND, params=(BANDS, BAND))
    first = MinHash(num_perm=BANDS * BAND, hashfunc=int)
    runs: dict[str, np.ndarray] = {}
    found: dict[str, str] = {}
    for number, (name, text) in enumerate(documents):
        hashes = hashes_of_runs(text)
        if not len(hashes):
            continue
        sketch = MinHash(num_perm=BANDS * BAND, hashfunc=int, permutations=first.permutations, scheme=first.scheme)
        sketch.update_batch(hashes.tolist())
        if number >= num_fixed:
            alike = ((jaccard(hashes, runs[other]), other) for other in sorted(index.query(sketch)))
            share, other = max(alike, default=(0.0, ""))
            if share >= SAME:
                found[name] = other
                continue
        runs[name] = hashes
        index.insert(name, sketch)
    return found


def found_share(share: float) -> float:
    """Returns the probability that MinHash finds a pair with this Jaccard index: one of the bands is equal."""
    return 1 - (1 - share**BAND) ** BANDS


def hashes_of_runs(text: str) -> np.ndarray:
    """Returns the distinct hashes of a text's runs of words, uint32 [n], sorted. A short text is one run."""
    words = WORD.findall(text)
    runs = {" ".join(words[first : first + WORDS]) for first in range(max(len(words) - WORDS + 1, min(len(words), 1)))}
    return np.unique(np.fromiter((zlib.crc32(run.encode()) for run in runs), np.uint32, len(runs)))


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the share of common values among all values of two sorted arrays without repetition."""
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)
