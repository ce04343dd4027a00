"""Whose name a browser may have called this server by. Pure.

A website can give its own host name our address for a moment (DNS rebinding): then its script is of the same origin as
our page, and may read which recordings there are. What it cannot change is the name that it was called by, which the
browser sends as ``Host``. So the page and its events are for names that no stranger's DNS can give: addresses, names
without a dot (``localhost``, a container's), and those that ``PROM_ALLOWED_HOSTS`` lists.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from typing import Final

_HOST: Final = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[^\[\]:]*))(?::\d*)?", re.IGNORECASE)


def is_ours(host: str | None, allowed: Collection[str]) -> bool:
    """Whether a ``Host`` header's value may see the page; ``None``: there is none, so it is no browser that asks."""
    if host is None:
        return True
    match = _HOST.fullmatch(host.strip())
    if match is None:
        return False
    name = (match["v6"] or match["name"] or "").rstrip(".").lower()
    return "." not in name or name.endswith(".localhost") or name in allowed or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
