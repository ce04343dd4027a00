"""What is done about a file that has no task, by its stat and its stream in Redis."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest
from checkpoint.examples import START, meta

from cef_trio.checkpoint import Status, StreamSet, StreamSummary
from cef_trio.checkpoint.model import FileIdentity
from cef_trio.files import FileStat, IdentityMatch
from cef_trio.upload.file_triage import FileTriage, must_be_recognized, triage

COMPLETED_NS: Final = int(START.timestamp()) * 10**9
STAT: Final = FileStat(7, 11, 1000, COMPLETED_NS - 5 * 10**9, COMPLETED_NS - 4 * 10**9)
UPLOADED: Final = StreamSummary(
    meta(
        "s1",
        status=Status.COMPLETED,
        identity=FileIdentity(7, 11),
        verified_size_bytes=STAT.size_bytes,
        verified_mtime_ns=STAT.mtime_ns,
        completed_at_utc=START,
    ),
    StreamSet.COMPLETED,
)


def test_an_uploaded_file_that_was_not_touched_is_settled_without_being_opened() -> None:
    assert not must_be_recognized(UPLOADED, STAT)
    assert triage(UPLOADED, STAT) is FileTriage.SETTLED


@pytest.mark.parametrize("ctime_ns", [COMPLETED_NS, COMPLETED_NS + 10**9])
def test_p1_another_file_with_the_size_the_mtime_and_the_inode_number_is_recognized_by_its_ctime(ctime_ns: int) -> None:
    """``cp -p`` gives a new file the old time stamp, and the file system may give it the free inode number."""
    stat = replace(STAT, ctime_ns=ctime_ns)
    assert must_be_recognized(UPLOADED, stat)
    assert triage(UPLOADED, stat, IdentityMatch.REPLACED) is FileTriage.NEW
    assert triage(UPLOADED, stat, IdentityMatch.SAME) is FileTriage.SETTLED  # renamed, or its mode was changed


def test_a_changed_file_is_new_without_being_opened() -> None:
    stat = replace(STAT, size_bytes=1001)
    assert not must_be_recognized(UPLOADED, stat)
    assert triage(UPLOADED, stat) is FileTriage.NEW


def test_a_file_that_cannot_be_read_is_not_settled_by_the_number_of_a_failed_stream() -> None:
    """Found by a random world: a new recording got an aborted one's inode number, and was unreadable at the start."""
    aborted = StreamSummary(meta("s2", status=Status.FAILED_ABORTED, identity=FileIdentity(7, 11)), StreamSet.FAILED)
    assert triage(aborted, STAT, IdentityMatch.ASK_BYTES) is FileTriage.UNREADABLE
    assert triage(aborted, STAT, IdentityMatch.SAME) is FileTriage.SETTLED
    assert triage(UPLOADED, STAT, IdentityMatch.ASK_BYTES) is FileTriage.SETTLED
