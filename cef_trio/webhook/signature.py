"""The signature of a webhook, as Standard Webhooks has it. Pure.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md: HMAC-SHA256 over
``<id>.<timestamp>.<body>``, in base64, after the name of its version. Receivers have libraries for that in every
language. The secret is written as ``whsec_`` and the base64 of its 24 to 64 bytes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what every secret begins with
_VERSION: Final = "v1"


def key_of(secret: str) -> bytes:
    """The key that a secret stands for.

    Raises:
        ValueError: it is not ``whsec_`` and base64.
    """
    if not secret.startswith(SECRET_PREFIX):
        raise ValueError(f"a webhook's secret begins with {SECRET_PREFIX}")
    return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)


def signature(key: bytes, delivery_id: str, timestamp: int, body: bytes) -> str:
    """The value of the header ``webhook-signature``.

    ``timestamp``: of this attempt, Unix time in seconds; a receiver refuses what is too old to be no replay.

    Raises:
        ValueError: the id holds a full stop, so that what was signed could be read in two ways.
    """
    if "." in delivery_id:
        raise ValueError(f"a webhook's id holds no full stop: {delivery_id!r}")
    digest = hmac.digest(key, f"{delivery_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"{_VERSION},{base64.b64encode(digest).decode('ascii')}"
