"""A small run of api_cases.py."""

from __future__ import annotations

import pytest

from wavefold.server.protocol import PROTOCOLS

pytest.importorskip("schemathesis")


def test_no_case_of_the_description_is_a_5xx() -> None:
    from tests.server.api_cases import check

    seen = check(60)
    for path in PROTOCOLS:
        assert sum(count for name, count in seen.items() if name.startswith(f"{path} ")) >= 6
