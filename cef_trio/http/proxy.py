"""``S3_PROXY_URL`` and ``WEBHOOK_PROXY_URL`` as values: an HTTP proxy between a client and its server. Pure.

For ``https`` the proxy is asked for a tunnel (CONNECT), in which TLS is spoken with the server: the proxy sees the
server's name and the amount of bytes (``tunnel.py``). For plain ``http`` it is sent the request in absolute form (RFC
9112 section 3.2.2; ``client_transport.py``). What is signed, and the ``Host`` header, are the same with and without a
proxy.

Messages have the proxy's host and port, never its user and password.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

_DEFAULT_PORT: Final = 80


@dataclass(frozen=True, slots=True)
class HttpProxy:
    """A proxy, and how it is used for one server."""

    setting: str
    """The name of the setting, for messages."""
    host: str
    port: int
    tunnels: bool
    """Whether the server is reached by CONNECT; else its requests are sent to the proxy."""
    authorization: bytes | None = field(default=None, repr=False)
    """The value of ``Proxy-Authorization``."""

    @classmethod
    def of_url(cls, url: str | None, *, setting: str, tls: bool) -> HttpProxy | None:
        """Return the proxy of a setting, ``http://[user:password@]host[:port]``; ``None`` if it is not set.

        ``tls``: whether the server is reached by ``https``.
        """
        if url is None:
            return None
        parts = urlsplit(url)
        user_and_password = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        authorization = b"Basic " + base64.b64encode(user_and_password.encode()) if "@" in parts.netloc else None
        return cls(setting, parts.hostname or "", parts.port or _DEFAULT_PORT, tls, authorization)

    @property
    def name(self) -> str:
        """Its host and port."""
        return f"{self._host_in_url}:{self.port}"

    @property
    def _host_in_url(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def via(self) -> str:
        """The end of a message about a request that went through it."""
        return f" (through the proxy {self.name} of {self.setting})"

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that it needs with a request in absolute form, or with CONNECT."""
        return [] if self.authorization is None else [(b"Proxy-Authorization", self.authorization)]
