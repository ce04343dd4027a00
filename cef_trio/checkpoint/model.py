"""The data classes of a checkpoint: a stream's record, its parts, its file's identity, its lease. Pure.

Field names are those of the Redis hash ``stream:<id>:meta``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cef_trio.checkpoint import schema as schemas
from cef_trio.checkpoint.states import Status, StreamSet


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """The identity of a file, independent of its name: device, inode, generation, checksum of the first bytes.

    ``head_crc64nvme`` covers the first ``head_size_bytes`` (0 to 4096) bytes; both are 0 for an empty file.
    ``generation`` distinguishes two files that had the same inode one after the other; ``None`` if the file system does
    not report it. ``files/identity.py`` documents the other fields; records of earlier versions lack them.
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
    """The owner of a stream: the machine of the daemon that created it, and the location of its watch folder.

    ``upload/ownership_rules.py`` has the rules for comparing owners. ``None``: unknown.
    """

    machine: str | None = None
    """A hash of the machine id (``/etc/machine-id``), which a container has only if it is mounted."""
    file_system: str | None = None
    """The file system's id; for a network file system ``net:`` and its source; if there is no id, ``dev:`` and the
    device."""
    mount: str | None = None
    """The mount point and the mounted root, ``<mount point> <root>``, as in mountinfo."""

    @property
    def is_shared(self) -> bool:
        """Whether daemons on several hosts can see the same folder."""
        return self.file_system is not None and self.file_system.startswith(SHARED)

    @property
    def name(self) -> str:
        """A name that is stable over restarts; empty if nothing is known of the owner."""
        machine = None if self.is_shared else self.machine
        text = " ".join(one for one in (machine, self.file_system, self.mount) if one)
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16] if text else ""


SHARED: Final = "net:"
"""Prefix of ``Owner.file_system`` for network file systems."""
NAMELESS: Final = "dev:"
"""Prefix of ``Owner.file_system`` for a device without a file system id; it may change at the next start."""


@dataclass(frozen=True, slots=True)
class PartRecord:
    """A part that S3 acknowledged, as stored in ``stream:<id>:parts`` under its number."""

    part_number: int
    etag: str
    size_bytes: int
    crc64nvme: int
    uploaded_at_utc: datetime
    checksum: str | None = None
    """Base64; sent again with CompleteMultipartUpload if the upload's algorithm is crc32c or sha256."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamMeta:
    """The record of a stream, ``stream:<id>:meta``. Times are aware and in UTC; ``None``: the field is absent.

    ``original_path`` is absolute, as ``os.fsdecode`` returns it: bytes that are not UTF-8 are surrogate escapes.
    ``s3_key_prefix`` is the object's whole key, despite its name.
    """

    stream_id: str
    original_path: str
    identity: FileIdentity
    current_path: str
    """The current path, which is the key in ``streams:by_path``; ``original_path`` until the file is renamed."""
    s3_bucket: str
    s3_key_prefix: str
    part_size: int
    equal_parts: bool
    started_at_utc: datetime
    last_activity_at_utc: datetime
    status: Status = Status.ACTIVE
    failure_reason: str | None = None
    """A sentence for the operator."""
    s3_upload_id: str | None = None
    checksum_algorithm: str | None = None
    """The ``ChecksumAlgorithm`` of the open upload's parts; set with ``s3_upload_id``."""
    total_bytes_sent: int = 0
    """Bytes of all parts that S3 acknowledged; a part sent twice counts twice."""
    next_part_to_upload: int = 1
    """One past the highest part number recorded."""
    parts_rewritten: int = 0
    bytes_rewritten: int = 0
    uploads_restarted: int = 0
    """Number of restarts because S3 had lost the upload."""
    retry_at_utc: datetime | None = None
    retry_attempts: int = 0
    object_etag: str | None = None
    """Set once the object is complete and verified; only the metadata JSON is still to be written."""
    object_crc64nvme: int | None = None
    """Of a completed stream that of all its bytes; before that the one that S3 returned, ``None`` if it keeps none."""
    verified_size_bytes: int | None = None
    verified_mtime_ns: int | None = None
    """Size and mtime of the file when it was verified. A file that still has both needs no upload."""
    verified_crc64nvme: int | None = None
    """The file's checksum at that time, recorded before its only PutObject; ``None``: it is uploaded in parts."""
    completed_at_utc: datetime | None = None
    duration_seconds: float | None = None
    broken: str | None = None
    """Why the completed recording cannot be played, or not to its end; ``None``: nothing of the kind is known."""
    let_go_at_utc: datetime | None = None
    """When an operator let the failed stream go (``cef-trio forget``): it counts as failed no more, and its file is not
    uploaded until it changes."""
    let_go_size_bytes: int | None = None
    let_go_mtime_ns: int | None = None
    """Size and mtime of its file at that time; ``None``: the file could not be seen."""
    supersedes_stream_id: str | None = None
    """The completed stream of an earlier version of this file; unchanged parts are copied from its object."""
    supersedes_key: str | None = None
    """The key of that object."""
    s3_endpoint: str | None = None
    """Endpoint of the store that has the upload or the object; ``None``: recorded by an older version."""
    owner: Owner | None = None
    """``None``: recorded by an older version."""
    recording_began_at_utc: datetime | None = None
    """When the recording began, by its file's stamps (``upload/object_key.py``); ``None``: by an older version."""
    schema: int = schemas.CURRENT
    """The schema of the version that last wrote to the record (``schema.py``); never set by a :class:`Change`."""


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """A webhook of a stream's start or failure: its id, which no other event has, and its body."""

    event_id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A stream's record, set and parts."""

    meta: StreamMeta
    stream_set: StreamSet
    parts: Mapping[int, PartRecord] = field(default_factory=dict)
    """Without those of a completed stream, which are in its metadata JSON (``upload/completed_parts.py``)."""


ENDING_MS: Final = 10_000
"""How long before its end a lease that lasts long enough counts as not renewed."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease value of one daemon process.

    ``instance`` is the daemon's permanent name, so that a restarted daemon takes over its own leases at once.
    ``token`` is unique to the process. ``host`` identifies the running system: a daemon of the same name on another
    host is a different daemon, whose leases must expire first. The key's value is ``<instance>@<host>/<token>``.
    """

    instance: str
    token: str
    ttl_seconds: float
    host: str = ""

    @property
    def value(self) -> str:
        """The value of ``stream:<id>:lease``."""
        return f"{self.holder}/{self.token}"

    @property
    def holder(self) -> str:
        """The part of the value that earlier processes of the same daemon share."""
        return f"{self.instance}@{self.host}" if self.host else self.instance

    @property
    def ending_ms(self) -> int:
        """How long before the end of a lease like this one its daemon is taken for one that does not renew it.

        0: leases are too short for that. They are renewed when a third is over, so those of a working daemon come that
        near to their ends too.
        """
        return ENDING_MS if self.ttl_seconds * 1000 * 2 / 3 > ENDING_MS else 0
