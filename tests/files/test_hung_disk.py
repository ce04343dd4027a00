"""P4 on a disk that really hangs (FUSE): no read, stat, open or close delays a cancellation."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from servers.hung_disk import HungDisk, NoFuseError, Operation, hung_disk

from cef_trio.files.mounts import Mounts
from cef_trio.files.reader import BLOCK_BYTES, FileSlice, KernelDisk
from cef_trio.files.writers import writer_state
from cef_trio.watch.patterns import matcher
from cef_trio.watch.scan import ThreadedReader

pytestmark = pytest.mark.real
CONTENT = os.urandom(2 * BLOCK_BYTES + 5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "watch"
    found.mkdir()
    return found


@pytest.fixture
def disk(folder: Path) -> Iterator[HungDisk]:
    try:
        with hung_disk(folder, {"a.mp4": CONTENT}) as mounted:
            yield mounted
    except NoFuseError as error:
        pytest.skip(f"no file system that could hang: {error}")


async def cancelled_when_hung(disk: HungDisk, scope: trio.CancelScope) -> None:
    """Cancel once a task waits for the disk."""
    await trio.to_thread.run_sync(disk.wait_until_hung)
    scope.cancel()


async def test_a_fuse_disk_that_responds_is_read_like_any_other(folder: Path, disk: HungDisk) -> None:
    path = str(folder / "a.mp4")
    async with KernelDisk().open(path) as opened:
        assert b"".join([block async for block in FileSlice(opened, 0, len(CONTENT)).blocks()]) == CONTENT
    assert set((await ThreadedReader(matcher(["*.mp4"])).scan(str(folder))).files) == {path}


@pytest.mark.parametrize(
    "operation", [Operation.LOOKUP, Operation.GETATTR, Operation.OPEN, Operation.READ], ids=lambda one: one.name
)
async def test_p4_whatever_the_disk_hangs_in_a_cancellation_goes_through(
    folder: Path, disk: HungDisk, operation: Operation
) -> None:
    disk.hang(operation, from_byte=BLOCK_BYTES)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancelled_when_hung, disk, nursery.cancel_scope)
        async with KernelDisk().open(str(folder / "a.mp4")) as opened:
            async for _ in FileSlice(opened, 0, len(CONTENT)).blocks():
                pass
        pytest.fail("the disk answered")
    assert nursery.cancel_scope.cancelled_caught


async def test_p4_a_close_that_hangs_stalls_neither_the_loop_nor_the_exit(folder: Path, disk: HungDisk) -> None:
    disk.hang(Operation.FLUSH)
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await trio.sleep(0.01)
            turns += 1

    async with trio.open_nursery() as nursery:
        async with KernelDisk().open(str(folder / "a.mp4")) as opened:
            assert await opened.read(0, 10) == CONTENT[:10]
            nursery.start_soon(turn)
        disk.wait_until_hung()
        nursery.cancel_scope.cancel()
    assert turns > 0, "the loop went on while the file was being closed"


async def test_p4_the_watcher_and_the_writer_check_are_abandoned_too(folder: Path, disk: HungDisk) -> None:
    disk.hang(Operation.GETATTR, Operation.READDIR, Operation.LOOKUP)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ThreadedReader(matcher(["*.mp4"])).scan, str(folder))
        nursery.start_soon(writer_state, str(folder / "a.mp4"), Mounts())
        await trio.to_thread.run_sync(disk.wait_until_hung, 2)
        nursery.cancel_scope.cancel()
