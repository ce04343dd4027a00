"""Whether a file has a writer, by a read lease of the kernel; the check ends no process."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from cef_trio.files import writers
from cef_trio.files.mounts import Mounts
from cef_trio.files.writers import WriterState, writer_state, writer_state_now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "a.mp4"
    found.write_bytes(b"1")
    return found


async def test_a_file_that_no_process_writes_has_no_writer(path: Path) -> None:
    with path.open("rb"):
        assert await writer_state(str(path), Mounts()) is WriterState.NONE


@pytest.mark.parametrize("mode", ["ab", "r+b"])
async def test_an_open_writer_is_noticed_and_its_close_too(path: Path, mode: str) -> None:
    with path.open(mode):
        assert await writer_state(str(path), Mounts()) is WriterState.PRESENT
    assert await writer_state(str(path), Mounts()) is WriterState.NONE


@pytest.mark.real
def test_a_writer_in_another_process_that_only_maps_the_file_is_noticed(path: Path) -> None:
    script = (
        "import mmap,os,sys\n"
        f"f=os.open({str(path)!r},os.O_RDWR); m=mmap.mmap(f,0); os.close(f)\n"
        "print('mapped',flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"mapped\n"
        assert writer_state_now(str(path)) is WriterState.PRESENT
        process.stdin.close()
    assert writer_state_now(str(path)) is WriterState.NONE


async def test_where_there_are_no_leases_nothing_is_claimed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.fcntl

    def refuse(descriptor: int, command: int, argument: int = 0) -> int:
        if command == writers._F_SETLEASE:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(descriptor, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    assert await writer_state(str(path), Mounts()) is WriterState.UNKNOWN
    assert await writer_state(str(path) + ".gone", Mounts()) is WriterState.UNKNOWN


@pytest.mark.real
def test_a_writer_that_opens_during_the_check_is_not_delayed_and_ends_no_process(path: Path) -> None:
    """Breaking a lease sends a signal whose default action ends the process; a thousand races must not."""
    asker = (
        "from cef_trio.files.writers import writer_state_now\n"
        "import sys\n"
        "print('asking', flush=True)\n"
        f"states = [writer_state_now({str(path)!r}) for _ in range(20000)]\n"
        "print(len(set(states)))\n"
    )
    with subprocess.Popen([sys.executable, "-c", asker], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"asking\n"
        while process.poll() is None:
            with path.open("ab"):
                pass
    assert process.returncode == 0
    assert writer_state_now(str(path)) is WriterState.NONE
