"""The licence that an archive's own metadata states, and whether text under it may be learned from.

Metadata states a licence in one of three fields (PEP 639 and the core metadata specification before it), the first that
says something counts:

    License-Expression: BSD-3-Clause AND MIT           an SPDX expression
    Classifier: License :: OSI Approved :: MIT License
    License: BSD-3-Clause                              a word or two

Several classifiers are read as an AND. Every licence of an AND must be allowed, and one of an OR. A single file under
another licence is left out by `foreign_licence`, which reads the head of the file.
"""

from __future__ import annotations

import re
from email.parser import HeaderParser

ALLOWED = frozenset(
    ("MIT", "MIT-0", "MIT-CMU", "BSD-2-Clause", "BSD-3-Clause", "0BSD", "Apache-2.0", "PSF-2.0", "Python-2.0", "ISC",
     "Zlib", "CC0-1.0", "Unlicense", "BSD")
)  # fmt: skip
"""SPDX names, and BSD where the metadata does not say how many clauses."""
CLASSIFIERS = {
    "MIT License": "MIT",
    "BSD License": "BSD",
    "Apache Software License": "Apache-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "ISC License (ISCL)": "ISC",
}
WORDS = {
    "mit": "MIT", "mit license": "MIT", "the mit license": "MIT", "expat": "MIT",
    "bsd": "BSD", "bsd license": "BSD", "bsd-3-clause": "BSD-3-Clause", "new bsd": "BSD-3-Clause",
    "3-clause bsd": "BSD-3-Clause", "bsd 3-clause": "BSD-3-Clause", "modified bsd": "BSD-3-Clause",
    "bsd 3-clause license": "BSD-3-Clause", "bsd-2-clause": "BSD-2-Clause", "3-clause bsd license": "BSD-3-Clause",
    "apache 2": "Apache-2.0", "apache 2.0": "Apache-2.0", "apache-2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0", "apache license, version 2.0": "Apache-2.0",
    "apache software license 2.0": "Apache-2.0", "psf": "PSF-2.0",
    "apache license version 2.0": "Apache-2.0", "isc": "ISC", "isc license": "ISC",
}  # fmt: skip
FOREIGN = re.compile(
    r"GNU\s+(?:Lesser|Library|Affero)?\s*General\s+Public\s+Licen[sc]e|\b[AL]?GPL(?:v?\d|-\d|\b)|Mozilla\s+Public\s+Licen[sc]e"
    r"|Creative\s+Commons|\bCC[- ]BY|All\s+rights\s+reserved\.?\s+(?:Proprietary|Confidential)"
)
HEAD = 3000
"""Characters of a file that are searched for another licence."""


def stated_licence(metadata: str) -> str:
    """Returns the licence of an archive as an SPDX expression, from the text of its PKG-INFO or METADATA.

    Raises ValueError if the metadata states none that is known, or one that is not allowed.
    """
    fields = HeaderParser().parsestr(metadata)
    expression = (fields["License-Expression"] or "").strip()
    if not expression:
        lines = [line.split(" :: ") for line in fields.get_all("Classifier") or [] if line.startswith("License :: ")]
        names = [line[-1] for line in lines if len(line) > 2 or line[-1] != "OSI Approved"]
        words = " ".join((fields["License"] or "").split())
        word = WORDS.get(words.lower(), words)
        if words.startswith("BSD 3-Clause License "):  # the whole licence
            word = "BSD-3-Clause"
        if names == ["BSD License"] and word.startswith("BSD"):
            expression = word
        elif names:
            expression = " AND ".join(sorted({CLASSIFIERS.get(name, name.replace(" ", "-")) for name in names}))
        elif words:
            expression = word
        else:
            raise ValueError("its metadata states no licence")
    if not is_allowed(expression):
        raise ValueError(f"licence = {expression[:80]!r} is not allowed; expected one of {', '.join(sorted(ALLOWED))}")
    return expression


def is_allowed(expression: str) -> bool:
    """True for an SPDX expression whose licences are allowed: all of an AND, one of an OR."""
    tokens = re.findall(r"[()]|[^\s()]+", expression)
    result, rest = _either(tokens)
    return result and not rest


def foreign_licence(text: str) -> bool:
    """True if the head of a source file names a licence that asks for more than to be named."""
    return FOREIGN.search(text[:HEAD]) is not None


def _either(tokens: list[str]) -> tuple[bool, list[str]]:
    result, tokens = _both(tokens)
    while tokens[:1] == ["OR"]:
        other, tokens = _both(tokens[1:])
        result = result or other
    return result, tokens


def _both(tokens: list[str]) -> tuple[bool, list[str]]:
    result, tokens = _one(tokens)
    while tokens[:1] == ["AND"]:
        other, tokens = _one(tokens[1:])
        result = result and other
    return result, tokens


def _one(tokens: list[str]) -> tuple[bool, list[str]]:
    if not tokens:
        return False, ["an end"]  # a rest: no expression
    if tokens[0] == "(":
        result, rest = _either(tokens[1:])
        return (result, rest[1:]) if rest[:1] == [")"] else (False, ["an end"])
    return tokens[0] in ALLOWED, tokens[1:]
