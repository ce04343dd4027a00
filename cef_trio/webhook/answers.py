"""What a receiver's answer means. Pure."""

from __future__ import annotations

from enum import Enum
from typing import Final

_OK: Final = range(200, 300)
_REFUSALS: Final = range(400, 500)
_PASSING: Final = frozenset({408, 425, 429})
"""Of the 4xx those that say nothing against the delivery itself: too slow, too early, too many."""
_GONE: Final = 410
_PAGES: Final = frozenset({"text/html", "application/xhtml+xml"})


class Answered(Enum):
    """What became of a delivery."""

    DELIVERED = "delivered"
    REFUSED = "refused"
    """For good: the receiver will not take it however often it comes (410, 404, 401, …)."""
    AGAIN = "again"
    """It may be taken later. A redirect too: it is not followed, but whoever mends the URL still has the time to."""


def judge_status(status: int, content_type: str = "") -> Answered:
    """What an answer says, by its status and by who may have given it.

    A refusal that is a page for a browser may be that of an ingress without a backend, of a proxy or a firewall: it is
    tried again, as long as deliveries are. ``410 Gone`` is nobody's by accident.
    """
    if status in _OK:
        return Answered.DELIVERED
    if status != _GONE and content_type.partition(";")[0].strip().lower() in _PAGES:
        return Answered.AGAIN
    return Answered.REFUSED if status in _REFUSALS and status not in _PASSING else Answered.AGAIN
