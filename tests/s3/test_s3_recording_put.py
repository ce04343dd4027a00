"""PutObject of a whole recording: its condition, its proof, and what a lost response leads to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import httpx
import pytest
from s3.scripted_store import (
    CRC_HEADER,
    Passes,
    Recorded,
    Repeats,
    Reply,
    Script,
    ScriptedStore,
    client_of,
    crc64,
    created,
    error_reply,
    headers_of,
    md5,
    part_ack,
)
from structlog.testing import capture_logs

from cef_trio.exceptions import (
    CefMp4ProcessorError,
    LeaseLostError,
    RecordingChangedError,
    RedisOperationError,
    S3OperationError,
)
from cef_trio.s3.checksums import crc64nvme
from cef_trio.s3.client import S3Client
from cef_trio.s3.config import ChecksumMode
from cef_trio.s3.model import StoredObject
from cef_trio.settings.object_options import ObjectOptions

DATA = b"a whole recording"
OURS = {"x-amz-meta-cef-stream-id": "stream-1", "content-length": str(len(DATA)), "etag": f'"{md5(DATA)}"'}
OURS_CRC = {**OURS, CRC_HEADER: crc64(DATA), "x-amz-checksum-type": "FULL_OBJECT"}
EXISTS = error_reply(412, "PreconditionFailed")
LOST = httpx.ReadError("connection reset")


async def put(
    client: S3Client,
    source: Passes | None = None,
    options: ObjectOptions | None = None,
    fence: Callable[[], Awaitable[None]] | None = None,
) -> StoredObject:
    return await client.put_recording(
        "k",
        source or Passes(DATA),
        crc64nvme=crc64nvme(DATA),
        stream_id="stream-1",
        headers=options.for_recording() if options else {},
        fence=fence,
    )


async def put_by(
    *script: Script, source: Passes | None = None, checksum: ChecksumMode = ChecksumMode.AUTO
) -> tuple[StoredObject | CefMp4ProcessorError, Sequence[Recorded]]:
    """Put with repetitions; return the object or the error, and the requests."""
    store = ScriptedStore(*script)
    outcome: StoredObject | CefMp4ProcessorError
    async with client_of(store, retrier=Repeats(), checksum=checksum) as client:
        try:
            outcome = await put(client, source)
        except CefMp4ProcessorError as error:
            outcome = error
    assert store.played_out
    return outcome, store.requests


def methods(requests: Sequence[Recorded]) -> list[str]:
    return [request.method for request in requests]


async def test_a_recording_is_put_once_with_its_checksum_its_id_and_the_condition() -> None:
    stored, (request,) = await put_by(part_ack(DATA))
    assert stored == StoredObject("k", len(DATA), md5(DATA), crc64nvme(DATA), {"cef-stream-id": "stream-1"})
    assert (request.method, request.target, request.body) == ("PUT", "/recordings/k", DATA)
    assert request.headers[CRC_HEADER] == crc64(DATA)
    assert request.headers["if-none-match"] == "*"
    assert request.headers["x-amz-meta-cef-stream-id"] == "stream-1"
    assert request.headers["content-type"] == "video/mp4"


@pytest.mark.parametrize(
    ("checksum", "header"),
    [
        (ChecksumMode.SHA256, "x-amz-checksum-sha256"),
        (ChecksumMode.CRC32C, "x-amz-checksum-crc32c"),
        (ChecksumMode.MD5, "content-md5"),
    ],
)
async def test_the_configured_checksum_is_sent(checksum: ChecksumMode, header: str) -> None:
    def repeats(request: Recorded) -> Reply:
        kept = {header: request.headers[header]} if header != "content-md5" else {}
        return Reply(200, {"etag": f'"{md5(DATA)}"', **kept})

    stored, (request,) = await put_by(repeats, checksum=checksum)
    assert isinstance(stored, StoredObject)
    assert stored.crc64nvme is None
    assert CRC_HEADER not in request.headers


async def test_a_store_that_refuses_the_checksum_gets_md5() -> None:
    stored, requests = await put_by(error_reply(400, "InvalidRequest"), part_ack(DATA, crc=False))
    assert isinstance(stored, StoredObject)
    assert "content-md5" in requests[1].headers


async def test_object_options_are_sent() -> None:
    store = ScriptedStore(part_ack(DATA))
    async with client_of(store) as client:
        await put(client, options=ObjectOptions(storage_class="STANDARD_IA"))
    assert store.requests[0].headers["x-amz-storage-class"] == "STANDARD_IA"


async def test_p1_bytes_that_are_not_the_verified_ones_are_not_sent() -> None:
    error, requests = await put_by(source=Passes(b"b whole recording"))
    assert isinstance(error, RecordingChangedError)
    assert list(requests) == []


async def test_p1_bytes_that_change_while_they_are_sent_are_not_stored() -> None:
    error, requests = await put_by(part_ack(DATA), Reply(404), source=Passes(DATA, b"b whole recording"))
    assert isinstance(error, RecordingChangedError)
    assert methods(requests) == ["HEAD"]  # the body of the PUT ended too early


async def test_p2_after_a_lost_response_the_object_is_found_and_not_sent_again() -> None:
    stored, requests = await put_by(LOST, Reply(200, OURS_CRC))
    assert isinstance(stored, StoredObject)
    assert methods(requests) == ["PUT", "HEAD"]


async def test_p2_without_a_checksum_in_s3_the_found_object_is_read() -> None:
    content = Reply(200, OURS, DATA)
    stored, requests = await put_by(LOST, Reply(200, OURS), content)
    assert isinstance(stored, StoredObject)
    assert methods(requests) == ["PUT", "HEAD", "GET"]


@pytest.mark.parametrize(
    "found",
    [
        Reply(404),
        Reply(403),
        Reply(200, {**OURS_CRC, "x-amz-meta-cef-stream-id": "another"}),
        Reply(200, {**OURS_CRC, "content-length": "3"}),
        Reply(200, {**OURS_CRC, CRC_HEADER: crc64(b"other")}),
    ],
)
async def test_p1_after_a_lost_response_anything_else_is_replaced(found: Reply) -> None:
    stored, requests = await put_by(LOST, found, part_ack(DATA))
    assert isinstance(stored, StoredObject)
    assert methods(requests) == ["PUT", "HEAD", "PUT"]
    exists = found.status == 200
    assert headers_of(requests, "if-none-match") == ["*", None, None if exists else "*"]
    assert headers_of(requests, "if-match") == [None, None, f'"{md5(DATA)}"' if exists else None]


async def test_p2_an_object_that_is_there_already_is_accepted_if_it_is_the_expected_one() -> None:
    stored, requests = await put_by(EXISTS, Reply(200, OURS_CRC))
    assert isinstance(stored, StoredObject)
    assert methods(requests) == ["PUT", "HEAD"]


ANOTHER = Reply(200, {**OURS_CRC, "etag": '"another"', CRC_HEADER: crc64(b"other")})
NEWER = Reply(200, {**ANOTHER.headers, "etag": '"newer"'})


async def test_p1_another_object_under_the_key_is_replaced_only_as_it_was_seen() -> None:
    stored, requests = await put_by(EXISTS, ANOTHER, part_ack(DATA))
    assert isinstance(stored, StoredObject)
    assert headers_of(requests, "if-none-match") == ["*", None, None]
    assert headers_of(requests, "if-match") == [None, None, '"another"']


@pytest.mark.parametrize(
    "found", [Reply(403), Reply(404), Reply(200, {n: v for n, v in ANOTHER.headers.items() if n != "etag"})]
)
async def test_an_object_that_s3_does_not_show_is_replaced_without_a_condition(found: Reply) -> None:
    stored, requests = await put_by(EXISTS, found, part_ack(DATA))
    assert isinstance(stored, StoredObject)
    assert headers_of(requests, "if-none-match") == ["*", None, None]
    assert headers_of(requests, "if-match") == [None, None, None]


async def test_p1_a_newer_object_that_came_meanwhile_is_looked_at_before_it_is_replaced() -> None:
    stored, requests = await put_by(EXISTS, ANOTHER, EXISTS, NEWER, part_ack(DATA))
    assert isinstance(stored, StoredObject)
    assert methods(requests) == ["PUT", "HEAD", "PUT", "HEAD", "PUT"]
    assert headers_of(requests, "if-match") == [None, None, '"another"', None, '"newer"']


async def test_p2_the_expected_object_that_came_meanwhile_is_accepted() -> None:
    stored, requests = await put_by(EXISTS, ANOTHER, EXISTS, Reply(200, OURS_CRC))
    assert isinstance(stored, StoredObject)
    assert methods(requests) == ["PUT", "HEAD", "PUT", "HEAD"]


async def test_an_object_that_was_deleted_meanwhile_is_created_again() -> None:
    gone = error_reply(404, "NoSuchKey")
    stored, requests = await put_by(EXISTS, ANOTHER, gone, Reply(404), part_ack(DATA))
    assert isinstance(stored, StoredObject)
    assert headers_of(requests, "if-none-match") == ["*", None, None, None, "*"]


LEASE_LOST = LeaseLostError("another daemon holds it")
REDIS_DOWN = RedisOperationError("update", "timed out", transient=True)
REFUSED = error_reply(501, "NotImplemented")


@pytest.mark.parametrize("error", [LEASE_LOST, REDIS_DOWN])
@pytest.mark.parametrize(
    ("script", "sent"),
    [
        ([LOST, ANOTHER], ["PUT", "HEAD"]),
        ([LOST, Reply(404)], ["PUT", "HEAD"]),
        ([EXISTS, ANOTHER], ["PUT", "HEAD"]),
        ([EXISTS, Reply(403)], ["PUT", "HEAD"]),
        ([EXISTS, ANOTHER, EXISTS, NEWER], ["PUT", "HEAD", "PUT", "HEAD"]),
        ([EXISTS, ANOTHER, EXISTS, ANOTHER, EXISTS, ANOTHER], ["PUT", "HEAD"] * 3),
        ([REFUSED, REFUSED], ["PUT", "PUT"]),  # with each checksum, then without the condition
    ],
)
async def test_p1_nothing_is_stored_once_the_lease_is_lost_whatever_was_seen_under_the_key(
    script: Sequence[Script], sent: list[str], error: CefMp4ProcessorError
) -> None:
    """The newer object may be the one that was looked at, so no condition protects it."""
    store, retrier = ScriptedStore(*script), Repeats()

    async def fence() -> None:
        if store.played_out:
            raise error

    async with client_of(store, retrier=retrier) as client:
        with pytest.raises(type(error)) as raised:
            await put(client, fence=fence)
    assert raised.value is error
    assert methods(store.requests) == sent
    assert error not in retrier.failures  # it is no failure of S3


async def test_p1_a_store_without_conditions_gets_no_first_request_without_the_lease() -> None:
    """The request may have waited for the end of an outage."""
    store = ScriptedStore(REFUSED, REFUSED, part_ack(DATA))

    async def fence() -> None:
        raise LEASE_LOST

    async with client_of(store) as client:
        await put(client)
        with pytest.raises(LeaseLostError):
            await put(client, fence=fence)
    assert len(store.requests) == 3


@pytest.mark.parametrize("refusal", [error_reply(501, "NotImplemented"), error_reply(400, "InvalidArgument")])
async def test_a_store_that_refuses_if_match_gets_none_from_then_on(refusal: Reply) -> None:
    # Refused with each checksum, so it is not the checksum.
    store = ScriptedStore(EXISTS, ANOTHER, refusal, refusal, part_ack(DATA), EXISTS, ANOTHER, part_ack(DATA))
    with capture_logs() as logs:
        async with client_of(store) as client:
            await put(client)
            await put(client)
    assert store.played_out
    assert headers_of(store.requests, "if-match") == [None, None, '"another"', '"another"', *[None] * 4]
    assert headers_of(store.requests, "if-none-match") == ["*", *[None] * 4, "*", None, None]
    (entry,) = [entry for entry in logs if entry["event"] == "s3_conditional_put_unsupported"]
    assert entry["condition"] == "if-match"


async def test_a_store_that_never_takes_the_etag_it_shows_gets_no_if_match() -> None:
    stored, requests = await put_by(EXISTS, ANOTHER, EXISTS, ANOTHER, EXISTS, ANOTHER, part_ack(DATA))
    assert isinstance(stored, StoredObject)
    assert headers_of(requests, "if-match")[-1] is None


async def test_a_conflict_with_another_request_is_repeated() -> None:
    stored, requests = await put_by(error_reply(409, "ConditionalRequestConflict"), Reply(404), part_ack(DATA))
    assert isinstance(stored, StoredObject)
    assert methods(requests) == ["PUT", "HEAD", "PUT"]


async def test_a_proxys_page_with_that_status_shows_nothing() -> None:
    page = Reply(412, {"content-type": "text/html"}, b"<html>412 Precondition Failed</html>")
    stored, requests = await put_by(page, Reply(404), part_ack(DATA))
    assert isinstance(stored, StoredObject)
    assert headers_of(requests, "if-none-match") == ["*", None, "*"]


async def test_p1_damaged_bytes_are_replaced() -> None:
    damaged = Reply(200, {"etag": f'"{md5(b"damage")}"', CRC_HEADER: crc64(b"damage")})
    found = Reply(200, {**OURS_CRC, "etag": f'"{md5(b"damage")}"', CRC_HEADER: crc64(b"damage")})
    stored, requests = await put_by(damaged, found, part_ack(DATA))
    assert isinstance(stored, StoredObject)
    assert headers_of(requests, "if-none-match") == ["*", None, None]
    assert headers_of(requests, "if-match") == [None, None, f'"{md5(b"damage")}"']


async def test_a_store_that_refuses_the_condition_gets_none_from_then_on() -> None:
    store = ScriptedStore(
        error_reply(501, "NotImplemented"),
        error_reply(501, "NotImplemented"),
        part_ack(DATA),
        part_ack(DATA),
    )
    with capture_logs() as logs:
        async with client_of(store) as client:
            await put(client)  # refused with each checksum, so it is not the checksum
            await put(client)
    assert headers_of(store.requests, "if-none-match") == ["*", "*", None, None]
    assert [entry["event"] for entry in logs] == ["s3_conditional_put_unsupported"]


async def test_a_request_that_is_refused_with_and_without_the_condition_fails_with_the_first_error() -> None:
    refused = error_reply(400, "InvalidArgument", "of the first")
    error, requests = await put_by(refused, *[error_reply(400, "InvalidArgument", "of the others")] * 3)
    assert isinstance(error, S3OperationError)
    assert "of the first" in str(error)
    assert (error.operation, error.transient, len(requests)) == ("put_recording", False, 4)


async def test_p3_an_unrecorded_object_is_found_by_size_checksum_and_id() -> None:
    store = ScriptedStore(Reply(200, OURS_CRC), Reply(404), Reply(200, {**OURS_CRC, CRC_HEADER: crc64(b"other")}))
    async with client_of(store) as client:
        found = [
            await client.find_recording("k", size_bytes=len(DATA), crc64nvme=crc64nvme(DATA), stream_id="stream-1")
            for _ in range(3)
        ]
    assert [one is not None for one in found] == [True, False, False]


async def test_p5_an_upload_created_at_the_second_attempt_is_known_as_repeated() -> None:
    store = ScriptedStore(created(), LOST, created())
    async with client_of(store, retrier=Repeats()) as client:
        once = await client.create_multipart_upload("k", metadata={})
        twice = await client.create_multipart_upload("k", metadata={})
    assert (once.repeated, twice.repeated) == (False, True)
