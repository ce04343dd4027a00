"""What a store turned out not to support, and what is done instead. Decides; does no I/O.

Two settings may be ``auto``: how parts are proved and whether bodies are signed. Each begins with the better way and
falls back once for the whole client, with one line in the log. A fall-back is only *tried* when a store refuses a call
in words that may mean it, and *settled* when the very same call then succeeds the other way; a refusal with another
cause changes nothing.

CRC64NVME needs more than not being refused: stores that ignore the header answer 200 as well. A store has *proved*
that it checks when it repeats a part's checksum in its answer. Until then parts are hashed with MD5 too, so that a part
whose checksum was ignored is judged by its ETag, at once, without reading anything after S3 acknowledged it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import structlog

from cef_trio.exceptions import S3OperationError
from cef_trio.s3.config import ChecksumMode, PayloadSigning
from cef_trio.s3.model import ChecksumAlgorithm

_REFUSED_FEATURE: Final = frozenset(
    {
        "InvalidArgument",
        "InvalidDigest",
        "InvalidRequest",
        "MalformedXML",
        "NotImplemented",
        "UnsupportedArgument",
        "UnsupportedHeader",
        "XNotImplemented",
        "Http400",
        "Http501",
    }
)
_ABOUT_SIGNING: Final = ("content-sha256", "unsigned-payload", "unsigned payload")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class UploadMode:
    """How a call is made: which checksum proves the body, and whether the body is signed."""

    checksum: ChecksumAlgorithm
    signed: bool


class Capabilities:
    """What is known about one store."""

    def __init__(self, checksum: ChecksumMode, payload_signing: PayloadSigning) -> None:
        self._auto_checksum = checksum is ChecksumMode.AUTO
        self._auto_signing = payload_signing is PayloadSigning.AUTO
        self._preferred = ChecksumAlgorithm.CRC64NVME if self._auto_checksum else ChecksumAlgorithm(checksum.value)
        self._signed = payload_signing is PayloadSigning.SIGNED
        self._crc_missing = False
        self._crc_proved = False
        self._unsigned_proved = False

    def mode(self, upload: ChecksumAlgorithm | None = None) -> UploadMode:
        """How to make the next call: of an upload that was created with that algorithm, or of a new object."""
        checksum = upload or self._preferred
        if self._auto_checksum and self._crc_missing and checksum is ChecksumAlgorithm.CRC64NVME:
            checksum = ChecksumAlgorithm.MD5
        return UploadMode(checksum, self._signed)

    def needs_md5_too(self, mode: UploadMode) -> bool:
        """Whether a body must be hashed with MD5 beside its CRC64NVME, since the store may ignore that."""
        return mode.checksum is ChecksumAlgorithm.CRC64NVME and self._auto_checksum and not self._crc_proved

    def alternative(self, mode: UploadMode, refusal: S3OperationError, *, with_body: bool) -> UploadMode | None:
        """How else to make a call that was refused; ``None`` if the refusal must stand."""
        if with_body and self._auto_signing and not mode.signed and self._wants_signature(refusal):
            return UploadMode(mode.checksum, signed=True)
        if (
            self._auto_checksum
            and not self._crc_proved
            and mode.checksum is ChecksumAlgorithm.CRC64NVME
            and refusal.code in _REFUSED_FEATURE
        ):
            return UploadMode(ChecksumAlgorithm.MD5, mode.signed)
        return None

    def _wants_signature(self, refusal: S3OperationError) -> bool:
        if refusal.code == "XAmzContentSHA256Mismatch":
            return True
        if refusal.code == "SignatureDoesNotMatch":
            return not self._unsigned_proved
        return refusal.code in _REFUSED_FEATURE and any(word in refusal.message.lower() for word in _ABOUT_SIGNING)

    def settle(self, mode: UploadMode, alternative: UploadMode, refusal: S3OperationError) -> None:
        """The call that ``way`` could not do was done by ``alternative``: go on so."""
        if alternative.signed and not mode.signed and not self._signed:
            self._signed = True
            log.warning("s3_payload_signing_needed", refusal=refusal.code, going_on_with="signed payloads")
        if alternative.checksum is not mode.checksum:
            self._miss_crc(f"refused with {refusal.code}")

    def accepted_body(self, mode: UploadMode) -> None:
        """A body arrived this way."""
        if not mode.signed:
            self._unsigned_proved = True

    def crc_confirmed(self) -> None:
        """A part's CRC64NVME came back: the store checks it."""
        self._crc_proved = True

    def crc_not_confirmed(self, where: str) -> bool:
        """An answer that should have named CRC64NVME did not. Returns whether the bytes need another proof.

        They do not where a person chose CRC64NVME: some stores check it and never say so (OpenStack Swift).
        """
        self._crc_proved = False
        if self._auto_checksum:
            self._miss_crc(f"not confirmed by {where}")
        elif not self._crc_missing:
            self._crc_missing = True
            log.warning("s3_checksum_not_confirmed", checksum="crc64nvme", by=where)
        return self._auto_checksum

    def _miss_crc(self, why: str) -> None:
        if not self._crc_missing:
            self._crc_missing = True
            log.warning("s3_checksum_unsupported", checksum="crc64nvme", why=why, going_on_with="md5")
