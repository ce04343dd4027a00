"""aws-chunked: the framing with which some S3 clients sign a body in chunks and send its checksum after it. Pure.

Format and signatures: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html
and ``sigv4-streaming-trailers.html``. A chunk is ``<size in hex>[;chunk-signature=<hex>]\\r\\n<bytes>\\r\\n``; the last
one is empty; ``name:value\\r\\n`` lines may follow, then an empty line. Data is yielded before its chunk's signature
can be checked, so nothing may be made visible before ``finish`` has returned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from enum import Enum, auto
from typing import Final

from cef_trio.s3_endpoint.auth import ChunkSignatures
from cef_trio.s3_endpoint.errors import S3Error

MIN_CHUNK_BYTES: Final = 8192
"""The least size of every chunk but the last one with data."""
_MAX_LINE_BYTES: Final = 8192
_MAX_TRAILER_LINES: Final = 16


class _Expect(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()
    NOTHING = auto()


class ChunkedDecoder:
    """Decodes a body block by block.

    Args:
        signatures: checks the signature of every chunk; ``None`` for unsigned chunks.
        trailing: whether trailing headers are announced (``x-amz-trailer``); others are refused.
    """

    def __init__(self, signatures: ChunkSignatures | None, *, trailing: bool) -> None:
        self._signatures = signatures
        self._trailing = trailing
        self._expect = _Expect.SIZE
        self._buffer = bytearray()
        self._left = 0
        self._small_chunk_seen = False
        self._signature = ""
        self._hash = hashlib.sha256()
        self._trailers: dict[str, str] = {}
        self._trailer_signed = signatures is None or not trailing

    def feed(self, block: bytes) -> Iterator[bytes]:
        """Decode more of the body; yield the data in it.

        Raises:
            S3Error: the framing or a signature is wrong.
        """
        self._buffer += block
        while self._buffer and self._expect is not _Expect.NOTHING:
            if self._expect is _Expect.DATA:
                data = bytes(self._buffer[: self._left])
                del self._buffer[: len(data)]
                self._left -= len(data)
                if self._signatures is not None:
                    self._hash.update(data)
                if self._left == 0:
                    self._end_chunk()
                yield data
            else:
                line = self._line()
                if line is None:
                    return
                self._take_line(line)
        if self._expect is _Expect.NOTHING and self._buffer:
            raise S3Error("IncompleteBody", "There is data after the last chunk")

    def finish(self) -> dict[str, str]:
        """End the body; return the trailing headers, names in lower case.

        Raises:
            S3Error: it ended too early, or the trailing headers are not signed though the chunks are.
        """
        if self._expect is not _Expect.NOTHING:
            raise S3Error("IncompleteBody", "The request body terminated unexpectedly")
        if not self._trailer_signed:
            raise S3Error("SignatureDoesNotMatch", "The trailing headers are not signed")
        return dict(self._trailers)

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > _MAX_LINE_BYTES:
                raise S3Error("InvalidRequest", "A line of the chunked body is too long")
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _take_line(self, line: bytes) -> None:
        if self._expect is _Expect.SIZE:
            self._begin_chunk(line)
        elif self._expect is _Expect.DATA_END:
            if line:
                raise S3Error("IncompleteBody", "A chunk is longer than its size")
            self._expect = _Expect.SIZE
        elif line:
            self._take_trailer(line)
        else:
            self._expect = _Expect.NOTHING

    def _begin_chunk(self, line: bytes) -> None:
        size, _, extension = line.partition(b";")
        if not size or size.strip(b"0123456789abcdefABCDEF") or not extension.isascii():
            raise S3Error("InvalidRequest", "The size of a chunk is not readable")
        self._left = int(size, 16)
        name, _, self._signature = extension.decode("ascii").partition("=")
        if (name == "chunk-signature") != (self._signatures is not None):
            raise S3Error("SignatureDoesNotMatch", "Chunks must be signed if and only if the request declares it")
        if self._left and self._small_chunk_seen:
            raise S3Error("InvalidChunkSizeError")
        self._small_chunk_seen = self._left < MIN_CHUNK_BYTES
        self._hash = hashlib.sha256()
        if self._left:
            self._expect = _Expect.DATA
        else:
            self._check_chunk()
            self._expect = _Expect.TRAILER

    def _end_chunk(self) -> None:
        self._check_chunk()
        self._expect = _Expect.DATA_END

    def _check_chunk(self) -> None:
        if self._signatures is not None:
            self._signatures.check_chunk(self._signature, self._hash.hexdigest())

    def _take_trailer(self, line: bytes) -> None:
        name, separator, value = line.decode("latin-1").partition(":")
        name, value = name.strip().lower(), value.strip()
        if not separator or not self._trailing or len(self._trailers) >= _MAX_TRAILER_LINES:
            raise S3Error("MalformedTrailerError")
        if name == "x-amz-trailer-signature":
            if self._signatures is None:
                raise S3Error("MalformedTrailerError")
            canonical = "".join(f"{other}:{text}\n" for other, text in self._trailers.items()).encode("latin-1")
            self._signatures.check_trailer(value, canonical)
            self._trailer_signed = True
        else:
            if self._signatures is not None and self._trailer_signed:
                raise S3Error("MalformedTrailerError", "A trailing header follows the trailers' signature")
            self._trailers[name] = value
