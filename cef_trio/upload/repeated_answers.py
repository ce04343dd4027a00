"""The same answer to the same question, again and again: when a retry has stopped changing anything. Pure.

A transient error is asked again, and what S3 says that it lost is sent again. Both may go on for ever: a store that
wants equal parts refuses each Complete with ``InvalidPart``; bytes that are damaged on the way are ``BadDigest`` each
time; a refusal whose reason is always cut off is never heard. So answers that speak of one call (not of an outage,
which a probe ends) are counted, by what was asked: operation, part, and what the stream was then. A question that
changed is another one. Too many of one, and the stream fails with the answer's name and what a person can do.

Two limits, since two kinds of answers repeat: a plain no (:data:`PLAIN`), to which we did what it asks for in between;
and one that may pass (a damaged body, an unreadable answer), which has some more than an hour.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from cef_trio.exceptions import CefMp4ProcessorError, S3OperationError
from cef_trio.resilience import is_outage

PLAIN: Final = frozenset({"NoSuchUpload", "InvalidPart"})
"""Refusals that say what is to be done: list again, send again, begin again."""
MAX_PLAIN: Final = 5
MAX_UNCLEAR: Final = 20
"""With waits that grow to ``RETRY_STREAM_MAX_SECONDS``, and ``RETRY_ATTEMPTS`` of each call."""

_HINTS: Final = {
    "InvalidPart": (
        "every part was listed, and sent again where it was missing; some stores (Cloudflare R2) want all parts but "
        "the last equally long: set S3_EQUAL_PARTS=true, then `cef-trio retry` starts over with equal parts"
    ),
    "NoSuchUpload": "S3 lists the upload, and denies that it exists when it is used",
    "BadDigest": "the bytes that arrive are not those that were sent: a proxy changes them, or a memory is broken",
    "UnreadableAnswer": "something between here and the store cuts its answers off",
    "RequestTimeTooSkewed": "the store's clock and its word about ours disagree",
}

Question = tuple[object, ...]


class RepeatedAnswers:
    """One stream's answers, since it last got on."""

    def __init__(self, max_plain: int = MAX_PLAIN, max_unclear: int = MAX_UNCLEAR) -> None:
        self._max_plain = max_plain
        self._max_unclear = max_unclear
        self._plain: Counter[Question] = Counter()
        self._unclear: Counter[Question] = Counter()

    def count(self, error: CefMp4ProcessorError, subject: Question) -> str | None:
        """Count an answer; returns why it is not to be asked for again, ``None`` if it is.

        Args:
            error: the answer.
            subject: what the stream was when it asked: its upload, and what was verified.
        """
        if not isinstance(error, S3OperationError) or is_outage(error):
            return None
        plain = error.code in PLAIN
        if not plain and not error.transient:
            return None
        counted, limit = (self._plain, self._max_plain) if plain else (self._unclear, self._max_unclear)
        question = (error.operation, error.part_number, error.code, *subject)
        counted[question] += 1
        if counted[question] < limit:
            return None
        hint = _HINTS.get(error.code or "")
        return f"S3 gave the same answer {limit} times, and nothing changed" + (f"; {hint}" if hint else "")

    def got_on(self) -> None:
        """Something was done: what may pass did pass. A plain no stays counted, for what it asked for was done too."""
        self._unclear.clear()
