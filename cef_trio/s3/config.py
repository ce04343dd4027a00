"""How one bucket is reached: what the S3 client needs to know, as plain values, and where its keys come from. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from cef_trio.s3.signing import Credentials
from cef_trio.settings import ObjectOptions


class Addressing(StrEnum):
    """Where the bucket's name stands in the URL (``S3_ADDRESSING``)."""

    AUTO = "auto"
    """In the host name at AWS, where the name allows it; in the path at every other endpoint."""
    PATH = "path"
    VIRTUAL = "virtual"


class ChecksumMode(StrEnum):
    """How parts are proved (``S3_CHECKSUM``); ``auto`` is CRC64NVME, and MD5 where the store does not know it."""

    AUTO = "auto"
    CRC64NVME = "crc64nvme"
    CRC32C = "crc32c"
    SHA256 = "sha256"
    MD5 = "md5"


class PayloadSigning(StrEnum):
    """Whether bodies are part of the signature (``S3_PAYLOAD_SIGNING``).

    ``auto`` does not sign them, since their checksum proves them for less, until a store insists.
    """

    AUTO = "auto"
    SIGNED = "signed"
    UNSIGNED = "unsigned"


class CredentialsProvider(Protocol):
    """Gives the credentials to sign with, now."""

    async def get(self) -> Credentials:
        """Credentials that are valid for some minutes at least.

        Raises:
            S3OperationError: there are none, or they could not be fetched.
        """
        ...

    def rejected(self) -> bool:
        """S3 refused them: look for others before the next call. Returns whether there certainly are better ones."""
        ...


@dataclass(frozen=True, slots=True)
class S3Config:
    """One bucket and how to talk to it.

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
    """Certificates to trust instead of the system's usual ones, PEM."""
    connect_timeout_seconds: float = 10.0
    read_timeout_seconds: float = 60.0
    """Silence while an answer is awaited or read."""
    write_timeout_seconds: float = 60.0
    """Silence while one block of a body is sent; never the time of a whole part."""
    complete_timeout_seconds: float = 300.0
    """Silence after CompleteMultipartUpload: stores that copy parts together may say nothing for minutes."""
    max_connections: int = 32
    options: ObjectOptions = field(default_factory=ObjectOptions)
    """How objects are put; the caller sends them with each creation (:attr:`S3Client.options`)."""

    def __post_init__(self) -> None:
        timeouts = (
            self.connect_timeout_seconds,
            self.read_timeout_seconds,
            self.write_timeout_seconds,
            self.complete_timeout_seconds,
        )
        if not all(0 < seconds < math.inf for seconds in timeouts):
            raise ValueError(f"timeouts are positive and finite, not {timeouts}")
        if self.max_connections < 1:
            raise ValueError(f"at least one connection is needed, not {self.max_connections}")
