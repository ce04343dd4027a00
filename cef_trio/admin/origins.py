"""Protection of the admin server against requests from other websites. Pure.

DNS rebinding: a website can point its host name at this server's address; its script then has the same origin as the
status page and could read it. The browser still sends the name as ``Host``. The page and its events are therefore
served only to addresses, names without a dot (``localhost``, a container's name), and names in ``PROM_ALLOWED_HOSTS``.

Cross-site requests: any website can make a browser send requests without reading the response; a hundred listeners on
``/events`` would keep the operator out. Scripts cannot change ``Sec-Fetch-Site`` and ``Origin``. Only a link to the
page, which a person follows, is accepted from another site.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection
from typing import Final
from urllib.parse import urlsplit

_HOST: Final = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[^\[\]:]*))(?::\d*)?", re.IGNORECASE)


def is_ours(host: str | None, allowed: Collection[str]) -> bool:
    """Return whether a ``Host`` header may see the page; ``None``: no header, so no browser."""
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
    """Return whether the request was caused by another website.

    ``may_be_opened``: the path is a page, which any link may open.
    """
    origin, site = header("origin"), header("sec-fetch-site")
    if origin is not None and _host_of(origin) != (header("host") or "").strip().lower():
        return True
    if site is None or site in {"same-origin", "none"}:
        return False
    opened = (header("sec-fetch-mode"), header("sec-fetch-dest")) == ("navigate", "document")
    return not (may_be_opened and opened)


def _host_of(origin: str) -> str | None:
    """Return host and port of an ``Origin``; empty for ``null``, ``None`` if it is no origin."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:  # "http://["
        return None
