"""A scan decides that a file is gone once the files that it found were looked up: one may be the missing file."""

from __future__ import annotations

from cef_trio.upload.scan_history import LastScan, ScanHistory
from cef_trio.watch import Scanned


def decided(history: ScanHistory, missed_at: float) -> bool:
    last: LastScan = history.last.value
    return last.decides("/rec/a.mp4", missed_at)


def test_p2_a_scan_counts_once_what_it_found_was_looked_up() -> None:
    history = ScanHistory()
    history.completed(Scanned({}, began_at=2.0), {"/rec/b.mp4", "/rec/c.mp4"})
    assert not decided(history, 1.0)
    history.looked_up({"/rec/c.mp4", "/rec/later.mp4"})
    assert not decided(history, 1.0)
    history.looked_up({"/rec/later.mp4"})
    assert decided(history, 1.0)
    assert not decided(history, 2.0), "it began no later than the file was missed"


def test_p6_an_earlier_scan_is_not_kept_waiting_by_what_later_ones_found() -> None:
    history = ScanHistory()
    history.completed(Scanned({}, began_at=2.0), {"/rec/b.mp4"})
    for number in range(3, 10):
        history.completed(Scanned({}, began_at=float(number)), {"/rec/b.mp4", f"/rec/{number}.mp4"})
    history.looked_up({"/rec/9.mp4"})
    assert decided(history, 1.0)
    assert not decided(history, 2.0)
    history.looked_up(())
    assert decided(history, 8.0), "the latest one decides most"


def test_a_scan_that_found_nothing_new_decides_at_once() -> None:
    history = ScanHistory()
    history.completed(Scanned({}, began_at=2.0))
    assert decided(history, 1.0)
