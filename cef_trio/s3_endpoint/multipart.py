"""The rules of CompleteMultipartUpload, as functions of the stored parts and the request. Pure.

Rules: https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html and
https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html (limits).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from cef_trio.s3_endpoint import checksums
from cef_trio.s3_endpoint.checksums import Algorithm, ChecksumType
from cef_trio.s3_endpoint.decimals import decimal
from cef_trio.s3_endpoint.errors import S3Error
from cef_trio.s3_endpoint.records import MultipartUpload, StoredPart

MIN_PART_BYTES: Final = 5 * 1024 * 1024
MAX_PART_BYTES: Final = 5 * 1024**3
MAX_OBJECT_BYTES: Final = 5 * 1024**4
MAX_PARTS: Final = 10_000


@dataclass(frozen=True, slots=True)
class RequestedPart:
    """A part in the body of Complete; checksums by algorithm."""

    number: int
    etag: str
    checksums: Mapping[Algorithm, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CompleteRequest:
    """A request of Complete: the parts, and checksum, type and size of the object if they were sent."""

    parts: Sequence[RequestedPart]
    checksums: Mapping[Algorithm, str] = field(default_factory=dict)
    checksum_type: ChecksumType | None = None
    object_size_bytes: int | None = None


def parse_part_number(text: str | None) -> int:
    """Return a part number of a query.

    Raises:
        S3Error: ``InvalidArgument``, it is not in 1 to 10,000.
    """
    number = decimal(text or "")
    if number is None or not 1 <= number <= MAX_PARTS:
        raise S3Error(
            "InvalidArgument",
            f"Part number must be an integer between 1 and {MAX_PARTS}, inclusive",
            details={"ArgumentName": "partNumber", "ArgumentValue": text or ""},
        )
    return number


def choose_parts(
    upload: MultipartUpload, stored: Mapping[int, StoredPart], request: CompleteRequest, minimum_part_size_bytes: int
) -> list[StoredPart]:
    """Return the stored parts of the object; the request must match each of them.

    Raises:
        S3Error: ``MalformedXML`` (no parts), ``InvalidPartOrder``, ``InvalidPart``, ``InvalidRequest`` (a checksum is
            missing), ``EntityTooSmall``, ``EntityTooLarge``.
    """
    if not request.parts:
        raise S3Error("MalformedXML")
    if any(first.number >= second.number for first, second in pairwise(request.parts)):
        raise S3Error("InvalidPartOrder", details={"UploadId": upload.upload_id})
    chosen = [_match(upload, stored.get(part.number), part) for part in request.parts]
    for part in chosen[:-1]:
        if part.size_bytes < minimum_part_size_bytes:
            raise S3Error(
                "EntityTooSmall",
                details={
                    "ETag": part.etag,
                    "MinSizeAllowed": str(minimum_part_size_bytes),
                    "ProposedSize": str(part.size_bytes),
                    "PartNumber": str(part.number),
                },
            )
    if sum(part.size_bytes for part in chosen) > MAX_OBJECT_BYTES:
        raise S3Error("EntityTooLarge")
    return chosen


def object_checksum(upload: MultipartUpload, parts: Sequence[StoredPart]) -> tuple[Algorithm, ChecksumType, str]:
    """Return the object's checksum: by the upload's algorithm, or else CRC64NVME of the full object."""
    algorithm = upload.algorithm or Algorithm.CRC64NVME
    kind = upload.checksum_type or ChecksumType.FULL_OBJECT
    if kind is ChecksumType.FULL_OBJECT:
        text = checksums.full_object(algorithm, ((part.checksums[algorithm], part.size_bytes) for part in parts))
    else:
        text = checksums.composite(algorithm, [part.checksums[algorithm] for part in parts])
    return algorithm, kind, text


def check_object(upload: MultipartUpload, request: CompleteRequest, parts: Sequence[StoredPart]) -> None:
    """Compare the requested checksum, type and size with the stored parts.

    Raises:
        S3Error: ``BadDigest``, or ``InvalidRequest`` for another type or size.
    """
    algorithm, kind, text = object_checksum(upload, parts)
    if request.checksum_type is not None and request.checksum_type is not kind:
        raise S3Error(
            "InvalidRequest",
            f"The upload was created using the {kind} checksum mode. The complete request must use the same checksum "
            f"mode.",
        )
    for asked, value in request.checksums.items():
        if asked is not algorithm:
            raise _type_mismatch(algorithm, asked)
        # Clients may omit the number of parts after a composite checksum.
        if value != text and f"{value}-{len(parts)}" != text:
            raise S3Error("BadDigest", f"The {asked} you specified did not match the calculated checksum.")
    size_bytes = sum(part.size_bytes for part in parts)
    if request.object_size_bytes is not None and request.object_size_bytes != size_bytes:
        raise S3Error(
            "InvalidRequest",
            f"The provided 'x-amz-mp-object-size' header value {request.object_size_bytes} does not match what was "
            f"computed: {size_bytes}",
        )


def check_part_algorithm(upload: MultipartUpload, given: Sequence[Algorithm]) -> None:
    """Check that a part has the checksum that its upload was created with.

    With full-object checksums a part needs none, since S3 computes it. If the upload names no algorithm, a part may
    have any: boto3 sends CRC32 with every part by default, and names none at the creation.

    Raises:
        S3Error: ``InvalidRequest``.
    """
    for algorithm in given:
        if upload.algorithm is not None and algorithm is not upload.algorithm:
            raise _type_mismatch(upload.algorithm, algorithm)
    if not given and upload.checksum_type is ChecksumType.COMPOSITE:
        raise _type_mismatch(upload.algorithm, None)


def _match(upload: MultipartUpload, stored: StoredPart | None, asked: RequestedPart) -> StoredPart:
    invalid = S3Error(
        "InvalidPart",
        details={"UploadId": upload.upload_id, "PartNumber": str(asked.number), "ETag": asked.etag},
    )
    if stored is None or stored.etag != asked.etag:
        raise invalid
    if any(stored.checksums.get(algorithm) != text for algorithm, text in asked.checksums.items()):
        raise invalid
    if upload.checksum_type is ChecksumType.COMPOSITE and upload.algorithm not in asked.checksums:
        raise S3Error(
            "InvalidRequest",
            f"The upload was created using a {upload.algorithm} checksum. The complete request must include the "
            f"checksum for each part. It was missing for part {asked.number} in the request.",
        )
    return stored


def _type_mismatch(expected: Algorithm | None, actual: Algorithm | None) -> S3Error:
    return S3Error(
        "InvalidRequest",
        f"Checksum Type mismatch occurred, expected checksum Type: {expected or 'null'}, "
        f"actual checksum Type: {actual or 'null'}",
    )
