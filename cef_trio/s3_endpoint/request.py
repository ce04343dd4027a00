"""Request and reply, independent of the transport.

Header names are in lower case. A request's path and query are as sent, percent-encoded, since signatures cover that
form; ``Target`` has the decoded bucket, key and query.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self
from urllib.parse import unquote_to_bytes

from cef_trio.s3_endpoint.errors import S3Error
from cef_trio.s3_endpoint.storage import BlobReader

BLOCK_BYTES: Final = 256 * 1024
"""Replies are sent in blocks of this size."""


class Headers:
    """Header fields; several may have the same name, and names ignore case."""

    __slots__ = ("fields",)

    def __init__(self, fields: Sequence[tuple[str, str]]) -> None:
        self.fields: tuple[tuple[str, str], ...] = tuple((name.lower(), value) for name, value in fields)

    def get(self, name: str) -> str | None:
        """Return the first value of that name, stripped."""
        return next((value.strip() for other, value in self.fields if other == name), None)

    def all(self, name: str) -> list[str]:
        """Return all values of that name."""
        return [value for other, value in self.fields if other == name]

    def __contains__(self, name: str) -> bool:
        return any(other == name for other, _ in self.fields)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.fields)


@dataclass(frozen=True, slots=True)
class EndpointRequest:
    """An HTTP request whose body has not been read yet."""

    method: str
    path: str
    """Percent-encoded, as sent."""
    query: str
    """Percent-encoded, as sent, without the question mark."""
    headers: Headers
    body: AsyncGenerator[bytes, None]
    """The reader closes it (``aclosing``), also if it stops early."""


@dataclass(frozen=True, slots=True)
class Target:
    """Bucket, key and query of a request, decoded."""

    bucket: str | None
    key: str | None
    query: dict[str, str]


@dataclass(slots=True)
class Reply:
    """An HTTP reply. A context manager that closes the blob it reads from.

    ``truncate_to``: drop the connection after that many bytes of the body; ``drop``: drop it after the reply.
    """

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    blob: BlobReader | None = None
    blob_start: int = 0
    blob_size_bytes: int = 0
    head_only: bool = False
    truncate_to: int | None = None
    drop: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the blob. May be called again."""
        if self.blob is not None:
            self.blob.close()

    @property
    def content_length(self) -> int:
        """The ``Content-Length``."""
        return self.blob_size_bytes if self.blob is not None else len(self.body)

    def blocks(self) -> Iterator[bytes]:
        """Yield the body as it is sent, in blocks of at most 256 KiB; nothing for HEAD."""
        if self.head_only:
            return
        left = self.content_length if self.truncate_to is None else min(self.truncate_to, self.content_length)
        position = 0
        while left > 0:
            size = min(BLOCK_BYTES, left)
            if self.blob is not None:
                block = self.blob.read(self.blob_start + position, size)
            else:
                block = self.body[position : position + size]
            yield block
            position += size
            left -= size


def parse_query(query: str) -> list[tuple[str, str]]:
    """Decode a query string into names and values, in order; a name without ``=`` has an empty value."""
    pairs = []
    for piece in query.split("&"):
        if piece:
            name, _, value = piece.partition("=")
            pairs.append((_decoded(name.replace("+", " ")), _decoded(value.replace("+", " "))))
    return pairs


def parse_target(request: EndpointRequest, domains: Sequence[str]) -> Target:
    """Return the target of a request. The bucket is in the host if that is below ``domains``, else in the path.

    Raises:
        S3Error: ``InvalidURI``, the path is not UTF-8.
    """
    host = (request.headers.get("host") or "").rpartition("@")[2].partition(":")[0].lower()
    path = _decoded(request.path).removeprefix("/")
    query = dict(reversed(parse_query(request.query)))
    for domain in domains:
        if host.endswith(f".{domain}"):
            return Target(host.removesuffix(f".{domain}"), path or None, query)
    bucket, _, key = path.partition("/")
    return Target(bucket or None, key or None, query)


def _decoded(text: str) -> str:
    try:
        return unquote_to_bytes(text).decode("utf-8")
    except UnicodeDecodeError as error:
        raise S3Error("InvalidURI") from error
