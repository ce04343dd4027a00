"""``MAX_UPLOAD_RATE``: one rate, or a timetable of rates by time of day and weekday. Pure.

A timetable is written as rclone's ``--bwlimit``: ``08:00,2MiB 19:00,off``, with weekdays ``Mon-08:00,2MiB
Sat-00:00,off``. Each rate holds from its time until the next entry's, over midnight and over the end of the week. An
entry without a weekday is one of every day; one with a weekday replaces it on that day, at that minute.

The rate is a function of the local time alone: when the clock is set or summer time begins or ends, that rate holds
which the timetable has for the time that the clock shows then.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cef_trio.settings.values import size_in_bytes

UNLIMITED: Final = 0
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY_MINUTES: Final = 24 * 60
_HIGHEST: Final = 1 << 62
_ENTRY: Final = re.compile(r"(?:([a-z]{3})-)?(\d{1,2}):(\d{2}),(\S+)", re.IGNORECASE)
_TAKES: Final = (
    "takes a size in bytes, such as 10MiB, or a timetable of times and rates, such as '08:00,2MiB 19:00,off' or "
    "'Mon-08:00,2MiB Fri-19:00,off'"
)


@dataclass(frozen=True, slots=True)
class RateTimetable:
    """Rates by local time. ``rates`` has (minute of the week from Monday 00:00, bytes a second or 0), by minute."""

    text: str
    """As it is set."""
    rates: tuple[tuple[int, int], ...]

    def rate_at(self, local: datetime) -> int:
        """Return the rate in force at a local time, in bytes a second; 0 is unlimited."""
        minute = local.weekday() * _DAY_MINUTES + local.hour * 60 + local.minute
        index = bisect_right(self.rates, (minute, _HIGHEST))
        return self.rates[index - 1][1]  # before the first entry of the week the last one's holds: index -1

    def __str__(self) -> str:
        """Return the text of the setting."""
        return self.text


UploadRate = int | RateTimetable


def rate_at(rate: UploadRate, local: datetime) -> int:
    """Return the rate in force at a local time, in bytes a second; 0 is unlimited."""
    return rate.rate_at(local) if isinstance(rate, RateTimetable) else rate


def all_rates(rate: UploadRate) -> list[int]:
    """Return every rate that may be in force, each once."""
    return sorted({one for _, one in rate.rates}) if isinstance(rate, RateTimetable) else [rate]


def parse_upload_rate(value: object) -> object:
    """Parse a size, ``off``, or a timetable.

    Raises:
        ValueError: with what is wrong, and what the setting takes.
    """
    if not isinstance(value, str):
        return value
    entries = value.split()
    if not entries or not any("," in entry or ":" in entry for entry in entries):
        return _rate(value)
    week: dict[int, tuple[bool, int]] = {}
    for entry in entries:
        for minute, (of_day, rate) in _entry(entry).items():
            before = week.get(minute)
            if before is not None and before[0] == of_day:
                raise ValueError(f"has two rates for the time of {entry!r}; {_TAKES}")
            if before is None or of_day:
                week[minute] = of_day, rate
    return RateTimetable(" ".join(entries), tuple((minute, rate) for minute, (_, rate) in sorted(week.items())))


def _entry(entry: str) -> dict[int, tuple[bool, int]]:
    """Return the minutes of the week of an entry, with whether it names a weekday, and its rate."""
    match = _ENTRY.fullmatch(entry)
    if match is None:
        raise ValueError(f"cannot be read at {entry!r}; {_TAKES}")
    day, hour, minute, rate = match[1], int(match[2]), int(match[3]), _rate(match[4])
    if hour >= 24 or minute >= 60:  # noqa: PLR2004 - a time of day
        raise ValueError(f"has no time of day at {entry!r}: from 00:00 to 23:59")
    if day is not None and day.capitalize() not in _DAYS:
        raise ValueError(f"has no weekday at {entry!r}: one of {', '.join(_DAYS)}")
    of_days = [_DAYS.index(day.capitalize())] if day is not None else range(7)
    return {number * _DAY_MINUTES + hour * 60 + minute: (day is not None, rate) for number in of_days}


def _rate(text: str) -> int:
    if text.strip().lower() == "off":
        return UNLIMITED
    try:
        rate = size_in_bytes(text)
    except ValueError:
        raise ValueError(_TAKES) from None
    return int(str(rate))
