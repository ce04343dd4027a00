"""The pitfalls of CompleteMultipartUpload."""

from __future__ import annotations

import httpx
import pytest
from s3.scripted_store import (
    CRC_HEADER,
    Repeats,
    Reply,
    Script,
    ScriptedStore,
    client_of,
    crc64,
    error_reply,
    headers_of,
    md5,
)

from cef_trio.exceptions import S3OperationError
from cef_trio.s3.checksums import crc64nvme
from cef_trio.s3.client import S3Client
from cef_trio.s3.config import ChecksumMode
from cef_trio.s3.etags import multipart_etag
from cef_trio.s3.model import ChecksumAlgorithm, PartToComplete, StoredObject
from cef_trio.settings.object_options import ObjectOptions

CRC = ChecksumAlgorithm.CRC64NVME
MD5 = ChecksumAlgorithm.MD5
PIECES = [b"first part", b"second part", b"end"]
WHOLE = b"".join(PIECES)
PARTS = [PartToComplete(n, md5(piece), len(piece), crc64nvme(piece), None) for n, piece in enumerate(PIECES, 1)]
ETAG = multipart_etag([part.etag for part in PARTS])
OURS = {"x-amz-meta-cef-stream-id": "stream-1", "content-length": str(len(WHOLE)), "etag": f'"{ETAG}"'}
OURS_CRC = {**OURS, CRC_HEADER: crc64(WHOLE), "x-amz-checksum-type": "FULL_OBJECT"}
GONE = error_reply(404, "NoSuchUpload")


def result(etag: str | None = ETAG, crc: str | None = None, kind: str = "FULL_OBJECT", prefix: str = "") -> Reply:
    inner = f"<ETag>&quot;{etag}&quot;</ETag>" if etag else "<ETag/>"
    if crc:
        inner += f"<ChecksumCRC64NVME>{crc}</ChecksumCRC64NVME><ChecksumType>{kind}</ChecksumType>"
    xml = f"<CompleteMultipartUploadResult><Location>x</Location>{inner}</CompleteMultipartUploadResult>"
    return Reply(200, {}, f'{prefix}<?xml version="1.0"?>{xml}'.encode())


async def complete(client: S3Client, checksum: ChecksumAlgorithm = CRC) -> StoredObject:
    return await client.complete_multipart_upload("k", "u", PARTS, checksum=checksum, stream_id="stream-1")


async def completed_by(*script: Script, checksum: ChecksumAlgorithm = CRC) -> StoredObject:
    store = ScriptedStore(*script)
    async with client_of(store) as client:
        stored = await complete(client, checksum)
    assert store.played_out
    return stored


async def failed_by(*script: Script, checksum: ChecksumAlgorithm = CRC) -> S3OperationError:
    store = ScriptedStore(*script)
    async with client_of(store) as client:
        with pytest.raises(S3OperationError) as caught:
            await complete(client, checksum)
    assert store.played_out
    return caught.value


async def test_the_whole_objects_crc_and_size_are_sent_for_s3_to_prove() -> None:
    store = ScriptedStore(result(crc=crc64(WHOLE)))
    async with client_of(store) as client:
        stored = await complete(client)
    assert stored == StoredObject("k", len(WHOLE), ETAG or "", crc64nvme(WHOLE), {})
    request = store.requests[0]
    assert (request.method, request.target) == ("POST", "/recordings/k?uploadId=u")
    assert request.headers[CRC_HEADER] == crc64(WHOLE)
    assert request.headers["x-amz-checksum-type"] == "FULL_OBJECT"
    assert request.headers["x-amz-mp-object-size"] == str(len(WHOLE))
    assert request.body.count(b"<Part>") == 3
    assert request.headers["content-length"] == str(len(request.body))


@pytest.mark.parametrize("checksum", [MD5, ChecksumAlgorithm.CRC32C, ChecksumAlgorithm.SHA256])
async def test_other_checksums_send_no_full_object_crc(checksum: ChecksumAlgorithm) -> None:
    store = ScriptedStore(result())
    async with client_of(store, checksum=ChecksumMode(checksum.value)) as client:
        await complete(client, checksum)
    assert headers_of(store.requests, CRC_HEADER) == [None]
    assert headers_of(store.requests, "x-amz-mp-object-size") == [None]


async def test_parts_are_listed_in_order_whatever_the_callers_order() -> None:
    store = ScriptedStore(result(crc=crc64(WHOLE)))
    async with client_of(store) as client:
        await client.complete_multipart_upload("k", "u", PARTS[::-1], checksum=CRC, stream_id="stream-1")
    assert store.requests[0].body.index(b">1<") < store.requests[0].body.index(b">2<")


async def test_an_upload_without_parts_is_refused_before_anything_is_sent() -> None:
    async with client_of(ScriptedStore()) as client:
        with pytest.raises(ValueError, match="parts"):
            await client.complete_multipart_upload("k", "u", [], checksum=CRC, stream_id="s")


@pytest.mark.parametrize("prefix", [" " * 5000, "\n \n", ""])
async def test_white_space_that_keeps_the_connection_alive_is_no_trouble(prefix: str) -> None:
    assert (await completed_by(result(crc=crc64(WHOLE), prefix=prefix))).etag == ETAG


async def test_an_error_within_a_200_is_an_error() -> None:
    body = b"     <?xml version='1.0'?><Error><Code>InternalError</Code><Message>try again</Message></Error>"
    internal = await failed_by(Reply(200, {}, body))
    assert (internal.code, internal.transient) == ("InternalError", True)
    denied = await failed_by(Reply(200, {}, b"<Error><Code>AccessDenied</Code></Error>"))
    assert (denied.code, denied.transient) == ("AccessDenied", False)
    unheard = await failed_by(Reply(200, {}, b"<Error><Code>WordNobodyKnows</Code></Error>"))
    assert unheard.transient


UNCLEAR = [
    Reply(200, {}, b""),
    Reply(200, {}, b"   \n "),
    Reply(200, {}, b"<CompleteMultipartUploadResult><ETag>cut"),
    Reply(200, {}, b"<html>captive portal</html>"),
    Reply(200, {}, b"<Complete", broken_after=True),
    Reply(200, {}, b"", broken_after=True),
]


@pytest.mark.parametrize("unclear", UNCLEAR)
async def test_a_response_without_an_outcome_is_resolved_by_the_object(unclear: Reply) -> None:
    stored = await completed_by(unclear, Reply(200, OURS_CRC))
    assert stored == StoredObject("k", len(WHOLE), ETAG or "", crc64nvme(WHOLE), {"cef-stream-id": "stream-1"})


@pytest.mark.parametrize("unclear", UNCLEAR)
async def test_a_response_without_an_outcome_and_without_an_object_is_retried(unclear: Reply) -> None:
    error = await failed_by(unclear, Reply(404))
    assert error.transient
    assert "there is no object" in str(error)


async def test_a_reply_that_never_came_is_found_out_by_the_repetition() -> None:
    retrier = Repeats()
    store = ScriptedStore(httpx.ReadTimeout("slow"), GONE, Reply(200, OURS_CRC))
    async with client_of(store, retrier=retrier) as client:
        assert (await complete(client)).etag == ETAG
    assert [request.method for request in store.requests] == ["POST", "POST", "HEAD"]
    assert store.requests[2].headers["x-amz-checksum-mode"] == "ENABLED"


@pytest.mark.parametrize("gone", [GONE, error_reply(404, "NoSuchKey"), Reply(404)])
async def test_completing_again_after_a_success_is_a_success(gone: Reply) -> None:
    assert (await completed_by(gone, Reply(200, OURS_CRC))).crc64nvme == crc64nvme(WHOLE)
    assert (await completed_by(gone, Reply(200, OURS), checksum=MD5)).etag == ETAG


@pytest.mark.parametrize(
    "change",
    [
        {"x-amz-meta-cef-stream-id": "stream-2"},
        {"x-amz-meta-cef-stream-id": ""},
        {"content-length": "1"},
        {CRC_HEADER: crc64(b"other bytes")},
    ],
)
async def test_the_existence_of_an_object_at_the_key_proves_nothing(change: dict[str, str]) -> None:
    error = await failed_by(GONE, Reply(200, {**OURS_CRC, **change}))
    assert (error.code, error.status, error.transient) == ("NoSuchUpload", 404, False)
    assert "the object was checked" in str(error)


async def test_an_object_that_is_not_there_means_that_the_upload_is_lost() -> None:
    assert (await failed_by(GONE, Reply(404))).code == "NoSuchUpload"


@pytest.mark.parametrize("etag", ["opaque", f"{'0' * 32}-3", f"{'0' * 32}-7"])
async def test_an_object_that_cannot_be_compared_is_verified_by_reading_it(etag: str) -> None:
    headers = {**OURS, "etag": f'"{etag}"'}
    assert (await completed_by(GONE, Reply(200, headers), Reply(200, headers, WHOLE))).etag == etag
    error = await failed_by(GONE, Reply(200, headers), Reply(200, headers, WHOLE[:-1] + b"?"))
    assert (error.code, error.transient) == ("NoSuchUpload", False)
    assert crc64(WHOLE) in str(error)


async def test_an_interrupted_verifying_read_is_transient() -> None:
    headers = {**OURS, "etag": '"opaque"'}
    error = await failed_by(GONE, Reply(200, headers), Reply(200, headers, WHOLE[:3], broken_after=True))
    assert error.transient


async def test_an_empty_etag_is_taken_from_the_object() -> None:
    """Ceph."""
    assert (await completed_by(result(etag=None), Reply(200, OURS), checksum=MD5)).etag == ETAG
    assert (await completed_by(result(etag=None), Reply(200, OURS_CRC))).crc64nvme == crc64nvme(WHOLE)
    assert (await failed_by(result(etag=None), Reply(404))).transient


async def test_an_object_with_another_crc_is_refused_for_good_with_both_values() -> None:
    error = await failed_by(result(crc=crc64(b"other")))
    assert (error.code, error.transient) == ("ChecksumMismatch", False)
    assert crc64(b"other") in str(error)
    assert crc64(WHOLE) in str(error)


async def test_an_object_with_another_etag_is_refused_unless_its_bytes_are_ours() -> None:
    other = f"{'0' * 32}-3"
    headers = {**OURS, "etag": f'"{other}"'}
    assert (await completed_by(result(etag=other), Reply(200, headers), Reply(200, headers, WHOLE))).etag == other
    error = await failed_by(result(etag=other), Reply(200, headers), Reply(200, headers, b"x" * len(WHOLE)))
    assert (error.code, error.transient) == ("ChecksumMismatch", False)


async def test_an_object_of_another_size_is_refused() -> None:
    error = await failed_by(result(etag="opaque"), Reply(200, {**OURS, "content-length": "3"}))
    assert error.code == "ChecksumMismatch"
    assert "3 bytes" in str(error)


async def test_a_crc_that_decides_leaves_the_etag_in_peace() -> None:
    """With KMS encryption the ETag is not an MD5; the CRC64NVME decides."""
    assert (await completed_by(result(etag="kms-own", crc=crc64(WHOLE)))).etag == "kms-own"


OPAQUE = f"{'0' * 32}-3"
KMS = Reply(200, {"x-amz-server-side-encryption": "aws:kms"}, result(etag=OPAQUE).body)
OURS_KMS = {**OURS, "etag": f'"{OPAQUE}"', "x-amz-server-side-encryption": "aws:kms"}


@pytest.mark.parametrize("encryption", ["aws:kms", "aws:kms:dsse"])
async def test_p8_with_kms_an_object_without_a_checksum_is_read(encryption: str) -> None:
    headers = {"x-amz-server-side-encryption": encryption}
    done, found = Reply(200, headers, KMS.body), Reply(200, {**OURS_KMS, **headers})
    assert (await completed_by(done, found, Reply(200, {}, WHOLE), checksum=MD5)).etag == OPAQUE
    damaged = Reply(200, {}, b"x" * len(WHOLE))
    assert (await failed_by(done, found, damaged, checksum=MD5)).code == "ChecksumMismatch"


async def test_p8_with_kms_requested_a_store_need_not_repeat_it() -> None:
    ours = {**OURS, "etag": f'"{ETAG}"'}
    store = ScriptedStore(result(), Reply(200, ours), Reply(200, ours, WHOLE))
    async with client_of(store, options=ObjectOptions(encryption="aws:kms")) as client:
        assert (await complete(client, MD5)).etag == ETAG
    assert store.played_out


async def test_with_kms_the_crc_that_s3_keeps_decides_although_the_parts_were_proved_by_md5() -> None:
    ours, others = ({**OURS_KMS, CRC_HEADER: crc64(data)} for data in (WHOLE, b"other"))
    assert (await completed_by(KMS, Reply(200, ours), checksum=MD5)).crc64nvme == crc64nvme(WHOLE)
    error = await failed_by(KMS, Reply(200, others), checksum=MD5)
    assert (error.code, error.transient) == ("ChecksumMismatch", False)


async def test_with_kms_an_object_of_another_size_is_refused() -> None:
    error = await failed_by(KMS, Reply(200, {**OURS_KMS, "content-length": "3"}), checksum=MD5)
    assert (error.code, error.transient) == ("ChecksumMismatch", False)


async def test_with_kms_an_object_with_another_etag_than_the_response_is_read() -> None:
    later = {**OURS_KMS, "etag": '"later"'}
    assert (await completed_by(KMS, Reply(200, later), Reply(200, later, WHOLE), checksum=MD5)).etag == "later"
    error = await failed_by(KMS, Reply(200, later), Reply(200, later, b"x" * len(WHOLE)), checksum=MD5)
    assert error.code == "ChecksumMismatch"


async def test_with_kms_a_lost_answer_is_made_up_for_by_the_bytes() -> None:
    ours = Reply(200, OURS_KMS)
    assert (await completed_by(GONE, ours, Reply(200, OURS_KMS, WHOLE), checksum=MD5)).etag == OPAQUE
    assert (await failed_by(GONE, ours, Reply(200, OURS_KMS, b"x" * len(WHOLE)), checksum=MD5)).code == "NoSuchUpload"


async def test_an_archived_object_without_a_comparable_etag_is_unverified() -> None:
    archived = error_reply(403, "InvalidObjectState")
    error = await failed_by(GONE, Reply(200, OURS_KMS), archived, checksum=MD5)
    assert error.code == "NoSuchUpload"
    assert "archive class" in str(error)
    assert (
        await failed_by(result(etag="odd"), Reply(200, OURS_KMS), archived, checksum=MD5)
    ).code == "ChecksumMismatch"


async def test_a_refused_completion_is_an_error_without_a_check_of_the_object() -> None:
    error = await failed_by(error_reply(400, "EntityTooSmall"))
    assert (error.code, error.transient) == ("EntityTooSmall", False)
    assert (await failed_by(error_reply(400, "InvalidPart"))).code == "InvalidPart"
    assert (await failed_by(error_reply(503, "SlowDown"))).transient


async def test_a_bad_digest_of_the_whole_is_s3_proving_p1() -> None:
    assert (await failed_by(error_reply(400, "BadDigest"))).code == "BadDigest"


async def test_while_the_object_cannot_be_looked_at_the_outcome_stays_open() -> None:
    assert (await failed_by(GONE, httpx.ConnectError("down"))).transient
