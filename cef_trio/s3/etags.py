"""What an ETag proves. Pure; every place that compares one asks here.

S3's rules (https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html):

==========================================  =========================================================================
object or part                              its ETag
==========================================  =========================================================================
PutObject or part, plain text or AES256     the MD5 of the bytes
PutObject or part, KMS, DSSE, customer key  looks like an MD5, and is none
completed multipart upload                  ``…-N``; in plain text or AES256 MD5 of the parts' MD5s, else anything
==========================================  =========================================================================

So an ETag that differs from an MD5 proves damage only where it is one (:func:`is_md5`). One that is *equal* is always
a proof: no other bytes have that MD5 by chance, and an ETag made of the parts' ETags names those very parts, each of
which was proved on its way. Where an ETag says nothing, a checksum does, or S3's own check of ``Content-MD5`` and of
the part's checksum, or the bytes read back.
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


def is_opaque(headers: Mapping[str, str], *, kms_asked: bool = False) -> bool:
    """Whether an answer's ETag says nothing of the bytes: they are encrypted with KMS or a customer's key.

    Args:
        answer: the headers of the answer, names in lower case. The bucket may encrypt without being asked.
        kms_asked: whether KMS was asked for: some stores do not say so with each answer.
    """
    return kms_asked or headers.get(ENCRYPTION, "AES256") != "AES256" or _CUSTOMER_KEY in headers


def is_md5(etag: str, headers: Mapping[str, str], *, kms_asked: bool = False) -> bool:
    """Whether the ETag of a part, or of an object that was put at once, is the MD5 of its bytes."""
    return looks_like_md5(etag) and not is_opaque(headers, kms_asked=kms_asked)


def multipart_etag(part_etags: Sequence[str]) -> str | None:
    """The ETag that S3 gives an object made of parts with these ETags: MD5 of their MD5s, ``-``, their number.

    ``None`` if any of them does not even look like an MD5: then nothing can be expected. If they only look like it
    (KMS), the object's will differ, and that proves nothing (:func:`is_opaque`).
    """
    if not all(looks_like_md5(etag) for etag in part_etags):
        return None
    digests = b"".join(bytes.fromhex(etag) for etag in part_etags)
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(part_etags)}"
