"""Receiving a request's body: taken out of its framing, hashed, written to a blob and verified, block by block.

Nothing is kept but the current block, so memory does not grow with the body. What was declared by headers or trailers
is compared at the end, in S3's order: length, signed SHA-256, Content-MD5, checksum. The caller must not make the blob
visible before ``receive`` has returned.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final, Protocol

from cef_trio.s3_endpoint import checksums
from cef_trio.s3_endpoint.auth import Authorization, ChunkSignatures
from cef_trio.s3_endpoint.checksums import Algorithm
from cef_trio.s3_endpoint.chunked import ChunkedDecoder
from cef_trio.s3_endpoint.decimals import decimal
from cef_trio.s3_endpoint.errors import S3Error
from cef_trio.s3_endpoint.request import Headers

MAX_DOCUMENT_BYTES: Final = 4 * 1024 * 1024
"""Of an XML body: 10,000 parts with checksums take less than 3 MiB."""
_MD5_BYTES: Final = 16
_MAX_BLOCK_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class DeclaredBody:
    """The size, hashes and framing that a request declares for its body."""

    size_bytes: int
    """Of the data, without framing."""
    sha256: str | None = None
    md5: bytes | None = None
    checksums: Mapping[Algorithm, str] | None = None
    trailer: Algorithm | None = None
    decoder: ChunkedDecoder | None = None

    @property
    def algorithms(self) -> tuple[Algorithm, ...]:
        """The algorithms of the checksums in headers or the trailer."""
        return (*(self.checksums or ()), *(() if self.trailer is None else (self.trailer,)))

    def unverified(self) -> DeclaredBody:
        """Return it without anything to verify."""
        return replace(self, sha256=None, md5=None, checksums=None, trailer=None)

    def without_checksums(self) -> DeclaredBody:
        """Return it without checksums, for a store that ignores them."""
        return replace(self, checksums=None, trailer=None)


@dataclass(frozen=True, slots=True)
class Received:
    """A complete and verified body. ``checksums`` are base64 by algorithm, CRC64NVME always among them."""

    size_bytes: int
    md5: str
    checksums: Mapping[str, str]


class Sink(Protocol):
    """Receives the data."""

    def write(self, block: bytes) -> None:
        """Append bytes."""
        ...


class Document:
    """A sink that keeps the body in memory, for XML."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, block: bytes) -> None:
        """Append bytes."""
        self.data += block


def declared_body(headers: Headers, authorization: Authorization, *, checksums_of_body: bool = True) -> DeclaredBody:
    """Return what the headers declare about the body.

    Args:
        headers: of the request.
        authorization: of the request; determines how the body is signed.
        checksums_of_body: whether ``x-amz-checksum-…`` headers are of the body; those of Complete are of the object.

    Raises:
        S3Error: ``MissingContentLength``, ``InvalidDigest``, ``InvalidRequest`` (an invalid checksum, or two of them).
    """
    streaming = authorization.payload.startswith("STREAMING-")
    size = headers.get("x-amz-decoded-content-length" if streaming else "content-length")
    if size is None and not streaming and "transfer-encoding" not in headers:
        size = "0"
    size_bytes = None if size is None else decimal(size)
    if size_bytes is None:
        raise S3Error("MissingContentLength")
    decoder = trailer = None
    if streaming:
        trailer = _trailer(headers, authorization)
        signed = authorization.payload.startswith("STREAMING-AWS4")
        trailing = authorization.payload.endswith("-TRAILER")
        decoder = ChunkedDecoder(ChunkSignatures(authorization) if signed else None, trailing=trailing)
    given = header_checksums(headers) if checksums_of_body else {}
    if len(given) + (trailer is not None) > 1:
        raise S3Error(
            "InvalidRequest", "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
        )
    for algorithm, text in given.items():
        if not checksums.is_valid(algorithm, text):
            raise S3Error("InvalidRequest", f"Value for {algorithm.header} header is invalid.")
    return DeclaredBody(
        size_bytes=size_bytes,
        sha256=authorization.payload if not streaming and authorization.payload != "UNSIGNED-PAYLOAD" else None,
        md5=_md5(headers.get("content-md5")),
        checksums=given,
        trailer=trailer,
        decoder=decoder,
    )


def header_checksums(headers: Headers) -> dict[Algorithm, str]:
    """Return the ``x-amz-checksum-…`` values of headers."""
    values = {algorithm: headers.get(algorithm.header) for algorithm in Algorithm}
    return {algorithm: text for algorithm, text in values.items() if text is not None}


async def receive(
    body: AsyncGenerator[bytes, None],
    declared: DeclaredBody,
    sink: Sink,
    *,
    algorithms: Iterable[Algorithm] = (),
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Received:
    """Read a body to its end into ``sink``.

    Args:
        body: its blocks, still framed; closed at the end, also when this is left early.
        declared: what the body must match.
        sink: where the data goes.
        algorithms: checksums to compute beside the declared ones and CRC64NVME.
        on_bytes: called with the size of every block of data.

    Raises:
        S3Error: ``IncompleteBody``, ``XAmzContentSHA256Mismatch``, ``BadDigest``, or what is wrong with the framing.
    """
    md5 = hashlib.md5(usedforsecurity=False)
    sha256 = hashlib.sha256() if declared.sha256 is not None else None
    running = {each: checksums.start(each) for each in {Algorithm.CRC64NVME, *declared.algorithms, *algorithms}}
    hashes: list[checksums.Hash] = [md5, *running.values(), *(() if sha256 is None else (sha256,))]
    size_bytes = 0
    async with aclosing(body) as blocks:
        async for block in blocks:
            for data in _data(block, declared.decoder):
                size_bytes += len(data)
                if size_bytes > declared.size_bytes:
                    raise S3Error("IncompleteBody", "The request body is longer than declared")
                for each in hashes:
                    each.update(data)
                sink.write(data)
                on_bytes(len(data))
    trailers = declared.decoder.finish() if declared.decoder is not None else {}
    if size_bytes != declared.size_bytes:
        raise S3Error("IncompleteBody")
    if sha256 is not None and sha256.hexdigest() != declared.sha256:
        raise S3Error("XAmzContentSHA256Mismatch", details={"ClientComputedContentSHA256": declared.sha256 or ""})
    if declared.md5 is not None and md5.digest() != declared.md5:
        raise S3Error("BadDigest", "The Content-MD5 you specified did not match what we received.")
    computed = {algorithm: checksums.encode(each.digest()) for algorithm, each in running.items()}
    _compare(declared, computed, trailers)
    return Received(size_bytes, md5.hexdigest(), {algorithm.value: text for algorithm, text in computed.items()})


async def receive_document(body: AsyncGenerator[bytes, None], declared: DeclaredBody) -> bytes:
    """Read an XML body.

    Raises:
        S3Error: as ``receive``, and ``MalformedXML`` if it is too long.
    """
    if declared.size_bytes > MAX_DOCUMENT_BYTES:
        raise S3Error("MalformedXML")
    document = Document()
    await receive(body, declared, document)
    return bytes(document.data)


def _data(block: bytes, decoder: ChunkedDecoder | None) -> Iterable[bytes]:
    # In tests a block may be a whole part; it is split, so that hashing and writing do not block for long.
    pieces = (
        [block]
        if len(block) <= _MAX_BLOCK_BYTES
        else [block[at : at + _MAX_BLOCK_BYTES] for at in range(0, len(block), _MAX_BLOCK_BYTES)]
    )
    for piece in pieces:
        if decoder is None:
            yield piece
        else:
            yield from decoder.feed(piece)


def _compare(declared: DeclaredBody, computed: Mapping[Algorithm, str], trailers: Mapping[str, str]) -> None:
    expected = dict(declared.checksums or {})
    if declared.trailer is not None:
        text = trailers.get(declared.trailer.header)
        if text is None or not checksums.is_valid(declared.trailer, text):
            raise S3Error("MalformedTrailerError")
        expected[declared.trailer] = text
    for algorithm, text in expected.items():
        if computed[algorithm] != text:
            raise S3Error(
                "BadDigest", f"The {algorithm.value.upper()} you specified did not match the calculated checksum."
            )


def _md5(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise S3Error("InvalidDigest") from error
    if len(digest) != _MD5_BYTES:
        raise S3Error("InvalidDigest")
    return digest


def _trailer(headers: Headers, authorization: Authorization) -> Algorithm | None:
    name = headers.get("x-amz-trailer")
    if not authorization.payload.endswith("-TRAILER"):
        return None
    for algorithm in Algorithm:
        if name is not None and name.lower() == algorithm.header:
            return algorithm
    raise S3Error("InvalidRequest", "The value specified in the x-amz-trailer header is not supported")
