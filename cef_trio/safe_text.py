"""Untrusted text (file names, responses of servers) made safe for logs and terminals: no control characters. Pure.

Applied by ``observability/logs.py`` (every log line), ``cli/output.py`` (every command), ``s3/errors.py`` (S3's
messages).

A line break would forge a line of a log, an escape sequence would command the terminal.
"""

from __future__ import annotations

from typing import Final

_MAX_LINE: Final = 300


def printable(text: str, instead: str | None = None) -> str:
    """Return the text on one line: what is not printable is escaped (``\\n``), or replaced by ``instead``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] if instead is None else instead for c in text)


def one_line(text: str | None) -> str | None:
    """Return the text as one line of at most 300 characters, without escapes; ``None`` if nothing is left."""
    if text is None:
        return None
    return " ".join(printable(text[: 16 * _MAX_LINE], " ").split())[:_MAX_LINE] or None
