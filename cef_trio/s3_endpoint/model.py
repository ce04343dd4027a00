"""The reference model: the state of buckets, objects and multipart uploads, and S3's rules for them.

HTTP is in ``*_operations.py``. The model refuses what S3 refuses, in the same order and with the same codes. Every
change is atomic: it is made between two checkpoints, so a cancelled call has taken effect or has not.

Each multipart upload has a lock, which Complete holds while it joins the parts, so that meanwhile no part is replaced
and the upload is not aborted. Rules: https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html.
"""

from __future__ import annotations

import re
import secrets
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import trio

from cef_trio.s3_endpoint import checksums
from cef_trio.s3_endpoint.checksums import Algorithm, ChecksumType
from cef_trio.s3_endpoint.errors import S3Error
from cef_trio.s3_endpoint.multipart import (
    MIN_PART_BYTES,
    CompleteRequest,
    check_object,
    choose_parts,
    object_checksum,
)
from cef_trio.s3_endpoint.options import OWNERSHIPS, etag_of
from cef_trio.s3_endpoint.receiving import Received
from cef_trio.s3_endpoint.records import Bucket, MultipartUpload, StoredObject, StoredPart
from cef_trio.s3_endpoint.storage import Storage

PAGE: Final = 1000
"""The largest number of entries in a page of any listing."""
_MAX_KEY_BYTES: Final = 1024
_REMEMBERED_COMPLETIONS: Final = 10_000
_BUCKET_NAME: Final = re.compile(r"(?!\d+\.\d+\.\d+\.\d+$)(?!xn--)[a-z0-9](?:[a-z0-9.-]{1,61})[a-z0-9]")


@dataclass(slots=True)
class _OpenUpload:
    upload: MultipartUpload
    parts: dict[int, StoredPart]
    """By number, in the order in which they arrived."""
    lock: trio.Lock


@dataclass(frozen=True, slots=True)
class PartsPage:
    """A page of ListParts."""

    upload: MultipartUpload
    parts: Sequence[StoredPart]
    is_truncated: bool


@dataclass(frozen=True, slots=True)
class UploadsPage:
    """A page of ListMultipartUploads, with the common prefixes."""

    uploads: Sequence[MultipartUpload]
    prefixes: Sequence[str]
    is_truncated: bool


@dataclass(frozen=True, slots=True)
class ObjectsPage:
    """A page of ListObjects; ``last`` is the key or prefix after which the next page begins."""

    objects: Sequence[StoredObject]
    prefixes: Sequence[str]
    is_truncated: bool
    last: str


class S3Model:
    """Buckets, objects and uploads over a storage.

    Args:
        storage: loaded here.
        clock: returns Unix seconds.
        minimum_part_size_bytes: of every part but the last; less than S3's 5 MiB in tests.
        complete_again: whether a repeated Complete gets the same result (S3) or NoSuchUpload (MinIO and others).
        new_upload_token: returns the random end of an upload id.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        clock: Callable[[], float],
        minimum_part_size_bytes: int = MIN_PART_BYTES,
        complete_again: bool = True,
        new_upload_token: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        self.storage = storage
        self.minimum_part_size_bytes = minimum_part_size_bytes
        self.complete_again = complete_again
        self._clock = clock
        self._new_upload_token = new_upload_token
        self._last_id = 0
        self._completed: dict[str, StoredObject] = {}
        snapshot = storage.load()
        self._buckets = {bucket.name: bucket for bucket in snapshot.buckets}
        self._objects: dict[str, dict[str, StoredObject]] = {name: {} for name in self._buckets}
        for record in snapshot.objects:
            if record.bucket in self._objects:
                self._objects[record.bucket][record.key] = record
                if record.upload_id is not None:
                    self._completed[record.upload_id] = record
        self._uploads: dict[str, _OpenUpload] = {}
        for upload, parts in snapshot.uploads:
            if upload.upload_id in self._completed:
                # The process ended after the object was recorded and before the upload was removed.
                self._forget(upload, parts)
            else:
                by_arrival = sorted(parts, key=lambda part: part.modified_at)
                self._uploads[upload.upload_id] = _OpenUpload(
                    upload, {part.number: part for part in by_arrival}, trio.Lock()
                )

    # Buckets

    def buckets(self) -> list[Bucket]:
        """Return all buckets, sorted by name."""
        return [self._buckets[name] for name in sorted(self._buckets)]

    def bucket(self, name: str) -> Bucket:
        """Return a bucket.

        Raises:
            S3Error: ``NoSuchBucket``.
        """
        if name not in self._buckets:
            raise S3Error("NoSuchBucket", details={"BucketName": name})
        return self._buckets[name]

    def create_bucket(self, name: str, ownership: str = OWNERSHIPS[0]) -> None:
        """Create a bucket; without ACLs, as S3 does, unless ``ownership`` allows them.

        Raises:
            S3Error: ``InvalidBucketName``, ``BucketAlreadyOwnedByYou``.
        """
        if _BUCKET_NAME.fullmatch(name) is None or ".." in name:
            raise S3Error("InvalidBucketName", details={"BucketName": name})
        if name in self._buckets:
            raise S3Error("BucketAlreadyOwnedByYou", details={"BucketName": name})
        self._keep_bucket(Bucket(name, self._clock(), ownership=ownership))
        self._objects[name] = {}

    def delete_bucket(self, name: str) -> None:
        """Delete an empty bucket and its open uploads.

        Raises:
            S3Error: ``NoSuchBucket``, ``BucketNotEmpty``.
        """
        self.bucket(name)
        if self._objects[name]:
            raise S3Error("BucketNotEmpty", details={"BucketName": name})
        for each in [each for each in self._uploads.values() if each.upload.bucket == name]:
            del self._uploads[each.upload.upload_id]
            self._forget(each.upload, each.parts.values())
        self.storage.remove_bucket(name)
        del self._buckets[name], self._objects[name]

    def set_lifecycle(self, name: str, document: str | None) -> None:
        """Store a lifecycle configuration, which has no effect, or remove it.

        Raises:
            S3Error: ``NoSuchBucket``.
        """
        self._keep_bucket(replace(self.bucket(name), lifecycle=document))

    # Objects

    def check_key(self, bucket: str, key: str) -> None:
        """Check the bucket and the length of a key.

        Raises:
            S3Error: ``NoSuchBucket``, ``KeyTooLongError``.
        """
        self.bucket(bucket)
        if len(key.encode()) > _MAX_KEY_BYTES:
            raise S3Error(
                "KeyTooLongError", details={"Size": str(len(key.encode())), "MaxSizeAllowed": str(_MAX_KEY_BYTES)}
            )

    def object(self, bucket: str, key: str) -> StoredObject:
        """Return an object.

        Raises:
            S3Error: ``NoSuchBucket``, ``NoSuchKey``.
        """
        self.check_key(bucket, key)
        if key not in self._objects[bucket]:
            raise S3Error("NoSuchKey", details={"Key": key})
        return self._objects[bucket][key]

    def has_object(self, bucket: str, key: str) -> bool:
        """Return whether there is an object with that key."""
        return key in self._objects.get(bucket, ())

    def put_object(
        self, bucket: str, key: str, *, received: Received, blob: str, headers: Mapping[str, str], given: Sequence[str]
    ) -> StoredObject:
        """Store a blob as an object; ``given`` names the checksums that the client sent (CRC64NVME is kept if none).

        Raises:
            S3Error: ``NoSuchBucket``.
        """
        self.check_key(bucket, key)
        kept = given or (Algorithm.CRC64NVME.value,)
        record = StoredObject(
            bucket=bucket,
            key=key,
            size_bytes=received.size_bytes,
            etag=etag_of(received.md5, headers),
            blob=blob,
            modified_at=self._clock(),
            headers=dict(headers),
            checksums={algorithm: received.checksums[algorithm] for algorithm in kept},
            checksum_type=ChecksumType.FULL_OBJECT,
        )
        self._keep_object(record)
        return record

    def delete_object(self, bucket: str, key: str) -> None:
        """Delete an object, if there is one.

        Raises:
            S3Error: ``NoSuchBucket``.
        """
        self.check_key(bucket, key)
        record = self._objects[bucket].pop(key, None)
        if record is not None:
            self.storage.remove_object(bucket, key)
            self.storage.remove_blob(record.blob)

    def list_objects(self, bucket: str, *, prefix: str, delimiter: str, after: str, limit: int) -> ObjectsPage:
        """Return a page of a bucket's objects, in the order of their keys' UTF-8 bytes.

        Raises:
            S3Error: ``NoSuchBucket``.
        """
        self.bucket(bucket)
        keys = sorted((key for key in self._objects[bucket] if key.startswith(prefix)), key=str.encode)
        keys = keys[bisect_right(keys, after.encode(), key=str.encode) :]
        objects: list[StoredObject] = []
        prefixes: list[str] = []
        last = ""
        for key in keys:
            common = _common_prefix(key, prefix, delimiter)
            if common is not None and (common == after or (prefixes and prefixes[-1] == common)):
                continue
            if len(objects) + len(prefixes) == limit:
                return ObjectsPage(objects, prefixes, is_truncated=limit > 0, last=last)
            if common is None:
                objects.append(self._objects[bucket][key])
            else:
                prefixes.append(common)
            last = common or key
        return ObjectsPage(objects, prefixes, is_truncated=False, last=last)

    # Multipart uploads

    def create_upload(
        self,
        bucket: str,
        key: str,
        *,
        headers: Mapping[str, str],
        algorithm: Algorithm | None,
        checksum_type: ChecksumType | None,
    ) -> MultipartUpload:
        """Create an upload.

        Raises:
            S3Error: ``NoSuchBucket``, ``KeyTooLongError``, ``InvalidRequest`` (the checksum cannot have that type).
        """
        self.check_key(bucket, key)
        if algorithm is None and checksum_type is not None:
            raise S3Error(
                "InvalidRequest",
                "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.",
            )
        if algorithm is not None:
            checksum_type = checksum_type or checksums.default_type(algorithm)
            if not checksums.is_allowed(algorithm, checksum_type):
                raise S3Error(
                    "InvalidRequest",
                    f"The {checksum_type} checksum type cannot be used with the {algorithm} checksum algorithm.",
                )
        upload = MultipartUpload(
            self._new_upload_id(), bucket, key, self._clock(), dict(headers), algorithm, checksum_type
        )
        self.storage.put_upload(upload)
        self._uploads[upload.upload_id] = _OpenUpload(upload, {}, trio.Lock())
        return upload

    def upload(self, bucket: str, key: str, upload_id: str) -> MultipartUpload:
        """Return an open upload.

        Raises:
            S3Error: ``NoSuchBucket``, ``NoSuchUpload``.
        """
        return self._open(bucket, key, upload_id).upload

    async def put_part(
        self, bucket: str, key: str, upload_id: str, number: int, *, received: Received, blob: str
    ) -> StoredPart:
        """Store a blob as a part, in place of any other of that number.

        Raises:
            S3Error: ``NoSuchUpload``: the upload ended while the part was sent.
        """
        opened = self._open(bucket, key, upload_id)
        async with opened.lock:
            self._open(bucket, key, upload_id)
            etag = etag_of(received.md5, opened.upload.headers)
            part = StoredPart(number, received.size_bytes, etag, blob, self._clock(), dict(received.checksums))
            self.storage.put_part(opened.upload, part)
            replaced = opened.parts.pop(number, None)
            opened.parts[number] = part
            if replaced is not None:
                self.storage.remove_blob(replaced.blob)
            return part

    def list_parts(
        self, bucket: str, key: str, upload_id: str, *, after: int, limit: int, hide_newest: int = 0
    ) -> PartsPage:
        """Return a page of an upload's parts; ``hide_newest`` omits the newest ones (a stale listing).

        Raises:
            S3Error: ``NoSuchUpload``.
        """
        opened = self._open(bucket, key, upload_id)
        visible = list(opened.parts.values())
        visible = visible[: max(0, len(visible) - hide_newest)]
        parts = sorted((part for part in visible if part.number > after), key=lambda part: part.number)
        return PartsPage(opened.upload, parts[:limit], is_truncated=0 < limit < len(parts))

    def list_uploads(
        self, bucket: str, *, prefix: str, delimiter: str, key_marker: str, upload_id_marker: str, limit: int
    ) -> UploadsPage:
        """Return a page of a bucket's open uploads, by key and then by age (which is the order of their ids).

        Raises:
            S3Error: ``NoSuchBucket``.
        """
        self.bucket(bucket)
        found = sorted(
            (
                each.upload
                for each in self._uploads.values()
                if each.upload.bucket == bucket and each.upload.key.startswith(prefix)
            ),
            key=lambda upload: (upload.key.encode(), upload.upload_id),
        )
        uploads: list[MultipartUpload] = []
        prefixes: list[str] = []
        for upload in found:
            if not _is_after_markers(upload, key_marker, upload_id_marker):
                continue
            common = _common_prefix(upload.key, prefix, delimiter)
            if common is not None and (common <= key_marker or (prefixes and prefixes[-1] == common)):
                continue
            if len(uploads) + len(prefixes) == limit:
                return UploadsPage(uploads, prefixes, is_truncated=limit > 0)
            if common is None:
                uploads.append(upload)
            else:
                prefixes.append(common)
        return UploadsPage(uploads, prefixes, is_truncated=False)

    async def complete(self, bucket: str, key: str, upload_id: str, request: CompleteRequest) -> StoredObject:
        """Complete an upload. If cancelled before the end, the upload is unchanged.

        Raises:
            S3Error: from ``multipart.py``, or ``NoSuchUpload``.
        """
        done = self._completed.get(upload_id)
        if done is not None and self.complete_again and (done.bucket, done.key) == (bucket, key):
            return done
        opened = self._open(bucket, key, upload_id)
        async with opened.lock:
            if upload_id in self._completed:
                # A concurrent Complete of the same upload was faster.
                return self._completed_meanwhile(bucket, key, upload_id)
            self._open(bucket, key, upload_id)
            parts = choose_parts(opened.upload, opened.parts, request, self.minimum_part_size_bytes)
            check_object(opened.upload, request, parts)
            algorithm, kind, checksum = object_checksum(opened.upload, parts)
            blob = await self.storage.join_blobs([(part.blob, part.size_bytes) for part in parts])
            record = StoredObject(
                bucket=bucket,
                key=key,
                size_bytes=sum(part.size_bytes for part in parts),
                etag=etag_of(
                    checksums.multipart_etag([part.etag for part in parts]), opened.upload.headers, parts=len(parts)
                ),
                blob=blob,
                modified_at=self._clock(),
                headers=opened.upload.headers,
                checksums={algorithm.value: checksum},
                checksum_type=kind,
                upload_id=upload_id,
            )
            self._keep_object(record)
            self._completed[upload_id] = record
            while len(self._completed) > _REMEMBERED_COMPLETIONS:
                del self._completed[next(iter(self._completed))]
            del self._uploads[upload_id]
            self._forget(opened.upload, opened.parts.values())
            return record

    async def abort(self, bucket: str, key: str, upload_id: str) -> None:
        """Abort an upload and delete its parts.

        Raises:
            S3Error: ``NoSuchUpload``.
        """
        opened = self._open(bucket, key, upload_id)
        async with opened.lock:
            self._open(bucket, key, upload_id)
            del self._uploads[upload_id]
            self._forget(opened.upload, opened.parts.values())

    def _completed_meanwhile(self, bucket: str, key: str, upload_id: str) -> StoredObject:
        if not self.complete_again:
            self._open(bucket, key, upload_id)
        return self._completed[upload_id]

    def _open(self, bucket: str, key: str, upload_id: str) -> _OpenUpload:
        self.check_key(bucket, key)
        opened = self._uploads.get(upload_id)
        if opened is None or (opened.upload.bucket, opened.upload.key) != (bucket, key):
            raise S3Error("NoSuchUpload", details={"UploadId": upload_id})
        return opened

    def _new_upload_id(self) -> str:
        # Ids increase with time, since listings are ordered by age but continue by id.
        self._last_id = max(self._last_id + 1, int(self._clock() * 1_000_000))
        return f"{self._last_id:016x}{self._new_upload_token()}"

    def _keep_bucket(self, bucket: Bucket) -> None:
        self.storage.put_bucket(bucket)
        self._buckets[bucket.name] = bucket

    def _keep_object(self, record: StoredObject) -> None:
        replaced = self._objects[record.bucket].get(record.key)
        self.storage.put_object(record)
        self._objects[record.bucket][record.key] = record
        if replaced is not None:
            self.storage.remove_blob(replaced.blob)

    def _forget(self, upload: MultipartUpload, parts: Iterable[StoredPart]) -> None:
        self.storage.remove_upload(upload)
        for part in parts:
            self.storage.remove_blob(part.blob)


def _common_prefix(key: str, prefix: str, delimiter: str) -> str | None:
    if not delimiter:
        return None
    head, found, _ = key[len(prefix) :].partition(delimiter)
    return f"{prefix}{head}{found}" if found else None


def _is_after_markers(upload: MultipartUpload, key_marker: str, upload_id_marker: str) -> bool:
    if not key_marker:
        return True
    if upload.key == key_marker and upload_id_marker:
        return upload.upload_id > upload_id_marker
    return upload.key.encode() > key_marker.encode()
