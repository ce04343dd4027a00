"""Check, just before a recording is deleted or moved, that its object is verified and its writer is gone (promise P8).

The last check, of the open file, is in ``disposal.py``: in the call that deletes or moves it.
"""

from __future__ import annotations

from cef_trio.checkpoint import FileIdentity, StreamMeta
from cef_trio.exceptions import AfterUploadError, ChunkProcessingError, LeaseLostError, RecordingChangedError
from cef_trio.files import FileStat, IdentityMatch, compare_identity, identity_of, is_below, is_verified_file
from cef_trio.postprocess.after_upload_rules import VerifiedFile, object_mismatch, verified_file
from cef_trio.postprocess.disposal import NotAsVerifiedError
from cef_trio.upload import ContentMatch, Services, correct_if_unchanged

Look = tuple[FileStat, int]
"""A file's stat and ctime (ns)."""


class Verification:
    """The checks of a recording that is about to be deleted or moved."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def must_be_silent(self, path: str, before: Look | None) -> Look | None:
        """Return the file as it is now if it must first be unchanged for a while; ``None``: go on now.

        Where writers cannot be detected (no file leases), only a file without changes counts as finished (P8). The
        silence that ended the recording does not cover the time since, so it is required anew: look again after
        ``STREAM_TIMEOUT_SECONDS``, and pass what was returned as ``before``.
        """
        if await self._services.has_writer(path) is not None:
            return None
        found = await self._services.disk.stat(path)
        if found is None or before == (found, found.ctime_ns):
            return None
        return found, found.ctime_ns

    async def verified(self, stream_id: str) -> VerifiedFile:
        """Return the file as it was verified, after checking that its object is in S3.

        Raises:
            NotAsVerifiedError: the record, the path or the object is not as expected.
            AfterUploadError: S3 denies that it has the object.
        """
        checkpoint = await self._services.store.load(stream_id)
        file = verified_file(checkpoint)
        if checkpoint is None or file is None:
            raise NotAsVerifiedError("its record lacks what was verified")
        meta = checkpoint.meta
        if not is_below(file.path, self._services.rules.root_of(file.path)):
            raise NotAsVerifiedError("its recorded path is not in the watch folder")
        if meta.s3_bucket != self._services.rules.bucket:
            raise NotAsVerifiedError(f"its object is in another bucket, {meta.s3_bucket!r}")
        if await self._correct_numbers(meta):
            file = verified_file(await self._services.store.load(stream_id)) or file
        stored = await self._services.s3.head_object(meta.s3_key_prefix)
        why_not = object_mismatch(file, meta.object_etag or "", stored)
        if stored is None and why_not is not None:
            raise AfterUploadError(why_not)  # tried again: it may be outdated, or a proxy's (HEAD has no body)
        if why_not is not None:
            raise NotAsVerifiedError(why_not)
        return file

    async def numbers_at(self, path: str) -> FileIdentity:
        """Return the identity of the file at a path by its numbers alone: its inode, its file system and its mount.

        Raises:
            RecordingChangedError: there is no regular file.
            FileAccessError: the file system failed.
        """
        async with self._services.disk.open(path) as file:
            return identity_of(await file.stat(), await file.origin(), head_size_bytes=0, head_crc64nvme=0)

    async def _correct_numbers(self, meta: StreamMeta) -> bool:
        """Record the file's new numbers, if it may be the recorded one by them, and has all the verified bytes.

        Numbers change at a mount (FAT, sshfs; the device's on NFS and on disks without an id), and a copy on another
        disk (``cp -a``) has its own. Some parts of such a file showed that it is the stream's; all its bytes must show
        that it may go.

        Raises:
            NotAsVerifiedError: it has other bytes.
            AfterUploadError: it cannot be compared now.
        """
        path = meta.current_path
        try:
            found = await self.numbers_at(path)
            if is_verified_file(meta.identity, found):
                return False
            if compare_identity(meta.identity, found) is IdentityMatch.REPLACED:
                return False  # the last check says so
            content = await correct_if_unchanged(self._services, meta.stream_id, path)
        except RecordingChangedError:
            return False  # it is gone, or its disk is not mounted
        except (ChunkProcessingError, LeaseLostError) as error:
            raise AfterUploadError(f"{path!r} was left alone: {error}") from error
        if content is not ContentMatch.SAME:
            raise NotAsVerifiedError(
                f"{path!r} was left alone: it has other numbers than what was verified (another disk or mount), and "
                "other bytes"
            )
        return True
