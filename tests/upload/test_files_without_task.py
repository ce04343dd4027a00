"""Which files have no task, and what each waits for: the pure transitions, by example and by random sequences."""

from __future__ import annotations

from collections.abc import Callable, Container
from datetime import UTC, datetime, timedelta
from math import inf

import pytest
from checkpoint.examples import meta
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cef_trio.checkpoint import FileIdentity, NewerRecord, Records, Status, StreamSet, StreamSummary
from cef_trio.files import FileStat, IdentityMatch
from cef_trio.upload.files_without_task import FilesWithoutTask, QueuedRename, Recognized
from cef_trio.upload.start_minimum import StartMinimum

MINIMUM = StartMinimum(age_seconds=10, size_bytes=100)
UPLOADED = StreamSummary(meta("s1", status=Status.COMPLETED), StreamSet.COMPLETED)
FAILED = StreamSummary(meta("s2", status=Status.FAILED_FINALIZATION), StreamSet.FAILED)
NEWER = NewerRecord("9", StreamSet.ACTIVE)


def identity(number: int, fs_type: str = "ext4") -> FileIdentity:
    return FileIdentity(1, number, fs_type=fs_type)


class Known:
    """The files without a task on a clock of its own, with the calls of ``wake``."""

    def __init__(self) -> None:
        self.now, self.woken = 0.0, False
        self.files = FilesWithoutTask(
            lambda path: not path.endswith(".txt"),
            MINIMUM,
            now=lambda: self.now,
            utc_now=lambda: datetime(2026, 11, 29, tzinfo=UTC) + timedelta(seconds=self.now),
            wake=self.wake,
        )

    def wake(self) -> None:
        self.woken = True

    def where(self, path: str) -> set[str]:
        """Return what a file is, by the names in the module's docstring."""
        files = self.files
        kinds: dict[str, Container[str]] = {
            "unknown": files.unknown,
            "settled": files.settled,
            "failed": files.failed,
            "set aside": files._set_aside,
            "held": files._held,
            "deferred": files._deferred,
            "unrecognized": files._unrecognized,
            "below": files._below_minimum,
        }
        return {kind for kind, paths in kinds.items() if path in paths}

    def put(self, kind: str, path: str, stat: FileStat) -> None:
        """Have a file seen and looked up with this result."""
        self.files.seen(path, stat)
        RESULTS[kind](self.files, path)


RESULTS: dict[str, Callable[[FilesWithoutTask, str], None]] = {
    "unknown": lambda _files, _path: None,
    "settled": lambda files, path: files.settle(path, UPLOADED),
    "failed": lambda files, path: files.settle(path, FAILED),
    "set aside": lambda files, path: files.update_set_aside([path], Records(unreadable={path: "no JSON"})),
    "newer": lambda files, path: files.update_set_aside([path], Records(unreadable={path: "9"}, newer={path: NEWER})),
    "held": lambda files, path: files.hold(path, "s3"),
    "deferred": lambda files, path: files.defer(path, joined_at=0, wait_seconds=20),
    "unrecognized": lambda files, path: files.leave_unrecognized(path, slow=True),
    "below": lambda files, path: files.wait_to_begin(path, files.begins_in(files.unknown[path])),
}


def stat_of(inode: int = 1, size_bytes: int = 200) -> FileStat:
    return FileStat(7, inode, size_bytes, size_bytes)


@pytest.mark.parametrize("kind", RESULTS)
def test_a_file_that_is_gone_is_forgotten_and_one_that_a_scan_misses_too_unless_its_lookup_is_pending(
    kind: str,
) -> None:
    known = Known()
    for path in ("a", "b"):
        known.put(kind, path, stat_of())
        assert known.where(path)
    known.files.forget("a")
    assert not known.where("a")
    known.files.forget_missing(lambda _path: True)
    assert known.where("b") == ({"unknown"} if kind == "unknown" else set())


@pytest.mark.parametrize(
    ("kind", "still"),
    [("held", True), ("deferred", True), ("set aside", True), ("unrecognized", True), ("settled", False)],
)
def test_a_file_that_changes_while_it_waits_is_not_looked_up(kind: str, *, still: bool) -> None:
    known = Known()
    known.put(kind, "a", stat_of())
    known.files.seen("a", stat_of(size_bytes=300))
    assert ("unknown" not in known.where("a")) is still
    assert known.files.has_settled("a") is (kind == "held")


@pytest.mark.parametrize("kind", ["held", "below", "unrecognized"])
def test_another_file_at_the_path_waits_no_more(kind: str) -> None:
    known = Known()
    known.put(kind, "a", stat_of(1))
    known.files.seen("a", stat_of(2))
    assert "unknown" in known.where("a")
    assert kind not in known.where("a")


@pytest.mark.parametrize("kind", RESULTS)
@pytest.mark.parametrize("has_task", [False, True])
def test_a_renamed_file_is_looked_up_at_its_new_path_only_and_its_rename_recorded(kind: str, *, has_task: bool) -> None:
    known = Known()
    known.put(kind, "a", stat_of())
    known.files.moved("a", "b", stat_of(), has_task=has_task)
    assert not known.where("a")
    assert known.where("b") == (set() if has_task else {"unknown"})
    assert known.files.renamed == [QueuedRename("a", "b", stat_of(), None)]
    known.files.moved("b", "b.txt", stat_of(), has_task=False)
    assert not known.where("b.txt")
    assert len(known.files.renamed) == 1


def test_a_rename_does_not_prolong_the_wait_for_another_daemon() -> None:
    known = Known()
    known.put("deferred", "a", stat_of())
    known.now = 19
    known.files.moved("a", "b", stat_of(), has_task=False)
    assert not known.files.is_begun_here("b")
    known.files.defer("b", joined_at=0, wait_seconds=20)
    assert known.files.due_at == 20
    known.now = 20
    known.files.retry_due()
    assert known.files.is_begun_here("b")


@pytest.mark.parametrize(("inode", "seconds"), [(1, 4.0), (2, 10.0)])
def test_a_rename_does_not_prolong_the_wait_of_a_young_file(inode: int, seconds: float) -> None:
    known = Known()
    known.put("below", "a", stat_of(1))
    known.now = 6
    known.files.moved("a", "b", stat_of(inode), has_task=False)
    assert known.files.begins_in(known.files.unknown["b"]) == seconds


def test_a_small_file_is_due_once_it_has_grown_and_a_young_one_by_its_age() -> None:
    known = Known()
    known.put("below", "small", stat_of(1, 99))
    known.put("below", "young", stat_of(2))
    assert (known.files.too_small, known.files.too_young, known.files.due_at) == (1, 1, 10)
    known.now = 10
    known.files.retry_due()
    assert (known.files.too_small, known.files.too_young, known.files.due_at) == (1, 0, inf)
    known.files.seen("small", stat_of(1, 100))
    assert list(known.files.unknown) == ["young", "small"]


def test_p10_a_file_that_could_not_be_recognized_waits_since_it_was_first_seen() -> None:
    known = Known()
    known.put("unrecognized", "a", stat_of(1))
    for known.now, inode in ((30, 1), (60, 2), (90, 2)):
        known.files.seen("a", stat_of(inode))
        known.files.look_up_unrecognized(())
        known.files.leave_unrecognized("a")
        [waiting] = known.files.pending_lookups
        assert waiting.since == 0
        assert "slowly" in waiting.why


@pytest.mark.parametrize(
    ("match", "now", "still_true"),
    [
        (IdentityMatch.SAME, stat_of(1, 200), True),
        (IdentityMatch.SAME, stat_of(1, 300), True),
        (IdentityMatch.SAME, FileStat(7, 1, 200, 201), True),
        (IdentityMatch.SAME, stat_of(1, 100), False),
        (IdentityMatch.SAME, stat_of(2, 300), False),
        (IdentityMatch.REPLACED, stat_of(1, 300), True),
        (IdentityMatch.REPLACED, stat_of(2, 200), False),
        (IdentityMatch.ASK_BYTES, stat_of(1, 200), True),
        (IdentityMatch.ASK_BYTES, stat_of(1, 300), False),
    ],
)
def test_what_was_found_of_a_file_apart_is_used_if_it_is_still_true(
    match: IdentityMatch, now: FileStat, *, still_true: bool
) -> None:
    known = Known()
    known.put("unrecognized", "a", stat_of(1, 200))
    found = Recognized("s1", stat_of(1, 200), match)
    assert found.is_of(now) is still_true
    known.files.seen("a", now)
    known.files.recognize("a", found)
    looked_up = known.files.unknown.get("a")
    assert (looked_up is not None and looked_up.recognized == found) is still_true


def test_p2_an_unrecognized_file_may_be_any_streams_until_it_was_compared() -> None:
    known = Known()
    known.put("unrecognized", "a", stat_of(1, 200))
    assert known.files.undecided == {"a": stat_of(1, 200)}
    assert not known.files.may_be_pending(identity(1)), "its task waits for the decision, and tells"
    known.files.recognize("a", Recognized("s1", stat_of(1, 200), IdentityMatch.SAME))
    assert known.files.undecided == {"a": stat_of(1, 200)}
    assert known.files.may_be_pending(identity(1))
    assert known.files.may_be_pending(identity(2, "fuse"))
    assert not known.files.may_be_pending(identity(2))
    known.files.settle("a", UPLOADED)
    assert not known.files.undecided
    assert not known.files.may_be_pending(identity(1))


def test_p10_a_file_that_is_as_its_record_was_completed_does_not_wait_for_its_upload() -> None:
    known = Known()
    known.files.seen("a", stat_of(1, 200))
    known.files.leave_unrecognized("a", slow=True, uploaded=stat_of(1, 200))
    assert known.files.pending_lookups == ()
    known.files.look_up_unrecognized(())
    assert known.files.pending_lookups == ()
    known.files.leave_unrecognized("a", slow=True, uploaded=stat_of(1, 200))
    known.files.seen("a", stat_of(1, 300))
    assert len(known.files.pending_lookups) == 1


@pytest.mark.parametrize("kind", ["unknown", "deferred", "unrecognized", "below"])
def test_a_settled_file_that_has_changed_is_settled_no_more_wherever_it_waits(kind: str) -> None:
    known = Known()
    known.put("settled", "a", stat_of(1, 50))
    assert known.files.has_settled("a")
    known.put(kind, "a", stat_of(1, 60))
    assert kind in known.where("a")
    assert not known.files.has_settled("a")


def test_deferred_files_are_looked_up_together() -> None:
    known = Known()
    known.put("deferred", "a", stat_of(1))
    known.now = 2
    known.put("deferred", "b", stat_of(2))
    known.now, known.woken = 3, False
    known.files.retry_due()
    assert known.woken
    assert set(known.files.unknown) == {"a", "b"}
    assert not known.files.deferred


def test_a_file_that_may_be_of_another_daemons_stream_is_no_risk_and_is_looked_up_every_few_seconds() -> None:
    known = Known()
    known.put("deferred", "a", stat_of())
    known.now = 20
    for _ in range(100):
        known.files.retry_due()
        assert list(known.files.unknown) == ["a"]
        known.files.leave("a", "s1")
        assert not known.files.pending_lookups
        assert not known.files.deferred, "nobody is to begin it"
        known.now = known.files.due_at
    assert known.now == 320
    known.files.lookup_error = "Redis is down"
    assert [one.since for one in known.files.pending_lookups] == [0]
    known.files.lookup_error = None
    known.files.retry_due()
    assert known.files.is_begun_here("a"), "the stream has ended, or has another file"
    known.files.defer("a", joined_at=400, wait_seconds=20)
    assert [one.since for one in known.files.pending_lookups] == [0]


def test_a_held_file_is_looked_up_when_its_stream_is_free_unless_it_has_a_task_or_another_stream() -> None:
    known = Known()
    for path in ("a", "b", "c"):
        known.put("held", path, stat_of())
    assert not known.files.due_held()
    known.now = 60
    due = known.files.due_held()
    known.files.retry_held(due, (), ())
    assert not known.files.due_held()
    known.files.seen("c", stat_of(2))
    known.files.hold("c", "s4")
    known.files.retry_held(due, {"s3"}, {"b"})
    assert set(known.files.unknown) == {"a"}
    assert known.files.held_ids == {"s4"}


@pytest.mark.parametrize(("kind", "at"), [("set aside", 0), ("newer", 60)])
def test_a_record_that_cannot_be_read_is_read_again(kind: str, at: float) -> None:
    known = Known()
    known.put(kind, "a", stat_of())
    assert len(known.files.set_aside) == (kind == "set aside")
    assert len(known.files.left_to_newer) == (kind == "newer")
    for known.now in sorted({at - 1, at} - {-1}):
        known.files.retry_set_aside()
        assert ("a" in known.files.unknown) is (known.now == at)
    assert not known.files.may_be_pending(identity(1))
    known.files.update_set_aside(["a"], Records())
    assert known.where("a") == {"unknown"}


def test_a_failed_file_is_reported_until_its_own_stream_failed_no_more() -> None:
    known = Known()
    known.put("failed", "a", stat_of())
    known.files.failed_no_more("a", "another")
    assert known.files.unverified == ("a",)
    known.files.failed_no_more("a", "s2")
    assert known.where("a") == {"settled"}
    assert not known.files.unverified


def test_a_result_does_not_apply_to_a_file_that_was_replaced_or_renamed_meanwhile() -> None:
    known = Known()
    known.put("unknown", "a", stat_of(1))
    asked = dict(known.files.unknown)
    known.files.seen("a", stat_of(1, 300))
    assert known.files.still_unknown("a", asked) is known.files.unknown["a"]
    known.files.queue_rename("b", "a", stat_of(1))
    assert known.files.still_unknown("a", asked) is None
    known.files.renamed.clear()
    known.files.seen("a", stat_of(2))
    assert known.files.still_unknown("a", asked) is None


paths = st.sampled_from(["a", "b", "c"])
stats = st.builds(stat_of, st.integers(1, 3), st.sampled_from([99, 100, 200]))


class AnySequence(RuleBasedStateMachine):
    """Events, results of lookups and ends of tasks in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.known = Known()
        self.files = self.known.files

    @rule(path=paths, stat=stats, closed=st.booleans())
    def seen(self, path: str, stat: FileStat, *, closed: bool) -> None:
        self.files.seen(path, stat, closed=closed)

    @rule(old_path=paths, new_path=paths, stat=stats, has_task=st.booleans())
    def moved(self, old_path: str, new_path: str, stat: FileStat, *, has_task: bool) -> None:
        if old_path != new_path:
            self.files.moved(old_path, new_path, stat, has_task=has_task)
            assert not self.known.where(old_path)

    @rule(path=paths)
    def gone(self, path: str) -> None:
        self.files.forget(path)
        assert not self.known.where(path)

    @rule(missing=st.sets(paths))
    def scanned(self, missing: set[str]) -> None:
        self.files.forget_missing(missing.__contains__)
        assert all(self.known.where(path) <= {"unknown"} for path in missing)

    @precondition(lambda self: self.files.unknown)
    @rule(data=st.data(), kind=st.sampled_from([*RESULTS, "begun"]))
    def looked_up(self, data: st.DataObject, kind: str) -> None:
        path = data.draw(st.sampled_from(list(self.files.unknown)))
        self.files.update_set_aside([path], Records())
        if kind == "begun":
            del self.files.unknown[path]
            self.files.begun(path)
            assert not self.known.where(path)
        else:
            RESULTS[kind](self.files, path)

    @rule(path=paths, stat=stats, is_set_aside=st.booleans())
    def task_ended(self, path: str, stat: FileStat, *, is_set_aside: bool) -> None:
        if not self.known.where(path):
            self.files.seen(path, stat)
            self.files.begin_here(path)
            if is_set_aside:
                self.files.put_aside(path, self.files.unknown.pop(path))

    @rule(inode=st.integers(1, 3))
    def resumed_by_inode(self, inode: int) -> None:
        found = self.files.pop_inode((7, inode))
        if found is not None:
            assert not self.known.where(found[0]) & {"unknown", "deferred", "unrecognized", "below"}

    @rule(seconds=st.sampled_from([1, 5, 60]), free=st.booleans())
    def time_passes(self, seconds: int, *, free: bool) -> None:
        self.known.now += seconds
        self.files.retry_due()
        self.files.retry_set_aside()
        self.files.retry_held(self.files.due_held(), {"s3"} if free else (), ())
        assert self.files.due_at > self.known.now

    @rule(path=paths, stat=stats, match=st.sampled_from(IdentityMatch))
    def recognized(self, path: str, stat: FileStat, match: IdentityMatch) -> None:
        self.files.recognize(path, Recognized("s1", stat, match))

    @rule(compared=st.sets(paths))
    def unrecognized_are_looked_up(self, compared: set[str]) -> None:
        self.files.look_up_unrecognized(compared)
        assert all("unrecognized" not in self.known.where(path) for path in {"a", "b", "c"} - compared)

    @rule()
    def renames_recorded(self) -> None:
        self.files.renamed.clear()
        self.known.woken = bool(self.files.unknown)

    @invariant()
    def a_file_waits_in_one_place(self) -> None:
        for path in ("a", "b", "c"):
            kinds = self.known.where(path)
            assert len(kinds & {"unknown", "held", "deferred", "unrecognized", "below"}) <= 1, kinds
            assert len(kinds & {"set aside", "held", "deferred", "unrecognized", "below"}) <= 1, kinds
            assert "settled" in kinds or not kinds & {"held", "failed"}, kinds

    @invariant()
    def whatever_is_to_be_done_wakes(self) -> None:
        assert self.known.woken or not (self.files.unknown or self.files.renamed)

    @invariant()
    def what_is_not_settled_is_unverified(self) -> None:
        for path in ("a", "b", "c"):
            kinds = self.known.where(path)
            assert (path in self.files.unverified) is bool(kinds - {"settled", "held"}), kinds


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
