"""Operations that make something of an object that is there already: UploadPartCopy and CopyObject.

Each takes a ``S3Request`` and returns its ``Reply``; errors are raised. The source is an object of any
bucket of the endpoint. It is read in blocks and hashed like a body, so a copied part has the same checksums.
Rules: https://docs.aws.amazon.com/AmazonS3/latest/API/API_UploadPartCopy.html and ``API_CopyObject.html``.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import Final
from urllib.parse import unquote_to_bytes

import trio

from cef_trio.http import parse_http_date
from cef_trio.s3_endpoint.call import S3Request
from cef_trio.s3_endpoint.checksums import Algorithm
from cef_trio.s3_endpoint.decimals import decimal
from cef_trio.s3_endpoint.documents import Node, document, iso_time, quoted
from cef_trio.s3_endpoint.errors import S3Error
from cef_trio.s3_endpoint.multipart import MAX_PART_BYTES, parse_part_number
from cef_trio.s3_endpoint.object_operations import check_preconditions, encryption_headers, kept_headers
from cef_trio.s3_endpoint.options import ENCRYPTION, STORAGE_CLASS, TAGGING, check_readable
from cef_trio.s3_endpoint.receiving import DeclaredBody, receive
from cef_trio.s3_endpoint.records import StoredObject
from cef_trio.s3_endpoint.request import Reply

SOURCE: Final = "x-amz-copy-source"
_BLOCK_BYTES: Final = 1024 * 1024
_RANGE: Final = re.compile(r"bytes=(\d+)-(\d+)")


async def upload_part_copy(call: S3Request) -> Reply:
    """UploadPartCopy: a part from an object or a range of it, at most 5 GiB."""
    number = parse_part_number(call.query("partNumber"))
    upload = call.model.upload(call.bucket, call.key, call.upload_id)
    source = _source(call)
    start, end = _range(call.header(f"{SOURCE}-range"), source.size_bytes)
    if end - start > MAX_PART_BYTES:
        raise S3Error("EntityTooLarge", details={"ProposedSize": str(end - start)})
    declared = DeclaredBody(end - start)
    algorithms = () if upload.algorithm is None else (upload.algorithm,)
    with call.model.storage.new_blob() as writer:
        received = await receive(_bytes(call, source, start, end), declared, writer, algorithms=algorithms)
        blob = await writer.commit()
    try:
        part = await call.model.put_part(call.bucket, call.key, call.upload_id, number, received=received, blob=blob)
    except BaseException:
        # Refused or cancelled: the part was not recorded, so its bytes are removed here.
        call.model.storage.remove_blob(blob)
        raise
    children: list[Node] = [("LastModified", iso_time(part.modified_at)), ("ETag", quoted(part.etag))]
    if upload.algorithm is not None and not call.ignores_checksums:
        children.append((upload.algorithm.element, received.checksums[upload.algorithm]))
    return Reply(200, encryption_headers(upload.headers), document("CopyPartResult", children))


async def copy_object(call: S3Request) -> Reply:
    """CopyObject: at most 5 GiB; with the source's metadata, or with ``REPLACE`` the request's."""
    call.model.check_key(call.bucket, call.key)
    source = _source(call)
    if source.size_bytes > MAX_PART_BYTES:
        raise S3Error("InvalidRequest", "The specified copy source is larger than the maximum allowable size")
    headers, is_changed = _copied_headers(call, source)
    if (source.bucket, source.key) == (call.bucket, call.key) and not is_changed:
        raise S3Error(
            "InvalidRequest",
            "This copy request is illegal because it is trying to copy an object to itself without changing the "
            "object's metadata, storage class, website redirect location or encryption attributes.",
        )
    algorithm = _algorithm(call, source)
    check_preconditions(call)
    with call.model.storage.new_blob() as writer:
        received = await receive(
            _bytes(call, source, 0, source.size_bytes), DeclaredBody(source.size_bytes), writer, algorithms=(algorithm,)
        )
        blob = await writer.commit()
    try:
        check_preconditions(call)
        record = call.model.put_object(
            call.bucket, call.key, received=received, blob=blob, headers=headers, given=[algorithm.value]
        )
    except BaseException:
        call.model.storage.remove_blob(blob)
        raise
    children: list[Node] = [("LastModified", iso_time(record.modified_at)), ("ETag", quoted(record.etag))]
    if not call.ignores_checksums:
        children += [(Algorithm(name).element, text) for name, text in record.checksums.items()]
        children.append(("ChecksumType", str(record.checksum_type)))
    return Reply(200, encryption_headers(record.headers), document("CopyObjectResult", children))


def _source(call: S3Request) -> StoredObject:
    """Return the object in ``x-amz-copy-source`` if it meets the request's conditions.

    Raises:
        S3Error: ``InvalidArgument``, ``NotImplemented`` (a version), ``NoSuchBucket``, ``NoSuchKey``,
            ``PreconditionFailed``, ``InvalidObjectState`` (archived).
    """
    named, query, _ = (call.header(SOURCE) or "").partition("?")
    if query:
        raise S3Error("NotImplemented", "Copying a version is not implemented by this endpoint")
    try:
        path = unquote_to_bytes(named).decode()
    except UnicodeDecodeError as error:
        raise S3Error("InvalidArgument", details={"ArgumentName": SOURCE}) from error
    bucket, _, key = path.removeprefix("/").partition("/")
    if not bucket or not key:
        raise S3Error(
            "InvalidArgument",
            "Copy Source must mention the source bucket and key: sourcebucket/sourcekey",
            details={"ArgumentName": SOURCE, "ArgumentValue": named},
        )
    source = call.model.object(bucket, key)
    check_readable(source.headers)
    for condition, holds in _conditions(call, source).items():
        if not holds:
            raise S3Error("PreconditionFailed", details={"Condition": condition})
    return source


def _conditions(call: S3Request, source: StoredObject) -> Mapping[str, bool]:
    """Return the request's conditions and whether they hold. One on the ETag overrides the one on the date."""
    match, none_match = call.header(f"{SOURCE}-if-match"), call.header(f"{SOURCE}-if-none-match")
    since, not_since = call.header(f"{SOURCE}-if-modified-since"), call.header(f"{SOURCE}-if-unmodified-since")
    names = {"*", source.etag, quoted(source.etag)}
    modified = datetime.fromtimestamp(int(source.modified_at), UTC)
    found = {}
    if match is not None:
        found[f"{SOURCE}-If-Match"] = match in names
    elif not_since is not None:
        found[f"{SOURCE}-If-Unmodified-Since"] = modified <= _moment(not_since)
    if none_match is not None:
        found[f"{SOURCE}-If-None-Match"] = none_match not in names
    elif since is not None:
        found[f"{SOURCE}-If-Modified-Since"] = modified > _moment(since)
    return found


def _moment(text: str) -> datetime:
    moment = parse_http_date(text)
    if moment is None:
        raise S3Error("InvalidArgument", details={"ArgumentValue": text})
    return moment


def _range(text: str | None, size_bytes: int) -> tuple[int, int]:
    """Return the range as (start, end), end excluded: within the source, or the whole source."""
    if text is None:
        return 0, size_bytes
    match = _RANGE.fullmatch(text)
    first, last = (decimal(digits) for digits in match.groups()) if match is not None else (None, None)
    if first is None or last is None or first > last:
        raise S3Error(
            "InvalidArgument",
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the "
            "zero-based offsets of the first and last bytes to copy",
            details={"ArgumentName": f"{SOURCE}-range", "ArgumentValue": text},
        )
    if last >= size_bytes:
        raise S3Error(
            "InvalidArgument",
            f"Range specified is not valid for source object of size: {size_bytes}",
            details={"ArgumentName": f"{SOURCE}-range", "ArgumentValue": text},
        )
    return first, last + 1


def _copied_headers(call: S3Request, source: StoredObject) -> tuple[dict[str, str], bool]:
    """Return the headers of the copy, and whether the request changes any of the source's."""
    asked = kept_headers(call)
    directive = (call.header("x-amz-metadata-directive") or "COPY").upper()
    tagging = (call.header("x-amz-tagging-directive") or "COPY").upper()
    if directive not in {"COPY", "REPLACE"} or tagging not in {"COPY", "REPLACE"}:
        raise S3Error("InvalidArgument", "Unknown metadata directive.")
    described = asked if directive == "REPLACE" else source.headers
    tagged = asked if tagging == "REPLACE" else source.headers
    kept = {name: value for name, value in described.items() if _describes(name)}
    # Storage class, encryption and ACL are always the request's.
    kept |= {name: value for name, value in asked.items() if not _describes(name) and name != TAGGING}
    kept |= {TAGGING: tagged[TAGGING]} if TAGGING in tagged else {}
    options = (STORAGE_CLASS, ENCRYPTION, "x-amz-website-redirect-location")
    is_changed = "REPLACE" in {directive, tagging} or any(call.header(name) is not None for name in options)
    return kept, is_changed


def _describes(name: str) -> bool:
    return not name.startswith("x-amz-") or name.startswith("x-amz-meta-")


def _algorithm(call: S3Request, source: StoredObject) -> Algorithm:
    asked = call.header("x-amz-checksum-algorithm")
    text = asked or next(iter(source.checksums), Algorithm.CRC64NVME.value)
    try:
        return Algorithm(text.lower())
    except ValueError as error:
        raise S3Error("InvalidRequest", "Checksum algorithm provided is unsupported.") from error


async def _bytes(call: S3Request, source: StoredObject, start: int, end: int) -> AsyncGenerator[bytes, None]:
    with closing(call.model.storage.open_blob(source.blob)) as blob:
        for offset in range(start, end, _BLOCK_BYTES):
            await trio.lowlevel.checkpoint()
            yield blob.read(offset, min(_BLOCK_BYTES, end - offset))
