"""Operations of multipart uploads: create, upload part, list, complete, abort.

Each takes a ``S3Request`` and returns its ``Reply``; errors are raised. Rules:
https://docs.aws.amazon.com/AmazonS3/latest/API/API_CreateMultipartUpload.html and its siblings.
"""

from __future__ import annotations

from cef_trio.s3_endpoint.call import S3Request
from cef_trio.s3_endpoint.checksums import Algorithm, ChecksumType
from cef_trio.s3_endpoint.decimals import decimal
from cef_trio.s3_endpoint.documents import Node, document, iso_time, quoted, read_complete, url_encoded
from cef_trio.s3_endpoint.errors import S3Error
from cef_trio.s3_endpoint.faults import Kind
from cef_trio.s3_endpoint.multipart import MAX_PART_BYTES, CompleteRequest, check_part_algorithm, parse_part_number
from cef_trio.s3_endpoint.object_operations import check_preconditions, encryption_headers, kept_headers
from cef_trio.s3_endpoint.receiving import header_checksums
from cef_trio.s3_endpoint.records import MultipartUpload, StoredPart
from cef_trio.s3_endpoint.request import Reply


async def create_multipart_upload(call: S3Request) -> Reply:
    """CreateMultipartUpload."""
    algorithm = kind = None
    if not call.ignores_checksums:
        algorithm = _algorithm(call.header("x-amz-checksum-algorithm"))
        kind = _checksum_type(call.header("x-amz-checksum-type"))
    call.model.check_key(call.bucket, call.key)
    upload = call.model.create_upload(
        call.bucket,
        call.key,
        headers=kept_headers(call),
        algorithm=algorithm,
        checksum_type=kind,
    )
    headers = encryption_headers(upload.headers)
    if upload.algorithm is not None and upload.checksum_type is not None:
        headers += [
            ("x-amz-checksum-algorithm", upload.algorithm.value.upper()),
            ("x-amz-checksum-type", upload.checksum_type.value),
        ]
    body = document(
        "InitiateMultipartUploadResult",
        [("Bucket", call.bucket), ("Key", call.key), ("UploadId", upload.upload_id)],
    )
    return Reply(200, headers, body)


async def upload_part(call: S3Request) -> Reply:
    """UploadPart: at most 5 GiB; replaces an earlier part of that number."""
    number = parse_part_number(call.query("partNumber"))
    upload = call.model.upload(call.bucket, call.key, call.upload_id)
    declared = call.declared_body()
    if declared.size_bytes > MAX_PART_BYTES:
        raise S3Error("EntityTooLarge", details={"ProposedSize": str(declared.size_bytes)})
    if not call.ignores_checksums:
        check_part_algorithm(upload, declared.algorithms)
    with call.model.storage.new_blob() as writer:
        received = await call.receive(declared, writer, () if upload.algorithm is None else (upload.algorithm,))
        blob = await writer.commit()
    try:
        part = await call.model.put_part(call.bucket, call.key, call.upload_id, number, received=received, blob=blob)
    except BaseException:
        # Refused or cancelled: the part was not recorded, so its bytes are removed here.
        call.model.storage.remove_blob(blob)
        raise
    headers = [("ETag", quoted(part.etag)), *encryption_headers(upload.headers)]
    headers += [(algorithm.header, received.checksums[algorithm]) for algorithm in declared.algorithms]
    return Reply(200, headers)


async def list_parts(call: S3Request) -> Reply:
    """ListParts: pages of at most 1,000, by ``part-number-marker``."""
    after, limit = call.number("part-number-marker", 0), call.limit("max-parts")
    stale = call.faults.find(Kind.STALE_PARTS)
    page = call.model.list_parts(
        call.bucket,
        call.key,
        call.upload_id,
        after=after,
        limit=limit,
        hide_newest=0 if stale is None else stale.count,
    )
    upload = page.upload
    shown = None if call.ignores_checksums else upload.algorithm
    children: list[Node] = [
        ("Bucket", call.bucket),
        ("Key", call.key),
        ("UploadId", upload.upload_id),
        ("Initiator", _OWNER),
        ("Owner", _OWNER),
        ("StorageClass", upload.headers.get("x-amz-storage-class", "STANDARD")),
        ("PartNumberMarker", str(after)),
        ("NextPartNumberMarker", str(page.parts[-1].number if page.parts else 0)),
        ("MaxParts", str(limit)),
        ("IsTruncated", _bool(page.is_truncated)),
    ]
    if shown is not None:
        children += [("ChecksumAlgorithm", shown.value.upper()), ("ChecksumType", str(upload.checksum_type))]
    children += [("Part", _part(part, shown)) for part in page.parts]
    return Reply(200, body=document("ListPartsResult", children))


async def list_multipart_uploads(call: S3Request) -> Reply:
    """ListMultipartUploads: pages of at most 1,000, by ``key-marker`` and ``upload-id-marker``."""
    limit = call.limit("max-uploads")
    page = call.model.list_uploads(
        call.bucket,
        prefix=call.query("prefix"),
        delimiter=call.query("delimiter"),
        key_marker=call.query("key-marker"),
        upload_id_marker=call.query("upload-id-marker"),
        limit=limit,
    )
    encode = url_encoded if call.query("encoding-type") == "url" else str
    children: list[Node] = [
        ("Bucket", call.bucket),
        ("KeyMarker", encode(call.query("key-marker"))),
        ("UploadIdMarker", call.query("upload-id-marker")),
        ("Prefix", encode(call.query("prefix"))),
        ("MaxUploads", str(limit)),
        ("IsTruncated", _bool(page.is_truncated)),
    ]
    if call.query("encoding-type"):
        children.append(("EncodingType", call.query("encoding-type")))
    if call.query("delimiter"):
        children.append(("Delimiter", encode(call.query("delimiter"))))
    if page.is_truncated:
        last = max([*(upload.key for upload in page.uploads), *page.prefixes], key=str.encode)
        children.append(("NextKeyMarker", encode(last)))
        ids = [upload.upload_id for upload in page.uploads if upload.key == last]
        children.append(("NextUploadIdMarker", ids[-1] if ids else ""))
    children += [("Upload", _upload(upload, encode(upload.key))) for upload in page.uploads]
    children += [("CommonPrefixes", [("Prefix", encode(prefix))]) for prefix in page.prefixes]
    return Reply(200, body=document("ListMultipartUploadsResult", children))


async def complete_multipart_upload(call: S3Request) -> Reply:
    """CompleteMultipartUpload, by the rules of ``multipart.py``."""
    call.model.check_key(call.bucket, call.key)
    parts = read_complete(await call.document())
    if call.ignores_checksums:
        request = CompleteRequest([type(part)(part.number, part.etag) for part in parts])
    else:
        request = CompleteRequest(
            parts,
            header_checksums(call.request.headers),
            _checksum_type(call.header("x-amz-checksum-type")),
            _size(call.header("x-amz-mp-object-size")),
        )
    check_preconditions(call)
    record = await call.model.complete(call.bucket, call.key, call.upload_id, request)
    etag = "" if call.changed_by(Kind.EMPTY_ETAG) else quoted(record.etag)
    children: list[Node] = [
        ("Location", f"http://{call.header('host')}{call.request.path}"),
        ("Bucket", call.bucket),
        ("Key", call.key),
        ("ETag", etag),
    ]
    if not call.ignores_checksums:
        children += [(Algorithm(name).element, text) for name, text in record.checksums.items()]
        children.append(("ChecksumType", str(record.checksum_type)))
    return Reply(200, encryption_headers(record.headers), document("CompleteMultipartUploadResult", children))


async def abort_multipart_upload(call: S3Request) -> Reply:
    """AbortMultipartUpload."""
    await call.model.abort(call.bucket, call.key, call.upload_id)
    return Reply(204)


_OWNER: list[Node] = [("ID", "cef-trio"), ("DisplayName", "cef-trio")]


def _part(part: StoredPart, algorithm: Algorithm | None) -> list[Node]:
    children: list[Node] = [
        ("PartNumber", str(part.number)),
        ("LastModified", iso_time(part.modified_at)),
        ("ETag", quoted(part.etag)),
        ("Size", str(part.size_bytes)),
    ]
    if algorithm is not None:
        children.append((algorithm.element, part.checksums[algorithm]))
    return children


def _upload(upload: MultipartUpload, key: str) -> list[Node]:
    children: list[Node] = [
        ("Key", key),
        ("UploadId", upload.upload_id),
        ("Initiator", _OWNER),
        ("Owner", _OWNER),
        ("StorageClass", upload.headers.get("x-amz-storage-class", "STANDARD")),
        ("Initiated", iso_time(upload.initiated_at)),
    ]
    if upload.algorithm is not None:
        children += [("ChecksumAlgorithm", upload.algorithm.value.upper()), ("ChecksumType", str(upload.checksum_type))]
    return children


def _algorithm(text: str | None) -> Algorithm | None:
    if text is None:
        return None
    try:
        return Algorithm(text.lower())
    except ValueError as error:
        raise S3Error(
            "InvalidRequest",
            "Checksum algorithm provided is unsupported. Please try again with any of the valid types: "
            "[CRC32, CRC32C, CRC64NVME, SHA1, SHA256]",
        ) from error


def _checksum_type(text: str | None) -> ChecksumType | None:
    if text is None:
        return None
    try:
        return ChecksumType(text.upper())
    except ValueError as error:
        raise S3Error("InvalidRequest", "Value for x-amz-checksum-type header is invalid.") from error


def _size(text: str | None) -> int | None:
    if text is None:
        return None
    size_bytes = decimal(text)
    if size_bytes is None:
        raise S3Error("InvalidRequest", "Value for x-amz-mp-object-size header is invalid.")
    return size_bytes


def _bool(value: bool) -> str:
    return "true" if value else "false"
