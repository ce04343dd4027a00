"""The client that sends one webhook as a POST request.

- One time-out covers the whole attempt, from the connection to the response headers. The response body is not read.
- Redirects are not followed. Proxies (but ``WEBHOOK_PROXY_URL``) and credentials from the environment are ignored.
- The URL may contain a token, so messages name only scheme and host.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Self

import httpx
import trio

from cef_trio import __version__
from cef_trio.exceptions import WebhookOperationError
from cef_trio.http import HttpProxy, HttpTransport, http_client, parse_retry_after, tls
from cef_trio.webhook.signature import decode_secret, signature

_OPERATION: Final = "deliver"
_MAX_CONNECTIONS: Final = 8
_KEEPALIVE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """A webhook to send. ``delivery_id`` is the same for each attempt, so that a receiver can detect duplicates."""

    delivery_id: str
    stream_id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class WebhookResponse:
    """The parts of a response that matter."""

    status: int
    retry_after_seconds: float | None
    content_type: str = ""


class WebhookClient:
    """Sends webhooks to one URL. An async context manager; use it inside, from any number of tasks.

    Without a ``secret`` requests are not signed. ``timeout_seconds`` is positive and finite; ``now`` returns a time
    with a time zone; ``ca_file`` replaces the system's certificates, ``transport`` the network; all requests go through
    ``proxy``, if there is one.

    Raises:
        ValueError: the secret cannot be read, or ``ca_file`` holds no certificates.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: str | None,
        timeout_seconds: float,
        now: Callable[[], datetime],
        ca_file: Path | None = None,
        proxy: HttpProxy | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        setting: str = "ON_COMPLETE_WEBHOOK",
    ) -> None:
        """``setting``: where the URL is from, for messages."""
        self._setting = setting
        self._url = httpx.URL(url)
        self._key = None if secret is None else decode_secret(secret)
        self._timeout_seconds = timeout_seconds
        self._via = proxy.via if proxy is not None else ""
        self._now = now
        self._transport = transport or HttpTransport(
            tls.TrustedCertificates("WEBHOOK_CA_FILE", ca_file),
            max_connections=_MAX_CONNECTIONS,
            keepalive_seconds=_KEEPALIVE_SECONDS,
            proxy=proxy,
        )
        self._http = http_client(self._transport, timeout_seconds=timeout_seconds)

    @property
    def receiver(self) -> str:
        """Scheme and host of the receiver, without secrets."""
        return f"{self._url.scheme}://{self._url.netloc.decode('ascii')}"

    def renew_connections(self) -> None:
        """Have the next delivery open a new connection."""
        if isinstance(self._transport, HttpTransport):
            self._transport.renew_connections()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    @asynccontextmanager
    async def post(self, delivery: Delivery) -> AsyncIterator[WebhookResponse]:
        """Send once; yield the response. There is no checkpoint between receiving it and the body of the block.

        Raises:
            WebhookOperationError: transient; there was no response.
        """
        response = await self._send(delivery)
        try:
            headers = response.headers
            retry_after_seconds = parse_retry_after(headers.get("retry-after"), self._now())
            yield WebhookResponse(response.status_code, retry_after_seconds, headers.get("content-type", ""))
        finally:
            with suppress(httpx.HTTPError):  # the response is known already
                await response.aclose()

    async def _send(self, delivery: Delivery) -> httpx.Response:
        request = httpx.Request("POST", self._url, headers=self._headers(delivery), content=delivery.body)
        response = None
        try:
            with trio.move_on_after(self._timeout_seconds):
                response = await self._http.send(request, stream=True)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:  # the last two: malformed bytes
            self.renew_connections()
            refused = tls.explain_refused_certificate(
                error, ca_setting="WEBHOOK_CA_FILE", address_setting=self._setting
            )
            text = (refused or str(error)) + ("" if isinstance(error, httpx.ProxyError) else self._via)
            raise self._no_response(f"{type(error).__name__}: {text}" if text else type(error).__name__) from error
        if response is None:
            self.renew_connections()
            raise self._no_response(f"no response within {self._timeout_seconds:g} seconds{self._via}")
        return response

    def _headers(self, delivery: Delivery) -> dict[str, str]:
        timestamp = int(self._now().timestamp())
        headers = {
            "content-type": "application/json",
            "user-agent": f"cef-trio/{__version__}",
            "accept-encoding": "identity",
            "x-cef-trio-stream-id": delivery.stream_id,
            "webhook-id": delivery.delivery_id,
            "webhook-timestamp": str(timestamp),
        }
        if self._key is not None:
            headers["webhook-signature"] = signature(self._key, delivery.delivery_id, timestamp, delivery.body)
        return headers

    def _no_response(self, why: str) -> WebhookOperationError:
        return WebhookOperationError(_OPERATION, f"{why} [{self.receiver}]", transient=True)
