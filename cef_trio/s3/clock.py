"""The time that requests are signed with: the local time, corrected by S3's ``Date`` header. Pure.

S3 refuses a signature whose time differs from its clock by more than 15 minutes (``RequestTimeTooSkewed``).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import structlog

from cef_trio.http import parse_http_date

_MIN_SKEW: Final = timedelta(seconds=30)
_MAX_SKEW: Final = timedelta(minutes=14)
"""S3 accepts 15; its response took some time to arrive."""
PLAUSIBLE_YEARS: Final = range(2024, 2100)
"""Accepted years of S3's clock. The local clock may be off by any amount: one without a battery starts in 1970."""

log = structlog.get_logger(__name__)


class ServerClock:
    """S3's clock, as far as it is known. ``local`` returns the local time, with a time zone."""

    def __init__(self, local: Callable[[], datetime]) -> None:
        self._local = local
        self.offset = timedelta()
        """What is added to the local time."""

    def now(self) -> datetime:
        """Return the corrected time."""
        return self._local() + self.offset

    def is_skewed(self, date: str | None, used: timedelta) -> bool:
        """Whether S3 refuses requests signed with the offset ``used``, by the ``Date`` header of a response."""
        theirs = parse_http_date(date)
        return theirs is not None and abs(theirs - self._local() - used) > _MAX_SKEW

    def correct(self, date: str | None, used: timedelta) -> bool:
        """Set the offset from a ``Date`` header; return whether the next request is signed with another time."""
        theirs = parse_http_date(date)
        if theirs is None or theirs.year not in PLAUSIBLE_YEARS:
            return False
        needed = theirs - self._local()
        if abs(needed - used) < _MIN_SKEW:
            return False  # the signed time equals S3's own: a correction cannot help
        if abs(needed - self.offset) >= _MIN_SKEW:
            self.offset = needed
            log.warning("s3_clock_corrected", offset_seconds=round(needed.total_seconds()))
        return True
