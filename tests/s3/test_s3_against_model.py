"""The S3 client against the embedded model of S3: strict signatures, checksums and multipart rules, faults on call."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
import trio
from s3.scripted_store import Passes, Repeats
from structlog.testing import capture_logs

from cef_trio.exceptions import S3OperationError
from cef_trio.resilience import Retrier
from cef_trio.s3.checksums import crc64nvme
from cef_trio.s3.client import S3Client
from cef_trio.s3.config import Addressing, ChecksumMode, PayloadSigning, S3Config
from cef_trio.s3.credentials import StaticCredentials
from cef_trio.s3.model import ChecksumAlgorithm, CreatedUpload, PartToComplete, StoredObject, UploadedPart
from cef_trio.s3.signing import Credentials
from cef_trio.s3_endpoint.endpoint import DEFAULT_ACCESS_KEY_ID, DEFAULT_SECRET_ACCESS_KEY, S3Endpoint
from cef_trio.s3_endpoint.faults import Fault, Kind, Moment
from cef_trio.s3_endpoint.transport import InProcessTransport

MIB = 1024 * 1024
KEY = "streams/0b6b1d7e/été 🎥 %&+=.mp4"
PIECES = (secrets.token_bytes(5 * MIB), secrets.token_bytes(5 * MIB + 1), b"the end")
WHOLE = b"".join(PIECES)


@pytest.fixture
def endpoint() -> S3Endpoint:
    return S3Endpoint(buckets=["recordings"])


def client_of(
    endpoint: S3Endpoint,
    *,
    retrier: Retrier | None = None,
    secret: str = DEFAULT_SECRET_ACCESS_KEY,
    region: str = "us-east-1",
    checksum: ChecksumMode = ChecksumMode.AUTO,
    payload_signing: PayloadSigning = PayloadSigning.AUTO,
    addressing: Addressing = Addressing.AUTO,
    clock_error: timedelta = timedelta(),
) -> S3Client:
    config = S3Config(
        bucket="recordings",
        credentials=StaticCredentials(Credentials(DEFAULT_ACCESS_KEY_ID, secret)),
        endpoint_url="http://s3.test",
        region=region,
        checksum=checksum,
        payload_signing=payload_signing,
        addressing=addressing,
    )
    return S3Client(
        config,
        retrier=retrier,
        transport=InProcessTransport(endpoint),
        now=lambda: datetime.now(UTC) + clock_error,
    )


async def upload(client: S3Client, pieces: Sequence[bytes] = PIECES) -> tuple[CreatedUpload, list[UploadedPart]]:
    created = await client.create_multipart_upload(KEY, metadata={"cef-stream-id": "stream-1"})
    parts = [
        await client.upload_part(KEY, created.upload_id, number, Passes(piece, block_bytes=MIB), created.checksum)
        for number, piece in enumerate(pieces, 1)
    ]
    return created, parts


def to_complete(parts: Sequence[UploadedPart]) -> list[PartToComplete]:
    return [
        PartToComplete(part.part_number, part.etag, part.size_bytes, part.crc64nvme, part.checksum) for part in parts
    ]


async def complete(client: S3Client, created: CreatedUpload, parts: Sequence[UploadedPart]) -> StoredObject:
    return await client.complete_multipart_upload(
        KEY, created.upload_id, to_complete(parts), checksum=created.checksum, stream_id="stream-1"
    )


async def read(client: S3Client) -> bytes:
    async with client.get_object(KEY) as (_, chunks):
        return b"".join([chunk async for chunk in chunks])


@pytest.mark.parametrize("addressing", [Addressing.PATH, Addressing.VIRTUAL])
@pytest.mark.parametrize("payload_signing", [PayloadSigning.AUTO, PayloadSigning.SIGNED])
@pytest.mark.parametrize("checksum", ChecksumMode)
async def test_an_upload_arrives_byte_for_byte_every_way_there_is(
    endpoint: S3Endpoint, checksum: ChecksumMode, payload_signing: PayloadSigning, addressing: Addressing
) -> None:
    async with client_of(endpoint, checksum=checksum, payload_signing=payload_signing, addressing=addressing) as client:
        created, parts = await upload(client)
        assert created.checksum.value == ("crc64nvme" if checksum is ChecksumMode.AUTO else checksum.value)
        listed = await client.list_parts(KEY, created.upload_id)
        assert [(part.part_number, part.size_bytes, part.etag) for part in listed] == [
            (part.part_number, part.size_bytes, part.etag) for part in parts
        ]
        if created.checksum is ChecksumAlgorithm.CRC64NVME:
            assert [part.crc64nvme for part in listed] == [crc64nvme(piece) for piece in PIECES]
        assert [(u.key, u.upload_id) for u in await client.list_multipart_uploads("streams/")] == [
            (KEY, created.upload_id)
        ]
        stored = await complete(client, created, parts)
        assert stored.size_bytes == len(WHOLE)
        if created.checksum is ChecksumAlgorithm.CRC64NVME:
            assert stored.crc64nvme == crc64nvme(WHOLE)
        assert await read(client) == WHOLE
        seen = await client.head_object(KEY)
        assert seen is not None
        assert (seen.etag, seen.metadata) == (stored.etag, {"cef-stream-id": "stream-1"})
        assert await client.list_multipart_uploads() == []


@pytest.mark.parametrize("again_is_fine", [True, False])
@pytest.mark.parametrize(
    "fault",
    [
        Fault(Kind.RESET, "CompleteMultipartUpload", Moment.REPLY),
        Fault(Kind.TRUNCATE, "CompleteMultipartUpload", Moment.REPLY),
        Fault(Kind.ERROR_IN_200, "CompleteMultipartUpload", Moment.BEFORE),
        Fault(Kind.ERROR_IN_200, "CompleteMultipartUpload", Moment.REPLY),
        Fault(Kind.ERROR, "CompleteMultipartUpload", Moment.BEFORE, code="SlowDown"),
        Fault(Kind.ERROR, "CompleteMultipartUpload", Moment.REPLY, code="InternalError"),
        Fault(Kind.EMPTY_ETAG, "CompleteMultipartUpload"),
        Fault(Kind.RESET, "UploadPart", Moment.BODY, after_bytes=MIB),
        Fault(Kind.RESET, "UploadPart", Moment.REPLY),
        Fault(Kind.ERROR, "UploadPart", Moment.BEFORE, code="BadDigest"),
        Fault(Kind.ERROR, "UploadPart", Moment.BEFORE, code="RequestTimeout"),
        Fault(Kind.ERROR, "CreateMultipartUpload", Moment.BEFORE, code="ServiceUnavailable"),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.operation}-{fault.moment}-{fault.code}",
)
async def test_every_passing_fault_is_survived_and_was_really_met(fault: Fault, again_is_fine: bool) -> None:
    endpoint = S3Endpoint(buckets=["recordings"], complete_again=again_is_fine)
    armed = endpoint.faults.arm(fault)
    async with client_of(endpoint, retrier=Repeats()) as client:
        created, parts = await upload(client)
        stored = await complete(client, created, parts)
        assert stored.crc64nvme == crc64nvme(WHOLE)
        assert stored.etag
        assert await read(client) == WHOLE
    assert armed.hits == 1


@pytest.mark.parametrize("kind", [Kind.IGNORE_CHECKSUMS, Kind.REJECT_CHECKSUMS])
async def test_a_store_without_checksums_gets_md5_which_is_logged_once(endpoint: S3Endpoint, kind: Kind) -> None:
    endpoint.faults.arm(Fault(kind, times=None))
    with capture_logs() as logs:
        async with client_of(endpoint) as client:
            created, parts = await upload(client)
            await complete(client, created, parts)
            await client.put_object("k.json", b"{}", content_type="application/json")
            assert await read(client) == WHOLE
    assert created.checksum is ChecksumAlgorithm.MD5
    assert [entry["event"] for entry in logs] == ["s3_checksum_unsupported"]


async def test_p1_another_object_is_replaced_unless_a_newer_one_came_meanwhile(endpoint: S3Endpoint) -> None:
    async with client_of(endpoint, retrier=Repeats()) as client:

        async def put(content: bytes) -> StoredObject:
            return await client.put_recording(KEY, Passes(content), crc64nvme=crc64nvme(content), stream_id="stream-1")

        await put(b"first")
        await put(b"second")
        assert await read(client) == b"second"
        newer = b"newer"

        async def write_newer() -> None:
            await client.put_object(KEY, newer, content_type="video/mp4", metadata={"cef-stream-id": "stream-2"})

        armed = endpoint.faults.arm(Fault(Kind.SLOW, "PutObject", nth=2, seconds=1.0))  # the one with If-Match
        before = endpoint.log.calls["HeadObject"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(put, b"third")
            while not armed.hits:
                await trio.lowlevel.checkpoint()
            endpoint.faults.disarm(armed)
            await write_newer()
        assert endpoint.log.calls["HeadObject"] == before + 2  # the newer object was looked at, too
        assert await read(client) == b"third"


async def test_another_streams_object_at_the_key_is_not_accepted() -> None:
    endpoint = S3Endpoint(buckets=["recordings"], complete_again=False)
    async with client_of(endpoint) as client:
        created, parts = await upload(client)
        await client.abort_multipart_upload(KEY, created.upload_id)
        await client.put_object(KEY, WHOLE, content_type="video/mp4", metadata={"cef-stream-id": "stream-2"})
        with pytest.raises(S3OperationError, match="belongs to another stream") as caught:
            await complete(client, created, parts)
        assert (caught.value.code, caught.value.transient) == ("NoSuchUpload", False)
        with pytest.raises(S3OperationError) as caught:
            await client.upload_part(KEY, created.upload_id, 1, Passes(b"x"), created.checksum)
        assert caught.value.code == "NoSuchUpload"
        await client.abort_multipart_upload(KEY, created.upload_id)


async def test_s3_refuses_parts_that_do_not_match_the_request(endpoint: S3Endpoint) -> None:
    async with client_of(endpoint) as client:
        created, parts = await upload(client)
        lie = [
            PartToComplete(p.part_number, p.etag, p.size_bytes, p.crc64nvme ^ (p.part_number == 2), p.checksum)
            for p in parts
        ]
        with pytest.raises(S3OperationError):
            await client.complete_multipart_upload(
                KEY, created.upload_id, lie, checksum=created.checksum, stream_id="stream-1"
            )
        assert await client.head_object(KEY) is None


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_wrong_clock_is_put_right_by_the_first_rejection(endpoint: S3Endpoint, hours: int) -> None:
    for repeated in ("head_bucket", "put_object"):
        retrier = Repeats()
        async with client_of(endpoint, retrier=retrier, clock_error=timedelta(hours=hours)) as client:
            if repeated == "head_bucket":
                await client.head_bucket()
            else:
                await client.put_object("k", b"data", content_type="a/b")
        assert [getattr(failure, "code", None) for failure in retrier.failures] == ["RequestTimeTooSkewed"]


async def test_wrong_secrets_regions_and_buckets_are_named_in_the_error(endpoint: S3Endpoint) -> None:
    async with client_of(endpoint, secret="wrong") as client:
        with pytest.raises(S3OperationError, match="S3_SECRET_ACCESS_KEY") as caught:
            await client.list_multipart_uploads()
    assert (caught.value.code, caught.value.transient) == ("SignatureDoesNotMatch", False)
    async with client_of(endpoint, region="eu-west-9") as client:
        with pytest.raises(S3OperationError, match="S3_REGION_NAME=us-east-1"):
            await client.list_multipart_uploads()
    async with client_of(S3Endpoint()) as client:
        with pytest.raises(S3OperationError, match="S3_CREATE_BUCKET") as caught:
            await client.head_bucket()
        assert caught.value.code == "NoSuchBucket"
        await client.create_bucket()
        await client.create_bucket()
        await client.head_bucket()


async def test_many_parts_and_uploads_are_listed_over_all_their_pages() -> None:
    endpoint = S3Endpoint(buckets=["recordings"])
    async with client_of(endpoint) as client:
        created = await client.create_multipart_upload(KEY, metadata={})
        for number in range(1, 1003):
            await client.upload_part(KEY, created.upload_id, number, Passes(b"x"), created.checksum)
        assert [part.part_number for part in await client.list_parts(KEY, created.upload_id)] == list(range(1, 1003))
        for number in range(1001):
            await client.create_multipart_upload(f"other/{number} +é", metadata={})
        listed = await client.list_multipart_uploads("other/")
        assert {one.key for one in listed} == {f"other/{number} +é" for number in range(1001)}
        assert len(listed) == 1001


async def test_a_frozen_store_ends_in_a_timeout_that_is_transient(
    endpoint: S3Endpoint, autojump_clock: trio.testing.MockClock
) -> None:
    endpoint.faults.arm(Fault(Kind.FREEZE, "UploadPart", Moment.REPLY))
    async with client_of(endpoint) as client:
        with pytest.raises(S3OperationError, match="ReadTimeout") as caught:
            await upload(client, [b"x"])
    assert caught.value.transient
    assert trio.current_time() == pytest.approx(60, abs=1)


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope before the n-th step of a task."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, step: int) -> None:
        self.task, self.scope, self.remaining = task, scope, step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.remaining -= 1
            if self.remaining == 0:
                self.scope.cancel()


@pytest.mark.parametrize("again_is_fine", [True, False])
async def test_completing_can_be_cancelled_at_any_step_and_repeated(again_is_fine: bool) -> None:
    done_before_again = 0
    for step in range(1, 200):
        endpoint = S3Endpoint(buckets=["recordings"], complete_again=again_is_fine)
        async with client_of(endpoint) as client:
            created, parts = await upload(client, [b"small"])
            with trio.CancelScope() as scope:
                instrument = CancelAtStep(trio.lowlevel.current_task(), scope, step)
                trio.lowlevel.add_instrument(instrument)
                try:
                    await complete(client, created, parts)
                finally:
                    trio.lowlevel.remove_instrument(instrument)
            if instrument.remaining > 0:
                break
            done_before_again += scope.cancelled_caught and await client.head_object(KEY) is not None
            stored = await complete(client, created, parts)
            assert stored.crc64nvme == crc64nvme(b"small")
            assert await read(client) == b"small"
            assert await client.list_multipart_uploads() == []
    else:
        raise AssertionError("the walk did not end")
    assert step > 3
    assert done_before_again > 0


async def test_p6_a_rejection_whose_reason_is_cut_off_is_retried(endpoint: S3Endpoint) -> None:
    refused = endpoint.faults.arm(Fault(Kind.ERROR, "UploadPart", code="AccessDenied"))
    cut = endpoint.faults.arm(Fault(Kind.TRUNCATE, "UploadPart", Moment.REPLY))
    async with client_of(endpoint) as client:
        created = await client.create_multipart_upload(KEY, metadata={})
        with pytest.raises(S3OperationError, match="cut off before its reason") as caught:
            await client.upload_part(KEY, created.upload_id, 1, Passes(PIECES[2]), created.checksum)
    assert caught.value.transient
    assert (refused.hits, cut.hits) == (1, 1)


@pytest.mark.parametrize("checksum", [ChecksumMode.CRC64NVME, ChecksumMode.MD5])
async def test_p1_a_part_that_s3_damaged_is_not_taken_for_ours_and_sent_again(
    endpoint: S3Endpoint, checksum: ChecksumMode
) -> None:
    armed = endpoint.faults.arm(Fault(Kind.DAMAGE, "UploadPart", nth=2))
    async with client_of(endpoint, retrier=Repeats(2), checksum=checksum) as client:
        created, parts = await upload(client)
        await complete(client, created, parts)
        assert await read(client) == WHOLE
    assert armed.hits == 1
    assert len(endpoint.log.of("UploadPart")) == len(PIECES) + 1
