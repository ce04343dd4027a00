"""No look at a recording ends at what its mount has cached, for however long (kind 1, P8).

sshfs with ``attr_timeout`` and ``entry_timeout``, as NFS with ``actimeo``, shows a file for that long as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers.fuse_mount import FuseMount, sshfs_mount

from cef_trio.files import KernelDisk, identity_of
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


@pytest.mark.parametrize("action", ACTIONS)
async def test_p8_what_has_grown_behind_the_mount_is_neither_deleted_nor_moved(action: str, caching: FuseMount) -> None:
    path = looked_at(caching, f"{action}.mp4")
    async with KernelDisk().open(str(path)) as recording:
        found = await recording.stat()
        identity = identity_of(found, await recording.origin(), head_size_bytes=0, head_crc64nvme=0)
    file = VerifiedFile("ID", str(path), identity, found.size_bytes, found.mtime_ns, 0)
    with (caching.behind / path.name).open("ab") as writer:
        writer.write(bytes(10))
    assert path.stat().st_size == 20, "the mount caches"
    with pytest.raises(NotAsVerifiedError, match="changed after"):
        ACTIONS[action](file)
    assert path.exists()
