"""Which checksum and payload signing a store supports, and when to fall back. No I/O.

A condition of a recording's PutObject (``recording_put.py``) is left out once a store turned out to refuse it.

Not here: other headers have no fall-back. Those of tags, ACL, storage class and encryption are made by
``settings/object_options.py`` and always sent; ``x-amz-mp-object-size`` by ``complete.py``.

``S3_CHECKSUM`` and ``S3_PAYLOAD_SIGNING`` may be ``auto``. Each starts with the preferred mode and falls back at most
once for the whole client, with one log line. The alternative is *tried* if the store's error may mean that it lacks the
feature, and *settled* if the same request then succeeds. An error with another cause changes nothing.

Stores that ignore a checksum's header respond with 200 as well. A store is known to verify it once it repeats the
checksum in its response. Until then bodies are also hashed with MD5, so that one whose checksum was ignored can be
verified by its ETag without another read. A configured checksum is sent all the same: some stores verify it without
repeating it (OpenStack Swift).
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
IF_NONE_MATCH: Final = "if-none-match"
IF_MATCH: Final = "if-match"
_ABOUT_SIGNING: Final = ("content-sha256", "unsigned-payload", "unsigned payload")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class UploadMode:
    """How a request is sent: the checksum of its body, and whether the body is signed."""

    checksum: ChecksumAlgorithm
    signed: bool


class Capabilities:
    """The features of one store, as far as they are known."""

    def __init__(self, checksum: ChecksumMode, payload_signing: PayloadSigning) -> None:
        self._auto_checksum = checksum is ChecksumMode.AUTO
        self._auto_signing = payload_signing is PayloadSigning.AUTO
        self._preferred = ChecksumAlgorithm.CRC64NVME if self._auto_checksum else ChecksumAlgorithm(checksum.value)
        self._signed = payload_signing is PayloadSigning.SIGNED
        self._crc_missing = False
        self._confirmed: set[ChecksumAlgorithm] = set()
        self._not_confirmed: set[ChecksumAlgorithm] = set()
        """The configured checksums whose absence was logged."""
        self._parts_proved: bool | None = None
        self._unsigned_verified = False
        self._missing_conditions: set[str] = set()
        """The conditional headers that PutObject is sent without."""

    def checksum(self, upload: ChecksumAlgorithm | None = None) -> ChecksumAlgorithm:
        """Return the algorithm for the next request: of an upload created with ``upload``, or of a new object."""
        checksum = upload or self._preferred
        if self._auto_checksum and self._crc_missing and checksum is ChecksumAlgorithm.CRC64NVME:
            return ChecksumAlgorithm.MD5
        return checksum

    def negotiate(self, upload: ChecksumAlgorithm | None = None, *, signed: bool = False) -> Negotiation:
        """Return the modes to try for one request; ``signed``: it is signed in any case, since it has no body."""
        return Negotiation(self, UploadMode(self.checksum(upload), signed or self._signed))

    def needs_md5_too(self, mode: UploadMode) -> bool:
        """Whether to hash a body with MD5 too, since the store may ignore its checksum."""
        return mode.checksum not in self._confirmed

    def alternative(self, mode: UploadMode, refusal: S3OperationError) -> UploadMode | None:
        """Return another mode to try after this error; ``None`` if there is none."""
        if self._auto_signing and not mode.signed and self._wants_signature(refusal):
            return UploadMode(mode.checksum, signed=True)
        if (
            self._auto_checksum
            and ChecksumAlgorithm.CRC64NVME not in self._confirmed
            and mode.checksum is ChecksumAlgorithm.CRC64NVME
            and refusal.code in _REFUSED_FEATURE
        ):
            return UploadMode(ChecksumAlgorithm.MD5, mode.signed)
        return None

    def _wants_signature(self, refusal: S3OperationError) -> bool:
        if refusal.code == "XAmzContentSHA256Mismatch":
            return True
        if refusal.code == "SignatureDoesNotMatch":
            return not self._unsigned_verified
        return refusal.code in _REFUSED_FEATURE and any(word in refusal.message.lower() for word in _ABOUT_SIGNING)

    def settle(self, mode: UploadMode, alternative: UploadMode, refusal: S3OperationError) -> None:
        """Use ``alternative`` from now on: it succeeded where ``mode`` was refused."""
        if alternative.signed and not mode.signed and not self._signed:
            self._signed = True
            log.warning("s3_payload_signing_needed", refusal=refusal.code, going_on_with="signed payloads")
        if alternative.checksum is not mode.checksum:
            self._miss_crc(f"refused with {refusal.code}")

    def accepted(self, mode: UploadMode) -> None:
        """Record that a request succeeded in this mode at once."""
        if not mode.signed:
            self._unsigned_verified = True

    def confirmed(self, checksum: ChecksumAlgorithm) -> None:
        """Record that a response repeats the checksum of a body: the store verifies it."""
        self._confirmed.add(checksum)

    def not_confirmed(self, checksum: ChecksumAlgorithm, where: str) -> bool:
        """Record that a response lacks the checksum; return whether MD5 is used instead from now on."""
        self._confirmed.discard(checksum)
        if self._auto_checksum and checksum is ChecksumAlgorithm.CRC64NVME:
            self._miss_crc(f"not confirmed by {where}")
            return True
        if checksum not in self._not_confirmed:
            self._not_confirmed.add(checksum)
            log.warning("s3_checksum_not_confirmed", checksum=checksum.value, by=where)
        return False

    def part_acknowledged(self, *, proved: bool) -> None:
        """Record whether the response of a part proved its bytes."""
        self._parts_proved = proved and self._parts_proved is not False

    def proves_parts(self, *, opaque_etags: bool) -> bool:
        """Return whether the ETags of parts identify verified bytes.

        So it is while each response proves its part. Before the first one it is concluded from the encryption
        (``opaque_etags``), since an earlier process sent the parts.
        """
        return not opaque_etags if self._parts_proved is None else self._parts_proved

    def has_condition(self, header: str) -> bool:
        """Return whether PutObject is sent with this conditional header."""
        return header not in self._missing_conditions

    def may_lack_condition(self, header: str, refusal: S3OperationError) -> bool:
        """Return whether an error of a PutObject with this header may mean that the store does not support it."""
        return self.has_condition(header) and refusal.code in _REFUSED_FEATURE

    def condition_missing(self, header: str, refusal: S3OperationError) -> None:
        """Record that the same PutObject succeeded without this header."""
        if self.has_condition(header):
            self._missing_conditions.add(header)
            log.warning("s3_conditional_put_unsupported", condition=header, refusal=refusal.code)

    def _miss_crc(self, why: str) -> None:
        if not self._crc_missing:
            self._crc_missing = True
            log.warning("s3_checksum_unsupported", checksum="crc64nvme", why=why, going_on_with="md5")


class Negotiation:
    """The modes of one request: the current one and, if the store seems to lack it, at most one other."""

    def __init__(self, capabilities: Capabilities, mode: UploadMode) -> None:
        self.mode = mode
        """The mode of the next attempt."""
        self._capabilities = capabilities
        self._first: tuple[UploadMode, S3OperationError] | None = None
        """The first mode and its refusal, once there was one."""

    def refused(self, error: S3OperationError) -> None:
        """Change to another mode.

        Raises:
            S3OperationError: there is none. If both modes were refused, the first error, which has the cause; but a
                transient second one, since an outage shows nothing about either mode.
        """
        if self._first is None:
            alternative = self._capabilities.alternative(self.mode, error)
            if alternative is None:
                raise error
            self._first, self.mode = (self.mode, error), alternative
        elif error.transient:
            raise error
        else:
            raise self._first[1] from error

    def accepted(self) -> None:
        """Use this mode for later requests, too."""
        if self._first is None:
            self._capabilities.accepted(self.mode)
        else:
            self._capabilities.settle(self._first[0], self.mode, self._first[1])
