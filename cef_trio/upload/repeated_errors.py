"""Limit how often the same S3 error may repeat for the same call.

Transient errors are retried, and what S3 lost is sent again. Some errors would repeat for ever: a store that requires
equal parts refuses every CompleteMultipartUpload with ``InvalidPart``; a proxy that damages bytes causes ``BadDigest``
each time; a policy denies one recording's key. So errors of single calls (not outages, which a probe ends) are counted
by operation, part, code and the stream's state. At the limit the stream fails, and the message holds the code and a
hint for the operator.

There are three limits: one for definite refusals (:data:`DEFINITE`), between which the stream did what the code asks
for; one for rejections (a permission, a feature), which may be of all recordings and pass, as the servers of a store
do not learn of a new policy all at once; and one for errors that may pass (a damaged body, an unreadable response),
which allows more than an hour.

A store may also have lost a part, or the upload, and answer each completion of it with a server error, while it does
everything else. That never fails a stream, as it may pass (P6); but it has the next resume change something
(:class:`Doubt`).
"""

from __future__ import annotations

from collections import Counter
from enum import IntEnum
from typing import Final

from cef_trio.exceptions import CefMp4ProcessorError, S3OperationError
from cef_trio.resilience import is_outage

DEFINITE: Final = frozenset({"NoSuchUpload", "InvalidPart"})
"""Codes after which the stream lists its parts, sends them again or starts over."""
MAX_DEFINITE: Final = 5
MAX_REJECTED: Final = 7
"""More than a minute, with pauses that grow from one second to 32."""
MAX_TRANSIENT: Final = 20
"""Each with ``RETRY_ATTEMPTS`` calls, and waits between them of up to ``RETRY_STREAM_MAX_SECONDS``."""

_COMPLETE: Final = "complete_multipart_upload"
_HINTS: Final = {
    "InvalidPart": (
        "every part was listed, and sent again where it was missing; some stores (Cloudflare R2) want all parts but "
        "the last equally long: set S3_EQUAL_PARTS=true, then `cef-trio retry` starts over with equal parts"
    ),
    "NoSuchUpload": "S3 lists the upload, and denies that it exists when it is used",
    "BadDigest": "the bytes that arrive are not those that were sent: a proxy changes them, or memory is faulty",
    "UnreadableAnswer": "a proxy or the network truncates the responses of the store",
    "RequestTimeTooSkewed": "the clock of this machine or of the store is wrong",
}

DOUBTED_COMPLETIONS: Final = 5
"""After so many failed completions of one verified file, parts that S3 does not list are sent again."""
LOST_COMPLETIONS: Final = 20
"""After so many the upload counts as lost; after twice as many for each upload of the stream that was lost before.

More than an hour, then more than three, and so on: a store whose completions fail does not get everything all the time.
"""

CallKey = tuple[object, ...]


class Doubt(IntEnum):
    """What a resume must doubt; each includes those before it."""

    NOTHING = 0
    PARTS = 1
    """Recorded parts that S3 does not list. If it lists none, they are trusted."""
    CONTRADICTED = 2
    """The same after S3 denied the upload or parts. If it lists none, the upload counts as lost."""
    UPLOAD = 3
    """The upload: it counts as lost."""


def _add(counted: Counter[CallKey], key: CallKey) -> int:
    counted[key] += 1
    return counted[key]


class RepeatedErrors:
    """Counts one stream's errors."""

    def __init__(self) -> None:
        self._definite: Counter[CallKey] = Counter()
        self._transient: Counter[CallKey] = Counter()
        self._completions: Counter[CallKey] = Counter()

    def count(self, error: CefMp4ProcessorError, subject: CallKey) -> str | None:
        """Count an error; return why the call is not to be retried, or ``None`` if it is.

        ``subject`` is the stream's state at the call: its upload ID, and its verified size and mtime.
        """
        if not isinstance(error, S3OperationError) or is_outage(error):
            return None
        key, of_any_part = ((error.operation, part, error.code, *subject) for part in (error.part_number, None))
        if error.code in DEFINITE:
            times, limit = _add(self._definite, key), MAX_DEFINITE
        elif error.transient:
            times, limit = _add(self._transient, key), MAX_TRANSIENT
        elif error.rejected:
            # Of several parts in flight any may be the first; if one alone is rejected, the others are progress.
            times, limit = max(_add(self._definite, key), _add(self._transient, of_any_part)), MAX_REJECTED
        else:
            return None
        if times < limit:
            return None
        hint = _HINTS.get(error.code or "")
        return f"S3 gave the same answer {limit} times, and nothing changed" + (f"; {hint}" if hint else "")

    def count_completion(self, error: CefMp4ProcessorError, subject: CallKey) -> int:
        """Count an error that may be an outage, of a completion; return how often it came, and 0 for any other error.

        Call it while S3 works. A quota's refusal says itself what to change.
        """
        if not isinstance(error, S3OperationError) or error.operation != _COMPLETE:
            return 0
        if not is_outage(error) or error.rejected or error.over_quota:
            return 0
        self._completions[subject] += 1
        return self._completions[subject]

    def progressed(self) -> None:
        """Reset the transient errors after a step succeeded. Refusals stay counted: they follow such steps."""
        self._transient.clear()
