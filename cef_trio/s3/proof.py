"""What S3's response proves about a body that it acknowledged. Pure.

S3 proves a body in one of two ways: it repeats a checksum of the bytes, whichever algorithm, or its ETag is their MD5
(:mod:`cef_trio.s3.etags`). A status of success proves nothing: many stores ignore headers that they do not know.

==============================  ==================  =================  =================
a checksum of the response      ETag: our MD5       another MD5        opaque, or MD5 not computed
==============================  ==================  =================  =================
equals ours                     proved              not proved         proved
differs from ours               damaged             damaged            damaged
missing, or not computed here   proved              damaged            not proved
==============================  ==================  =================  =================

An equal checksum beside another MD5 may be a header that the store repeated unread, or an ETag that only looks like an
MD5: neither is believed. What is not proved here is proved by the whole object (:mod:`cef_trio.s3.upload_body` for
PutObject, :mod:`cef_trio.s3.complete` for parts).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from cef_trio.s3.checksums import CHECKSUMS, to_base64
from cef_trio.s3.etags import is_md5
from cef_trio.s3.model import ChecksumAlgorithm


class Proof(Enum):
    """What a response proves."""

    CHECKSUM = "checksum"
    """S3 has the bytes: it repeats a checksum of them."""
    ETAG = "etag"
    """S3 has the bytes: its ETag is their MD5."""
    CONTRADICTION = "contradiction"
    """Nothing: it repeats the checksum, but its ETag is another MD5."""
    NOTHING = "nothing"
    DAMAGED = "damaged"
    """S3 has other bytes."""

    @property
    def is_proved(self) -> bool:
        """Whether S3 is known to have the bytes."""
        return self in {Proof.CHECKSUM, Proof.ETAG}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a response proves, and for damaged bytes both values."""

    proof: Proof
    text: str = ""


def evidence_of(
    etag: str, headers: Mapping[str, str], digests: Mapping[ChecksumAlgorithm, bytes], *, kms_requested: bool
) -> Evidence:
    """Return what a response proves about a body with these checksums. Names of headers are in lower case."""
    repeated = False
    for algorithm, digest in digests.items():
        theirs = headers.get(CHECKSUMS[algorithm].header)
        if algorithm is ChecksumAlgorithm.MD5 or not theirs:
            continue
        if theirs != to_base64(digest):
            return Evidence(Proof.DAMAGED, f"S3 stored {algorithm} {theirs} instead of {to_base64(digest)}")
        repeated = True
    md5 = digests.get(ChecksumAlgorithm.MD5)
    if md5 is not None and etag.lower() == md5.hex():
        return Evidence(Proof.CHECKSUM if repeated else Proof.ETAG)
    if md5 is not None and is_md5(etag, headers, kms_requested=kms_requested):
        if repeated:
            return Evidence(Proof.CONTRADICTION)
        return Evidence(Proof.DAMAGED, f"S3 stored MD5 {etag} instead of {md5.hex()}")
    return Evidence(Proof.CHECKSUM if repeated else Proof.NOTHING)
