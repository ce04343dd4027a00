"""What an ETag proves about an object's content. Pure; all comparisons of ETags use these rules.

Rules (https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html):

==========================================  =========================================================================
object or part                              its ETag
==========================================  =========================================================================
PutObject or part, plain text or AES256     the MD5 of the bytes
PutObject or part, KMS, DSSE, customer key  looks like an MD5, but is not
completed multipart upload                  ``…-N``; in plain text or AES256 MD5 of the parts' MD5s, else anything
==========================================  =========================================================================

A *different* ETag proves damage only if it is an MD5 (:func:`is_md5`). An ETag *equal* to the MD5 of the bytes always
proves them: other bytes do not have that MD5 by chance. An ETag equal to that of the parts' ETags identifies the parts;
it proves the bytes if each part was proved when it was sent (:mod:`cef_trio.s3.proof`). Where the ETag
is opaque, a checksum decides, or the object's content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

ENCRYPTION: Final = "x-amz-server-side-encryption"
_CUSTOMER_KEY: Final = "x-amz-server-side-encryption-customer-algorithm"
_MD5_BYTES: Final = hashlib.md5(usedforsecurity=False).digest_size


def looks_like_md5(etag: str) -> bool:
    """Whether an ETag has the form of an MD5."""
    return len(etag) == 2 * _MD5_BYTES and etag.isascii() and all(c in "0123456789abcdefABCDEF" for c in etag)


def is_opaque(headers: Mapping[str, str], *, kms_requested: bool = False) -> bool:
    """Whether an ETag is independent of the content, because of encryption with KMS or a customer's key.

    A bucket may encrypt by default, and some stores do not repeat in every response that KMS was requested.
    """
    return kms_requested or headers.get(ENCRYPTION, "AES256") != "AES256" or _CUSTOMER_KEY in headers


def is_md5(etag: str, headers: Mapping[str, str], *, kms_requested: bool = False) -> bool:
    """Whether the ETag of a part, or of an object of PutObject, is the MD5 of its content."""
    return looks_like_md5(etag) and not is_opaque(headers, kms_requested=kms_requested)


def multipart_etag(part_etags: Sequence[str]) -> str | None:
    """Return the ETag of an object made of parts with these ETags: MD5 of their MD5s, ``-``, their number.

    ``None`` if one of them does not look like an MD5. With KMS they look like MD5s but are not; the object's ETag then
    differs, which proves nothing (:func:`is_opaque`).
    """
    if not all(looks_like_md5(etag) for etag in part_etags):
        return None
    digests = b"".join(bytes.fromhex(etag) for etag in part_etags)
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(part_etags)}"
