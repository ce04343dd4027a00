"""Names that a writer of the watch folder may give to a recording; each attacks a log, a page, a command or S3."""

from __future__ import annotations

import os
from typing import Final

MARK: Final = "pwned"
"""Stands in each text that would show that an attempt succeeded."""

NAMES: Final = [
    "plain.mp4",
    "a\n2026-01-01T00:00:00Z [info     ] stream_completed pwned.mp4",
    'a\n{"event": "stream_completed", "level": "pwned"}.mp4',
    "a\r\x1b[2J\x1b]0;pwned\x07\x1b[31m.mp4",
    "<script>document.title='pwned'<!--.mp4",
    "<img src=x onerror=document.title='pwned'>.mp4",
    "'\"><svg onload=document.title='pwned'>.mp4",
    '","level":"pwned","x":".mp4',
    "[red]pwned[blink] :boom: {pwned}.mp4",
    "\u202egpj.pwned\u2028\u2029\u0085\u200b.mp4",
    "%2e%2e%2fpwned%00.mp4",
    "..\\..\\pwned.mp4",
    "?x-amz-acl=public-read&uploads#pwned.mp4",
    "x\r\nx-amz-acl: public-read\r\n\r\npwned.mp4",
    "-rf --pwned.mp4",
    "$(touch pwned)`touch pwned`;touch pwned.mp4",
    "STATUS=x\nREADY=1\nX_PWNED=1.mp4",
    "a.mp4.metadata.json.mp4",
    " leading and trailing .mp4",
    "...mp4",
    "{stream_id}{file_name}.mp4",
    "e\u0301 and \u00e9.mp4",
    os.fsdecode(b"\xff\xfe\xed\xa0\x80.mp4"),
    "\x01" * 251 + ".mp4",
    "\U0001f3a5" * 62 + ".mp4",
]
