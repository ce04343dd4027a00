"""No look at a recording ends at what its mount has cached, for however long (kind 1, P8).

sshfs with ``attr_timeout`` and ``entry_timeout``, as NFS with ``actimeo``, shows a file for that long as it was.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers.fuse_mount import FuseMount, sshfs_mount

from cef_trio.files import KernelDisk, file_system, identity_of
from cef_trio.postprocess import rename_file
from cef_trio.postprocess.after_upload_rules import VerifiedFile
from cef_trio.postprocess.disposal import NotAsVerifiedError, delete_now, move_now


@pytest.fixture(scope="module")
def caching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FuseMount]:
    folder = tmp_path_factory.mktemp("caching")
    # Without sshfs' own cache, which a look at a path cannot pass by; opening does.
    with sshfs_mount(folder, "attr_timeout=600", "entry_timeout=600", "dir_cache=no") as mount:
        yield mount


def looked_at(mount: FuseMount, name: str) -> Path:
    """A recording whose attributes the mount has cached before another 10 bytes are written behind it."""
    behind = mount.behind / name
    behind.write_bytes(bytes(10))
    seen = mount.mount / name
    assert seen.stat().st_size == 10
    with behind.open("ab") as writer:
        writer.write(bytes(10))
    assert seen.stat().st_size == 10, "the mount caches"
    return seen


async def test_p8_a_look_at_a_path_sees_what_was_written_behind_the_mount(caching: FuseMount) -> None:
    found = await KernelDisk().stat(str(looked_at(caching, "path.mp4")))
    assert found is not None
    assert found.size_bytes == 20


async def test_p8_a_look_at_an_open_recording_sees_what_was_written_behind_the_mount(caching: FuseMount) -> None:
    path = looked_at(caching, "open.mp4")
    async with KernelDisk().open(str(path)) as recording:
        assert (await recording.stat()).size_bytes == 20
        with (caching.behind / "open.mp4").open("ab") as writer:
            writer.write(bytes(5))
        assert (await recording.stat()).size_bytes == 25


ACTIONS: dict[str, Callable[[VerifiedFile], object]] = {
    "deleted": delete_now,
    "moved": lambda file: move_now(file, [f"{file.path}.moved"]),
}


async def verified(path: Path) -> VerifiedFile:
    async with KernelDisk().open(str(path)) as recording:
        found = await recording.stat()
        identity = identity_of(found, await recording.origin(), head_size_bytes=0, head_crc64nvme=0)
    return VerifiedFile("ID", str(path), identity, found.size_bytes, found.mtime_ns, 0)


@pytest.mark.parametrize("action", ACTIONS)
async def test_p8_what_has_grown_behind_the_mount_is_neither_deleted_nor_moved(action: str, caching: FuseMount) -> None:
    path = looked_at(caching, f"{action}.mp4")
    file = await verified(path)
    with (caching.behind / path.name).open("ab") as writer:
        writer.write(bytes(10))
    assert path.stat().st_size == 20, "the mount caches"
    with pytest.raises(NotAsVerifiedError, match="changed after"):
        ACTIONS[action](file)
    assert path.exists()


class CachedNames:
    """A folder on NFS: a name leads to the file that had it when it was looked up, until the folder is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, file_is_now: str) -> None:
        self._name, self._file_is_now = name, file_is_now
        self._open, self._stat, self._link, self._statx = os.open, os.stat, os.link, file_system._STATX
        monkeypatch.setattr(os, "open", self.open)
        monkeypatch.setattr(os, "stat", self.stat)
        monkeypatch.setattr(os, "link", self.link)
        monkeypatch.setattr(rename_file, "_renameat2", lambda *_: errno.EINVAL)
        monkeypatch.setattr(file_system, "_STATX", self.statx)

    def _found(self, path: Any, dir_fd: int | None) -> Any:
        return self._file_is_now if dir_fd is not None and path == self._name else path

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        return self._open(self._found(path, dir_fd), flags, mode, dir_fd=dir_fd)

    def stat(self, path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        return self._stat(self._found(path, dir_fd), dir_fd=dir_fd, follow_symlinks=follow_symlinks)

    def link(self, path: Any, new: Any, *, src_dir_fd: int, **more: Any) -> None:
        self._link(self._found(path, src_dir_fd), new, src_dir_fd=src_dir_fd, **more)

    def statx(self, descriptor: int, name: bytes, flags: int, *more: Any) -> Any:
        if not name and flags & file_system._AT_STATX_FORCE_SYNC and stat.S_ISDIR(os.fstat(descriptor).st_mode):
            self._file_is_now = self._name
        return self._statx(descriptor, name, flags, *more)


@pytest.mark.parametrize("action", ACTIONS)
async def test_p8_a_name_that_another_host_gave_to_a_new_recording_is_looked_up_again_before_it_goes(
    action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handle of the old one still opens it, under whatever name, so the open file is the verified one."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"verified")
    file = await verified(path)
    path.rename(tmp_path / "a.1.mp4")
    path.write_bytes(b"a new recording")
    CachedNames(monkeypatch, "a.mp4", "a.1.mp4")
    with pytest.raises(NotAsVerifiedError, match="another file took its name"):
        ACTIONS[action](file)
    monkeypatch.undo()
    found = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    assert found == {"a.mp4": b"a new recording", "a.1.mp4": b"verified"}
