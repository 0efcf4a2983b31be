"""Which names a server on loopback answers to: a page of another site must not reach it through a name of its own.

A browser sends the name that it looked up as Host (DNS rebinding changes where that name leads, not the name), and the
site of the page as Origin.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """True for localhost and addresses that only this machine reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Hosts:
    """The names under which a server that listens on `host` is asked: on loopback loopback's and `more`, else any."""

    def __init__(self, host: str, more: Sequence[str] = ()):
        self._any = not is_loopback(host)
        self._more = frozenset(name.lower() for name in more)

    def refusal(self, headers: Mapping[str, str]) -> str:
        """Returns why a request with these headers, whose names are in lower case, is refused; empty if it is not."""
        if not self._any and not self._allows(headers.get("host", "")):
            return f"Host {headers.get('host', '')!r} is not this server's; expected localhost, or --allow-host"
        origin = headers.get("origin")
        if origin is not None and _site(origin) != headers.get("host", "").lower():
            return f"Origin {origin!r} is another site; pages of other sites are not served"
        return ""

    def _allows(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return is_loopback(name) or name in self._more


def _site(origin: str) -> str | None:
    """Returns host and port of an origin; None where it is none, as of a text with half of the brackets of IPv6."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None
