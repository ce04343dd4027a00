"""Reading recordings: every byte, in blocks, from cached and uncached pages; clear errors for unreadable files."""

from __future__ import annotations

import errno
import os
import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from waiting import until

from cef_trio.exceptions import ChunkProcessingError, FileAccessError, RecordingChangedError
from cef_trio.files import reader as disk_module
from cef_trio.files.mounts import Mounts
from cef_trio.files.reader import BLOCK_BYTES, Disk, FileSlice, KernelDisk, file_access_error, head_of
from cef_trio.lab.disk import InlineDisk
from cef_trio.resilience import shield as shield_room

CONTENT = os.urandom(3 * BLOCK_BYTES + 17)


@pytest.fixture
def recording(tmp_path: Path) -> str:
    path = tmp_path / "a.mp4"
    path.write_bytes(CONTENT)
    return str(path)


@pytest.fixture(params=[KernelDisk, InlineDisk])
def disk(request: pytest.FixtureRequest) -> Disk:
    """The daemon's disk and the laboratory's, which must behave alike."""
    made: Disk = request.param()
    return made


@pytest.fixture(params=["hot", "cannot say", "cold"])
def page_cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a block is read: inline; or by a worker, because RWF_NOWAIT is not supported or the page is not cached."""
    kind: str = request.param
    real = os.preadv

    def preadv(*args: object) -> int:
        if kind == "cannot say":
            raise OSError(errno.EOPNOTSUPP, "cannot say")
        if kind == "cold":
            raise BlockingIOError(errno.EAGAIN, "cold")
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "preadv", preadv)
    return kind


@pytest.mark.parametrize(
    ("offset", "size_bytes"),
    [(0, len(CONTENT)), (0, 0), (1, 1), (BLOCK_BYTES - 1, 2), (5, 2 * BLOCK_BYTES), (len(CONTENT) - 3, 3)],
)
async def test_a_slice_is_read_byte_for_byte_again_and_again(
    recording: str, page_cache: str, offset: int, size_bytes: int
) -> None:
    async with KernelDisk().open(recording) as opened:
        piece = FileSlice(opened, offset, size_bytes)
        for _ in range(2):
            blocks = [block async for block in piece.blocks()]
            assert b"".join(blocks) == CONTENT[offset : offset + size_bytes]
            assert all(0 < len(block) <= BLOCK_BYTES for block in blocks)


async def test_cached_blocks_need_no_thread(recording: str, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = KernelDisk()
    async with disk.open(recording) as opened:
        if not await can_say(opened):
            pytest.skip("this file system cannot tell hot pages from cold ones (RWF_NOWAIT)")

        async def no_thread(*_args: object, **_kwargs: object) -> None:
            pytest.fail("a worker thread was asked for a hot block")

        with monkeypatch.context() as while_it_reads:
            while_it_reads.setattr(trio.to_thread, "run_sync", no_thread)
            assert b"".join([block async for block in FileSlice(opened, 0, len(CONTENT)).blocks()]) == CONTENT


async def can_say(opened: object) -> bool:
    descriptor: int = opened._descriptor  # type: ignore[attr-defined]
    try:
        os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT)
    except OSError as error:
        return error.errno == errno.EAGAIN
    return True


async def test_a_file_that_became_shorter_raises(recording: str, page_cache: str) -> None:
    async with KernelDisk().open(recording) as opened:
        os.truncate(recording, 100)
        with pytest.raises(RecordingChangedError, match="ends at byte 100"):
            async for _ in FileSlice(opened, 0, 200).blocks():
                pass


async def test_a_hung_disk_delays_no_cancellation(recording: str, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(disk_module, "_RWF_NOWAIT", None)
    monkeypatch.setattr(os, "pread", lambda *_: released.wait() and b"")
    try:
        async with KernelDisk().open(recording) as opened:
            with trio.move_on_after(0.05) as scope:
                await opened.read(0, 10)
            assert scope.cancelled_caught
    finally:
        released.set()


@pytest.mark.parametrize("shielded", [True, False])
async def test_p7_a_reader_that_is_cancelled_closes_its_file_which_it_would_not_without_the_shield(
    recording: str, monkeypatch: pytest.MonkeyPatch, *, shielded: bool
) -> None:
    if not shielded:
        monkeypatch.setattr(shield_room, "removed", frozenset({"file's close"}))
    before = numbers_of(recording)
    with trio.CancelScope() as scope:
        async with KernelDisk().open(recording) as opened:
            scope.cancel()
            await opened.read(0, 1)
    assert scope.cancelled_caught
    left_open = numbers_of(recording) - before
    for number in left_open:
        os.close(number)
    assert bool(left_open) is not shielded


def numbers_of(path: str) -> set[int]:
    """This process's descriptors of that file."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if str(entry.readlink()) == path:
                found.add(int(entry.name))
    return found


async def test_an_opener_that_was_abandoned_leaks_no_descriptor(
    recording: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = os.open
    released = threading.Event()
    opened_numbers: list[int] = []
    closed_numbers: list[int] = []
    all_closed = threading.Event()

    def slow_open(path: str, flags: int) -> int:
        released.wait()
        number = real_open(path, flags)
        opened_numbers.append(number)
        return number

    real_close = os.close

    def noting_close(number: int) -> None:
        real_close(number)
        if number in opened_numbers:
            closed_numbers.append(number)
            all_closed.set()

    monkeypatch.setattr(os, "open", slow_open)
    monkeypatch.setattr(os, "close", noting_close)
    with trio.move_on_after(0.05) as scope:
        async with KernelDisk().open(recording):
            pytest.fail("it cannot be open yet")
    assert scope.cancelled_caught
    released.set()
    assert await trio.to_thread.run_sync(all_closed.wait, 60.0)
    assert closed_numbers == opened_numbers


async def test_a_missing_file_is_none_and_an_unknown_one_is_an_error(disk: Disk, tmp_path: Path) -> None:
    assert await disk.stat(str(tmp_path / "missing.mp4")) is None
    assert await disk.stat(str(tmp_path)) is None
    with pytest.raises(ChunkProcessingError, match="cannot look at"):
        await disk.stat(str(tmp_path / ("x" * 300)))


async def test_links_folders_pipes_and_sockets_are_no_recordings(disk: Disk, tmp_path: Path, recording: str) -> None:
    link, pipe, folder_link = tmp_path / "link.mp4", tmp_path / "pipe.mp4", tmp_path / "link"
    link.symlink_to(recording)
    folder_link.symlink_to(tmp_path)
    os.mkfifo(pipe)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket.mp4"))
    server.close()
    missing, below_file, below_link = tmp_path / "missing.mp4", Path(recording, "a.mp4"), folder_link / "a.mp4"
    for path in (link, pipe, tmp_path / "socket.mp4", tmp_path, missing, below_file, below_link):
        assert await disk.stat(str(path)) is None
        with pytest.raises(RecordingChangedError):
            async with disk.open(str(path)):
                pytest.fail("it is no recording")


async def test_a_path_that_leads_upwards_is_refused(disk: Disk, tmp_path: Path) -> None:
    path = f"{tmp_path}/../{tmp_path.name}/a.mp4"
    with pytest.raises(FileAccessError):
        await disk.stat(path)
    with pytest.raises(FileAccessError):
        async with disk.open(path):
            pytest.fail("it is refused")


async def test_a_stat_knows_the_file_by_its_inode(disk: Disk, recording: str) -> None:
    found = await disk.stat(recording)
    assert found is not None
    assert found.size_bytes == len(CONTENT)
    assert found.inode == (os.stat(recording).st_dev, os.stat(recording).st_ino)
    async with disk.open(recording) as opened:
        assert await opened.stat() == found


async def test_the_head_of_a_short_file_is_the_file(disk: Disk, tmp_path: Path) -> None:
    path = tmp_path / "short.mp4"
    path.write_bytes(b"abc")
    async with disk.open(str(path)) as opened:
        assert await head_of(opened, 4096) == b"abc"


async def test_the_folder_around_a_file_is_the_nearest_that_exists(disk: Disk, tmp_path: Path) -> None:
    place = await disk.mount_around(str(tmp_path / "gone" / "too" / "a.mp4"))
    assert place is not None
    assert place.file_dev == tmp_path.stat().st_dev
    assert await disk.mount_around("/nowhere/at/all.mp4") is None


async def test_a_folder_that_is_gone_is_not_looked_for_beyond_the_one_that_is_watched(
    disk: Disk, tmp_path: Path
) -> None:
    watched = tmp_path / "watched"
    here = await disk.mount_around(str(tmp_path / "a.mp4"))
    path = str(watched / "cam" / "a.mp4")
    assert await disk.mount_around(path, within=str(watched)) is None
    assert await disk.mount_around(path) == here
    watched.mkdir()
    assert await disk.mount_around(path, within=str(watched)) == here
    # A recording of another folder, which was watched once: that folder alone tells nothing.
    assert await disk.mount_around(str(tmp_path / "other" / "a.mp4"), within=str(watched)) == here


async def test_p9_where_no_descriptor_is_left_a_mount_is_not_taken_for_one_without_a_place(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, **_: str) -> str:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    place = await disk.mount_around(str(tmp_path / "a.mp4"))
    monkeypatch.setattr(Path, "read_text", fail)
    with pytest.raises(FileAccessError, match="Too many open files"):
        await disk.mount_around(str(tmp_path / "a.mp4"))
    monkeypatch.undo()
    assert await disk.mount_around(str(tmp_path / "a.mp4")) == place


@pytest.mark.parametrize(
    ("number", "denied"), [(errno.EIO, False), (errno.ESTALE, False), (errno.EMFILE, False), (errno.EACCES, True)]
)
def test_a_rejection_is_transient_and_states_whether_rights_are_missing(number: int, denied: bool) -> None:
    error = file_access_error("cannot read 'x'", OSError(number, "why"))
    assert error.transient
    assert error.denied is denied


async def touch(disk: Disk, call: str, path: str, failing: pytest.MonkeyPatch, number: int) -> object:
    """Make the operation's system call fail with that errno."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    if call == "stat":
        failing.setattr(os, "stat", fail)
        return await disk.stat(path)
    if call == "open":
        failing.setattr(os, "open", fail)
    async with disk.open(path) as opened:
        failing.setattr(os, "preadv", fail)
        failing.setattr(os, "fstat" if call == "fstat" else "pread", fail)
        return await (opened.stat() if call == "fstat" else opened.read(0, 1))


@pytest.mark.parametrize("call", ["stat", "open", "fstat", "read"])
async def test_every_error_of_the_operating_system_becomes_ours_and_is_kept_as_its_cause(
    disk: Disk, recording: str, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    for number in sorted(errno.errorcode):
        with monkeypatch.context() as failing:
            if call == "stat" and number in {errno.ENOENT, errno.ENOTDIR}:
                assert await touch(disk, call, recording, failing, number) is None, "no such file is an answer"
                continue
            with pytest.raises((ChunkProcessingError, RecordingChangedError)) as caught:
                await touch(disk, call, recording, failing, number)
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.__cause__.errno == number


async def test_p8_a_change_that_has_begun_is_waited_for_and_what_it_did_is_not_lost() -> None:
    begun, may_end = threading.Event(), threading.Event()

    def change() -> str:
        begun.set()
        may_end.wait(20)
        return "changed"

    async def cancel_when_begun() -> None:
        await trio.to_thread.run_sync(begun.wait, 20)
        scope.cancel()
        may_end.set()

    done = []
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_when_begun)
            done.append(await KernelDisk().change(change))
    assert done == ["changed"]


async def test_p8_a_change_into_a_cancelled_scope_changes_nothing(tmp_path: Path) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await KernelDisk().change((tmp_path / "made").touch)
    assert scope.cancelled_caught
    assert list(tmp_path.iterdir()) == []


async def test_p7_a_file_that_waited_in_vain_for_a_thread_to_close_it_is_closed_all_the_same(
    recording: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow closes (sshfs flushes) use every thread; a reader without one continues, and no file stays open."""
    answers, hangs, close = threading.Event(), threading.Event(), os.close
    main = threading.get_ident()

    def slow_close(number: int) -> None:
        if threading.get_ident() != main and not hangs.is_set():
            hangs.set()
            answers.wait(10)
        close(number)

    def open_here() -> int:
        number = 0
        for link in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                number += str(link.readlink()) == recording
        return number

    monkeypatch.setattr(disk_module, "_CLOSE_SECONDS", 0.05)
    disk = KernelDisk(Mounts(max_threads=1))
    async with disk.open(recording), disk.open(recording), disk.open(recording):
        assert open_here() == 3
        monkeypatch.setattr(os, "close", slow_close)
    assert hangs.is_set()
    assert open_here() == 3
    answers.set()
    await until(lambda: not open_here())


@pytest.mark.parametrize("reserved", [False, True], ids=["truncate", "fallocate"])
async def test_p2_holes_and_reserved_space_are_not_written(tmp_path: Path, reserved: bool) -> None:
    path = tmp_path / "preallocated.mp4"
    with path.open("wb") as file:
        file.truncate(100 * 4096)
        if reserved:
            os.posix_fallocate(file.fileno(), 0, 100 * 4096)
        file.write(b"x" * (10 * 4096 + 100))
    async with KernelDisk().open(str(path)) as recording:
        assert await recording.is_written(0, 10 * 4096)
        assert not await recording.is_written(0, 10 * 4096 + 1000)
        assert not await recording.is_written(20 * 4096, 4096)
        assert not await recording.is_written(200 * 4096, 4096)
        path.read_bytes()  # what is in the page cache is told as data, though it is reserved space
        assert await recording.is_written(0, 10 * 4096)
        assert not await recording.is_written(0, 11 * 4096)
        assert not await recording.is_written(20 * 4096, 4096)


@pytest.mark.parametrize("told", [True, False], ids=["SEEK_HOLE", "all is data"])
@pytest.mark.parametrize(
    ("content", "written"),
    [
        (b"x" * 8192, True),
        (b"x" * 2048 + bytes(6144), False),  # zeros to the end: the writer is not there yet, or it writes zeros
        (b"x" * 4000 + bytes(96) + b"x" * 4096, True),
        (bytes(4096) + b"x" * 32 + bytes(4064), True),  # its end was written past
        (bytes(8000) + b"x" * 192, True),  # zeros that were written: there is more behind them
    ],
)
async def test_p2_where_holes_are_not_reported_zeros_at_the_end_of_a_piece_and_of_the_file_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool, content: bytes, written: bool
) -> None:
    """As on FUSE, CIFS and older NFS, where a preallocated file was sent twice."""
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    if not told:

        def no_holes(descriptor: int, offset: int, how: int) -> int:
            return os.fstat(descriptor).st_size

        monkeypatch.setattr(os, "lseek", no_holes)
    async with KernelDisk().open(str(path)) as recording:
        assert await recording.is_written(0, 4096) is written
