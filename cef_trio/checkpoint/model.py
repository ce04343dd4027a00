"""The shape of a checkpoint: what is known of one stream, as values. Pure.

Field names are those of ``stream:<id>:meta`` (DESIGN 4): a person who opens ``redis-cli`` reads the same words as a
person who opens the code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cef_trio.checkpoint.states import Status, StreamSet


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Which file this is, whatever its name: device, inode and its generation, and a checksum of how it begins.

    ``head_size_bytes`` (0 to 4096) is how many bytes ``head_crc64nvme`` is of; a file that was empty has 0 and 0.
    ``generation`` tells two files apart that had the same inode one after the other; ``None`` where the file system
    does not tell it. What the other fields mean and what each is worth stands in ``files/identity.py``; records of
    earlier versions have none of them.
    """

    file_dev: int
    file_ino: int
    head_size_bytes: int = 0
    head_crc64nvme: int = 0
    generation: int | None = None
    birth_ns: int | None = None
    fs_type: str | None = None
    fs_id: str | None = None
    mount: str | None = None

    @property
    def inode(self) -> tuple[int, int]:
        """Device and inode."""
        return (self.file_dev, self.file_ino)


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a stream is: the machine of the daemon that began it, and the place of its watch folder there.

    Which of it decides stands in ``upload/ownership.py``; ``None`` is what is not told.
    """

    machine: str | None = None
    """A hash of the machine's id; containers are told it only if it is mounted into them."""
    file_system: str | None = None
    """The file system's own name for itself; of one that other hosts may mount too, ``net:`` and its source; of one
    that has no name ``dev:`` and the device."""
    mount: str | None = None
    """Where it is mounted, and which folder of it: ``<mount point> <root>``, as mountinfo has them."""

    @property
    def is_shared(self) -> bool:
        """Whether daemons on several hosts may see the very same folder."""
        return self.file_system is not None and self.file_system.startswith(SHARED)

    @property
    def name(self) -> str:
        """A name for it that it keeps over restarts; empty if nothing is known of it."""
        machine = None if self.is_shared else self.machine
        text = " ".join(one for one in (machine, self.file_system, self.mount) if one)
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16] if text else ""


SHARED: Final = "net:"
"""What the name of a file system begins with that is not one machine's own."""
NAMELESS: Final = "dev:"
"""What stands before a device whose file system has no name of its own; the next start may call it otherwise."""


@dataclass(frozen=True, slots=True)
class PartRecord:
    """A part that S3 acknowledged: the value of its number in ``stream:<id>:parts``."""

    part_number: int
    etag: str
    size_bytes: int
    crc64nvme: int
    uploaded_at_utc: datetime
    checksum: str | None = None
    """What Complete must repeat for it where the upload's algorithm is crc32c or sha256 (base64)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamMeta:
    """``stream:<id>:meta``. Times are aware and UTC; ``None`` is a field that is not there.

    ``original_path`` is absolute, as ``os.fsdecode`` gives it: bytes that are not UTF-8 are surrogate escapes.
    ``s3_key_prefix`` is the object's whole key (the name is the wire format's).
    """

    stream_id: str
    original_path: str
    identity: FileIdentity
    current_path: str
    """Where the file is now: ``original_path`` until it is renamed. This one is the key in ``streams:by_path``."""
    s3_bucket: str
    s3_key_prefix: str
    part_size: int
    equal_parts: bool
    started_at_utc: datetime
    last_activity_at_utc: datetime
    status: Status = Status.ACTIVE
    failure_reason: str | None = None
    """In words, for a person; with the status it says all."""
    s3_upload_id: str | None = None
    checksum_algorithm: str | None = None
    """How the parts of the open upload are proved (a ``ChecksumAlgorithm``); set with ``s3_upload_id``."""
    total_bytes_sent: int = 0
    """Bytes of all parts that S3 acknowledged, parts sent again counted again."""
    next_part_to_upload: int = 1
    """One past the highest part number recorded."""
    parts_rewritten: int = 0
    bytes_rewritten: int = 0
    uploads_restarted: int = 0
    """How often S3 had lost the upload, so that it was begun again."""
    retry_at_utc: datetime | None = None
    retry_attempts: int = 0
    object_etag: str | None = None
    """Set once the object exists, whole and verified: from then on only its metadata is still to be written."""
    object_crc64nvme: int | None = None
    verified_size_bytes: int | None = None
    verified_mtime_ns: int | None = None
    """Size and mtime of the file as it stood when it was verified: a file that still has both is done."""
    completed_at_utc: datetime | None = None
    duration_seconds: float | None = None
    supersedes_stream_id: str | None = None
    """The completed stream of an earlier state of this file, from whose object unchanged parts are copied."""
    supersedes_key: str | None = None
    """That object's key."""
    s3_endpoint: str | None = None
    """Where the store was reached that has the upload or the object; ``None``: an older version recorded it."""
    owner: Owner | None = None
    """Whose it is; ``None``: an older version recorded it."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All that is known of one stream."""

    meta: StreamMeta
    stream_set: StreamSet
    parts: Mapping[int, PartRecord] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lease:
    """Who owns streams: one value a daemon process.

    ``instance`` is the daemon's lasting name (a restarted daemon takes its own leases over at once), ``token`` is this
    process's own. ``host`` is the running system that it is on: the same name on another one is another daemon's,
    whoever gave it twice, and its leases are waited for. The key's value is ``<instance>@<host>/<token>``.
    """

    instance: str
    token: str
    ttl_seconds: float
    host: str = ""

    @property
    def value(self) -> str:
        """What ``stream:<id>:lease`` holds."""
        return f"{self.holder}/{self.token}"

    @property
    def holder(self) -> str:
        """Whose earlier leases it may take over at once."""
        return f"{self.instance}@{self.host}" if self.host else self.instance
