"""``AFTER_UPLOAD=move:DIR``: move the recording, keeping its path below the watch folder.

On one file system it is renamed. To another one it is copied; the copy is read back, and renamed to its final name only
if its checksum matches; then the recording is deleted. Each step may be repeated. ``copy_file.py`` has how a copy is
told from the recording itself, which another mount may show in the target's folder.
"""

from __future__ import annotations

import os.path
from functools import partial

import structlog

from cef_trio.exceptions import AfterUploadError, RecordingChangedError
from cef_trio.files import FileSlice, is_below
from cef_trio.observability import FreedBy
from cef_trio.postprocess import disposal
from cef_trio.postprocess.after_upload_rules import VerifiedFile, copy_name, root_name, targets
from cef_trio.postprocess.copy_file import Copy, is_other_entry
from cef_trio.postprocess.rename_file import OtherFileSystemError
from cef_trio.resilience import shielded
from cef_trio.s3 import Crc64Nvme
from cef_trio.upload import HeldLease, Services

log = structlog.get_logger(__name__)

_REMOVE_SECONDS = 1.0


class Move:
    """Moves verified recordings to a folder."""

    def __init__(self, services: Services, folder: str) -> None:
        self._disk = services.disk
        self._mounts = services.mounts
        self._metrics = services.metrics
        self._rules = services.rules
        self._folder = folder
        self._mount_point: str | None = None
        """Where the folder's file system was mounted at the last move."""

    async def apply(self, file: VerifiedFile, lease: HeldLease, cause: FreedBy) -> bool:
        """See :class:`~cef_trio.postprocess.after_upload.Action`."""
        root = self._rules.root_of(file.path)
        below = os.path.join(self._folder, root_name(root, self._rules.watch_folders))  # noqa: PTH118 - any bytes
        names = targets(file, root, below)
        await self._check_mounted()
        try:
            moved_to = await self._disk.change(partial(disposal.move_now, file, names), path=file.path)
        except OtherFileSystemError:
            moved_to = await self._move_bytes(file, names, lease, cause)
        if moved_to is None:
            return False
        log.info(
            "recording_moved_after_upload",
            stream_id=file.stream_id,
            path=file.path,
            moved_to=moved_to,
            cause=cause.value,
        )
        return True

    async def _check_mounted(self) -> None:
        """Check that the folder's file system is still mounted; else its files would be hidden below its mount point.

        Raises:
            AfterUploadError: it is not.
        """
        folder = await self._disk.change(partial(os.path.realpath, self._folder), path=self._folder)
        point, before = self._mounts.point_now(folder), self._mount_point
        if before is not None and is_below(before, point):
            raise AfterUploadError(f"nothing is mounted at {before!r} any more, where {self._folder!r} was: mount it")
        self._mount_point = point

    async def _move_bytes(self, file: VerifiedFile, names: tuple[str, str], lease: HeldLease, cause: FreedBy) -> str:
        """Move the file to another file system; return its new path."""
        name = await self._copy(file, names, lease)
        freed_bytes = await self._disk.change(partial(disposal.delete_now, file), path=file.path)
        self._metrics.space_freed(freed_bytes or 0, cause)
        return name

    async def _copy(self, file: VerifiedFile, names: tuple[str, str], lease: HeldLease) -> str:
        """Copy the file to another file system, unless an earlier attempt did; return the final path of the copy."""
        path = copy_name(names[0], file.stream_id)
        change = partial(self._disk.change, path=path)
        copy = await change(partial(Copy, path))
        try:
            await lease.renew_if_due()
            await self._disk.change(partial(copy.check_elsewhere, file, self._rules.folders), path=file.path)
            for name in names:
                if await self._is_made(name, file, lease):  # an earlier attempt ended between its last two steps
                    await change(copy.discard)
                    return name
            await self._write(copy, file, lease)
            return await change(partial(copy.name, names))
        except BaseException:
            with shielded(_REMOVE_SECONDS, saving="copy's removal"):
                await change(copy.discard)
            raise
        finally:
            if not self._mounts.hangs(path):  # close() flushes, and would block; the exit closes it too
                copy.close()

    async def _write(self, copy: Copy, file: VerifiedFile, lease: HeldLease) -> None:
        """Write the copy, and read it back."""
        change, crc, offset = partial(self._disk.change, path=copy.path), Crc64Nvme(), 0

        async def write(block: bytes) -> None:
            nonlocal offset
            await change(partial(copy.write, block, offset))
            offset += len(block)
            await lease.renew_if_due()

        async with self._disk.open(file.path) as recording:
            await FileSlice(recording, 0, file.size_bytes).feed(crc.update, then=write)
        await change(partial(copy.finish, file))
        if crc.value != file.crc64nvme:
            raise disposal.NotAsVerifiedError(
                f"{file.path!r} was left alone: its bytes differ from those that were verified"
            )
        if not await self._has_verified_bytes(copy.path, file, lease):
            raise AfterUploadError(f"{copy.path!r} is not what was written to it")

    async def _is_made(self, path: str, file: VerifiedFile, lease: HeldLease) -> bool:
        """Return whether the file at ``path`` is the complete copy, and not the recording itself by another mount."""
        is_other = await self._disk.change(partial(is_other_entry, path, file), path=path)
        await lease.renew_if_due()
        return is_other and await self._has_verified_bytes(path, file, lease)

    async def _has_verified_bytes(self, path: str, file: VerifiedFile, lease: HeldLease) -> bool:
        """Return whether the file at ``path`` has exactly the verified bytes."""
        crc = Crc64Nvme()
        try:
            # The target folder may contain symlinks, which were followed when the copy was written.
            straight = await self._disk.change(partial(_resolve_folder, path), path=path)
            await lease.renew_if_due()
            async with self._disk.open(straight) as recording:
                if (await recording.stat()).size_bytes != file.size_bytes:
                    return False
                await FileSlice(recording, 0, file.size_bytes).feed(crc.update, then=lambda _: lease.renew_if_due())
        except RecordingChangedError:
            return False
        return crc.value == file.crc64nvme


def _resolve_folder(path: str) -> str:
    """Return the path with the symlinks of its folder resolved. Blocks."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)  # noqa: PTH118 - a path of any bytes, as it is
