"""The laboratory's disk maps errors as the real one does: a raw OSError would end a stream as a bug (seed 13063)."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cef_trio.exceptions import FileAccessError
from cef_trio.files.reader import OpenRecording
from cef_trio.lab.disk import InlineDisk


class Intercepting:
    """System calls that fail as on a mount whose server has died, once ``dead`` is set."""

    dead = False

    @contextmanager
    def __call__(self) -> Iterator[None]:
        if self.dead:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        yield


OPENED: dict[str, Callable[[OpenRecording], Awaitable[object]]] = {
    "stat": lambda recording: recording.stat(),
    "origin": lambda recording: recording.origin(),
    "read": lambda recording: recording.read(0, 10),
    "is_written": lambda recording: recording.is_written(0, 10),
}


def test_every_method_of_an_open_recording_is_tested() -> None:
    assert OPENED.keys() == {name for name in vars(OpenRecording) if not name.startswith("_") and name != "generation"}


@pytest.mark.parametrize("call", OPENED)
async def test_p6_an_open_recording_on_a_dead_mount_is_an_access_error(call: str, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"0123456789")
    intercepting = Intercepting()
    async with InlineDisk(intercepting).open(str(path)) as recording:
        await OPENED[call](recording)
        intercepting.dead = True
        with pytest.raises(FileAccessError):
            await OPENED[call](recording)


@pytest.mark.parametrize("call", ["stat", "mount_around"])
async def test_p6_a_path_on_a_dead_mount_is_an_access_error(call: str, tmp_path: Path) -> None:
    intercepting = Intercepting()
    intercepting.dead = True
    with pytest.raises(FileAccessError):
        await getattr(InlineDisk(intercepting), call)(str(tmp_path / "a.mp4"))


async def test_p6_a_recording_on_a_dead_mount_cannot_be_opened(tmp_path: Path) -> None:
    intercepting = Intercepting()
    intercepting.dead = True
    with pytest.raises(FileAccessError):
        async with InlineDisk(intercepting).open(str(tmp_path / "a.mp4")):
            pass
