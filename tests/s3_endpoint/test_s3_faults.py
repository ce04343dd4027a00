"""Every fault is applied at its moments, on a socket and in-process alike, and counted."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import trio
import trio.lowlevel
import trio.testing
from servers.s3_signing import element, send
from waiting import WAIT_SECONDS

from cef_trio.s3_endpoint import Fault, InProcessTransport, Kind, Moment, S3Endpoint, serve
from cef_trio.s3_endpoint.faults import KINDS

BUCKET = "recordings"
WAYS = ["in-process", "socket"]
START = 1_800_000_000.0


def endpoint_in_memory() -> S3Endpoint:
    return S3Endpoint(buckets=[BUCKET], minimum_part_size_bytes=1)


@asynccontextmanager
async def client_of(
    endpoint: S3Endpoint, way: str, read_timeout: float = WAIT_SECONDS
) -> AsyncIterator[httpx.AsyncClient]:
    timeout = httpx.Timeout(WAIT_SECONDS, read=read_timeout)
    if way == "in-process":
        async with httpx.AsyncClient(
            transport=InProcessTransport(endpoint), base_url="http://s3.test", timeout=timeout
        ) as client:
            yield client
        return
    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve, endpoint)
        async with httpx.AsyncClient(base_url=url, timeout=timeout) as client:
            yield client
        nursery.cancel_scope.cancel()


async def create(client: httpx.AsyncClient) -> str:
    return element(await send(client, "POST", f"/{BUCKET}/k?uploads="), "UploadId")


async def put_part(client: httpx.AsyncClient, upload: str, number: int, body: bytes) -> httpx.Response:
    return await send(client, "PUT", f"/{BUCKET}/k?partNumber={number}&uploadId={upload}", body)


async def listed(client: httpx.AsyncClient, upload: str) -> int:
    return (await send(client, "GET", f"/{BUCKET}/k?uploadId={upload}")).text.count("<Part>")


async def complete(client: httpx.AsyncClient, upload: str, *etags: str) -> httpx.Response:
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>" for number, etag in enumerate(etags, 1)
    )
    body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
    return await send(client, "POST", f"/{BUCKET}/k?uploadId={upload}", body)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("moment", "parts"), [(Moment.BEFORE, 0), (Moment.BODY, 0), (Moment.REPLY, 1)])
async def test_a_reset_is_a_network_error_and_its_moment_decides_about_the_effect(
    way: str, moment: Moment, parts: int
) -> None:
    endpoint = endpoint_in_memory()
    async with client_of(endpoint, way) as client:
        upload = await create(client)
        armed = endpoint.faults.arm(Fault(Kind.RESET, "UploadPart", moment, after_bytes=3))
        with pytest.raises(httpx.NetworkError):
            await put_part(client, upload, 1, b"x" * 10)
        assert armed.hits == 1
        assert await listed(client, upload) == parts
        assert (await put_part(client, upload, 1, b"x" * 10)).status_code == 200
    assert [entry.outcome for entry in endpoint.log.of("UploadPart")] == ["dropped", "200"]


@pytest.mark.parametrize("way", WAYS)
async def test_a_damaged_body_is_acknowledged_with_the_checksums_of_what_was_stored(way: str) -> None:
    endpoint = endpoint_in_memory()
    sent, stored = b"0123456789", b"\xb0123456789"
    async with client_of(endpoint, way) as client:
        upload = await create(client)
        armed = endpoint.faults.arm(Fault(Kind.DAMAGE, "UploadPart"))
        url = f"/{BUCKET}/k?partNumber=1&uploadId={upload}"
        checksum = {"x-amz-checksum-crc32": base64.b64encode(zlib.crc32(sent).to_bytes(4)).decode()}
        damaged = await send(client, "PUT", url, sent, headers=checksum)
        assert damaged.status_code == 200
        assert damaged.headers["etag"] == f'"{hashlib.md5(stored).hexdigest()}"'
        assert base64.b64decode(damaged.headers["x-amz-checksum-crc32"]) == zlib.crc32(stored).to_bytes(4)
        assert armed.hits == 1
        assert (await put_part(client, upload, 1, sent)).headers["etag"] == f'"{hashlib.md5(sent).hexdigest()}"'


@pytest.mark.parametrize("way", WAYS)
async def test_an_error_is_answered_with_its_code_status_and_retry_after_at_the_nth_call_only(way: str) -> None:
    endpoint = endpoint_in_memory()
    async with client_of(endpoint, way) as client:
        upload = await create(client)
        armed = endpoint.faults.arm(Fault(Kind.ERROR, "UploadPart", nth=2, times=2, code="SlowDown", retry_after="7"))
        replies = [await put_part(client, upload, number, b"x") for number in range(1, 6)]
        assert [reply.status_code for reply in replies] == [200, 503, 503, 200, 200]
        assert replies[1].headers["retry-after"] == "7"
        assert element(replies[1], "Code") == "SlowDown"
        assert element(replies[1], "RequestId") == replies[1].headers["x-amz-request-id"]
        assert (armed.seen, armed.hits) == (5, 2)


@pytest.mark.parametrize("way", WAYS)
async def test_a_frozen_call_never_answers_until_it_is_disarmed(way: str) -> None:
    endpoint = endpoint_in_memory()
    async with client_of(endpoint, way) as client:
        armed = endpoint.faults.arm(Fault(Kind.FREEZE, "HeadBucket"))
        ended = trio.Event()

        async def call() -> None:
            with pytest.raises(httpx.TransportError):
                await send(client, "HEAD", f"/{BUCKET}")
            ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            while armed.hits == 0:
                await trio.lowlevel.checkpoint()
            assert not ended.is_set()
            endpoint.faults.disarm(armed)
        assert ended.is_set()


@pytest.mark.parametrize("way", WAYS)
async def test_a_truncated_reply_is_a_protocol_error(way: str) -> None:
    endpoint = endpoint_in_memory()
    async with client_of(endpoint, way) as client:
        endpoint.faults.arm(Fault(Kind.TRUNCATE, "CreateMultipartUpload", Moment.REPLY))
        with pytest.raises(httpx.RemoteProtocolError):
            await create(client)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("moment", "done"), [(Moment.BEFORE, False), (Moment.REPLY, True)])
async def test_complete_may_answer_200_with_an_error(way: str, moment: Moment, done: bool) -> None:
    endpoint = endpoint_in_memory()
    async with client_of(endpoint, way) as client:
        upload = await create(client)
        etag = (await put_part(client, upload, 1, b"x")).headers["etag"]
        endpoint.faults.arm(Fault(Kind.ERROR_IN_200, "CompleteMultipartUpload", moment))
        reply = await complete(client, upload, etag)
        assert (reply.status_code, element(reply, "Code")) == (200, "InternalError")
        assert endpoint.model.has_object(BUCKET, "k") is done


@pytest.mark.parametrize("way", WAYS)
async def test_complete_may_answer_with_an_empty_etag(way: str) -> None:
    endpoint = endpoint_in_memory()
    async with client_of(endpoint, way) as client:
        upload = await create(client)
        etag = (await put_part(client, upload, 1, b"x")).headers["etag"]
        armed = endpoint.faults.arm(Fault(Kind.EMPTY_ETAG, "CompleteMultipartUpload"))
        assert "<ETag></ETag>" in (await complete(client, upload, etag)).text
        assert armed.hits == 1


@pytest.mark.parametrize("way", WAYS)
async def test_a_store_may_ignore_or_reject_checksums(way: str) -> None:
    endpoint = endpoint_in_memory()
    wrong = {"x-amz-checksum-crc32": "AAAAAA=="}
    async with client_of(endpoint, way) as client:
        assert element(await send(client, "PUT", f"/{BUCKET}/o", b"x", headers=wrong), "Code") == "BadDigest"
        ignoring = endpoint.faults.arm(Fault(Kind.IGNORE_CHECKSUMS, times=None))
        reply = await send(client, "PUT", f"/{BUCKET}/o", b"x", headers=wrong)
        assert reply.status_code == 200
        assert not [name for name in reply.headers if "checksum" in name]
        endpoint.faults.disarm(ignoring)
        endpoint.faults.arm(Fault(Kind.REJECT_CHECKSUMS, times=None))
        assert (await send(client, "PUT", f"/{BUCKET}/o", b"x", headers=wrong)).status_code == 400
        assert (await send(client, "PUT", f"/{BUCKET}/o", b"x")).status_code == 200


@pytest.mark.parametrize("way", WAYS)
async def test_a_stale_listing_leaves_out_the_newest_parts(way: str) -> None:
    endpoint = endpoint_in_memory()
    async with client_of(endpoint, way) as client:
        upload = await create(client)
        for number in (1, 2, 3):
            await put_part(client, upload, number, b"x")
        endpoint.faults.arm(Fault(Kind.STALE_PARTS, "ListParts", count=2))
        assert [await listed(client, upload), await listed(client, upload)] == [1, 3]


@pytest.mark.parametrize("way", WAYS)
async def test_a_skewed_clock_refuses_and_sends_its_time(way: str) -> None:
    endpoint = S3Endpoint(buckets=[BUCKET], clock=lambda: START)
    async with client_of(endpoint, way) as client:
        endpoint.faults.arm(Fault(Kind.SKEW, seconds=3600))
        reply = await send(client, "GET", f"/{BUCKET}?location=", now=START)
        assert element(reply, "Code") == "RequestTimeTooSkewed"
        assert reply.headers["date"] == "Fri, 15 Jan 2027 09:00:00 GMT"
        assert (await send(client, "GET", f"/{BUCKET}?location=", now=START)).status_code == 200


async def test_in_process_time_is_virtual(autojump_clock: trio.testing.MockClock) -> None:
    endpoint = S3Endpoint(buckets=[BUCKET], clock=lambda: START + trio.current_time())
    async with client_of(endpoint, "in-process", read_timeout=30) as client:
        endpoint.faults.arm(Fault(Kind.SLOW, "HeadBucket", seconds=20))
        before = trio.current_time()
        assert (await send(client, "HEAD", f"/{BUCKET}", now=START)).status_code == 200
        assert trio.current_time() - before == pytest.approx(20)
        endpoint.faults.arm(Fault(Kind.FREEZE, "HeadBucket"))
        with pytest.raises(httpx.ReadTimeout):
            await send(client, "HEAD", f"/{BUCKET}", now=START)
        assert trio.current_time() - before == pytest.approx(50)


async def test_a_connection_dropped_after_the_reply_fails_only_its_next_use() -> None:
    endpoint = endpoint_in_memory()
    async with client_of(endpoint, "socket") as client:
        armed = endpoint.faults.arm(Fault(Kind.RESET, "HeadBucket", Moment.AFTER))
        assert (await send(client, "HEAD", f"/{BUCKET}")).status_code == 200
        assert armed.hits == 1


async def test_parts_sent_at_once_are_counted() -> None:
    endpoint = endpoint_in_memory()
    async with client_of(endpoint, "in-process") as client:
        upload = await create(client)
        armed = endpoint.faults.arm(Fault(Kind.FREEZE, "UploadPart", times=None))
        async with trio.open_nursery() as nursery:
            for number in range(1, 4):
                nursery.start_soon(put_part, client, upload, number, b"x")
            while armed.hits < 3:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert endpoint.log.max_concurrent["UploadPart"] == 3
        assert [entry.outcome for entry in endpoint.log.of("UploadPart")] == ["cancelled"] * 3
        endpoint.faults.clear()
        await put_part(client, upload, 1, b"four")
        assert endpoint.log.received_bytes == {("k", 1): 4}


@pytest.mark.parametrize(
    ("kind", "moment"), [(kind, moment) for kind in Kind for moment in Moment if moment not in KINDS[kind]]
)
def test_a_fault_that_could_never_strike_is_refused(kind: Kind, moment: Moment) -> None:
    with pytest.raises(ValueError, match="can have the moments"):
        Fault(kind, moment=moment)


async def test_faults_are_controlled_over_the_socket_only_where_that_is_switched_on() -> None:
    endpoint = S3Endpoint(buckets=[BUCKET], control=True)
    async with client_of(endpoint, "socket") as client:
        armed = await client.post("/_control/faults", json={"kind": "error", "operation": "HeadBucket"})
        assert armed.json() == {"number": 1}
        assert (await send(client, "HEAD", f"/{BUCKET}")).status_code == 500
        (row,) = (await client.get("/_control/faults")).json()
        assert (row["hits"], row["operation"]) == (1, "HeadBucket")
        assert (await client.get("/_control/calls")).json()["calls"] == {"HeadBucket": 1}
        bad = await client.post("/_control/faults", json={"kind": "error", "moment": "never"})
        assert (bad.status_code, "never" in bad.json()["error"]) == (400, True)
        await client.delete("/_control/faults")
        await client.delete("/_control/calls")
        assert (await send(client, "HEAD", f"/{BUCKET}")).status_code == 200
        assert endpoint.log.calls == {"HeadBucket": 1}
    async with client_of(endpoint_in_memory(), "socket") as client:
        assert (await client.get("/_control/calls")).status_code == 403
