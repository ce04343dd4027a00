"""Answers of servers that mean it badly, or are broken: they cost a call, a bounded time and memory, and nothing else.

The real httpx and httpcore read them, from a socket or from a script (kinds 11 and 14; P6, P7).
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from xml.parsers import expat

import httpcore
import httpx
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from s3.scripted_store import CRC_HEADER, NOW, Passes, Reply, ScriptedStore, client_of, crc64, error_reply
from s3.test_s3_response_origin import CALLS
from servers.scripted import scripted_server
from thoroughness import LONG

from cef_trio.exceptions import S3OperationError
from cef_trio.http import parse_http_date, parse_retry_after
from cef_trio.http.client_transport import HttpTransport
from cef_trio.s3 import client as s3_client_module
from cef_trio.s3 import xml
from cef_trio.s3.client import S3Client
from cef_trio.s3.errors import parse_error_body
from cef_trio.s3.model import ChecksumAlgorithm
from cef_trio.s3.response_guard import connection_of
from cef_trio.s3.transport import MAX_RESPONSE_BYTES
from cef_trio.s3.xml import UNKNOWN_MOMENT, XmlError, parse_uploads, parse_xml

ABSURD = [
    "Fri, 31 Dec 9999 23:59:59 GMT",
    "Fri, 31 Dec 9999 23:59:59 -2359",
    "Mon, 01 Jan 0001 00:00:00 +2359",
    "Mon, 01 Jan 99999 00:00:00 GMT",
    "Mon, 01 Jan -001 00:00:00 GMT",
    "Sun, 06 Nov 1994 08:49:37 +99999999999999999999",
    "9" * 5000,
    "-1",
    "nan",
    "1e400",
]


class Script(httpcore.AsyncNetworkBackend):
    """Connections whose bytes come from a function, possibly without end."""

    def __init__(self, read: Callable[[int], Awaitable[bytes]]) -> None:
        self.read = read
        self.connections = 0

    async def connect_tcp(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        await trio.lowlevel.checkpoint()
        self.connections += 1
        return Stream(self)

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


class Stream(httpcore.AsyncNetworkStream):
    def __init__(self, script: Script) -> None:
        self.script = script
        self.reads = 0

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        self.reads += 1
        return await self.script.read(self.reads)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    def get_extra_info(self, info: str) -> Any:
        return False if info == "is_readable" else None


def client_over(script: Script) -> S3Client:
    transport = HttpTransport(None, max_connections=8, keepalive_seconds=5, backend=script)
    return client_of(transport)


async def drip(read: int) -> bytes:
    """A header that grows by a byte each second: never silent."""
    await trio.sleep(1)
    return b"HTTP/1.1 200 OK\r\nx: " if read == 1 else b"y"


async def go_on(_read: int) -> bytes:
    await trio.sleep(1)
    return b"HTTP/1.1 100 Continue\r\n\r\n"


async def early_hints(_read: int) -> bytes:
    """As fast as they can be read."""
    return b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * 20 if await _a_moment() else b""


async def _a_moment() -> bool:
    await trio.sleep(1)
    return True


@pytest.mark.parametrize("read", [drip, go_on, early_hints])
@pytest.mark.parametrize("call", CALLS)
async def test_headers_that_never_end_hold_a_call_no_longer_than_silence(
    call: str, read: Callable[[int], Awaitable[bytes]], autojump_clock: trio.testing.MockClock
) -> None:
    async with client_over(Script(read)) as client:
        began = trio.current_time()
        with pytest.raises(S3OperationError) as caught:
            await CALLS[call](client)
    assert caught.value.transient
    limit = 300 if call == "complete_multipart_upload" else 60
    assert trio.current_time() - began == pytest.approx(limit, abs=1.5)


async def body_that_drips(read: int) -> bytes:
    await trio.sleep(1)
    return b'HTTP/1.1 200 OK\r\nx-amz-id-2: x\r\netag: "x"\r\ncontent-length: 99999\r\n\r\n' if read == 1 else b" "


@pytest.mark.parametrize("call", ["create_multipart_upload", "list_parts", "list_multipart_uploads", "get_object"])
async def test_an_endlessly_slow_body_is_aborted(call: str, autojump_clock: trio.testing.MockClock) -> None:
    async with client_over(Script(body_that_drips)) as client:
        began = trio.current_time()
        with pytest.raises(S3OperationError) as caught:
            await CALLS[call](client)
    assert caught.value.transient
    assert trio.current_time() - began <= 125


async def test_an_endless_body_is_aborted_at_its_limit(autojump_clock: trio.testing.MockClock) -> None:
    sent = 0

    async def read(number: int) -> bytes:
        nonlocal sent
        if number == 1:
            return b"HTTP/1.1 200 OK\r\n\r\n"
        sent += 1 << 20
        return b"<" * (1 << 20)

    async with client_over(Script(read)) as client:
        with pytest.raises(S3OperationError, match="more than"):
            await client.list_parts("k", "u")
    assert sent <= MAX_RESPONSE_BYTES + (2 << 20)


def test_bytes_after_a_response_are_not_the_next_response() -> None:
    """P2: bytes after a response are not the ``NoSuchUpload`` of the next call."""
    behind = b"HTTP/1.1 404 Not Found\r\nx-amz-request-id: x\r\ncontent-length: 0\r\n\r\n"
    good = b"HTTP/1.1 200 OK\r\nx-amz-request-id: y\r\ncontent-length: 0\r\n\r\n"

    def serve(connection: socket.socket, number: int) -> None:
        while connection.recv(65536):
            connection.sendall(good + (behind if number == 0 else b""))

    async def main(url: str) -> None:
        async with client_of(None, endpoint_url=url) as client:  # type: ignore[arg-type]
            for _ in range(3):
                await client.head_bucket()

    with scripted_server(serve) as server:
        trio.run(main, f"http://127.0.0.1:{server.port}")
        assert server.connections == 2, "the clean connection is used again, the other is not"


def test_a_body_after_a_response_to_head_is_not_the_next_response() -> None:
    page = b"HTTP/1.1 404 Not Found\r\nx-amz-request-id: x\r\ncontent-length: 40\r\n\r\n"
    behind = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"

    def serve(connection: socket.socket, number: int) -> None:
        while connection.recv(65536):
            connection.sendall(page + behind)

    async def main(url: str) -> None:
        async with client_of(None, endpoint_url=url) as client:  # type: ignore[arg-type]
            for _ in range(2):
                assert await client.head_object("k") is None

    with scripted_server(serve) as server:
        trio.run(main, f"http://127.0.0.1:{server.port}")
        assert server.connections == 2


async def test_the_way_to_h11_is_there() -> None:
    async def read(_number: int) -> bytes:
        return b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"

    transport = HttpTransport(None, max_connections=8, keepalive_seconds=5, backend=Script(read))
    async with httpx.AsyncClient(transport=transport) as http:
        request = httpx.Request("GET", "http://s3.test/")
        response = await http.send(request, stream=True)
        connection = connection_of(response)
        assert connection is not None
        assert connection.trailing_data == (b"", False)
        await response.aclose()
    assert connection_of(httpx.Response(200)) is None


@pytest.mark.parametrize(
    "body",
    [
        b"<r>" + b"<a/>" * (4 << 20) + b"</r>",
        b"<r " + b" ".join(b'a%d=""' % number for number in range(1 << 20)) + b"/>",
        b"<a>" * (1 << 20),
    ],
)
def test_a_document_with_too_many_elements_is_refused_while_parsing(body: bytes) -> None:
    made = 0
    real = xml.Element.__init__

    def counting(self: xml.Element, *arguments: Any, **fields: Any) -> None:
        nonlocal made
        made += 1
        real(self, *arguments, **fields)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(xml.Element, "__init__", counting)
        with pytest.raises(XmlError):
            parse_xml(body)
    assert made <= xml.MAX_ELEMENTS + 1


class CountingParser:
    """A parser of expat that counts the characters of the names that it reports."""

    def __init__(self, parser: Any) -> None:
        object.__setattr__(self, "parser", parser)
        object.__setattr__(self, "characters", 0)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.parser, name, self.counted(value) if name == "StartElementHandler" else value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.parser, name)

    def counted(self, begin: Callable[[str, dict[str, str]], None]) -> Callable[[str, dict[str, str]], None]:
        def counting(name: str, attributes: dict[str, str]) -> None:
            object.__setattr__(self, "characters", self.characters + len(name) + sum(map(len, attributes)))
            begin(name, attributes)

        return counting


URI = b"u" * 50_000


@pytest.mark.parametrize(
    "body",
    [
        b"<Error xmlns='" + URI + b"'><Code>SlowDown</Code>" + b"<a/>" * 500 + b"</Error>",
        b"<Error xmlns:p='" + URI + b"'><Code>SlowDown</Code>" + b"<p:a/>" * 500 + b"</Error>",
        b"<Error xmlns:p='"
        + URI
        + b"'><Code>SlowDown</Code><a "
        + b" ".join(b"p:x%d=''" % number for number in range(500))
        + b"/></Error>",
    ],
    ids=["default namespace", "elements with a prefix", "attributes with a prefix"],
)
def test_p7_no_name_is_longer_than_in_the_document(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the URI of its namespace in each name, 64 KiB took seconds and 190 MiB, and a page of 1 MiB 2 GiB."""
    parsers: list[CountingParser] = []
    create = expat.ParserCreate

    def counting(*arguments: Any, **named: Any) -> CountingParser:
        parsers.append(CountingParser(create(*arguments, **named)))
        return parsers[-1]

    monkeypatch.setattr(expat, "ParserCreate", counting)
    assert parse_error_body(body).code == "SlowDown"
    assert parsers[0].characters < len(body)


@pytest.mark.parametrize("root", ["<x:Error xmlns:x='http://s3.amazonaws.com/doc/2006-03-01/'>", "<x:Error>"])
def test_a_name_counts_without_its_prefix(root: str) -> None:
    assert parse_error_body(f"{root}<x:Code>SlowDown</x:Code></x:Error>".encode()).code == "SlowDown"


LONG_TEXT = "x" * (xml.MAX_TEXT + 1)
TRUNCATED = "<IsTruncated>true</IsTruncated><NextKeyMarker>k</NextKeyMarker>"


@pytest.mark.parametrize(
    ("parse", "body"),
    [
        (xml.parse_upload_id, f"<InitiateMultipartUploadResult><UploadId>{LONG_TEXT}</UploadId>"),
        (xml.parse_copied_part, f"<CopyPartResult><ETag>{LONG_TEXT}</ETag>"),
        (xml.parse_copied_part, f"<CopyPartResult><ETag>x</ETag><ChecksumSHA256>{LONG_TEXT}</ChecksumSHA256>"),
        (
            xml.parse_parts,
            f"<ListPartsResult><Part><PartNumber>1</PartNumber><Size>5</Size><ETag>{LONG_TEXT}</ETag></Part>",
        ),
        (
            xml.parse_uploads,
            f"<ListMultipartUploadsResult>{TRUNCATED}<NextUploadIdMarker>{LONG_TEXT}</NextUploadIdMarker>",
        ),
        (
            xml.parse_objects,
            f"<ListBucketResult><Contents><Key>{LONG_TEXT}</Key><Size>5</Size></Contents>",
        ),
    ],
)
def test_p7_a_key_an_id_or_an_etag_without_end_is_not_kept(parse: Callable[[bytes], object], body: str) -> None:
    with pytest.raises(XmlError, match=f"of {len(LONG_TEXT)} characters"):
        parse(f"{body}</{body[1 : body.index('>')]}>".encode())


async def test_p7_an_etag_without_end_is_recorded_for_no_part() -> None:
    """Up to 100 KB of a header went into Redis, for each part."""
    data = b"x" * 10
    headers = {"etag": f'"{LONG_TEXT}"', CRC_HEADER: crc64(data)}
    async with client_of(ScriptedStore(Reply(200, headers))) as client:
        with pytest.raises(S3OperationError, match=r"MissingETag: .* or with an endless one") as caught:
            await client.upload_part("k", "u", 1, Passes(data), ChecksumAlgorithm.CRC64NVME)
    assert caught.value.transient
    assert len(str(caught.value)) < 1000


def test_the_longest_key_that_s3_allows_is_listed() -> None:
    key = "\u00e9" * 512
    body = (
        f"<ListBucketResult><EncodingType>url</EncodingType><Contents><Key>{quote(key)}</Key><Size>5</Size></Contents>"
        "</ListBucketResult>"
    )
    assert xml.parse_objects(body.encode()).objects[0].key == key


def test_the_largest_pages_that_s3_sends_are_read() -> None:
    upload = "<Upload><Key>{}</Key><UploadId>u=={}</UploadId><Initiator><ID>x</ID></Initiator><Owner><ID>x</ID></Owner>"
    upload += "<StorageClass>STANDARD</StorageClass><Initiated>2026-11-23T12:00:00.000Z</Initiated></Upload>"
    rows = "".join(upload.format("%C3%A9" * 512, number) for number in range(1000))
    page = parse_uploads(f"<ListMultipartUploadsResult>{rows}</ListMultipartUploadsResult>".encode())
    assert len(page.uploads) == 1000


@pytest.mark.parametrize("text", ABSURD)
def test_no_date_is_too_absurd_to_be_read(text: str) -> None:
    moment = parse_http_date(text)
    assert moment is None or moment.tzinfo is UTC
    wait = parse_retry_after(text, NOW)
    assert wait is None or wait >= 0


@pytest.mark.parametrize(
    "text", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59Z", "1969-01-01", "soon"]
)
def test_an_upload_whose_date_is_absurd_is_listed_and_never_called_old(text: str) -> None:
    row = "<Upload><Key>k{}</Key><UploadId>u</UploadId><Initiated>{}</Initiated></Upload>"
    rows = row.format(1, text) + row.format(2, "2026-11-23T12:00:00Z")
    page = parse_uploads(f"<ListMultipartUploadsResult>{rows}</ListMultipartUploadsResult>".encode())
    assert [upload.initiated_at_utc for upload in page.uploads] == [
        UNKNOWN_MOMENT,
        datetime(2026, 11, 23, 12, tzinfo=UTC),
    ]


@pytest.mark.parametrize("date", ABSURD)
async def test_the_clock_is_not_set_by_a_date_that_cannot_be(date: str) -> None:
    async with client_of(ScriptedStore(error_reply(403, "RequestTimeTooSkewed", headers={"date": date}))) as client:
        with pytest.raises(S3OperationError) as caught:
            await client.list_parts("k", "u")
        assert client._transport._clock.now() == NOW
    assert not caught.value.transient


async def test_a_clock_without_a_battery_is_still_corrected() -> None:
    born = datetime(1970, 1, 1, tzinfo=UTC)
    skewed = error_reply(403, "RequestTimeTooSkewed", headers={"date": "Mon, 23 Nov 2026 12:00:00 GMT"})
    async with client_of(ScriptedStore(skewed), now=lambda: born) as client:
        with pytest.raises(S3OperationError) as caught:
            await client.list_parts("k", "u")
        assert client._transport._clock.now() == NOW
    assert caught.value.transient


def parts_page(marker: str) -> Reply:
    part = "<Part><PartNumber>1</PartNumber><Size>5</Size><ETag>x</ETag></Part>"
    return Reply(
        200,
        {},
        f"<ListPartsResult><IsTruncated>true</IsTruncated>{marker}{part}</ListPartsResult>".encode(),
    )


@pytest.mark.parametrize(
    "markers",
    [
        ["1", "1"],
        ["1", "2", "1"],
        ["3", "2"],
        ["0"],
        ["-1"],
        ["99999999999999999999"],
        ["1_0"],
        ["\u0661"],
        ["x" * 9999],
    ],
)
async def test_a_listing_of_parts_goes_forward_or_ends(markers: list[str]) -> None:
    pages = [parts_page(f"<NextPartNumberMarker>{marker}</NextPartNumberMarker>") for marker in markers]
    async with client_of(ScriptedStore(*pages)) as client:
        with pytest.raises(S3OperationError) as caught:
            await client.list_parts("k", "u")
    assert len(str(caught.value)) < 1000


async def test_a_page_of_parts_that_names_no_marker_is_not_the_last() -> None:
    last = Reply(
        200,
        {},
        b"<ListPartsResult><Part><PartNumber>2</PartNumber><Size>5</Size><ETag>y</ETag></Part></ListPartsResult>",
    )
    store = ScriptedStore(parts_page(""), last)
    async with client_of(store) as client:
        assert [part.part_number for part in await client.list_parts("k", "u")] == [1, 2]
    assert "part-number-marker=1" in store.requests[1].target


@pytest.mark.parametrize("endless", [lambda n: ("a", "b")[n % 2], str])
async def test_an_endless_or_repeating_listing_of_uploads_is_aborted(
    endless: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client_module, "_MAX_LISTED_UPLOADS", 3000)

    def page(number: int) -> Callable[[object], Reply]:
        row = "<Upload><Key>k</Key><UploadId>u</UploadId><Initiated>2026-11-23T12:00:00Z</Initiated></Upload>" * 500
        return lambda _: Reply(
            200,
            {},
            f"<ListMultipartUploadsResult><IsTruncated>true</IsTruncated><NextKeyMarker>{endless(number)}"
            f"</NextKeyMarker>{row}</ListMultipartUploadsResult>".encode(),
        )

    async with client_of(ScriptedStore(*[page(number) for number in range(300)])) as client:
        with pytest.raises(S3OperationError, match="EndlessListing"):
            await client.list_multipart_uploads()


BODIES = {
    "create_multipart_upload": b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>",
    "list_parts": b"<ListPartsResult><IsTruncated>false</IsTruncated><Part><PartNumber>1</PartNumber><Size>5</Size>"
    b"<ETag>x</ETag><ChecksumCRC64NVME>AAAAAAAAAAA=</ChecksumCRC64NVME></Part></ListPartsResult>",
    "list_multipart_uploads": b"<ListMultipartUploadsResult><EncodingType>url</EncodingType><Upload><Key>a%20b</Key>"
    b"<UploadId>u</UploadId><Initiated>2026-11-23T12:00:00Z</Initiated></Upload></ListMultipartUploadsResult>",
    "abort_rules": b"<LifecycleConfiguration><Rule><Status>Enabled</Status><Filter><Prefix>x</Prefix></Filter>"
    b"<AbortIncompleteMultipartUpload><DaysAfterInitiation>7</DaysAfterInitiation></AbortIncompleteMultipartUpload>"
    b"</Rule></LifecycleConfiguration>",
    "complete_multipart_upload": b"<CompleteMultipartUploadResult><ETag>x-1</ETag><ChecksumCRC64NVME>AAAAAAAAAAE="
    b"</ChecksumCRC64NVME></CompleteMultipartUploadResult>",
}
ERROR = b"<Error><Code>SlowDown</Code><Message>m</Message><Region>r</Region><RequestId>1</RequestId></Error>"
HOSTILE = [
    *[text.encode() for text in ABSURD],
    b"",
    b"\x00",
    b"\xff\xfe",
    b"\r\n",
    b"-1",
    b"9" * 5000,
    b"\xd9\xa1",
    b"&#0;",
    b"&lol;",
    b"<!DOCTYPE a [<!ENTITY lol 'x'>]>",
    b"]]>",
    b"%00%ff%zz",
    b"1" * 200_000,
]


@st.composite
def answers(draw: st.DrawFn, call: str) -> bytes:
    """Return a response of S3 with parts replaced, cut off, or followed by other bytes."""
    status = draw(st.sampled_from([200, 200, 204, 206, 301, 400, 403, 404, 409, 412, 500, 503, 999]))
    body = BODIES.get(call, b"") if status < 300 else ERROR
    body = draw(st.sampled_from([body, body, ERROR, b"", b"<html><title>x</title>"]))
    headers = {
        b"date": b"Mon, 23 Nov 2026 12:00:00 GMT",
        b"etag": b'"781e5e245d69b566979b86e28d23f2c7"',
        b"x-amz-request-id": b"1",
        b"x-amz-checksum-crc64nvme": b"AAAAAAAAAAE=",
        b"retry-after": b"1",
        b"content-length": str(len(body)).encode(),
        b"x-amz-meta-cef-stream-id": b"s",
        b"content-type": b"application/xml",
        b"x-amz-bucket-region": b"r",
    }
    for name in draw(st.lists(st.sampled_from(sorted(headers)), max_size=2)):
        headers[name] = draw(st.sampled_from(HOSTILE) | st.binary(max_size=20))
    for name in draw(st.lists(st.sampled_from(sorted(headers)), max_size=2)):
        headers.pop(name, None)
    if body and draw(st.booleans()):
        words = [word for word in body.replace(b"<", b">").split(b">") if word]
        word = draw(st.sampled_from(words))
        body = body.replace(
            word, draw(st.sampled_from(HOSTILE) | st.binary(max_size=20)), draw(st.sampled_from([1, -1]))
        )
    head = b"HTTP/1.1 %d x\r\n" % status + b"".join(b"%s: %s\r\n" % pair for pair in headers.items()) + b"\r\n"
    whole = head + body + draw(st.sampled_from([b"", b"", b"HTTP/1.1 200 OK\r\n\r\n", b"\x00"]))
    if draw(st.booleans()):
        whole = whole[: draw(st.integers(0, len(whole)))]
    return whole


@pytest.mark.parametrize("call", CALLS)
@settings(max_examples=1000 if LONG else 40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_response_raises_only_our_own_exceptions(call: str, data: Any) -> None:
    raw = (
        data.draw(answers(call))
        if data is not None
        else b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n"
    )

    async def read(number: int) -> bytes:
        return raw if number == 1 else b""

    async def main() -> None:
        async with client_over(Script(read)) as client:
            try:
                await CALLS[call](client)
            except S3OperationError as error:
                assert len(str(error)) < 2000
                assert error.retry_after_seconds is None or error.retry_after_seconds >= 0
            assert 1970 <= client._transport._clock.now().year < 2100

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_p7_cookies_are_not_kept() -> None:
    """A load balancer that sets one without a path makes it another cookie for each key."""
    reply = Reply(200, {"etag": '"e"', "content-length": "1", "set-cookie": "route=x"})
    async with client_of(ScriptedStore(*[reply] * 1000)) as s3:
        for number in range(1000):
            await s3.head_object(f"cam1/{number}/a.mp4")
        assert len(s3._transport._http.cookies.jar) == 0
