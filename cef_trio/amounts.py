"""Format sizes and durations for people: commands, the status page's texts, ``/readyz`` and ``systemctl status``. Pure.

The page's script formats its own numbers the same way (``admin/pages.js``; a test compares both).
"""

from __future__ import annotations

from typing import Final

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_KIBI: Final = 1024
_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR


def size(size_bytes: float | None) -> str:
    """Format bytes: ``1.5 GiB``; a dash for ``None``."""
    if size_bytes is None:
        return "-"
    value = float(size_bytes)
    for unit in _UNITS[:-1]:
        if abs(value) < _KIBI:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= _KIBI
    return f"{value:.1f} {_UNITS[-1]}"


def duration(seconds: float | None) -> str:
    """Format seconds: ``4s``, ``3m20s``, ``5h02m``, ``3d04h``; a dash for ``None``."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02}m"
    return f"{whole // _DAY}d{whole % _DAY // _HOUR:02}h"
