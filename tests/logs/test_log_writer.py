"""P4 and P7: a log's reader that is slow or gone delays nothing and takes no memory, and lost lines are counted."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from waiting import wait_until

from cef_trio.observability.log_writer import LineWriter


@pytest.fixture
def full_pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"." * 4096)
    os.set_blocking(writing, True)
    yield reading, writing
    for end in (reading, writing):
        with suppress(OSError):
            os.close(end)


def read_until(reading: int, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        seen += os.read(reading, 65536)
    return seen.lstrip(b".")


def test_p4_a_line_is_taken_at_once_whatever_its_reader_does(full_pipe: tuple[int, int]) -> None:
    reading, writing = full_pipe
    writer = LineWriter(writing)
    for number in range(10):
        writer.write(b"%d\n" % number)
    assert not writer.flush(0.01), "it says so, and does not wait longer"
    assert read_until(reading, b"9\n") == b"".join(b"%d\n" % number for number in range(10))
    assert writer.flush(5)
    assert writer.lost == 0


def test_p7_what_waits_has_a_limit_and_lost_lines_are_logged_once_lines_flow_again(full_pipe: tuple[int, int]) -> None:
    reading, writing = full_pipe
    told: list[int] = []

    def say(lines: int) -> None:
        told.append(lines)
        writer.write(b"lost %d\n" % lines)

    writer = LineWriter(writing, on_recovered=say, max_queued_bytes=100)
    for _ in range(1000):
        writer.write(b"123456789\n")
    assert 1000 > writer.lost >= 980
    seen = read_until(reading, b"lost ")
    assert told == [writer.lost]
    assert seen.count(b"123456789\n") == 1000 - writer.lost


def test_a_full_disk_loses_lines_and_their_number_is_logged_when_there_is_room(tmp_path: Path) -> None:
    told: list[int] = []
    full = os.open("/dev/full", os.O_WRONLY)
    writer = LineWriter(full, on_recovered=told.append)
    writer.write(b"lost\n")
    assert writer.flush(5)
    wait_until(lambda: writer.lost == 1)
    with (tmp_path / "log").open("w+b") as file:
        os.dup2(file.fileno(), full)
        writer.write(b"written\n")
        assert writer.flush(5)
        wait_until(lambda: told == [1])
        assert (tmp_path / "log").read_bytes() == b"written\n"
    os.close(full)


def test_a_descriptor_that_another_process_made_non_blocking_is_waited_for(full_pipe: tuple[int, int]) -> None:
    reading, writing = full_pipe
    os.set_blocking(writing, False)
    writer = LineWriter(writing)
    writer.write(b"line\n")
    assert not writer.flush(0.05)
    assert read_until(reading, b"line\n") == b"line\n"
    assert writer.lost == 0


def test_lines_wait_where_no_thread_is_to_be_had(full_pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = full_pipe

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    writer = LineWriter(writing)
    with monkeypatch.context() as without:
        without.setattr(threading.Thread, "start", refuse)
        writer.write(b"first\n")
    writer.write(b"second\n")
    assert read_until(reading, b"second\n") == b"first\nsecond\n"
