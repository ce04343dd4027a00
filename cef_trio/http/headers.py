"""Parse HTTP headers: dates and ``Retry-After``. Pure; ``resilience/backoff.py`` applies ``Retry-After``."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Return ``Retry-After`` (seconds or HTTP date) as seconds from ``now``; ``None`` if missing or invalid."""
    if value is None:
        return None
    text = value.strip()
    try:
        seconds = float(text)
    except ValueError:
        moment = parse_http_date(text)
        return None if moment is None else max(0.0, (moment - now).total_seconds())
    return seconds if 0 <= seconds < math.inf else None


def parse_http_date(value: str | None) -> datetime | None:
    """Parse a ``Date`` header; ``None`` if missing or invalid."""
    if not value:
        return None
    try:
        moment = parsedate_to_datetime(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
