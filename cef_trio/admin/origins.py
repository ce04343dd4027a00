"""Which website may have sent a browser here, and by whose name. Pure.

A website can give its own host name our address for a moment (DNS rebinding): then its script is of the same origin as
our page, and may read which recordings there are. What it cannot change is the name that it was called by, which the
browser sends as ``Host``. So the page and its events are for names that no stranger's DNS can give: addresses, names
without a dot (``localhost``, a container's), and those that ``PROM_ALLOWED_HOSTS`` lists.

Any website can have a browser ask us something, without reading the answer: a hundred of its own listeners to our
events keep the operator out. What a browser says of who asked it to (``Sec-Fetch-Site``, ``Origin``) no script can
change. A link to the page, which a person follows, is the one thing that others may send.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection
from typing import Final
from urllib.parse import urlsplit

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


def is_foreign(header: Callable[[str], str | None], *, may_be_opened: bool) -> bool:
    """Whether another website had a browser ask this, by the request's headers.

    ``may_be_opened``: it is a page, which any link may open.
    """
    origin, site = header("origin"), header("sec-fetch-site")
    if origin is not None and urlsplit(origin).netloc.lower() != (header("host") or "").strip().lower():
        return True  # "null" has none
    if site is None or site in {"same-origin", "none"}:
        return False
    opened = (header("sec-fetch-mode"), header("sec-fetch-dest")) == ("navigate", "document")
    return not (may_be_opened and opened)
