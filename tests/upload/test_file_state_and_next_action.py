"""The transitions of a file state, and the next action of a stream: enumerated."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from cef_trio.checkpoint.model import FileIdentity
from cef_trio.files.file_stat import FileStat
from cef_trio.files.identity import IdentityMatch, compare_identity, looks_the_same, without_head
from cef_trio.upload import file_state as file_events
from cef_trio.upload.file_state import Ending, FileState
from cef_trio.upload.idle_rules import IdleCheckResult, check_idle
from cef_trio.upload.next_action import Action, FileCheck, RecordedProgress, check_file, next_action
from cef_trio.upload.part_plan import PartPlan

PLAN = PartPlan(100)
STAT = FileStat(1, 2, 250, 1_000)
NOW = FileState("/w/a.mp4", STAT)


def grown(size_bytes: int, mtime_ns: int = 2_000) -> FileStat:
    return replace(STAT, size_bytes=size_bytes, mtime_ns=mtime_ns)


class TestNews:
    def test_growth_updates_the_stat_and_means_that_the_recording_has_not_ended(self) -> None:
        closed = file_events.closed(NOW, STAT)
        assert file_events.seen(closed, grown(300)) == FileState("/w/a.mp4", grown(300), Ending.NOT)

    def test_a_repeated_event_changes_nothing(self) -> None:
        closed = file_events.closed(NOW, STAT)
        assert file_events.seen(closed, STAT) == closed
        assert file_events.closed(closed, STAT) == closed

    def test_an_observation_older_than_the_known_one_is_ignored(self) -> None:
        """A scan whose stat is older than an event's must not count as a truncation."""
        known = replace(NOW, stat=replace(STAT, ctime_ns=1_000), ending=Ending.CLOSED)
        assert file_events.seen(known, replace(grown(100, mtime_ns=500), ctime_ns=500)) == known

    @pytest.mark.parametrize("size_bytes", [249, 250, 251])
    @pytest.mark.parametrize("mtime_ns", [999, 1_000, 1_001])
    @pytest.mark.parametrize("ctime_ns", [0, 999, 1_000, 1_001])
    @pytest.mark.parametrize("known_ctime_ns", [0, 1_000])
    def test_p1_an_observation_is_older_by_the_change_time_and_never_by_the_modification_time(
        self, size_bytes: int, mtime_ns: int, ctime_ns: int, known_ctime_ns: int
    ) -> None:
        """``utime`` sets the modification time back, and so does a clock correction."""
        known = replace(NOW, stat=replace(STAT, ctime_ns=known_ctime_ns), ending=Ending.CLOSED)
        look = replace(STAT, size_bytes=size_bytes, mtime_ns=mtime_ns, ctime_ns=ctime_ns)
        ending = Ending.CLOSED if size_bytes == STAT.size_bytes else Ending.NOT
        taken = FileState(NOW.path, look, ending, needs_check=size_bytes < STAT.size_bytes)
        passed_over = 0 < ctime_ns < known_ctime_ns and size_bytes <= STAT.size_bytes
        assert file_events.seen(known, look) == (known if passed_over else taken)
        assert file_events.seen_now(known, look) == taken
        assert file_events.closed(known, look).stat == look
        assert file_events.confirmed(known, NOW.path, look).stat == look

    @pytest.mark.parametrize("ending", Ending)
    @pytest.mark.parametrize("size_bytes", [249, 250, 251])
    def test_a_new_time_keeps_the_close_and_every_other_change_resets_it(self, ending: Ending, size_bytes: int) -> None:
        """``rsync --inplace`` and ``shutil.copy2`` set the time after the close, and no later event follows."""
        known, look = replace(NOW, ending=ending), grown(size_bytes, mtime_ns=7)
        left = Ending.CLOSED if ending is Ending.CLOSED and size_bytes == STAT.size_bytes else Ending.NOT
        assert file_events.seen(known, look).ending is left
        assert file_events.confirmed(known, NOW.path, look).ending is left

    def test_a_smaller_file_needs_a_check(self) -> None:
        assert file_events.seen(NOW, grown(100)).needs_check
        assert file_events.closed(NOW, grown(100)).needs_check

    def test_another_inode_needs_a_check_and_does_not_replace_the_stat(self) -> None:
        other = replace(STAT, file_ino=99, size_bytes=5)
        assert file_events.seen(NOW, other) == replace(NOW, needs_check=True)
        assert file_events.closed(NOW, other) == replace(NOW, needs_check=True)

    def test_a_close_that_sets_the_time_back_counts(self) -> None:
        """``cp -p`` sets an old mtime just before it closes."""
        assert file_events.closed(NOW, grown(250, mtime_ns=1)).ending is Ending.CLOSED

    def test_a_check_clears_the_suspicion(self) -> None:
        needs_check = file_events.gone(NOW)
        assert file_events.confirmed(needs_check, "/w/a.mp4", STAT) == NOW
        assert file_events.confirmed(needs_check, "/w/a.mp4", grown(300)) == FileState("/w/a.mp4", grown(300))

    def test_a_check_of_the_old_name_does_not_confirm_the_new_one(self) -> None:
        moved = file_events.gone(file_events.moved(NOW, "/w/b.mp4", STAT))
        assert file_events.confirmed(moved, "/w/a.mp4", grown(10)) == moved

    def test_a_guess_that_fails_leaves_the_file_as_it_was_and_its_number_leads_nowhere(self) -> None:
        guess = file_events.guessed(NOW, "/w/b.mp4", grown(900, mtime_ns=9))
        written = file_events.closed(guess, grown(950, mtime_ns=10))
        assert (written.path, written.needs_check, written.guessed_from) == ("/w/b.mp4", True, NOW)
        failed = file_events.guess_failed(written)
        assert failed == replace(NOW, needs_check=True, number_reused=True)
        assert file_events.confirmed(failed, NOW.path, STAT) == NOW
        assert file_events.confirmed(failed, NOW.path, grown(300)) == replace(NOW, stat=grown(300))

    def test_a_guess_that_holds_is_a_rename(self) -> None:
        guess = file_events.guessed(NOW, "/w/b.mp4", STAT)
        assert file_events.guess_held(guess) == replace(NOW, path="/w/b.mp4", needs_check=True)

    def test_a_later_guess_or_rename_of_a_guessed_file_is_a_guess_too(self) -> None:
        guess = file_events.guessed(NOW, "/w/b.mp4", STAT)
        for later in (file_events.guessed(guess, "/w/c.mp4", STAT), file_events.moved(guess, "/w/c.mp4", STAT)):
            assert (later.path, later.guessed_from) == ("/w/c.mp4", NOW)

    def test_a_check_of_the_earlier_path_decides_no_guess(self) -> None:
        guess = file_events.guessed(NOW, "/w/b.mp4", grown(300))
        for stat in (STAT, grown(300), grown(301)):
            assert file_events.confirmed(guess, NOW.path, stat).guessed_from == NOW

    def test_draining_survives_a_guess_that_fails(self) -> None:
        assert file_events.guess_failed(file_events.draining(file_events.guessed(NOW, "/w/b.mp4", STAT))).draining

    def test_silence_ends_a_recording_only_if_nothing_else_did(self) -> None:
        assert file_events.idle(NOW).ending is Ending.IDLE
        closed = file_events.closed(NOW, STAT)
        assert file_events.idle(closed) is closed


@pytest.mark.parametrize(
    ("draining", "guessed", "moved", "exists", "needs_check", "missing", "ending"),
    list(product([False, True], [False, True], [False, True], [False, True], [False, True], [1, 3], list(Ending))),
)
def test_the_rules_of_the_next_action_stand_in_their_order(  # noqa: PLR0917 - one parameter a rule
    draining: bool, guessed: bool, moved: bool, exists: bool, needs_check: bool, missing: int, ending: Ending
) -> None:
    known = RecordedProgress(PLAN, missing, "/w/old.mp4" if moved else "/w/a.mp4", object_exists=exists)
    before = NOW if guessed else None
    action = next_action(known, FileState("/w/a.mp4", STAT, ending, needs_check, draining, before))
    if draining:
        assert action is Action.PARK
    elif guessed:
        assert action is (Action.WRITE_METADATA if exists else Action.COMPARE), "a complete object needs no file"
    elif moved:
        assert action is Action.RENAME
    elif exists:
        assert action is Action.WRITE_METADATA
    elif needs_check:
        assert action is Action.CHECK_FILE
    elif missing == 1:
        assert action is Action.UPLOAD
    elif ending is Ending.NOT:
        assert action is Action.WAIT
    else:
        assert action is Action.FINALIZE


def test_a_part_is_ready_at_its_last_byte_and_not_before() -> None:
    known = RecordedProgress(PLAN, 3, "/w/a.mp4")
    assert next_action(known, replace(NOW, stat=grown(299))) is Action.WAIT
    assert next_action(known, replace(NOW, stat=grown(300))) is Action.UPLOAD


@pytest.mark.parametrize(
    ("found", "is_ours", "look"),
    [
        (None, False, FileCheck.GONE),
        (grown(500), False, FileCheck.REPLACED),
        (grown(199), True, FileCheck.SHRUNK),
        (grown(200), True, FileCheck.SAME),
        (grown(500), True, FileCheck.SAME),
    ],
)
def test_a_file_check_is_decided_by_identity_and_by_the_bytes_that_were_sent(
    found: FileStat | None, is_ours: bool, look: FileCheck
) -> None:
    assert check_file(found, is_ours=is_ours, covered_bytes=200) is look


@pytest.mark.parametrize(
    ("idle_seconds", "found", "finding"),
    [
        (31.0, STAT, IdleCheckResult.IDLE_ALL_SENT),
        (29.0, STAT, IdleCheckResult.FRESH),
        (31.0, grown(251), IdleCheckResult.IDLE_MORE_ON_DISK),
        (1.0, grown(251), IdleCheckResult.IDLE_MORE_ON_DISK),
        (31.0, grown(250), IdleCheckResult.IDLE_MORE_ON_DISK),
        (31.0, grown(250, mtime_ns=1), IdleCheckResult.IDLE_MORE_ON_DISK),
        (31.0, grown(249), IdleCheckResult.SHRUNK),
        (31.0, None, IdleCheckResult.MISSING),
        (31.0, replace(STAT, file_ino=9), IdleCheckResult.MISSING),
    ],
)
def test_the_cases_of_the_idle_checker(idle_seconds: float, found: FileStat | None, finding: IdleCheckResult) -> None:
    assert check_idle(idle_seconds=idle_seconds, timeout_seconds=30, known=STAT, found=found) is finding


IDENTITY = FileIdentity(1, 2, 4096, 77)
ON_CIFS = replace(IDENTITY, fs_type="cifs")


@pytest.mark.parametrize(
    ("recorded", "observed", "sameness"),
    [
        (IDENTITY, IDENTITY, IdentityMatch.SAME),
        (
            IDENTITY,
            replace(IDENTITY, file_dev=9),
            IdentityMatch.SAME,
        ),  # device numbers change when a machine starts again
        (IDENTITY, replace(IDENTITY, file_ino=9), IdentityMatch.REPLACED),
        (IDENTITY, replace(IDENTITY, head_crc64nvme=1), IdentityMatch.ASK_BYTES),
        (IDENTITY, replace(IDENTITY, head_size_bytes=10), IdentityMatch.ASK_BYTES),
        (FileIdentity(1, 2), FileIdentity(1, 2), IdentityMatch.ASK_BYTES),  # it was empty: so is each new one
        (FileIdentity(1, 2, 32, 7), FileIdentity(1, 2, 32, 7), IdentityMatch.ASK_BYTES),  # the same first box
        (without_head(IDENTITY), without_head(IDENTITY), IdentityMatch.ASK_BYTES),
        (replace(IDENTITY, birth_ns=5), replace(IDENTITY, birth_ns=5, head_crc64nvme=1), IdentityMatch.SAME),
        (replace(IDENTITY, birth_ns=5), replace(IDENTITY, birth_ns=6), IdentityMatch.REPLACED),
        (replace(ON_CIFS, birth_ns=5), replace(ON_CIFS, birth_ns=5), IdentityMatch.SAME),
        (replace(ON_CIFS, birth_ns=5), replace(ON_CIFS, birth_ns=6), IdentityMatch.ASK_BYTES),
        (ON_CIFS, ON_CIFS, IdentityMatch.ASK_BYTES),
        # NTFS gives a new file the creation time of the one that had its name seconds before.
        (replace(ON_CIFS, birth_ns=5, head_size_bytes=32),) * 2 + (IdentityMatch.ASK_BYTES,),
        (without_head(replace(ON_CIFS, birth_ns=5)),) * 2 + (IdentityMatch.ASK_BYTES,),
        (replace(IDENTITY, generation=7), replace(IDENTITY, generation=7, head_crc64nvme=1), IdentityMatch.SAME),
        (replace(IDENTITY, generation=7), replace(IDENTITY, generation=8), IdentityMatch.REPLACED),
        (replace(IDENTITY, generation=7), IDENTITY, IdentityMatch.SAME),
        (FileIdentity(1, 2), FileIdentity(9, 2), IdentityMatch.ASK_BYTES),  # nothing but an inode number speaks for it
    ],
)
def test_who_a_file_is_is_judged_by_inode_and_first_bytes(
    recorded: FileIdentity, observed: FileIdentity, sameness: IdentityMatch
) -> None:
    assert compare_identity(recorded, observed) is sameness


@pytest.mark.parametrize(
    ("head_bytes", "size_bytes", "same"),
    [(0, 0, True), (0, 1, False), (32, 32, True), (32, 33, False), (4096, 4096, True), (4096, 9999, True)],
)
def test_a_file_looks_the_same_by_its_first_bytes_only_if_they_are_all_of_its_first_bytes(
    head_bytes: int, size_bytes: int, *, same: bool
) -> None:
    recorded = FileIdentity(1, 2, head_bytes, 77)
    assert looks_the_same(recorded, recorded, size_bytes) is same
    assert not looks_the_same(recorded, replace(recorded, head_crc64nvme=78), size_bytes)
    assert not looks_the_same(recorded, replace(recorded, file_ino=3), size_bytes)
