"""Numbers in what a client sends. Pure."""

from __future__ import annotations


def decimal(text: str) -> int | None:
    """Return a number of ASCII digits; ``None`` if the text is none, or has more digits than ``int`` takes (4,300)."""
    if not text.isascii() or not text.isdigit():
        return None
    try:
        return int(text)
    except ValueError:
        return None
