"""The meaning of a webhook receiver's response. Pure; ``postprocess/webhooks.py`` acts on it."""

from __future__ import annotations

from enum import Enum
from typing import Final

_OK: Final = range(200, 300)
_REFUSALS: Final = range(400, 500)
_TEMPORARY: Final = frozenset({407, 408, 425, 429})
"""The 4xx that are temporary: Proxy Authentication Required (never the receiver's), Request Timeout, Too Early, Too
Many Requests."""
_GONE: Final = 410
_HTML_TYPES: Final = frozenset({"text/html", "application/xhtml+xml"})


class DeliveryOutcome(Enum):
    """The outcome of a delivery."""

    DELIVERED = "delivered"
    REFUSED = "refused"
    """Permanently: the receiver will not accept it (410, 404, 401, …)."""
    RETRY = "retry"
    """It may be accepted later. This includes redirects, which are not followed, so that the URL can be corrected."""


def outcome_of_status(status: int, content_type: str = "") -> DeliveryOutcome:
    """Return the outcome of a delivery by the response's status and content type.

    A 4xx with an HTML page may come from a proxy, a firewall or an ingress without a backend, so it is retried;
    except ``410 Gone``, which is always intended.
    """
    if status in _OK:
        return DeliveryOutcome.DELIVERED
    if status != _GONE and content_type.partition(";")[0].strip().lower() in _HTML_TYPES:
        return DeliveryOutcome.RETRY
    return DeliveryOutcome.REFUSED if status in _REFUSALS and status not in _TEMPORARY else DeliveryOutcome.RETRY
