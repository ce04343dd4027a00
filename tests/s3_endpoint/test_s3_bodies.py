"""Bodies: aws-chunked framing, its signatures and trailers, checksums, ranges; bytes as AWS and botocore make them."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import AsyncGenerator
from contextlib import suppress
from itertools import pairwise
from urllib.parse import quote

import botocore.httpchecksum
import httpx
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from servers.s3_signing import element, send
from waiting import WAIT_SECONDS

from cef_trio.s3_endpoint import InProcessTransport, S3Endpoint, checksums, serve
from cef_trio.s3_endpoint.auth import Account, ChunkSignatures, verify
from cef_trio.s3_endpoint.checksums import Algorithm
from cef_trio.s3_endpoint.chunked import ChunkedDecoder
from cef_trio.s3_endpoint.errors import S3Error
from cef_trio.s3_endpoint.object_operations import byte_range
from cef_trio.s3_endpoint.request import EndpointRequest, Headers, Reply

# The worked example of https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html
EXAMPLE_AT = 1369353600.0
EXAMPLE_ACCOUNTS = {"AKIAIOSFODNN7EXAMPLE": Account("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")}
EXAMPLE_CHUNKS = [
    (65536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"),
    (1024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"),
    (0, "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"),
]


async def _nothing() -> AsyncGenerator[bytes, None]:
    nothing: list[bytes] = []
    for block in nothing:
        yield block


def example_request() -> EndpointRequest:
    headers = {
        "Host": "s3.amazonaws.com",
        "x-amz-date": "20130524T000000Z",
        "x-amz-storage-class": "REDUCED_REDUNDANCY",
        "x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        "Content-Encoding": "aws-chunked",
        "x-amz-decoded-content-length": "66560",
        "Content-Length": "66824",
        "Authorization": "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        "SignedHeaders=content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;"
        "x-amz-decoded-content-length;x-amz-storage-class,"
        "Signature=4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
    }
    return EndpointRequest("PUT", "/examplebucket/chunkObject.txt", "", Headers(list(headers.items())), _nothing())


def example_body() -> bytes:
    return b"".join(
        f"{size:x};chunk-signature={signature}\r\n".encode() + b"a" * size + b"\r\n"
        for size, signature in EXAMPLE_CHUNKS
    )


def example_decoder() -> ChunkedDecoder:
    grant = verify(example_request(), EXAMPLE_ACCOUNTS, "us-east-1", EXAMPLE_AT)
    return ChunkedDecoder(ChunkSignatures(grant), trailing=False)


def decoded(decoder: ChunkedDecoder, body: bytes) -> bytes:
    data = b"".join(decoder.feed(body))
    decoder.finish()
    return data


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


@given(st.lists(st.integers(min_value=0), max_size=8))
def test_the_example_that_aws_publishes_is_accepted_however_it_is_cut(cuts: list[int]) -> None:
    decoder = example_decoder()
    data = b"".join(part for piece in pieces(example_body(), cuts) for part in decoder.feed(piece))
    assert decoder.finish() == {}
    assert data == b"a" * 66560


@pytest.mark.parametrize("at", [100, 65536 + 200, -10])
def test_a_changed_byte_in_the_example_is_refused(at: int) -> None:
    body = bytearray(example_body())
    body[at] ^= 1
    decoder = example_decoder()
    with pytest.raises(S3Error):
        decoded(decoder, bytes(body))


@given(st.binary(max_size=50_000), st.lists(st.integers(min_value=0), max_size=8))
def test_what_botocore_wraps_is_unwrapped_with_its_trailer(data: bytes, cuts: list[int]) -> None:
    wrapped = botocore.httpchecksum.AwsChunkedWrapper(
        io.BytesIO(data),
        checksum_cls=botocore.httpchecksum.Sha256Checksum,
        checksum_name="x-amz-checksum-sha256",
        chunk_size=8192,
    ).read()
    decoder = ChunkedDecoder(None, trailing=True)
    assert b"".join(part for piece in pieces(wrapped, cuts) for part in decoder.feed(piece)) == data
    assert decoder.finish() == {"x-amz-checksum-sha256": base64.b64encode(hashlib.sha256(data).digest()).decode()}


@given(st.integers(min_value=0, max_value=16_000))
def test_a_body_that_ends_early_is_incomplete(length: int) -> None:
    whole = b"2000\r\n" + b"x" * 8192 + b"\r\n1000\r\n" + b"y" * 4096 + b"\r\n0\r\n\r\n"
    decoder = ChunkedDecoder(None, trailing=False)
    list(decoder.feed(whole[: min(length, len(whole) - 1)]))
    with pytest.raises(S3Error, match="IncompleteBody"):
        decoder.finish()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"-5\r\n", "InvalidRequest"),
        (b"\r\n", "InvalidRequest"),
        (b"5\r\nhelloo\r\n", "IncompleteBody"),
        (b"5\r\nhello\r\n5\r\nhello\r\n0\r\n\r\n", "InvalidChunkSizeError"),
        (b"0\r\nno trailer\r\n\r\n", "MalformedTrailerError"),
        (b"0\r\n\r\nmore", "IncompleteBody"),
        (b"5;chunk-signature=00\r\n", "SignatureDoesNotMatch"),
    ],
)
def test_broken_framing_is_refused(body: bytes, code: str) -> None:
    decoder = ChunkedDecoder(None, trailing=True)
    with pytest.raises(S3Error, match=code):
        decoded(decoder, body)


@given(st.lists(st.binary(min_size=1, max_size=100), min_size=1, max_size=6))
def test_a_combined_checksum_is_that_of_the_joined_parts(parts: list[bytes]) -> None:
    whole = b"".join(parts)
    for algorithm in (Algorithm.CRC32, Algorithm.CRC32C, Algorithm.CRC64NVME):

        def of(data: bytes, algorithm: Algorithm = algorithm) -> str:
            calculator = checksums.start(algorithm)
            calculator.update(data)
            return checksums.encode(calculator.digest())

        assert checksums.full_object(algorithm, [(of(part), len(part)) for part in parts]) == of(whole)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_a_range_is_what_slicing_gives(size: int, first: int, last: int) -> None:
    data = bytes(range(size))
    for header, expected in [
        (f"bytes={first}-{last}", data[first : last + 1]),
        (f"bytes={first}-", data[first:]),
        (f"bytes=-{last}", data[max(0, size - last) :]),
    ]:
        if header == f"bytes={first}-{last}" and last < first:
            assert byte_range(header, size) is None
        elif not expected:
            with pytest.raises(S3Error, match="InvalidRange"):
                byte_range(header, size)
        else:
            found = byte_range(header, size)
            assert found is not None
            assert data[found[0] : found[1]] == expected


PRESIGNED = "&".join(
    f"X-Amz-{name}"
    for name in ("Algorithm=AWS4-HMAC-SHA256", "Credential=a", "Date=d", "SignedHeaders=host", "Signature=s")
)


LONG = "9" * 5000
"""Digits that int() refuses by a ValueError: it takes 4,300."""


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (f"/abc/k?uploadId=u&partNumber={LONG}", 403),
        (f"/abc/k?{PRESIGNED}&X-Amz-Expires={LONG}", 400),
    ],
    ids=["part number", "expiry"],
)
async def test_a_number_of_thousands_of_digits_is_refused_and_ends_no_endpoint(target: str, status: int) -> None:
    """Unsigned, it ended the daemon of ``run --local``."""
    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve, S3Endpoint(buckets=["abc"]))
        async with httpx.AsyncClient(trust_env=False, timeout=WAIT_SECONDS) as client:
            refused = await client.put(f"{url}{target}")
            assert refused.status_code == status
            assert element(refused, "Code")
            assert (await client.get(f"{url}/abc")).status_code == 403
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("number", [LONG, "\N{SUPERSCRIPT TWO}", "\N{ARABIC-INDIC DIGIT TWO}"])
async def test_what_is_no_number_is_refused_by_the_error_of_its_place(number: str) -> None:
    transport = InProcessTransport(S3Endpoint(buckets=["abc"], minimum_part_size_bytes=1))
    async with httpx.AsyncClient(transport=transport, base_url="http://s3.test") as client:
        upload = element(await send(client, "POST", "/abc/k?uploads="), "UploadId")
        part = f"/abc/k?partNumber=1&uploadId={upload}"
        etag = (await send(client, "PUT", part, b"x")).headers["etag"]
        listed = f"<Part><PartNumber>{{}}</PartNumber><ETag>{etag}</ETag></Part>"
        request = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>"
        end, quoted = f"/abc/k?uploadId={upload}", quote(number)
        codes = [
            element(await send(client, "PUT", f"/abc/k?partNumber={quoted}&uploadId={upload}", b"x"), "Code"),
            element(await send(client, "GET", f"{end}&max-parts={quoted}"), "Code"),
            element(await send(client, "POST", end, request.format(number).encode()), "Code"),
        ]
        assert codes == ["InvalidArgument", "InvalidArgument", "MalformedXML"]
        if number.isascii():  # httpx sends no other header
            await send(client, "PUT", "/abc/source", b"whole")
            copied = {"x-amz-copy-source": "/abc/source", "x-amz-copy-source-range": f"bytes=0-{number}"}
            size = {"x-amz-mp-object-size": number}
            codes = [
                element(await send(client, "PUT", part, headers=copied), "Code"),
                element(await send(client, "POST", end, request.format(1).encode(), headers=size), "Code"),
            ]
            assert codes == ["InvalidArgument", "InvalidRequest"]
            for first, last in [("0", number), (number, ""), ("", number)]:
                found = await send(client, "GET", "/abc/source", headers={"Range": f"bytes={first}-{last}"})
                assert (found.status_code, found.content) == (200, b"whole"), "a range that is none is ignored"


async def test_a_defect_of_the_endpoint_is_not_the_clients_error() -> None:
    class Defective(S3Endpoint):
        async def respond(self, request: EndpointRequest) -> Reply:
            await trio.lowlevel.checkpoint()
            raise ValueError("a defect")

    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="a defect"), flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            url = await nursery.start(serve, Defective())
            async with httpx.AsyncClient(trust_env=False, timeout=WAIT_SECONDS) as client:
                with suppress(httpx.TransportError):  # it may see the end of the connection first
                    await client.get(f"{url}/abc")
            nursery.cancel_scope.cancel()
