"""Operations on single objects: put, get, head, delete.

Each takes a ``S3Request`` and returns its ``Reply``; errors are raised. Rules:
https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html and its siblings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from cef_trio.s3_endpoint.call import S3Request
from cef_trio.s3_endpoint.conditions import READ_CONDITIONS, check_read
from cef_trio.s3_endpoint.decimals import decimal
from cef_trio.s3_endpoint.documents import Node, document, grant, http_time, quoted, read_delete
from cef_trio.s3_endpoint.errors import S3Error
from cef_trio.s3_endpoint.multipart import MAX_PART_BYTES
from cef_trio.s3_endpoint.options import (
    ENCRYPTION,
    TAGGING,
    check_readable,
    grants,
    kept_options,
    read_tagging,
    shown_options,
)
from cef_trio.s3_endpoint.records import StoredObject
from cef_trio.s3_endpoint.request import Reply

_KEPT: Final = (
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
    "x-amz-website-redirect-location",
)
_OVERRIDES: Final = (
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
)
_MAX_METADATA_BYTES: Final = 2048
_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")


async def put_object(call: S3Request) -> Reply:
    """PutObject: at most 5 GiB."""
    call.model.check_key(call.bucket, call.key)
    headers = kept_headers(call)
    declared = call.declared_body()
    if declared.size_bytes > MAX_PART_BYTES:
        raise S3Error("EntityTooLarge", details={"ProposedSize": str(declared.size_bytes)})
    check_preconditions(call)
    with call.model.storage.new_blob() as writer:
        received = await call.receive(declared, writer)
        blob = await writer.commit()
    try:
        check_preconditions(call)
        given = [algorithm.value for algorithm in declared.algorithms]
        record = call.model.put_object(
            call.bucket, call.key, received=received, blob=blob, headers=headers, given=given
        )
    except BaseException:
        call.model.storage.remove_blob(blob)
        raise
    reply_headers = [("ETag", quoted(record.etag)), *encryption_headers(record.headers)]
    if not call.ignores_checksums:
        reply_headers += checksum_headers(record)
    return Reply(200, reply_headers)


async def get_object(call: S3Request) -> Reply:
    """GetObject, whole or one range."""
    check_readable(call.model.object(call.bucket, call.key).headers)
    return _read(call)


def _read(call: S3Request) -> Reply:
    record, headers = _described(call)
    start, size_bytes, status = 0, record.size_bytes, 200
    asked = byte_range(call.header("range"), record.size_bytes)
    if asked is not None:
        start, end = asked
        size_bytes, status = end - start, 206
        headers.append(("Content-Range", f"bytes {start}-{end - 1}/{record.size_bytes}"))
    blob = call.model.storage.open_blob(record.blob)
    return Reply(status, headers, blob=blob, blob_start=start, blob_size_bytes=size_bytes)


async def head_object(call: S3Request) -> Reply:
    """HeadObject: the headers of GetObject."""
    reply = _read(call)
    reply.head_only = True
    return reply


async def get_object_tagging(call: S3Request) -> Reply:
    """GetObjectTagging."""
    record = call.model.object(call.bucket, call.key)
    tags: list[Node] = [
        ("Tag", [("Key", key), ("Value", value)]) for key, value in read_tagging(record.headers.get(TAGGING, ""))
    ]
    return Reply(200, body=document("Tagging", [("TagSet", tags)]))


async def get_object_acl(call: S3Request) -> Reply:
    """GetObjectAcl: the grants of the object's canned ACL."""
    record = call.model.object(call.bucket, call.key)
    owner: list[Node] = [("ID", "cef-trio"), ("DisplayName", "cef-trio")]
    granted = [grant("CanonicalUser", owner, "FULL_CONTROL")]
    granted += [grant("Group", [("URI", group)], permission) for group, permission in grants(record.headers)]
    return Reply(200, body=document("AccessControlPolicy", [("Owner", owner), ("AccessControlList", granted)]))


async def delete_object(call: S3Request) -> Reply:
    """DeleteObject: 204 also if there was no object."""
    call.model.delete_object(call.bucket, call.key)
    return Reply(204)


async def delete_objects(call: S3Request) -> Reply:
    """DeleteObjects: up to 1,000 keys."""
    call.model.bucket(call.bucket)
    keys, quiet = read_delete(await call.document())
    for key in keys:
        call.model.delete_object(call.bucket, key)
    return Reply(200, body=document("DeleteResult", [] if quiet else [("Deleted", [("Key", key)]) for key in keys]))


def kept_headers(call: S3Request) -> dict[str, str]:
    """Return the headers that an object keeps.

    Raises:
        S3Error: ``MetadataTooLarge``, ``NoSuchBucket``, or from ``options.py``.
    """
    headers = call.request.headers
    kept = kept_options(call.header, ownership=call.model.bucket(call.bucket).ownership) | {
        name: value for name in _KEPT if (value := headers.get(name)) is not None
    }
    encodings = [each.strip() for each in kept.pop("content-encoding", "").split(",")]
    encoding = ",".join(each for each in encodings if each not in ("", "aws-chunked"))
    if encoding:
        kept["content-encoding"] = encoding
    kept.setdefault("content-type", "binary/octet-stream")
    metadata = {name: ",".join(headers.all(name)) for name, _ in headers if name.startswith("x-amz-meta-")}
    size = sum(len(name.removeprefix("x-amz-meta-")) + len(value.encode()) for name, value in metadata.items())
    if size > _MAX_METADATA_BYTES:
        raise S3Error("MetadataTooLarge", details={"Size": str(size), "MaxSizeAllowed": str(_MAX_METADATA_BYTES)})
    return kept | metadata


def encryption_headers(kept: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the encryption headers of a response."""
    return [(name, value) for name, value in kept.items() if name.startswith(ENCRYPTION)]


def checksum_headers(record: StoredObject) -> list[tuple[str, str]]:
    """Return the checksum headers of an object."""
    headers = [(f"x-amz-checksum-{algorithm}", text) for algorithm, text in record.checksums.items()]
    if headers and record.checksum_type is not None:
        headers.append(("x-amz-checksum-type", record.checksum_type.value))
    return headers


def check_preconditions(call: S3Request) -> None:
    """Check ``If-None-Match: *`` and ``If-Match`` of a write.

    Raises:
        S3Error: ``PreconditionFailed``, ``NoSuchKey``, ``NotImplemented``.
    """
    absent, match = call.header("if-none-match"), call.header("if-match")
    if absent is not None:
        if absent != "*":
            raise S3Error("NotImplemented", details={"Header": "If-None-Match"})
        if call.model.has_object(call.bucket, call.key):
            raise S3Error("PreconditionFailed", details={"Condition": "If-None-Match"})
    if match is not None and call.model.object(call.bucket, call.key).etag != match.strip('"'):
        raise S3Error("PreconditionFailed", details={"Condition": "If-Match"})


def byte_range(header: str | None, size_bytes: int) -> tuple[int, int] | None:
    """Return the range of a ``Range`` header as (start, end), end excluded; ``None`` for the whole object.

    Invalid and multiple ranges are ignored, as S3 does.

    Raises:
        S3Error: ``InvalidRange``.
    """
    match = _RANGE.fullmatch(header.strip()) if header is not None else None
    if match is None or match[0] == "bytes=-":
        return None
    first, last = decimal(match[1]), decimal(match[2])
    if (first is None and match[1]) or (last is None and match[2]):
        return None
    if first is not None:
        start, end = first, size_bytes if last is None else min(size_bytes, last + 1)
        if last is not None and last < start:
            return None
    else:
        start, end = max(0, size_bytes - (last or 0)), size_bytes
    if start >= end:
        raise S3Error("InvalidRange", details={"RangeRequested": header or "", "ActualObjectSize": str(size_bytes)})
    return start, end


def _described(call: S3Request) -> tuple[StoredObject, list[tuple[str, str]]]:
    record = call.model.object(call.bucket, call.key)
    if "partNumber" in call.target.query:
        raise S3Error("NotImplemented", "Reading by part number is not implemented by this endpoint")
    check_read(record, {name: call.header(name) for name in READ_CONDITIONS})
    shown = shown_options(record.headers)
    for name in _OVERRIDES:
        if call.query(f"response-{name}"):
            shown[name] = call.query(f"response-{name}")
    headers = [
        ("Last-Modified", http_time(record.modified_at)),
        ("ETag", quoted(record.etag)),
        ("Accept-Ranges", "bytes"),
        *shown.items(),
    ]
    wants_checksum = (call.header("x-amz-checksum-mode") or "").upper() == "ENABLED"
    if wants_checksum and not call.ignores_checksums and call.header("range") is None:
        headers += checksum_headers(record)
    return record, headers
