"""A scan decides that a file is gone once those of its files were looked up that may be the missing one."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import trio
import trio.testing

from cef_trio.files import FileStat
from cef_trio.upload.scan_history import ScanHistory
from cef_trio.watch import Scanned

B, C, NEW = FileStat(1, 8, 10, 0), FileStat(1, 9, 10, 0), FileStat(1, 10, 10, 0)


def now() -> float:
    """Return when a scan begins that is requested by now; the others here, of the first seconds, began earlier."""
    return trio.current_time() + 1


class Missing:
    """A stream whose file, with the inode number 7, 8 or 9, is missing since a moment."""

    def __init__(self, history: ScanHistory, missed_at: float, *numbers: int) -> None:
        self._history = history
        self._missed_at = missed_at
        self._numbers = numbers
        self.gone = False
        self.in_doubt: list[str] = []
        self.looked = 0
        """How often it was to look at its path again."""

    async def wait(self) -> None:
        left: Mapping[str, FileStat] = {}
        path = "/rec/a.mp4"
        while not self.gone:
            left = await self._history.wait_for_scan(
                path, self._missed_at, lambda stat: stat.file_ino in self._numbers, self.in_doubt.extend, left
            )
            self.gone = not left
            self.looked += bool(left)


@pytest.fixture
def history() -> ScanHistory:
    history = ScanHistory()
    history.request_scan = lambda: None
    return history


async def test_p2_a_scan_counts_once_what_it_found_was_looked_up(history: ScanHistory) -> None:
    async with trio.open_nursery() as nursery:
        missing, later = Missing(history, 1.0, 7, 8, 9), Missing(history, 2.0, 7, 8, 9)
        nursery.start_soon(missing.wait)
        nursery.start_soon(later.wait)
        await trio.testing.wait_all_tasks_blocked()
        history.completed(Scanned({}, began_at=2.0), {"/rec/b.mp4": B, "/rec/c.mp4": C})
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(missing.in_doubt) == ["/rec/b.mp4", "/rec/c.mp4"]
        history.looked_up({"/rec/c.mp4": C, "/rec/later.mp4": NEW})
        await trio.testing.wait_all_tasks_blocked()
        assert not missing.gone
        history.looked_up({"/rec/later.mp4": NEW})
        await trio.testing.wait_all_tasks_blocked()
        assert not missing.gone, "one of them may have been renamed before it was looked up"
        assert later.in_doubt == [], "the scan began no later than that file was missed"
        history.completed(Scanned({}, began_at=now()), {"/rec/d.mp4": NEW, "/rec/b.mp4": B})
        await trio.testing.wait_all_tasks_blocked()
        assert missing.gone, "what others begin meanwhile, or was looked up, is none of them renamed"
        nursery.cancel_scope.cancel()


async def test_p2_a_file_that_is_renamed_before_it_was_compared_is_in_doubt_still(history: ScanHistory) -> None:
    async with trio.open_nursery() as nursery:
        missing = Missing(history, 1.0, 8)
        nursery.start_soon(missing.wait)
        await trio.testing.wait_all_tasks_blocked()
        history.completed(Scanned({}, began_at=2.0), {"/rec/b.mp4": B})
        await trio.testing.wait_all_tasks_blocked()
        history.looked_up({"/rec/c.mp4": B})  # an event told of the rename
        await trio.testing.wait_all_tasks_blocked()
        assert (missing.gone, missing.looked) == (False, 0)
        history.looked_up({})  # no event told of the next one, and nothing was found at its path
        await trio.testing.wait_all_tasks_blocked()
        assert not missing.gone
        history.completed(Scanned({}, began_at=now()), {"/rec/d.mp4": B})
        await trio.testing.wait_all_tasks_blocked()
        assert not missing.gone
        assert missing.in_doubt == ["/rec/b.mp4", "/rec/d.mp4"]
        history.looked_up({})
        await trio.testing.wait_all_tasks_blocked()
        history.completed(Scanned({}, began_at=now()))
        await trio.testing.wait_all_tasks_blocked()
        assert missing.gone


async def test_p6_an_earlier_scan_is_not_kept_waiting_by_what_later_ones_found(history: ScanHistory) -> None:
    async with trio.open_nursery() as nursery:
        missing = Missing(history, 1.0, 8)
        nursery.start_soon(missing.wait)
        await trio.testing.wait_all_tasks_blocked()
        history.completed(Scanned({}, began_at=2.0), {"/rec/b.mp4": B})
        for number in range(3, 10):
            await trio.testing.wait_all_tasks_blocked()
            history.completed(Scanned({}, began_at=float(number)), {"/rec/b.mp4": B, f"/rec/{number}.mp4": NEW})
        await trio.testing.wait_all_tasks_blocked()
        assert not missing.gone
        assert missing.looked == 7, "after each scan, as its file may be back"
        history.looked_up({"/rec/9.mp4": NEW})
        await trio.testing.wait_all_tasks_blocked()
        history.completed(Scanned({}, began_at=now()), {"/rec/10.mp4": NEW})
        await trio.testing.wait_all_tasks_blocked()
        assert missing.gone


async def test_p6_a_file_that_is_never_decided_keeps_those_streams_waiting_whose_file_it_may_be(
    history: ScanHistory,
) -> None:
    async with trio.open_nursery() as nursery:
        one, other = Missing(history, 1.0, 7), Missing(history, 1.0, 8)
        nursery.start_soon(one.wait)
        nursery.start_soon(other.wait)
        await trio.testing.wait_all_tasks_blocked()
        history.completed(Scanned({}, began_at=2.0), {"/rec/never.mp4": B})
        await trio.testing.wait_all_tasks_blocked()
        assert (one.gone, one.in_doubt) == (True, [])
        assert (other.gone, other.in_doubt) == (False, ["/rec/never.mp4"])
        nursery.cancel_scope.cancel()


async def test_p2_an_entry_that_cannot_be_read_may_be_the_missing_file_of_its_number(history: ScanHistory) -> None:
    """On a network file system (EIO) a renamed recording was taken for deleted, and sent again (world 1000266)."""
    bad, other = {"/rec/bad.mp4": B}, {"/rec/other.mp4": C}

    def scanned(entries: Mapping[str, FileStat]) -> Scanned:
        return Scanned({}, frozenset(entries), entries, began_at=now())

    async with trio.open_nursery() as nursery:
        one, missing = Missing(history, 1.0, 7), Missing(history, 1.0, 8)
        nursery.start_soon(one.wait)
        nursery.start_soon(missing.wait)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            history.completed(scanned(bad | other))
            await trio.testing.wait_all_tasks_blocked()
            history.looked_up({})
            await trio.testing.wait_all_tasks_blocked()
        assert (one.gone, one.in_doubt) == (True, [])
        assert (missing.gone, set(missing.in_doubt)) == (False, {"/rec/bad.mp4"})
        for _ in range(2):  # it can be read, and is another one's, or is gone
            history.completed(scanned(other))
            await trio.testing.wait_all_tasks_blocked()
        assert missing.gone


async def test_a_scan_that_found_nothing_new_decides_at_once(history: ScanHistory) -> None:
    history.completed(Scanned({}, began_at=2.0))
    await Missing(history, 1.0, 7).wait()


async def test_a_scan_that_could_not_read_the_file_decides_nothing(history: ScanHistory) -> None:
    async with trio.open_nursery() as nursery:
        missing = Missing(history, 1.0, 7)
        nursery.start_soon(missing.wait)
        history.completed(Scanned({}, frozenset({"/rec"}), began_at=2.0))
        await trio.testing.wait_all_tasks_blocked()
        assert not missing.gone
        history.completed(Scanned({}, began_at=3.0))
