"""Responses of proxies and ingresses show nothing about an upload (kind 5; P2, P6)."""

from __future__ import annotations

import gzip
import time
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from s3.scripted_store import SECRET, TOKEN, Passes, Reply, ScriptedStore, client_of, error_reply, part_ack

from cef_trio.exceptions import S3OperationError
from cef_trio.resilience import is_outage
from cef_trio.s3.checksums import crc64nvme
from cef_trio.s3.client import S3Client
from cef_trio.s3.config import ChecksumMode
from cef_trio.s3.errors import UNREADABLE_ANSWER
from cef_trio.s3.model import ChecksumAlgorithm, PartToComplete
from cef_trio.s3.response_origin import NOT_S3_ANSWER, describe_foreign, is_html, is_marked

CRC = ChecksumAlgorithm.CRC64NVME
DATA = b"0123456789"
IDS = {"x-amz-request-id": "4442587FB7D0A2F9"}
PAGE = {"content-type": "text/html; charset=utf-8", "content-length": "150", "server": "nginx"}
PARTS = [PartToComplete(1, "781e5e245d69b566979b86e28d23f2c7", 10, 1, None)]

Call = Callable[[S3Client], Awaitable[Any]]


async def get(client: S3Client) -> None:
    async with client.get_object("k") as (_, chunks):
        async for _ in chunks:
            pass


CALLS: dict[str, Call] = {
    "create_multipart_upload": lambda s3: s3.create_multipart_upload("k", metadata={}),
    "upload_part": lambda s3: s3.upload_part("k", "u", 1, Passes(DATA), CRC),
    "list_parts": lambda s3: s3.list_parts("k", "u"),
    "list_multipart_uploads": lambda s3: s3.list_multipart_uploads(),
    "list_objects": lambda s3: s3.list_objects("p"),
    "abort_multipart_upload": lambda s3: s3.abort_multipart_upload("k", "u"),
    "put_object": lambda s3: s3.put_object("k", DATA, content_type="text/plain"),
    "put_recording": lambda s3: s3.put_recording("k", Passes(DATA), crc64nvme=crc64nvme(DATA), stream_id="s"),
    "head_object": lambda s3: s3.head_object("k"),
    "get_object": get,
    "delete_object": lambda s3: s3.delete_object("k"),
    "head_bucket": lambda s3: s3.head_bucket(),
    "abort_rules": lambda s3: s3.abort_rules(),
    "create_bucket": lambda s3: s3.create_bucket(),
    "complete_multipart_upload": lambda s3: s3.complete_multipart_upload("k", "u", PARTS, checksum=CRC, stream_id="s"),
}
BY_HEAD = {"head_object", "head_bucket"}


def page(status: int, title: str = "404 Not Found") -> bytes:
    return f"<html>\r\n<head><title>{title}</title></head>\r\n<body>{status}</body></html>".encode()


async def failed(call: str, *script: Any) -> S3OperationError:
    store = ScriptedStore(*script)
    async with client_of(store, checksum=ChecksumMode.CRC64NVME) as client:
        with pytest.raises(S3OperationError) as caught:
            await CALLS[call](client)
    assert store.played_out
    return caught.value


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 405, 407, 410, 413, 502, 503, 504])
@pytest.mark.parametrize("call", CALLS)
async def test_a_page_instead_of_a_response_is_transient_and_its_likely_sender_named(call: str, status: int) -> None:
    body = b"" if call in BY_HEAD else page(status)
    error = await failed(call, Reply(status, PAGE, body))
    assert (error.code, error.transient, error.status) == (NOT_S3_ANSWER, True, status)
    assert is_outage(error)
    assert "not from the S3 store" in str(error)
    assert "nginx" in str(error)
    assert ("404 Not Found" in str(error)) is (call not in BY_HEAD)


@pytest.mark.parametrize("call", ["upload_part", "put_recording", "complete_multipart_upload"])
async def test_p6_a_413_of_the_store_itself_without_a_body_is_no_fault_of_the_recording(call: str) -> None:
    error = await failed(call, Reply(413, IDS, b""))
    assert (error.code, error.over_quota, error.rejected) == ("EntityTooLarge", True, True)


@pytest.mark.parametrize("status", [200, 204])
@pytest.mark.parametrize("call", sorted(set(CALLS) - {"complete_multipart_upload"}))
async def test_a_page_with_a_status_of_success_is_no_success(call: str, status: int) -> None:
    body = b"" if call in BY_HEAD else page(status, "Please log in")
    error = await failed(call, Reply(200 if not body else status, PAGE, body))
    assert (error.code, error.transient) == (NOT_S3_ANSWER, True)


async def test_a_page_instead_of_a_completion_is_resolved_by_the_object() -> None:
    error = await failed("complete_multipart_upload", Reply(200, PAGE, page(200, "Log in")), Reply(404, IDS))
    assert (error.code, error.transient) == (NOT_S3_ANSWER, True)


@pytest.mark.parametrize("headers", [{}, IDS])
@pytest.mark.parametrize("call", sorted(set(CALLS) - BY_HEAD - {"complete_multipart_upload", "get_object"}))
async def test_p6_an_error_in_the_body_of_a_success_is_that_error(call: str, headers: dict[str, str]) -> None:
    """Else a store's outage ends a stream, as an unreadable response, and an upload that was not aborted stays open."""
    body = b"\n <?xml version='1.0'?><Error><Code>SlowDown</Code><Message>reduce your rate</Message></Error>"
    error = await failed(call, Reply(200, headers, body))
    assert (error.code, error.transient, is_outage(error)) == ("SlowDown", True, True)
    assert "reduce your rate" in str(error)
    denied = await failed(call, Reply(200, headers, b"<Error><Code>AccessDenied</Code></Error>"))
    assert (denied.code, denied.transient, denied.rejected) == ("AccessDenied", False, True)


@pytest.mark.parametrize("body", [b"", b"404 page not found\n", b'{"message": "no Route matched"}', b"<Oops/>"])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 413])
@pytest.mark.parametrize("call", CALLS)
async def test_what_lacks_the_request_id_of_a_store_that_sends_one_is_not_the_stores(
    call: str, status: int, body: bytes
) -> None:
    store = ScriptedStore(Reply(200, IDS), Reply(204, IDS), Reply(status, {}, b"" if call in BY_HEAD else body))
    async with client_of(store, checksum=ChecksumMode.CRC64NVME) as client:
        await client.head_bucket()
        await client.delete_object("other")
        with pytest.raises(S3OperationError) as caught:
            await CALLS[call](client)
    assert (caught.value.code, caught.value.transient) == (NOT_S3_ANSWER, True)


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (error_reply(404, "NoSuchUpload"), "NoSuchUpload"),
        (error_reply(404, "NoSuchKey"), "NoSuchUpload"),
        (Reply(404, IDS), "NoSuchUpload"),
        (Reply(404, {"x-amz-id-2": "x"}, b'{"json": 1}'), "NoSuchUpload"),
        (Reply(404), "NoSuchUpload"),
        (error_reply(403, "AccessDenied"), "AccessDenied"),
        (Reply(501), "Http501"),
        (Reply(405, {}, b"method not allowed"), "Http405"),
    ],
)
async def test_the_stores_own_rejection_stands(reply: Reply, code: str) -> None:
    error = await failed("list_parts", reply)
    assert (error.code, error.transient) == (code, False)


async def test_an_error_in_the_body_of_a_success_shows_no_secret() -> None:
    body = f"<Error><Code>InternalError</Code><Message>signed with {SECRET} and {TOKEN}</Message></Error>"
    error = await failed("list_parts", Reply(200, IDS, body.encode()))
    assert "signed with *** and ***" in str(error)


CODED = {**IDS, "content-encoding": "gzip", "content-type": "application/xml"}


async def test_p2_a_document_that_a_proxy_compressed_is_read() -> None:
    """Else each answer to a creation is lost, with one open upload each, and a 404 hides that the store is busy."""
    made = b"<InitiateMultipartUploadResult><UploadId>u-1</UploadId></InitiateMultipartUploadResult>"
    store = ScriptedStore(Reply(200, CODED, gzip.compress(made)))
    async with client_of(store, checksum=ChecksumMode.MD5) as client:
        assert (await client.create_multipart_upload("k", metadata={})).upload_id == "u-1"
    busy = b"<Error><Code>SlowDown</Code><Message>later</Message></Error>"
    for coding, body in (("gzip", gzip.compress(busy)), ("deflate", zlib.compress(busy))):
        error = await failed("list_parts", Reply(404, {**CODED, "content-encoding": coding}, body))
        assert (error.code, error.transient) == ("SlowDown", True)


@pytest.mark.parametrize(
    ("coding", "body"), [("br", b"\x1b\x00"), ("gzip", b"no gzip"), ("gzip", gzip.compress(b"x" * 20_000_000))]
)
@pytest.mark.parametrize("status", [200, 404])
async def test_p2_p7_a_document_that_cannot_be_decoded_says_nothing(status: int, coding: str, body: bytes) -> None:
    error = await failed("list_parts", Reply(status, {**CODED, "content-encoding": coding}, body))
    assert (error.code, error.transient) == (UNREADABLE_ANSWER, True)


@pytest.mark.parametrize("call", ["create_multipart_upload", "put_object", "put_recording"])
async def test_p6_a_bare_404_to_a_creation_denies_the_bucket(call: str) -> None:
    """A key cannot be missing there. A missing bucket strikes all streams, and fails none."""
    error = await failed(call, Reply(404, IDS))
    assert (error.code, error.transient, error.rejected) == ("NoSuchBucket", False, True)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("call", CALLS)
async def test_p6_a_proxys_redirect_without_a_page_is_passing_and_says_where_to(call: str, status: int) -> None:
    """As to https, or to a log-in page: the start waits, and the message is not about the bucket's region."""
    error = await failed(call, Reply(status, {"location": "https://login.test/", "content-length": "0"}))
    assert (error.code, error.transient) == (NOT_S3_ANSWER, True)
    assert "it redirects to https://login.test/" in str(error)


async def test_p2_a_bare_404_just_after_the_start_denies_no_upload() -> None:
    """Only HEAD was asked yet; the ids of its response show that this store sends them."""
    store = ScriptedStore(Reply(200, IDS), Reply(404), Reply(404, IDS))
    async with client_of(store) as client:
        await client.head_bucket()
        for code in (NOT_S3_ANSWER, "NoSuchUpload"):
            with pytest.raises(S3OperationError) as caught:
                await client.list_parts("k", "u")
            assert caught.value.code == code


async def test_a_bare_404_is_foreign_once_the_store_has_sent_error_documents() -> None:
    store = ScriptedStore(error_reply(404, "NoSuchUpload"), Reply(404))
    async with client_of(store) as client:
        for code in ("NoSuchUpload", NOT_S3_ANSWER):
            with pytest.raises(S3OperationError) as caught:
                await client.list_parts("k", "u")
            assert caught.value.code == code


async def test_bare_responses_to_head_are_accepted_from_stores_that_send_no_ids() -> None:
    """Without a body moto sends text/html, Swift and S3 application/xml."""
    moto = {"content-type": "text/html; charset=utf-8", "content-length": "0"}
    for headers in ({}, moto, {"content-type": "application/xml"}, IDS):
        async with client_of(ScriptedStore(Reply(404, headers), Reply(403, headers))) as client:
            assert await client.head_object("k") is None
            with pytest.raises(S3OperationError) as caught:
                await client.head_bucket()
            assert caught.value.code == "AccessDenied"


async def test_an_s3_document_without_an_id_takes_back_what_was_concluded_from_ids() -> None:
    store = ScriptedStore(Reply(200, IDS), Reply(404), error_reply(404, "NoSuchKey"), Reply(404))
    async with client_of(store) as client:
        await client.head_bucket()
        with pytest.raises(S3OperationError):
            await client.head_object("k")
        with pytest.raises(S3OperationError):
            await client.list_parts("k", "u")
        assert await client.head_object("k") is None


async def test_an_acknowledgement_with_an_amz_header_is_accepted_with_any_content_type() -> None:
    """Swift's acknowledgement has the type text/html and no body."""
    headers = {**part_ack(DATA).headers, "content-type": "text/html"}
    async with client_of(ScriptedStore(Reply(200, headers)), checksum=ChecksumMode.CRC64NVME) as client:
        assert (await CALLS["upload_part"](client)).part_number == 1


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (404, "ingress"),
        (413, "client_max_body_size"),
        (407, "user and password in S3_PROXY_URL"),
        (403, "proxy"),
        (200, "log-in page"),
        (302, "redirects to https://login.example/"),
        (418, "check S3_ENDPOINT_URL"),
    ],
)
def test_the_error_names_the_likely_cause(status: int, words: str) -> None:
    assert words in describe_foreign(status, {"location": "https://login.example/"}, b"")


def test_a_title_is_one_short_line_of_what_can_be_printed() -> None:
    text = describe_foreign(404, {}, b"<TITLE x>\n a &lt;b&gt;\x1b[31m\xff " + b"y" * 9999 + b"</TITLE>")
    assert "'a <b> [31m" in text
    assert len(text) < 300
    assert "Only words" in describe_foreign(404, {}, b"<body><script>no</script><p>Only <b>words</b></p>")


@pytest.mark.parametrize("piece", [b"<title>", b"<title", b"<script>", b"<script", b"<!--", b"<"])
def test_p4_a_page_of_any_size_and_text_takes_no_time(piece: bytes) -> None:
    """A page of 16 MiB held the loop for hours: the search for its title took the square of its size."""
    page = b"<html>" + piece * (16 * 1024 * 1024 // len(piece))
    began = time.process_time()
    assert is_html({}, page)
    describe_foreign(200, {}, page)
    assert time.process_time() - began < 2, "it takes a few milliseconds, or hours"


def test_what_stands_in_front_of_s3_is_not_s3() -> None:
    assert is_marked({"x-amz-id-2": "x"})
    assert not is_marked({"x-amz-cf-id": "x", "x-amzn-requestid": "x", "x-amz-apigw-id": "x"})
