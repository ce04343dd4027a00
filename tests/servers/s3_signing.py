"""Requests signed by botocore and sent through httpx, in-process and over sockets."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterable, Mapping
from datetime import UTC, datetime
from unittest import mock

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import httpx

from cef_trio.s3_endpoint import DEFAULT_ACCESS_KEY_ID, DEFAULT_REGION, DEFAULT_SECRET_ACCESS_KEY


def signed_headers(
    method: str,
    url: str,
    *,
    payload: str = "UNSIGNED-PAYLOAD",
    headers: Mapping[str, str] | None = None,
    now: float | None = None,
    session_token: str | None = None,
) -> dict[str, str]:
    """The headers of a signed request; ``now`` is Unix seconds of the client's clock."""
    request = botocore.awsrequest.AWSRequest(method, url, headers=dict(headers or {}))
    request.headers["X-Amz-Content-SHA256"] = payload
    credentials = botocore.credentials.Credentials(DEFAULT_ACCESS_KEY_ID, DEFAULT_SECRET_ACCESS_KEY, session_token)
    signer = botocore.auth.S3SigV4Auth(credentials, "s3", DEFAULT_REGION)
    at = datetime.now(UTC) if now is None else datetime.fromtimestamp(now, UTC)
    with (
        mock.patch.object(botocore.auth, "get_current_datetime", return_value=at),
        mock.patch.object(signer, "payload", return_value=payload),
    ):
        signer.add_auth(request)
    return dict(request.headers)


async def send(
    client: httpx.AsyncClient,
    method: str,
    path: str,
    content: bytes | AsyncIterable[bytes] = b"",
    *,
    headers: Mapping[str, str] | None = None,
    now: float | None = None,
) -> httpx.Response:
    """Sign a request by botocore and send it; bodies in memory are signed with their SHA-256."""
    url = f"{str(client.base_url).rstrip('/')}{path}"
    payload = hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else "UNSIGNED-PAYLOAD"
    signed = signed_headers(method, url, payload=payload, headers=headers, now=now)
    return await client.request(method, url, headers=signed, content=content)


def element(reply: httpx.Response, name: str) -> str:
    """The text of the first element of that name."""
    return reply.text.partition(f"<{name}>")[2].partition(f"</{name}>")[0]
