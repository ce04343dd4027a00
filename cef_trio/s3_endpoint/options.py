"""Options of objects: storage class, encryption, tags, ACL; what S3 refuses and returns of them. Pure.

Rules: https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html (headers),
https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-tagging.html (tags) and
https://docs.aws.amazon.com/AmazonS3/latest/userguide/about-object-ownership.html (new buckets have no ACLs). Nothing is
encrypted here; only the responses, and ETags that are not MD5s, are as S3's with KMS.
"""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from cef_trio.s3_endpoint.errors import S3Error

STORAGE_CLASS: Final = "x-amz-storage-class"
TAGGING: Final = "x-amz-tagging"
ACL: Final = "x-amz-acl"
ENCRYPTION: Final = "x-amz-server-side-encryption"
OWNERSHIPS: Final = ("BucketOwnerEnforced", "BucketOwnerPreferred", "ObjectWriter")
"""Object ownership of a bucket; the first, which is the default, has no ACLs."""

_KEY_ID: Final = f"{ENCRYPTION}-aws-kms-key-id"
_BUCKET_KEY: Final = f"{ENCRYPTION}-bucket-key-enabled"
_AWS_KEY: Final = "arn:aws:kms:us-east-1:000000000000:alias/aws/s3"
_STORAGE_CLASSES: Final = frozenset(
    {
        *("STANDARD", "REDUCED_REDUNDANCY", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING"),
        *("GLACIER", "DEEP_ARCHIVE", "GLACIER_IR"),
    }
)
_ARCHIVES: Final = frozenset({"GLACIER", "DEEP_ARCHIVE"})
_EVERYBODY: Final = "http://acs.amazonaws.com/groups/global/AllUsers"
_EVERY_ACCOUNT: Final = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers"
_GRANTS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "private": (),
    "public-read": ((_EVERYBODY, "READ"),),
    "public-read-write": ((_EVERYBODY, "READ"), (_EVERYBODY, "WRITE")),
    "aws-exec-read": (),
    "authenticated-read": ((_EVERY_ACCOUNT, "READ"),),
    "bucket-owner-read": (),
    "bucket-owner-full-control": (),
}
"""The grants of each canned ACL beside the owner's FULL_CONTROL; the bucket's owner owns all objects here."""
_MAX_TAGS: Final = 10
_MAX_TAG_KEY: Final = 128
_MAX_TAG_VALUE: Final = 256
_TAG_MARKS: Final = frozenset("+-=._:/@")


def kept_options(header: Callable[[str], str | None], *, ownership: str) -> dict[str, str]:
    """Return the options that an object keeps; ``header`` returns a header of the request.

    Raises:
        S3Error: ``InvalidStorageClass``, ``InvalidArgument``, ``InvalidTag``, ``BadRequest``, ``NotImplemented``, or
            ``AccessControlListNotSupported``.
    """
    kept = {ENCRYPTION: "AES256"} | {
        name: value for name in (STORAGE_CLASS, TAGGING, ACL) if (value := header(name)) is not None
    }
    if kept.get(STORAGE_CLASS, "STANDARD") not in _STORAGE_CLASSES:
        raise S3Error("InvalidStorageClass", details={"StorageClassRequested": kept[STORAGE_CLASS]})
    if TAGGING in kept:
        read_tagging(kept[TAGGING])
    if ACL in kept:
        _check_acl(kept[ACL], ownership)
    return kept | _encryption(header)


def read_tagging(header: str) -> list[tuple[str, str]]:
    """Return the tags of an ``x-amz-tagging`` header.

    Raises:
        S3Error: ``InvalidTag``, ``BadRequest`` (too many), ``InvalidArgument`` (not a URL query, or a duplicate tag).
    """
    tags = []
    for piece in header.split("&"):
        key, equals, value = piece.partition("=")
        if key or equals:
            tags.append((_decoded(key, header), _decoded(value, header)))
    for key, value in tags:
        if not key or not _is_tag_text(key, _MAX_TAG_KEY):
            raise S3Error("InvalidTag", "The TagKey you have provided is invalid", details={"TagKey": key})
        if key.lower().startswith("aws:"):
            raise S3Error("InvalidTag", "System tags cannot be added/updated by requester", details={"TagKey": key})
        if not _is_tag_text(value, _MAX_TAG_VALUE):
            raise S3Error("InvalidTag", "The TagValue you have provided is invalid", details={"TagValue": value})
    if len({key for key, _ in tags}) < len(tags):
        raise _bad_tagging(header)
    if len(tags) > _MAX_TAGS:
        raise S3Error("BadRequest", f"Object tags cannot be greater than {_MAX_TAGS}")
    return tags


def shown_options(kept: Mapping[str, str]) -> dict[str, str]:
    """Return an object's response headers to GET and HEAD: the number of tags, no ACL, no class if it is STANDARD."""
    shown = {name: value for name, value in kept.items() if name not in {TAGGING, ACL}}
    if tags := read_tagging(kept.get(TAGGING, "")):
        shown["x-amz-tagging-count"] = str(len(tags))
    if shown.get(STORAGE_CLASS) == "STANDARD":
        del shown[STORAGE_CLASS]
    return shown


def check_readable(kept: Mapping[str, str]) -> None:
    """Refuse to read archived objects; restoring is not implemented.

    Raises:
        S3Error: ``InvalidObjectState``.
    """
    if kept.get(STORAGE_CLASS) in _ARCHIVES:
        raise S3Error("InvalidObjectState", details={"StorageClass": kept[STORAGE_CLASS]})


def grants(kept: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the grants of an object's ACL beside the owner's: a group's URI, and a permission."""
    return _GRANTS[kept.get(ACL, "private")]


def etag_of(md5: str, kept: Mapping[str, str], *, parts: int | None = None) -> str:
    """Return the ETag of bytes, or of an object of that many parts: ``md5``, or with KMS something of the same form."""
    if not kept.get(ENCRYPTION, "").startswith("aws:kms"):
        return md5
    opaque = secrets.token_hex(16)
    return opaque if parts is None else f"{opaque}-{parts}"


def check_ownership(name: str | None) -> str:
    """Return a bucket's ownership from ``x-amz-object-ownership``.

    Raises:
        S3Error: ``InvalidArgument``.
    """
    if name is not None and name not in OWNERSHIPS:
        raise _invalid("Invalid x-amz-object-ownership header: " + name, "x-amz-object-ownership", name)
    return name or OWNERSHIPS[0]


def _check_acl(acl: str, ownership: str) -> None:
    if acl not in _GRANTS:
        raise _invalid("Invalid Argument", ACL, acl)
    if ownership == OWNERSHIPS[0] and acl != "bucket-owner-full-control":
        raise S3Error("AccessControlListNotSupported")


def _encryption(header: Callable[[str], str | None]) -> dict[str, str]:
    if header(f"{ENCRYPTION}-customer-algorithm") is not None:
        raise S3Error("NotImplemented", "Customers' keys are not implemented by this endpoint")
    kind, key, bucket_key = (header(name) for name in (ENCRYPTION, _KEY_ID, _BUCKET_KEY))
    if kind not in (None, "AES256", "aws:kms", "aws:kms:dsse"):
        raise _invalid("The encryption method specified is not supported", ENCRYPTION, kind or "")
    if bucket_key is not None and bucket_key.lower() not in {"true", "false"}:
        raise _invalid("Invalid value of the bucket key header", _BUCKET_KEY, bucket_key)
    if kind in (None, "AES256"):
        if key is not None:
            message = (
                "Server Side Encryption with AWS KMS managed key requires HTTP header x-amz-server-side-encryption"
            )
            raise _invalid(f"{message} : aws:kms", ENCRYPTION, kind or "null")
        return {ENCRYPTION: "AES256"}
    kept = {ENCRYPTION: kind or "", _KEY_ID: key or _AWS_KEY}
    if bucket_key is not None and bucket_key.lower() == "true":
        if kind != "aws:kms":
            raise _invalid("Bucket keys are not supported with DSSE-KMS", _BUCKET_KEY, bucket_key)
        kept[_BUCKET_KEY] = "true"
    return kept


def _decoded(text: str, header: str) -> str:
    try:
        return unquote_to_bytes(text.replace("+", " ")).decode()
    except UnicodeDecodeError as error:
        raise _bad_tagging(header) from error


def _is_tag_text(text: str, most: int) -> bool:
    return len(text.encode("utf-16-le")) // 2 <= most and all(
        character in _TAG_MARKS or unicodedata.category(character)[0] in "LNZ" for character in text
    )


def _bad_tagging(header: str) -> S3Error:
    return _invalid(
        "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name "
        "duplicates.",
        TAGGING,
        header,
    )


def _invalid(message: str, name: str, value: str) -> S3Error:
    return S3Error("InvalidArgument", message, details={"ArgumentName": name, "ArgumentValue": value})
