"""For any sequence of changes to the files of a folder, the events in the end describe what is there.

A listener that applies the events of the real watcher, one by one, ends with exactly the files that exist.
No rescan is due meanwhile except those that the watcher itself requests.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from trio_util import AsyncValue
from waiting import WAIT_SECONDS

from cef_trio.watch.events import Closed, FileEvent, Gone, Moved, Scanned, Seen
from cef_trio.watch.patterns import matcher
from cef_trio.watch.scan import scan_now
from cef_trio.watch.watcher import Watcher

MATCHES = matcher(["*.mp4"])
Files = dict[str, tuple[int, int]]
"""Path → inode and size."""


class Believer:
    """A listener that keeps the files of the folder as reported."""

    def __init__(self) -> None:
        self.files = AsyncValue[Files]({})

    def handle_event(self, event: FileEvent) -> None:
        files = dict(self.files.value)
        match event:
            case Seen(path, stat) | Closed(path, stat):
                files[path] = stat.file_ino, stat.size_bytes
            case Moved(old_path, new_path, stat):
                files.pop(old_path, None)
                files[new_path] = stat.file_ino, stat.size_bytes
            case Gone(path):
                files.pop(path, None)
            case Scanned(found, _):
                files = {path: (stat.file_ino, stat.size_bytes) for path, stat in found.items()}
        self.files.value = {path: known for path, known in files.items() if MATCHES(path)}


def truth(folder: Path) -> Files:
    return {path: (stat.file_ino, stat.size_bytes) for path, stat in scan_now(str(folder), MATCHES).files.items()}


def append(one: Path, _other: Path) -> None:
    with one.open("ab") as file:
        file.write(b"bytes")


def write_anew(one: Path, _other: Path) -> None:
    one.write_bytes(b"new")


def rename(one: Path, other: Path) -> None:
    one.replace(other)


def delete(one: Path, _other: Path) -> None:
    one.unlink()


def copy(one: Path, other: Path) -> None:
    shutil.copyfile(one, other)


def make_folder(one: Path, _other: Path) -> None:
    one.parent.mkdir(parents=True)


def rename_folder(one: Path, other: Path) -> None:
    one.parent.rename(other.parent)


def delete_folder(one: Path, _other: Path) -> None:
    shutil.rmtree(one.parent)


FILES = ["a.mp4", "b.mp4", "notes.txt", "day/a.mp4", "day/b.mp4", "night/a.mp4", "night/deep/a.mp4"]
OF_FILES = [append, append, write_anew, rename, rename, delete, copy]
OF_FOLDERS = [make_folder, rename_folder, delete_folder]
FOLDERS = [name for name in FILES if "/" in name]
STEP = st.one_of(
    st.tuples(st.sampled_from(OF_FILES), st.sampled_from(FILES), st.sampled_from(FILES)),
    st.tuples(st.sampled_from(OF_FOLDERS), st.sampled_from(FOLDERS), st.sampled_from(FOLDERS)),
    st.none(),  # the watcher gets a turn
)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEP, min_size=1, max_size=25))
def test_in_the_end_the_watcher_has_reported_what_is_there(
    steps: list[tuple[Callable[[Path, Path], None], str, str] | None],
) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(os.path.realpath(name))
            believer = Believer()
            watcher = Watcher(str(folder), MATCHES, believer, rescan_seconds=3600)
            async with trio.open_nursery() as nursery:
                await nursery.start(watcher.run)
                for step in steps:
                    if step is None:
                        await trio.testing.wait_all_tasks_blocked(0.001)
                        continue
                    do, one, other = step
                    with suppress(OSError, shutil.Error):  # it is not there, or is already; then nothing happened
                        do(folder / one, folder / other)
                there = truth(folder)
                with trio.move_on_after(WAIT_SECONDS) as scope:
                    await believer.files.wait_value(lambda known: known == there)
                assert not scope.cancelled_caught, f"believed: {believer.files.value}, true: {there}"
                nursery.cancel_scope.cancel()

    trio.run(main)
