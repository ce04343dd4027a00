"""Webhook signatures as specified by Standard Webhooks. Pure.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md: HMAC-SHA256 over
``<id>.<timestamp>.<body>``, in base64, after the version ``v1,``. Libraries for receivers exist in many
languages. The secret is ``whsec_`` and the base64 of 24 to 64 bytes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what every secret begins with
_VERSION: Final = "v1"


def decode_secret(secret: str) -> bytes:
    """Return the key of a secret.

    Raises:
        ValueError: the secret is not ``whsec_`` and base64.
    """
    if not secret.startswith(SECRET_PREFIX):
        raise ValueError(f"a webhook secret must begin with {SECRET_PREFIX}")
    return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)


def signature(key: bytes, delivery_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of the header ``webhook-signature``.

    ``timestamp``: Unix time of this attempt in seconds; a receiver rejects old ones as replays.

    Raises:
        ValueError: the id contains a full stop, which would make the signed text ambiguous.
    """
    if "." in delivery_id:
        raise ValueError(f"a webhook id must not contain a full stop: {delivery_id!r}")
    digest = hmac.digest(key, f"{delivery_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"{_VERSION},{base64.b64encode(digest).decode('ascii')}"
