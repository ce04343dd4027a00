"""Classification of S3's error responses: code, transient or permanent, hint for the operator. Pure.

An error has a code in an XML body and an HTTP status
(https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html). ``TRANSIENT`` and ``PERMANENT`` classify the
codes; other codes, and responses without a readable body (HEAD, proxies, load balancers), are classified by status. An
unknown 4xx is permanent, so that a request that cannot succeed is reported instead of repeated without end.

Not here: what follows from an error. ``resilience/retry.py`` repeats the call, ``resilience/outage.py`` decides whether
a refusal concerns one call or all, ``upload/failures.py`` whether it ends a stream.

``HINTS`` has what to do about a code. Messages contain no secrets: S3 may quote the signed request
(``SignatureDoesNotMatch``), so only the code, the message, the region and the ids of the body are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Final

from cef_trio.exceptions import S3OperationError
from cef_trio.http import parse_retry_after
from cef_trio.s3.response_origin import NOT_S3_ANSWER, describe_foreign
from cef_trio.s3.xml import XmlError, parse_xml
from cef_trio.safe_text import one_line

MAX_ERROR_BYTES: Final = 64 * 1024
"""How much of an error's body is parsed."""

UNREADABLE_ANSWER: Final = "UnreadableAnswer"
"""Our error code for a malformed or incomplete response of S3."""
ARCHIVED: Final = "InvalidObjectState"
"""The object exists, but is in an archive class (GLACIER, DEEP_ARCHIVE) and cannot be read."""

TRANSIENT: Final = frozenset(
    {
        "BadDigest",  # the bytes were damaged, or changed, on the way: read and send them again
        "BandwidthLimitExceeded",
        "Busy",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InternalError",
        "KMS.DependencyTimeoutException",
        "KMS.KMSInternalException",
        "KMS.ThrottlingException",
        NOT_S3_ANSWER,  # a proxy's response shows nothing about the upload
        "OperationAborted",
        "RequestTimeTooSkewed",  # the client corrects its clock, and makes it permanent if that does not help
        "RequestTimeout",
        "RequestTimeoutException",
        "ServerBusy",
        "ServiceUnavailable",
        "SlowDown",
        "TemporaryRedirect",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        UNREADABLE_ANSWER,
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
        "XMinioStorageFull",
    }
)

PERMANENT: Final = frozenset(
    {
        "AccessControlListNotSupported",
        "AccessDenied",
        "AccountProblem",
        "AllAccessDisabled",
        "AuthorizationHeaderMalformed",
        "AuthorizationQueryParametersError",
        "BucketAlreadyExists",
        "EntityTooLarge",
        "EntityTooSmall",
        "ExpiredToken",
        "IllegalLocationConstraintException",
        "InvalidAccessKeyId",
        "InvalidArgument",
        "InvalidBucketName",
        "InvalidDigest",
        "InvalidObjectState",
        "InvalidPart",
        "InvalidPartOrder",
        "InvalidRequest",
        "InvalidSecurity",
        "InvalidStorageClass",
        "InvalidTag",
        "InvalidToken",
        "KMS.DisabledException",
        "KMS.InvalidKeyUsageException",
        "KMS.KMSInvalidStateException",
        "KMS.NotFoundException",
        "KeyTooLongError",
        "MalformedXML",
        "MetadataTooLarge",
        "MethodNotAllowed",
        "MissingContentLength",
        "NoSuchBucket",
        "NoSuchKey",
        "NoSuchUpload",
        "NotImplemented",
        "NotSignedUp",
        "PermanentRedirect",
        "PreconditionFailed",
        "QuotaExceeded",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnauthorizedAccess",
        "XMinioAdminBucketQuotaExceeded",
    }
)

REQUEST_SPECIFIC: Final = frozenset(
    {
        "EntityTooLarge",
        "EntityTooSmall",
        "InvalidDigest",
        "InvalidObjectState",
        "InvalidPart",
        "InvalidPartOrder",
        "KeyTooLongError",
        "MalformedXML",
        "MetadataTooLarge",
        "NoSuchKey",
        "NoSuchLifecycleConfiguration",
        "NoSuchUpload",
        "PreconditionFailed",
    }
)
"""Permanent errors that concern one request only. Any other code, even an unknown one (quotas have many names), may
affect all requests; the circuit breaker's probe decides."""

HINTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "AccessControlListNotSupported": "the bucket has no ACLs; leave S3_ACL empty, or allow ACLs in its ownership",
        "AccessDenied": (
            "the credentials are valid but lack a permission; allow s3:PutObject, s3:GetObject, "
            "s3:AbortMultipartUpload, s3:ListMultipartUploadParts on the objects and s3:ListBucket, "
            "s3:ListBucketMultipartUploads on the bucket; for S3_TAGS also s3:PutObjectTagging, for S3_ACL "
            "s3:PutObjectAcl, for KMS kms:GenerateDataKey and kms:Decrypt on the key"
        ),
        "AuthorizationHeaderMalformed": "set S3_REGION_NAME to the bucket's region",
        "BucketAlreadyExists": "another account owns a bucket of that name; choose another S3_BUCKET_NAME",
        "EntityTooLarge": "a part may have at most 5 GiB; lower CHUNK_SIZE_BYTES",
        "EntityTooSmall": (
            "parts other than the last need at least 5 MiB; raise CHUNK_SIZE_BYTES, or set S3_EQUAL_PARTS=true if "
            "the store requires equal parts"
        ),
        "ExpiredToken": "the session token has expired; renew S3_SESSION_TOKEN or use a role",
        "IllegalLocationConstraintException": "set S3_REGION_NAME to the bucket's region",
        "InvalidAccessKeyId": "the access key does not exist; check S3_ACCESS_KEY_ID and S3_ENDPOINT_URL",
        "InvalidBucketName": "check S3_BUCKET_NAME: 3 to 63 lower-case letters, digits, dots and hyphens",
        "InvalidObjectState": (
            "it is in an archive class (GLACIER, DEEP_ARCHIVE); restore it first (RestoreObject), then read it"
        ),
        "InvalidPart": (
            "the store lacks a part that it acknowledged, or requires equal parts except for the last: then set "
            "S3_EQUAL_PARTS=true"
        ),
        "InvalidStorageClass": "the store has no such storage class; check S3_STORAGE_CLASS",
        "InvalidTag": "the store does not accept these tags; check S3_TAGS",
        "KMS.DisabledException": "the KMS key is disabled; enable it, or set another S3_SSE_KMS_KEY_ID",
        "KMS.InvalidKeyUsageException": "the KMS key cannot be used for this; set another S3_SSE_KMS_KEY_ID",
        "KMS.KMSInvalidStateException": "the KMS key cannot be used now; it may be scheduled for deletion",
        "KMS.NotFoundException": "there is no such KMS key in the bucket's region; check S3_SSE_KMS_KEY_ID",
        "InvalidToken": "check S3_SESSION_TOKEN; it belongs to its access key",
        "KeyTooLongError": "an object's key may have 1,024 bytes; shorten S3_KEY_TEMPLATE or the file's name",
        "NoSuchBucket": "create the bucket, set S3_CREATE_BUCKET=true, or check S3_BUCKET_NAME and S3_REGION_NAME",
        "NoSuchUpload": "the multipart upload is gone: completed, aborted, or removed by a lifecycle rule",
        "NotImplemented": (
            "the store does not support a requested feature; set S3_CHECKSUM=md5 and leave S3_SSE, S3_TAGS, "
            "S3_STORAGE_CLASS and S3_ACL empty"
        ),
        "PermanentRedirect": "the bucket is elsewhere; set S3_REGION_NAME to its region, or S3_ENDPOINT_URL",
        "QuotaExceeded": (
            "the bucket's or account's quota is used up: make room there, or raise it; uploads wait, and continue by "
            "themselves"
        ),
        "RequestTimeTooSkewed": "this machine's clock is wrong; synchronise it (chrony, systemd-timesyncd)",
        "SignatureDoesNotMatch": (
            "the secret key does not fit the access key, or a proxy changes requests; check S3_SECRET_ACCESS_KEY, "
            "S3_REGION_NAME and S3_ENDPOINT_URL"
        ),
        "XMinioStorageFull": "the store's disks are full: make room there; uploads wait, and continue by themselves",
    }
)

_NO_ROOM_FOR_BODY: Final = (
    "S3 itself takes a body of this size. So a quota may be used up (Swift says it so): make room there, or raise it; "
    "or the store or a proxy before it has a lower limit (nginx: client_max_body_size): raise that above the "
    "size of a part, or lower CHUNK_SIZE_BYTES for new recordings; uploads wait, and continue by themselves"
)
_NO_REASON: Final = (
    "the response has no reason (to HEAD it never has): a wrong key or secret, a missing permission, a wrong clock, or "
    "a missing object while s3:ListBucket is not allowed"
)

_CODE_OF_STATUS: Final[Mapping[int, str]] = MappingProxyType(
    {
        301: "PermanentRedirect",
        307: "TemporaryRedirect",
        403: "AccessDenied",
        413: "EntityTooLarge",
        503: "ServiceUnavailable",
    }
)
"""The code of a response without an error body, as to HEAD."""
_CREATES: Final = frozenset({"create_multipart_upload", "put_object", "put_recording"})
"""Operations that need no object under their key, so that only the bucket can be missing."""
_MAX_BODY_BYTES: Final = 5 * 1024**3
_MAX_OBJECT_BYTES: Final = 5 * 1024**4
_TOO_LARGE: Final = 413
_STORAGE_FULL: Final = 507
_QUOTA_CODES: Final = frozenset({"SegmentsLimitExceeded", "StorageLimitExceeded"})
"""Storj's."""
_QUOTA_WORDS: Final = ("quota is reached", "cap exceeded")
"""Garage's and Backblaze's, whose code is ``AccessDenied``."""
_TRANSIENT_STATUS: Final = frozenset({307, 408, 425, 429})
_BAD_REQUEST: Final = 400
_NOT_FOUND: Final = 404
_SERVER_ERROR: Final = 500
_NOT_IMPLEMENTED: Final = 501  # the only permanent 5xx


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """The fields of an error document; each may be missing."""

    code: str | None = None
    message: str | None = None
    region: str | None = None
    endpoint: str | None = None
    request_id: str | None = None


def parse_error_body(body: bytes) -> ErrorBody:
    """Parse an error document; anything else (HTML, empty, malformed) gives empty fields."""
    try:
        root = parse_xml(body[:MAX_ERROR_BYTES])
    except XmlError:
        return ErrorBody()
    if root.name != "Error":
        return ErrorBody()
    return ErrorBody(
        code=one_line(root.text_of("Code")),
        message=one_line(root.text_of("Message")),
        region=one_line(root.text_of("Region")),
        endpoint=one_line(root.text_of("Endpoint")),
        request_id=one_line(root.text_of("RequestId")),
    )


def s3_error_is_transient(code: str | None, status: int | None) -> bool:
    """Whether the same request may succeed later without a change of settings or permissions."""
    if code in TRANSIENT:
        return True
    if code in PERMANENT:
        return False
    if status is None:
        return True
    return status in _TRANSIENT_STATUS or (status >= _SERVER_ERROR and status != _NOT_IMPLEMENTED)


def error_from_response(
    operation: str,
    *,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    now: datetime,
    bucket: str | None = None,
    key: str | None = None,
    part_number: int | None = None,
    size_bytes: int = 0,
    part_of_200: bool = False,
    cut_off: bool = False,
    foreign: bool = False,
    via: str = "",
) -> S3OperationError:
    """Return the error of a response, with a hint for the operator.

    Args:
        operation, bucket, key, part_number: of the request.
        size_bytes: of the part or the object that it was to store.
        status, headers: of the response; names in lower case.
        body: what was read of it; may be empty or not XML.
        now: to turn a ``Retry-After`` date into seconds.
        part_of_200: the status was 200 and the error is in the body (CompleteMultipartUpload); only the code counts.
        cut_off: the body is incomplete. Without a code the cause is unknown (a wrong clock or a missing permission
            have the same status), so the error is transient.
        foreign: the response is not from the store (``response_origin.py``).
        via: which proxy the request went through, for the message of a foreign response.
    """
    parsed = ErrorBody() if foreign else parse_error_body(body)
    region = parsed.region or one_line(headers.get("x-amz-bucket-region"))
    incomplete = cut_off and parsed.code is None
    too_large = not foreign and _is_too_large(parsed.code, status) and _is_within_limits(operation, size_bytes)
    over_quota = _names_quota(parsed) or too_large
    if foreign:
        code = NOT_S3_ANSWER
        text = f"{code} (HTTP {status}): {describe_foreign(status, headers, body)}{via}"
    else:
        code = UNREADABLE_ANSWER if incomplete else parsed.code or _code_without_body(status, region, key, operation)
        text = f"{code} (HTTP {status})"
        text += ": the response was cut off before its reason" if incomplete else ""
        text += f": {parsed.message.rstrip('.')}" if parsed.message else ""  # a hint may follow
        hint = _hint(_code_for_hint(parsed, code, status), region, parsed.endpoint)
        hint = _NO_ROOM_FOR_BODY if too_large else hint
        hint = _NO_REASON if parsed.code is None and code == "AccessDenied" else hint
        text += f"; {hint}" if hint else ""
    transient = s3_error_is_transient(code, _SERVER_ERROR if part_of_200 else status)
    error = S3OperationError(
        operation,
        text + describe(bucket, key, part_number),
        transient=transient,
        code=code,
        status=status,
        request_id=None if foreign else parsed.request_id or one_line(headers.get("x-amz-request-id")),
        bucket=bucket,
        key=key,
        part_number=part_number,
        retry_after_seconds=parse_retry_after(headers.get("retry-after"), now),
    )
    error.over_quota = over_quota
    error.rejected = may_affect_all(error)
    return error


def may_affect_all(error: S3OperationError) -> bool:
    """Whether an error is a rejection that may affect other requests too."""
    return not error.transient and (error.over_quota or error.code not in REQUEST_SPECIFIC)


def _names_quota(body: ErrorBody) -> bool:
    """Whether an error is a quota's. Stores have names of their own for it, or only a message."""
    code, message = body.code or "", (body.message or "").lower()
    return "quota" in code.lower() or code in _QUOTA_CODES or any(words in message for words in _QUOTA_WORDS)


def _is_too_large(code: str | None, status: int) -> bool:
    return code == "EntityTooLarge" or status == _TOO_LARGE


def _is_within_limits(operation: str, size_bytes: int) -> bool:
    """Whether S3 itself takes a request of this size: then its refusal is no fault of the recording."""
    return size_bytes <= (_MAX_OBJECT_BYTES if operation == "complete_multipart_upload" else _MAX_BODY_BYTES)


def _code_for_hint(body: ErrorBody, code: str, status: int) -> str:
    if _names_quota(body):
        return "QuotaExceeded"
    return "XMinioStorageFull" if status == _STORAGE_FULL else code


def describe(bucket: str | None, key: str | None, part_number: int | None) -> str:
    """Return the bucket, key and part of a request as the end of a message."""
    named = [
        f"bucket {bucket!r}" if bucket is not None else None,
        f"key {key!r}" if key is not None else None,
        f"part {part_number}" if part_number is not None else None,
    ]
    words = ", ".join(word for word in named if word)
    return f" [{words}]" if words else ""


def _code_without_body(status: int, region: str | None, key: str | None, operation: str) -> str:
    if status == _BAD_REQUEST and region:  # HeadBucket in the wrong region
        return "AuthorizationHeaderMalformed"
    if status == _NOT_FOUND:
        return "NoSuchKey" if key is not None and operation not in _CREATES else "NoSuchBucket"
    return _CODE_OF_STATUS.get(status, f"Http{status}")


def _hint(code: str, region: str | None, endpoint: str | None) -> str | None:
    if code in {"PermanentRedirect", "AuthorizationHeaderMalformed", "TemporaryRedirect"} and region:
        return f"the bucket's region is {region}: set S3_REGION_NAME={region}"
    if code == "PermanentRedirect" and endpoint:
        return f"the bucket is at {endpoint}: set S3_ENDPOINT_URL or S3_REGION_NAME accordingly"
    return HINTS.get(code)
