"""P8: no object counts as stored unless its bytes are proved, whichever headers the store ignores.

A store that damages a byte must never be believed, with each setting of S3_CHECKSUM, with and without encryption.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Mapping

import httpx
import pytest
import trio
from s3.scripted_store import CRC_HEADER, Passes, Repeats, Reply, ScriptedStore, client_of, crc64, md5
from trio.testing import MockClock

from cef_trio.exceptions import S3OperationError
from cef_trio.resilience import Progress
from cef_trio.s3.checksums import CHECKSUMS, composite_checksum, crc64nvme, crc64nvme_bytes, to_base64
from cef_trio.s3.client import S3Client
from cef_trio.s3.config import ChecksumMode, S3Config
from cef_trio.s3.credentials import StaticCredentials
from cef_trio.s3.model import ChecksumAlgorithm, PartToComplete, StoredObject
from cef_trio.s3.proof import Proof, evidence_of
from cef_trio.s3.signing import Credentials
from cef_trio.s3_endpoint.endpoint import DEFAULT_ACCESS_KEY_ID, DEFAULT_SECRET_ACCESS_KEY, S3Endpoint
from cef_trio.s3_endpoint.faults import Fault, Kind
from cef_trio.s3_endpoint.transport import InProcessTransport
from cef_trio.settings.object_options import ObjectOptions

MIB = 1024 * 1024
DATA = b"a whole recording"
PIECES = (b"a" * (5 * MIB), b"b" * (5 * MIB), b"the end")
KMS_HEADERS = {"x-amz-server-side-encryption": "aws:kms"}
KEY = "k"


def digests_of(data: bytes, *algorithms: ChecksumAlgorithm) -> dict[ChecksumAlgorithm, bytes]:
    digests = {ChecksumAlgorithm.CRC64NVME: crc64nvme_bytes(crc64nvme(data))}
    for algorithm in algorithms:
        calculator = CHECKSUMS[algorithm].calculator()
        calculator.update(data)
        digests[algorithm] = calculator.digest()
    return digests


OWN, OTHER = crc64(DATA), crc64(b"other")
PLAIN: dict[str, str] = {}


@pytest.mark.parametrize(
    ("headers", "etag", "with_md5", "proof"),
    [
        ({CRC_HEADER: OWN}, md5(DATA), True, Proof.CHECKSUM),
        ({CRC_HEADER: OWN}, "opaque", True, Proof.CHECKSUM),
        ({CRC_HEADER: OWN}, md5(b"other"), False, Proof.CHECKSUM),
        ({CRC_HEADER: OWN}, md5(b"other"), True, Proof.CONTRADICTION),
        ({CRC_HEADER: OWN, **KMS_HEADERS}, md5(b"other"), True, Proof.CHECKSUM),
        ({CRC_HEADER: OTHER}, md5(DATA), True, Proof.DAMAGED),
        ({CRC_HEADER: "not base64"}, md5(DATA), True, Proof.DAMAGED),
        ({CRC_HEADER: ""}, md5(DATA), True, Proof.ETAG),
        ({CRC_HEADER: ""}, "opaque", True, Proof.NOTHING),
        ({"x-amz-checksum-crc32c": "AAAAAA=="}, "opaque", True, Proof.NOTHING),
        (PLAIN, md5(DATA), True, Proof.ETAG),
        (PLAIN, md5(DATA).upper(), True, Proof.ETAG),
        (KMS_HEADERS, md5(DATA), True, Proof.ETAG),
        (PLAIN, md5(b"other"), True, Proof.DAMAGED),
        (KMS_HEADERS, md5(b"other"), True, Proof.NOTHING),
        (PLAIN, f"{md5(DATA)}-1", True, Proof.NOTHING),
        (PLAIN, md5(DATA), False, Proof.NOTHING),
        (PLAIN, "", True, Proof.NOTHING),
    ],
)
def test_what_a_response_proves(headers: Mapping[str, str], etag: str, with_md5: bool, proof: Proof) -> None:
    digests = digests_of(DATA, *([ChecksumAlgorithm.MD5] if with_md5 else []))
    assert evidence_of(etag, headers, digests, kms_requested=False).proof is proof


def model_client(endpoint: S3Endpoint, checksum: ChecksumMode, encryption: str) -> S3Client:
    config = S3Config(
        bucket="recordings",
        credentials=StaticCredentials(Credentials(DEFAULT_ACCESS_KEY_ID, DEFAULT_SECRET_ACCESS_KEY)),
        endpoint_url="http://s3.test",
        region="us-east-1",
        checksum=checksum,
        options=ObjectOptions(encryption=encryption),
    )
    return S3Client(config, retrier=Repeats(5), transport=InProcessTransport(endpoint))


async def put_recording(client: S3Client) -> StoredObject:
    return await client.put_recording(
        KEY,
        Passes(DATA),
        crc64nvme=crc64nvme(DATA),
        stream_id="stream-1",
        headers=client.options.for_recording(),
    )


async def put_metadata(client: S3Client) -> StoredObject:
    return await client.put_object(KEY, DATA, content_type="application/json", headers=client.options.for_recording())


async def upload_parts(client: S3Client) -> StoredObject:
    metadata, headers = {"cef-stream-id": "stream-1"}, client.options.for_recording()
    created = await client.create_multipart_upload(KEY, metadata=metadata, headers=headers)
    parts = []
    for number, piece in enumerate(PIECES, 1):
        source = Passes(piece, block_bytes=MIB)
        sent = await client.upload_part(KEY, created.upload_id, number, source, created.checksum)
        parts.append(PartToComplete(number, sent.etag, sent.size_bytes, sent.crc64nvme, sent.checksum))
    return await client.complete_multipart_upload(
        KEY, created.upload_id, parts, checksum=created.checksum, stream_id="stream-1"
    )


async def content(endpoint: S3Endpoint) -> bytes:
    async with model_client(endpoint, ChecksumMode.AUTO, "") as client:
        return await client.get_small_object(KEY, max_bytes=100 * MIB) or b""


@pytest.mark.parametrize("encryption", ["", "aws:kms"])
@pytest.mark.parametrize("ignores", [False, True], ids=["checksums", "ignored"])
@pytest.mark.parametrize("checksum", ChecksumMode)
@pytest.mark.parametrize(
    ("store", "operation", "expected"),
    [
        (put_recording, "PutObject", DATA),
        (put_metadata, "PutObject", DATA),
        (upload_parts, "UploadPart", b"".join(PIECES)),
    ],
)
@pytest.mark.parametrize("damaged", [False, True], ids=["whole", "damaged"])
async def test_p8_what_counts_as_stored_has_the_bytes(  # noqa: PLR0917 - the cases are a product
    store: object,
    operation: str,
    expected: bytes,
    checksum: ChecksumMode,
    ignores: bool,
    encryption: str,
    damaged: bool,
) -> None:
    endpoint = S3Endpoint(buckets=["recordings"])
    if ignores:
        endpoint.faults.arm(Fault(Kind.IGNORE_CHECKSUMS, times=None))
    armed = endpoint.faults.arm(Fault(Kind.DAMAGE, operation)) if damaged else None
    stored = None
    async with model_client(endpoint, checksum, encryption) as client:
        assert callable(store)
        try:
            stored = await store(client)
        except S3OperationError as error:
            # A part cannot be read, so damage that no response showed is found in the completed object.
            assert (error.code, error.operation) == ("ChecksumMismatch", "complete_multipart_upload")
            assert damaged
            assert encryption
            assert ignores or checksum is ChecksumMode.MD5
    assert armed is None or armed.hits == 1
    if stored is not None:
        assert await content(endpoint) == expected
        assert stored.size_bytes == len(expected)


@pytest.mark.parametrize(
    ("ignores", "encryption", "reads"), [(False, "aws:kms", 0), (True, "", 0), (True, "aws:kms", 1)]
)
@pytest.mark.parametrize("checksum", [mode for mode in ChecksumMode if mode is not ChecksumMode.AUTO])
@pytest.mark.parametrize("store", [put_recording, put_metadata, upload_parts])
async def test_an_object_is_read_back_only_where_no_response_proves_it(
    store: object, checksum: ChecksumMode, ignores: bool, encryption: str, reads: int
) -> None:
    endpoint = S3Endpoint(buckets=["recordings"])
    if ignores:
        endpoint.faults.arm(Fault(Kind.IGNORE_CHECKSUMS, times=None))
    async with model_client(endpoint, checksum, encryption) as client:
        assert callable(store)
        await store(client)
    assert endpoint.log.calls["GetObject"] == reads


@pytest.mark.parametrize(
    ("found", "body", "text", "transient"),
    [
        ({}, Reply(200, {}, b"a whole recordin?"), "CRC64NVME", True),
        ({"content-length": "3"}, None, "3 bytes", True),
        ({CRC_HEADER: OTHER, "x-amz-checksum-type": "FULL_OBJECT"}, None, "CRC64NVME", True),
        (None, None, "no object", True),
        ({}, Reply(403, {}, b"<Error><Code>InvalidObjectState</Code></Error>"), "archive class", False),
    ],
)
async def test_p8_an_unproved_object_that_differs_or_cannot_be_read_is_an_error(
    found: Mapping[str, str] | None, body: Reply | None, text: str, transient: bool
) -> None:
    head = Reply(404) if found is None else Reply(200, {"content-length": str(len(DATA)), "etag": '"e"', **found})
    store = ScriptedStore(Reply(200, {"etag": '"e"'}), head, *([body] if body is not None else []))
    async with client_of(store, checksum=ChecksumMode.SHA256) as client:
        with pytest.raises(S3OperationError, match=text) as caught:
            await client.put_object(KEY, DATA, content_type="a/b")
    assert store.played_out
    assert caught.value.transient is transient


async def test_p8_a_repeated_header_beside_another_md5_is_not_believed() -> None:
    """The store sends the request's checksum back unread, and its ETag is the MD5 of what it stored."""
    damaged = Reply(200, {"etag": f'"{md5(b"other")}"', CRC_HEADER: OWN})
    head = Reply(200, {"etag": f'"{md5(b"other")}"', "content-length": str(len(DATA))})
    store = ScriptedStore(damaged, head, Reply(200, {}, b"a whole recordin?"))
    async with client_of(store) as client:
        with pytest.raises(S3OperationError, match="ChecksumMismatch"):
            await client.put_object(KEY, DATA, content_type="a/b")
    assert store.played_out


async def test_a_store_that_stops_repeating_a_configured_checksum_is_compared_by_md5() -> None:
    sha = {"x-amz-checksum-sha256": to_base64(digests_of(DATA, ChecksumAlgorithm.SHA256)[ChecksumAlgorithm.SHA256])}
    own, silent = {"etag": f'"{md5(DATA)}"'}, Reply(200, {"etag": f'"{md5(DATA)}"'})
    retrier = Repeats()
    store = ScriptedStore(Reply(200, {**own, **sha}), silent, silent)
    async with client_of(store, checksum=ChecksumMode.SHA256, retrier=retrier) as client:
        for number in (1, 2):
            await client.upload_part(KEY, "u", number, Passes(DATA), ChecksumAlgorithm.SHA256)
    assert [getattr(failure, "code", None) for failure in retrier.failures] == ["ChecksumNotConfirmed"]
    assert all("x-amz-checksum-sha256" in request.headers for request in store.requests)


async def test_p10_an_object_that_is_read_back_for_long_is_no_stalled_stream(autojump_clock: MockClock) -> None:
    progress = Progress()
    seen: list[float] = []

    class Slow(ScriptedStore):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            response = await super().handle_async_request(request)
            return httpx.Response(200, stream=Blocks()) if request.method == "GET" else response

    class Blocks(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for place in range(len(DATA)):
                await trio.sleep(20)
                seen.append(trio.current_time() - progress.last_progress_at)
                yield DATA[place : place + 1] * (64 * 1024 if place else 1)

    head = {"etag": '"e"', "content-length": str(len(DATA))}
    store = Slow(Reply(200, {"etag": '"e"'}), Reply(200, head), Reply(200))
    async with client_of(store, checksum=ChecksumMode.SHA256) as client:
        progress.enter()
        with pytest.raises(S3OperationError, match="not verified"):
            await client.put_object(KEY, DATA, content_type="a/b")
    assert len(seen) == len(DATA)
    assert max(seen) < 60


def composite_result(value: str) -> Reply:
    inner = f"<ETag>&quot;opaque-2&quot;</ETag><ChecksumSHA256>{value}</ChecksumSHA256>"
    xml = (
        f"<CompleteMultipartUploadResult>{inner}<ChecksumType>COMPOSITE</ChecksumType></CompleteMultipartUploadResult>"
    )
    return Reply(200, KMS_HEADERS, xml.encode())


@pytest.mark.parametrize("same", [True, False])
async def test_p8_the_checksum_of_the_parts_checksums_proves_an_encrypted_object(same: bool) -> None:
    pieces = (b"one", b"two")
    sums = [to_base64(digests_of(one, ChecksumAlgorithm.SHA256)[ChecksumAlgorithm.SHA256]) for one in pieces]
    value = composite_checksum(ChecksumAlgorithm.SHA256, sums if same else sums[::-1])
    assert value is not None
    parts = [
        PartToComplete(number, f"opaque{number}", 3, crc64nvme(piece), text)
        for number, piece, text in zip(itertools.count(1), pieces, sums, strict=False)
    ]
    ours = {"content-length": "6", "etag": '"opaque-2"', **KMS_HEADERS}
    more = [] if same else [Reply(200, ours), Reply(200, ours, b"onetwo")]
    store = ScriptedStore(composite_result(value), *more)
    async with client_of(store, checksum=ChecksumMode.SHA256) as client:
        stored = await client.complete_multipart_upload(
            KEY, "u", parts, checksum=ChecksumAlgorithm.SHA256, stream_id="stream-1"
        )
    assert store.played_out
    assert stored.size_bytes == 6


async def test_p8_etags_of_unproved_parts_prove_nothing() -> None:
    """Nothing shows the encryption at Complete, and the object's ETag is that of the parts' ETags."""
    unproved = Reply(200, {"etag": f'"{md5(b"random")}"', **KMS_HEADERS})
    etag = f"{md5(bytes.fromhex(md5(b'random')))}-1"
    done = f"<CompleteMultipartUploadResult><ETag>{etag}</ETag></CompleteMultipartUploadResult>"
    ours = {"content-length": str(len(DATA)), "etag": f'"{etag}"'}
    store = ScriptedStore(unproved, Reply(200, {}, done.encode()), Reply(200, ours), Reply(200, ours, b"x" * len(DATA)))
    async with client_of(store, checksum=ChecksumMode.SHA256) as client:
        sent = await client.upload_part(KEY, "u", 1, Passes(DATA), ChecksumAlgorithm.SHA256)
        part = PartToComplete(1, sent.etag, sent.size_bytes, sent.crc64nvme, sent.checksum)
        with pytest.raises(S3OperationError, match="differs from its parts"):
            await client.complete_multipart_upload(
                KEY, "u", [part], checksum=ChecksumAlgorithm.SHA256, stream_id="stream-1"
            )
    assert store.played_out
