"""The configuration of the S3 client: plain values, and the interface of a credentials provider. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from cef_trio.http import HttpProxy
from cef_trio.s3.signing import Credentials
from cef_trio.settings import ObjectOptions


class Addressing(StrEnum):
    """Where the bucket's name is in the URL (``S3_ADDRESSING``)."""

    AUTO = "auto"
    """In the host name at AWS, if the name is valid there; in the path at every other endpoint."""
    PATH = "path"
    VIRTUAL = "virtual"


class ChecksumMode(StrEnum):
    """How parts are verified (``S3_CHECKSUM``); ``auto`` is CRC64NVME, or MD5 if the store does not support it."""

    AUTO = "auto"
    CRC64NVME = "crc64nvme"
    CRC32C = "crc32c"
    SHA256 = "sha256"
    MD5 = "md5"


class PayloadSigning(StrEnum):
    """Whether bodies are signed (``S3_PAYLOAD_SIGNING``).

    ``auto`` starts unsigned, since the checksum already verifies the body and costs less, and signs if the store
    requires it.
    """

    AUTO = "auto"
    SIGNED = "signed"
    UNSIGNED = "unsigned"


class CredentialsProvider(Protocol):
    """Provides the credentials to sign requests with."""

    async def get(self) -> Credentials:
        """Return credentials that are valid for at least some minutes.

        Raises:
            S3OperationError: there are none, or they could not be fetched.
        """
        ...

    def rejected(self) -> bool:
        """Fetch new credentials before the next request; return whether the rejected request is worth a retry."""
        ...


@dataclass(frozen=True, slots=True)
class S3Config:
    """A bucket and the parameters of requests to it.

    Raises:
        ValueError: a number is out of range.
    """

    bucket: str
    credentials: CredentialsProvider
    region: str = "us-east-1"
    endpoint_url: str | None = None
    """``http(s)://host[:port][/prefix]``; ``None`` is AWS in the region."""
    addressing: Addressing = Addressing.AUTO
    checksum: ChecksumMode = ChecksumMode.AUTO
    payload_signing: PayloadSigning = PayloadSigning.AUTO
    ca_file: Path | None = None
    """A PEM file with the certificates to trust instead of the system's."""
    proxy: HttpProxy | None = None
    """The proxy of all requests."""
    connect_timeout_seconds: float = 10.0
    read_timeout_seconds: float = 60.0
    """The longest time without a byte while a response is awaited or read."""
    write_timeout_seconds: float = 60.0
    """The longest time to send one block of a body; not the time of a whole part."""
    complete_timeout_seconds: float = 300.0
    """The read time-out of CompleteMultipartUpload: a store that copies the parts may send nothing for minutes."""
    max_connections: int = 32
    options: ObjectOptions = field(default_factory=ObjectOptions)
    """Headers of new objects; the caller sends them with each creation (:attr:`S3Client.options`)."""

    def __post_init__(self) -> None:
        timeouts = (
            self.connect_timeout_seconds,
            self.read_timeout_seconds,
            self.write_timeout_seconds,
            self.complete_timeout_seconds,
        )
        if not all(0 < seconds < math.inf for seconds in timeouts):
            raise ValueError(f"timeouts must be positive and finite, not {timeouts}")
        if self.max_connections < 1:
            raise ValueError(f"at least one connection is needed, not {self.max_connections}")
