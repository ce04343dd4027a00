"""Creating, sending, listing and aborting: the requests, and the results of every response."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime

import httpx
import pytest
from s3.scripted_store import (
    CRC_HEADER,
    Passes,
    Recorded,
    Repeats,
    Reply,
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

from cef_trio.exceptions import LeaseLostError, RecordingChangedError, S3OperationError
from cef_trio.s3.checksums import crc64nvme
from cef_trio.s3.config import ChecksumMode, PayloadSigning
from cef_trio.s3.model import (
    ChecksumAlgorithm,
    CreatedUpload,
    ListedObject,
    ListedUpload,
    ObjectsPage,
    UploadedPart,
)

DATA = b"0123456789abcdef!"
CRC = ChecksumAlgorithm.CRC64NVME
MD5 = ChecksumAlgorithm.MD5


async def test_create_requests_the_checksum_of_the_full_object_and_has_the_metadata() -> None:
    store = ScriptedStore(created())
    async with client_of(store) as client:
        upload = await client.create_multipart_upload(
            "a b.mp4", metadata={"cef-stream-id": "s-1"}, headers={"x-amz-storage-class": "STANDARD_IA"}
        )
    assert upload == CreatedUpload("upload-1", CRC)
    request = store.requests[0]
    assert (request.method, request.target) == ("POST", "/recordings/a%20b.mp4?uploads")
    assert request.headers["content-length"] == "0"
    assert {
        "x-amz-checksum-algorithm": "CRC64NVME",
        "x-amz-checksum-type": "FULL_OBJECT",
        "x-amz-meta-cef-stream-id": "s-1",
        "content-type": "video/mp4",
        "x-amz-storage-class": "STANDARD_IA",
    }.items() <= request.headers.items()
    assert "x-amz-meta-cef-stream-id" in request.headers["authorization"]


@pytest.mark.parametrize("metadata", [{"a": "x\ny"}, {"a": "é"}, {"a": " x"}, {"a b": "x"}, {"ä": "x"}, {"a": "x  y"}])
async def test_metadata_that_s3_would_change_is_refused_before_anything_is_sent(
    metadata: dict[str, str],
) -> None:
    async with client_of(ScriptedStore()) as client:
        with pytest.raises(ValueError, match="metadata"):
            await client.create_multipart_upload("k", metadata=metadata)


@pytest.mark.parametrize(
    "refusal",
    [
        error_reply(400, "InvalidRequest", "Checksum algorithm provided is unsupported."),
        error_reply(400, "InvalidArgument"),
        error_reply(501, "NotImplemented", "A header you provided implies functionality that is not implemented"),
        Reply(501),
        Reply(400),
    ],
)
async def test_a_store_that_refuses_the_checksum_gets_md5_from_then_on_which_is_logged_once(
    refusal: Reply,
) -> None:
    store = ScriptedStore(refusal, created("u1", crc=False), created("u2", crc=False))
    with capture_logs() as logs:
        async with client_of(store) as client:
            first = await client.create_multipart_upload("k1", metadata={})
            second = await client.create_multipart_upload("k2", metadata={})
    assert (first.checksum, second.checksum) == (MD5, MD5)
    assert headers_of(store.requests, "x-amz-checksum-algorithm") == ["CRC64NVME", None, None]
    assert [entry["event"] for entry in logs] == ["s3_checksum_unsupported"]


async def test_a_store_that_does_not_confirm_the_checksum_gets_md5_without_a_second_upload() -> None:
    store = ScriptedStore(created("u1", crc=False), created("u2", crc=False), part_ack(DATA, crc=False))
    with capture_logs() as logs:
        async with client_of(store) as client:
            first = await client.create_multipart_upload("k1", metadata={})
            second = await client.create_multipart_upload("k2", metadata={})
            await client.upload_part("k1", first.upload_id, 1, Passes(DATA), first.checksum)
    assert first == CreatedUpload("u1", MD5)
    assert second.checksum is MD5
    assert headers_of(store.requests, "x-amz-checksum-algorithm") == ["CRC64NVME", None, None]
    assert store.requests[2].headers["content-md5"] == base64.b64encode(hashlib.md5(DATA).digest()).decode()
    assert CRC_HEADER not in store.requests[2].headers
    assert [entry["event"] for entry in logs] == ["s3_checksum_unsupported"]


async def test_a_rejection_that_md5_does_not_cure_is_no_reason_to_fall_back() -> None:
    store = ScriptedStore(
        error_reply(400, "InvalidArgument", "first"), error_reply(400, "InvalidArgument", "second"), created()
    )
    with capture_logs() as logs:
        async with client_of(store) as client:
            with pytest.raises(S3OperationError, match="first"):
                await client.create_multipart_upload("k", metadata={})
            assert (await client.create_multipart_upload("k", metadata={})).checksum is CRC
    assert logs == []


@pytest.mark.parametrize(
    ("mode", "algorithm", "kind"),
    [
        (ChecksumMode.CRC64NVME, "CRC64NVME", "FULL_OBJECT"),
        (ChecksumMode.CRC32C, "CRC32C", "COMPOSITE"),
        (ChecksumMode.SHA256, "SHA256", "COMPOSITE"),
        (ChecksumMode.MD5, None, None),
    ],
)
async def test_a_configured_checksum_is_never_replaced(
    mode: ChecksumMode, algorithm: str | None, kind: str | None
) -> None:
    store = ScriptedStore(created(crc=False), error_reply(400, "InvalidRequest"))
    async with client_of(store, checksum=mode) as client:
        upload = await client.create_multipart_upload("k", metadata={})
        assert upload.checksum.value == mode.value
        with pytest.raises(S3OperationError):
            await client.create_multipart_upload("k", metadata={})
    assert headers_of(store.requests, "x-amz-checksum-algorithm") == [algorithm] * 2
    assert headers_of(store.requests, "x-amz-checksum-type") == [kind] * 2


@pytest.mark.parametrize("body", [b"", b"<InitiateMultipartUploadResult/>"])
async def test_a_created_upload_without_an_id_is_a_transient_error(body: bytes) -> None:
    async with client_of(ScriptedStore(Reply(200, {}, body))) as client:
        with pytest.raises(S3OperationError) as caught:
            await client.create_multipart_upload("k", metadata={})
    assert (caught.value.code, caught.value.transient) == ("UnreadableAnswer", True)


async def test_a_part_is_sent_whole_with_its_length_and_crc_and_an_unsigned_body() -> None:
    store = ScriptedStore(part_ack(DATA))
    source = Passes(DATA)
    async with client_of(store) as client:
        part = await client.upload_part("k", "u/1+=", 7, source, CRC)
    assert part == UploadedPart(7, len(DATA), md5(DATA), crc64nvme(DATA), None)
    request = store.requests[0]
    assert request.body == DATA
    assert request.target == "/recordings/k?partNumber=7&uploadId=u%2F1%2B%3D"
    assert request.headers["content-length"] == str(len(DATA))
    assert "transfer-encoding" not in request.headers
    assert request.headers[CRC_HEADER] == crc64(DATA)
    assert request.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    assert CRC_HEADER in request.headers["authorization"]
    assert source.read_count == 2
    assert source.open_count == 0


@pytest.mark.parametrize(
    ("algorithm", "header"),
    [
        (ChecksumAlgorithm.CRC32C, "x-amz-checksum-crc32c"),
        (ChecksumAlgorithm.SHA256, "x-amz-checksum-sha256"),
    ],
)
async def test_checksums_that_complete_must_repeat_are_returned(algorithm: ChecksumAlgorithm, header: str) -> None:
    store = ScriptedStore(lambda request: Reply(200, {"etag": '"e"', header: request.headers[header]}))
    async with client_of(store, checksum=ChecksumMode(algorithm.value)) as client:
        part = await client.upload_part("k", "u", 1, Passes(DATA), algorithm)
    assert part.checksum == store.requests[0].headers[header]
    assert part.crc64nvme == crc64nvme(DATA)


async def test_a_signed_body_carries_its_sha256() -> None:
    store = ScriptedStore(part_ack(DATA))
    async with client_of(store, payload_signing=PayloadSigning.SIGNED) as client:
        await client.upload_part("k", "u", 1, Passes(DATA), CRC)
    assert store.requests[0].headers["x-amz-content-sha256"] == hashlib.sha256(DATA).hexdigest()


@pytest.mark.parametrize(
    "refusal",
    [
        error_reply(400, "XAmzContentSHA256Mismatch"),
        error_reply(400, "InvalidRequest", "Missing or bad x-amz-content-sha256"),
        error_reply(403, "SignatureDoesNotMatch"),
        error_reply(501, "NotImplemented", "UNSIGNED-PAYLOAD is not supported"),
    ],
)
async def test_a_store_that_requires_it_gets_signed_bodies_from_then_on_which_is_logged_once(refusal: Reply) -> None:
    store = ScriptedStore(refusal, part_ack(DATA), part_ack(DATA))
    with capture_logs() as logs:
        async with client_of(store) as client:
            part = await client.upload_part("k", "u", 1, Passes(DATA), CRC)
            await client.upload_part("k", "u", 2, Passes(DATA), CRC)
    assert part.etag == md5(DATA)
    signed = hashlib.sha256(DATA).hexdigest()
    assert headers_of(store.requests, "x-amz-content-sha256") == ["UNSIGNED-PAYLOAD", signed, signed]
    assert [entry["event"] for entry in logs] == ["s3_payload_signing_needed"]


async def test_a_wrong_secret_is_a_wrong_secret_signed_or_not() -> None:
    store = ScriptedStore(*[error_reply(403, "SignatureDoesNotMatch")] * 2, part_ack(DATA))
    with capture_logs() as logs:
        async with client_of(store) as client:
            with pytest.raises(S3OperationError, match="S3_SECRET_ACCESS_KEY"):
                await client.upload_part("k", "u", 1, Passes(DATA), CRC)
            await client.upload_part("k", "u", 1, Passes(DATA), CRC)
    assert store.requests[2].headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    assert logs == []


async def test_after_an_accepted_unsigned_body_a_bad_signature_changes_no_mode() -> None:
    store = ScriptedStore(part_ack(DATA), error_reply(403, "SignatureDoesNotMatch"))
    async with client_of(store) as client:
        await client.upload_part("k", "u", 1, Passes(DATA), CRC)
        with pytest.raises(S3OperationError):
            await client.upload_part("k", "u", 2, Passes(DATA), CRC)
    assert store.played_out


async def test_an_outage_while_the_other_mode_is_tried_settles_nothing() -> None:
    store = ScriptedStore(error_reply(400, "XAmzContentSHA256Mismatch"), error_reply(503, "SlowDown"), part_ack(DATA))
    async with client_of(store) as client:
        with pytest.raises(S3OperationError, match="SlowDown"):
            await client.upload_part("k", "u", 1, Passes(DATA), CRC)
        await client.upload_part("k", "u", 1, Passes(DATA), CRC)
    assert store.requests[2].headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"


async def test_a_part_whose_crc_came_back_different_is_sent_again() -> None:
    wrong = Reply(200, {"etag": '"e"', CRC_HEADER: crc64(b"other")})
    async with client_of(ScriptedStore(wrong)) as client:
        with pytest.raises(S3OperationError, match="ChecksumMismatch") as caught:
            await client.upload_part("k", "u", 1, Passes(DATA), CRC)
    assert caught.value.transient
    assert crc64(b"other") in str(caught.value)
    assert crc64(DATA) in str(caught.value)


async def test_a_part_whose_crc_was_ignored_is_verified_by_its_etag_without_another_read() -> None:
    source = Passes(DATA)
    store = ScriptedStore(part_ack(DATA, crc=False), part_ack(DATA, crc=False))
    with capture_logs() as logs:
        async with client_of(store) as client:
            part = await client.upload_part("k", "u", 1, source, CRC)
            await client.upload_part("k", "u", 2, Passes(DATA), CRC)
    assert part.etag == md5(DATA)
    assert source.read_count == 2
    assert [entry["event"] for entry in logs] == ["s3_checksum_unsupported"]
    assert "content-md5" in store.requests[1].headers
    assert CRC_HEADER not in store.requests[1].headers


async def test_a_part_whose_crc_was_ignored_and_whose_etag_is_wrong_is_not_taken() -> None:
    async with client_of(ScriptedStore(part_ack(b"damaged", crc=False))) as client:
        with pytest.raises(S3OperationError, match="ChecksumMismatch") as caught:
            await client.upload_part("k", "u", 1, Passes(DATA), CRC)
    assert caught.value.transient


@pytest.mark.parametrize(
    "headers",
    [
        {"etag": '"opaque-etag"'},
        {"etag": f'"{"0" * 32}"', "x-amz-server-side-encryption": "aws:kms"},
        {"etag": f'"{"0" * 32}"', "x-amz-server-side-encryption-customer-algorithm": "AES256"},
    ],
)
async def test_an_unverified_part_is_sent_again_with_an_md5_that_s3_must_check(
    headers: dict[str, str],
) -> None:
    retrier = Repeats()
    store = ScriptedStore(Reply(200, headers), Reply(200, headers))
    async with client_of(store, retrier=retrier) as client:
        part = await client.upload_part("k", "u", 1, Passes(DATA), CRC)
    assert part.etag == headers["etag"].strip('"')
    assert [getattr(failure, "code", None) for failure in retrier.failures] == ["ChecksumNotConfirmed"]
    assert "content-md5" in store.requests[1].headers


async def test_a_store_that_stops_confirming_the_checksum_is_not_trusted() -> None:
    retrier = Repeats()
    store = ScriptedStore(part_ack(DATA), part_ack(DATA, crc=False), part_ack(DATA, crc=False))
    async with client_of(store, retrier=retrier) as client:
        await client.upload_part("k", "u", 1, Passes(DATA), CRC)
        await client.upload_part("k", "u", 2, Passes(DATA), CRC)
    assert len(retrier.failures) == 1
    assert "content-md5" in store.requests[2].headers


async def test_md5_is_no_longer_computed_once_the_store_confirmed_a_crc() -> None:
    """An ETag that is not the MD5 is accepted only if no MD5 was computed."""
    other_etag = Reply(200, {"etag": f'"{"0" * 32}"', CRC_HEADER: crc64(DATA)})
    async with client_of(ScriptedStore(part_ack(DATA), other_etag)) as client:
        await client.upload_part("k", "u", 1, Passes(DATA), CRC)
        assert (await client.upload_part("k", "u", 2, Passes(DATA), CRC)).etag == "0" * 32


async def test_a_configured_crc64nvme_may_be_used_with_a_store_that_never_confirms_it() -> None:
    store = ScriptedStore(*[part_ack(DATA, crc=False)] * 2)
    with capture_logs() as logs:
        async with client_of(store, checksum=ChecksumMode.CRC64NVME) as client:
            await client.upload_part("k", "u", 1, Passes(DATA), CRC)
            await client.upload_part("k", "u", 2, Passes(DATA), CRC)
    assert [entry["event"] for entry in logs] == ["s3_checksum_not_confirmed"]
    assert all(CRC_HEADER in request.headers for request in store.requests)


async def test_in_md5_mode_the_etag_must_be_ours_where_it_is_an_md5() -> None:
    store = ScriptedStore(part_ack(b"damaged"), Reply(200, {"etag": '"opaque"'}))
    async with client_of(store, checksum=ChecksumMode.MD5) as client:
        with pytest.raises(S3OperationError, match="ChecksumMismatch"):
            await client.upload_part("k", "u", 1, Passes(DATA), MD5)
        assert (await client.upload_part("k", "u", 1, Passes(DATA), MD5)).etag == "opaque"


async def test_p6_a_part_acknowledged_without_an_etag_is_a_transient_error() -> None:
    """A proxy that removes the header for a while failed every recording for good."""
    async with client_of(ScriptedStore(Reply(200, {CRC_HEADER: crc64(DATA)}))) as client:
        with pytest.raises(S3OperationError, match="MissingETag") as caught:
            await client.upload_part("k", "u", 1, Passes(DATA), CRC)
    assert caught.value.transient


async def test_p6_an_etag_that_no_document_can_hold_is_a_transient_error() -> None:
    """It was recorded, and each completion was refused with MalformedXML."""
    store = ScriptedStore(Reply(200, {CRC_HEADER: crc64(DATA), "etag": '"a\x01\x7fb"'}))
    async with client_of(store) as client:
        with pytest.raises(S3OperationError, match="UnreadableAnswer") as caught:
            await client.upload_part("k", "u", 1, Passes(DATA), CRC)
    assert caught.value.transient


@pytest.mark.parametrize("second", [DATA[:-1] + b"?", b"?" + DATA[1:], DATA[:5], b""])
async def test_bytes_that_changed_between_the_passes_are_never_sent_whole(second: bytes) -> None:
    source = Passes(DATA, second, DATA)
    received: list[bytes] = []

    async def never(recorded: Recorded) -> Reply:
        received.append(recorded.body)
        return part_ack(recorded.body)

    async with client_of(ScriptedStore(never)) as client:
        with pytest.raises(RecordingChangedError) as caught:
            await client.upload_part("k", "u", 1, source, CRC)
    assert caught.value.transient
    assert received == []
    assert source.open_count == 0


async def test_a_source_of_another_size_than_declared_is_detected_before_anything_is_sent() -> None:
    async with client_of(ScriptedStore()) as client:
        for size in (len(DATA) + 1, len(DATA) - 1):
            with pytest.raises(RecordingChangedError):
                await client.upload_part("k", "u", 1, Passes(DATA, size_bytes=size), CRC)


async def test_a_response_before_the_end_of_the_body_is_read_and_the_source_closed() -> None:
    source = Passes(DATA)
    early = error_reply(403, "AccessDenied")
    store = ScriptedStore(Reply(early.status, early.headers, early.body, reads_body=False))
    async with client_of(store) as client:
        with pytest.raises(S3OperationError, match="AccessDenied"):
            await client.upload_part("k", "u", 1, source, CRC)
    assert source.open_count == 0


async def test_an_upload_that_is_gone_has_one_name() -> None:
    """Ceph sends NoSuchKey instead of NoSuchUpload."""
    store = ScriptedStore(*[error_reply(404, "NoSuchKey")] * 2, *[error_reply(404, "NoSuchUpload")] * 2)
    async with client_of(store) as client:
        for _ in range(2):
            with pytest.raises(S3OperationError) as caught:
                await client.list_parts("k", "u")
            assert caught.value.code == "NoSuchUpload"
        for _ in range(2):
            await client.abort_multipart_upload("k", "u")
    async with client_of(ScriptedStore(Reply(404))) as client:  # a store that never says why
        with pytest.raises(S3OperationError) as caught:
            await client.upload_part("k", "u", 1, Passes(DATA), CRC)
        assert (caught.value.code, caught.value.transient) == ("NoSuchUpload", False)


async def test_aborting_is_idempotent_but_a_rejection_is_an_error() -> None:
    store = ScriptedStore(
        Reply(204), error_reply(404, "NoSuchUpload"), error_reply(404, "NoSuchKey"), error_reply(403, "AccessDenied")
    )
    async with client_of(store) as client:
        for _ in range(3):
            await client.abort_multipart_upload("k", "u")
        with pytest.raises(S3OperationError):
            await client.abort_multipart_upload("k", "u")
    assert store.requests[0].method == "DELETE"
    assert store.requests[0].target == "/recordings/k?uploadId=u"


async def test_p2_an_upload_is_not_aborted_once_the_lease_is_lost_however_often_the_request_was_sent_before() -> None:
    store, retrier = ScriptedStore(httpx.ReadError("connection reset")), Repeats()
    lost = LeaseLostError("another daemon owns the stream")

    async def fence() -> None:
        if store.played_out:
            raise lost

    async with client_of(store, retrier=retrier) as client:
        with pytest.raises(LeaseLostError) as raised:
            await client.abort_multipart_upload("k", "u", fence=fence)
    assert raised.value is lost
    assert lost not in retrier.failures  # it is no failure of S3
    assert len(store.requests) == 1


def parts_page(numbers: range, marker: int | None) -> Reply:
    parts = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>e{n}</ETag><Size>{n}</Size></Part>" for n in numbers)
    more = f"<IsTruncated>true</IsTruncated><NextPartNumberMarker>{marker}</NextPartNumberMarker>" if marker else ""
    return Reply(200, {}, f"<ListPartsResult>{more}{parts}</ListPartsResult>".encode())


async def test_all_pages_of_parts_are_read() -> None:
    store = ScriptedStore(parts_page(range(1, 1001), 1000), parts_page(range(1001, 1003), None))
    async with client_of(store) as client:
        parts = await client.list_parts("k", "u")
    assert [part.part_number for part in parts] == list(range(1, 1003))
    assert [request.target.partition("?")[2] for request in store.requests] == [
        "uploadId=u",
        "uploadId=u&part-number-marker=1000",
    ]


async def test_a_repeating_listing_of_parts_is_aborted() -> None:
    store = ScriptedStore(parts_page(range(1, 3), 2), parts_page(range(1, 3), 2))
    async with client_of(store) as client:
        with pytest.raises(S3OperationError, match="itself"):
            await client.list_parts("k", "u")


async def test_all_pages_of_open_uploads_are_read_with_keys_of_any_characters() -> None:
    def page(key: str, more: str) -> Reply:
        return Reply(
            200,
            {},
            f"<ListMultipartUploadsResult><EncodingType>url</EncodingType>{more}<Upload><Key>{key}</Key>"
            f"<UploadId>u</UploadId><Initiated>2026-11-23T12:00:00.000Z</Initiated></Upload>"
            f"</ListMultipartUploadsResult>".encode(),
        )

    truncated = (
        "<IsTruncated>true</IsTruncated><NextKeyMarker>streams/a+b%0A</NextKeyMarker>"
        "<NextUploadIdMarker>u&amp;</NextUploadIdMarker>"
    )
    store = ScriptedStore(page("streams/a+b%0A", truncated), page("streams/c%2Bd", ""))
    async with client_of(store) as client:
        uploads = await client.list_multipart_uploads("streams/")
    at = datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert uploads == [ListedUpload("streams/a b\n", "u", at), ListedUpload("streams/c+d", "u", at)]
    assert store.requests[1].target == (
        "/recordings?uploads&encoding-type=url&prefix=streams%2F&key-marker=streams%2Fa%20b%0A&upload-id-marker=u%26"
    )


def objects_page(key: str, more: str = "", size: str = "7") -> Reply:
    entry = f"<Contents><Key>{key}</Key><Size>{size}</Size><ETag>&quot;e-1&quot;</ETag></Contents>"
    body = f"<ListBucketResult><EncodingType>url</EncodingType>{more}{entry}</ListBucketResult>"
    return Reply(200, {}, body.encode())


MORE = "<IsTruncated>true</IsTruncated><NextContinuationToken>t/+</NextContinuationToken>"


async def test_objects_are_listed_page_by_page_with_keys_of_any_characters() -> None:
    store = ScriptedStore(objects_page("streams/a+b%0A", MORE), objects_page("streams/c%2Bd"))
    async with client_of(store) as client:
        first = await client.list_objects("streams/")
        second = await client.list_objects("streams/", first.next_token)
    assert first.objects == (ListedObject("streams/a b\n", 7, "e-1"),)
    assert second == ObjectsPage((ListedObject("streams/c+d", 7, "e-1"),), None)
    assert store.requests[1].target == (
        "/recordings?list-type=2&encoding-type=url&prefix=streams%2F&continuation-token=t%2F%2B"
    )


async def test_a_repeating_listing_of_objects_is_aborted() -> None:
    async with client_of(ScriptedStore(objects_page("a", MORE))) as client:
        with pytest.raises(S3OperationError, match="itself"):
            await client.list_objects("streams/", "t/+")


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(objects_page("a", "<IsTruncated>true</IsTruncated><NextMarker>a</NextMarker>"), id="version 1"),
        pytest.param(objects_page("a", size="-1"), id="no size"),
        pytest.param(objects_page("a", size="9" * 30), id="an absurd size"),
        pytest.param(Reply(200, {}, b"<ListBucketResult><Contents/></ListBucketResult>"), id="no key"),
    ],
)
async def test_a_malformed_page_of_objects_is_refused(reply: Reply) -> None:
    async with client_of(ScriptedStore(reply)) as client:
        with pytest.raises(S3OperationError) as caught:
            await client.list_objects("streams/")
    assert caught.value.code == "UnreadableAnswer"


async def test_every_attempt_of_a_repeated_call_reads_the_source_anew() -> None:
    retrier = Repeats()
    source = Passes(DATA)
    store = ScriptedStore(error_reply(503, "SlowDown"), error_reply(400, "BadDigest"), part_ack(DATA))
    async with client_of(store, retrier=retrier) as client:
        await client.upload_part("k", "u", 1, source, CRC)
    assert [request.body for request in store.requests] == [DATA] * 3
    assert source.read_count == 6
    assert source.open_count == 0
