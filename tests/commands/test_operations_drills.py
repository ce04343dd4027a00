"""Each row of "What to do when …" in ``docs/operations.md``: what it describes is made to happen, and its advice works.

Failed recordings are drilled here. The other rows name the test that drills them. The tables are compared with the
page, so that a new row needs a drill.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio
from provoked_failures import BAD, PROVOKED, Scene, ended

from cef_trio.checkpoint.states import FailureReason, Status
from cef_trio.cli.abort import abort_streams
from cef_trio.cli.retry import retry_streams
from cef_trio.cli.session import CommandContext
from cef_trio.exit_codes import ExitCode
from cef_trio.lab.world import PART, World

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/operations.md").read_text()


@dataclass
class Drill:
    """A recording that has failed, and what its operator has."""

    scene: Scene
    context: CommandContext
    kept: Path
    """A second name of its file, outside the watch folder."""

    def remove_the_cause(self) -> None:
        self.scene.world.endpoint.faults.clear()
        self.scene.patch.undo()


Advice = Callable[[Drill], Awaitable[None]]


async def remove_the_cause(drill: Drill) -> None:
    await trio.lowlevel.checkpoint()
    drill.remove_the_cause()


async def put_it_back(drill: Drill) -> None:
    await trio.lowlevel.checkpoint()
    drill.kept.rename(drill.scene.world.path(BAD))


async def set_a_larger_part_size(drill: Drill) -> None:
    await trio.lowlevel.checkpoint()
    drill.context = replace(drill.context, part_size=2 * PART)


async def set_equal_parts(drill: Drill) -> None:
    await trio.lowlevel.checkpoint()
    drill.remove_the_cause()
    drill.context = replace(drill.context, equal_parts=True)


ADVICE: dict[FailureReason, Advice] = {
    FailureReason.ACCESS_DENIED: remove_the_cause,
    FailureReason.NO_SUCH_BUCKET: remove_the_cause,
    FailureReason.S3_REFUSED: remove_the_cause,
    FailureReason.S3_UPLOAD: remove_the_cause,
    FailureReason.FILE_MISSING_ON_RESUME: put_it_back,
    FailureReason.FILE_REPLACED: put_it_back,
    FailureReason.FILE_TOO_LARGE: set_a_larger_part_size,
    FailureReason.UPLOAD_LOST: remove_the_cause,
    FailureReason.REDIS_UPDATE: remove_the_cause,
    FailureReason.FINALIZATION: set_equal_parts,
    FailureReason.UNEXPECTED: remove_the_cause,
}


@pytest.mark.parametrize("reason", ADVICE, ids=lambda reason: reason.value)
async def test_p6_a_failed_recording_is_stored_once_the_advice_for_its_reason_was_followed(
    world: World, context: CommandContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: FailureReason
) -> None:
    world.append(5 * PART, BAD)
    kept = tmp_path / "kept"
    kept.hardlink_to(world.path(BAD))
    if reason is FailureReason.FILE_MISSING_ON_RESUME:
        async with world.daemon():
            await trio.sleep(1)
        Path(world.path(BAD)).unlink()
    async with world.daemon() as daemon:
        drill = Drill(Scene(world, daemon, monkeypatch), context, kept)
        await PROVOKED[reason](drill.scene)
        failed = await ended(world, Status.failed(reason), BAD)
        await ADVICE[reason](drill)
        assert await retry_streams(drill.context, [failed.meta.stream_id], every=False, as_json=False) is ExitCode.DONE
        daemon.closed(BAD)
        stored = await ended(world, Status.COMPLETED, BAD)
        await trio.sleep(60)
    assert stored.meta.stream_id == failed.meta.stream_id
    assert world.content(BAD) in world.recordings()
    assert world.open_uploads() == []


async def test_p6_an_aborted_recording_is_resumed_by_its_id_only(world: World, context: CommandContext) -> None:
    world.append(3 * PART, BAD)
    async with world.daemon() as daemon:
        daemon.seen(BAD)
        await trio.sleep(3)
    (open_stream,) = world.known()
    await abort_streams(context, [open_stream.meta.stream_id], wait_seconds=1, as_json=False)
    async with world.daemon() as daemon:
        daemon.closed(BAD)
        await trio.sleep(60)
        assert world.recordings() == []
        await retry_streams(context, [], every=True, as_json=False)
        await trio.sleep(60)
        assert world.recordings() == []
        assert await retry_streams(context, [open_stream.meta.stream_id], every=False, as_json=False) is ExitCode.DONE
        await ended(world, Status.COMPLETED, BAD)
    assert world.recordings() == [world.content(BAD)]


E2E, UPLOAD = "e2e/test_e2e_", "upload/test_"
BROKEN = ("media/test_ffprobe", "test_a_recording_that_was_cut_off_is_broken_and_a_whole_one_is_not")
NO_MEDIA = ("media/test_ffprobe", "test_a_header_without_media_is_broken")
ELSEWHERE: dict[str, tuple[str, str]] = {
    # ... recordings have failed
    "`file_unreadable`": (UPLOAD + "unreadable_files", "test_p6_a_stream_that_failed_as_unreadable_before_comes"),
    # ... a recording is marked as broken
    "no index (moov)": BROKEN,
    "duration zero or unknown": NO_MEDIA,
    "cut off": BROKEN,
    # ... S3 or Redis is down
    "does not respond": (E2E + "outages", "test_p10_an_s3_that_dies_while_nothing_grows_is_seen_within_two_minutes"),
    "refuses everything": (E2E + "outages", "test_p6_a_rejection_of_everything_that_passes_costs_no_recording"),
    # ... a disk is full
    "the recordings'": (E2E + "after_upload", "test_p8_recordings_are_deleted_once_in_s3"),
    "the log's, or the log's reader is stuck": (E2E + "blocked", "test_p4_a_log_without_a_reader_stops_no_upload"),
    "Redis'": (E2E + "outages", "test_p10_a_redis_that_refuses_writes_and_answers_ping_is_one_outage"),
    "S3's, or its quota is used up": (
        "upload/test_outages",
        "test_p6_a_quota_with_room_for_the_probes_few_bytes_fails_no_recording_and_is_told",
    ),
    # ... the daemon does not start, or has ended
    "0": (E2E + "crashes", "test_p3_a_signal_parks_the_stream_and_the_next_start_goes_on"),
    "1": ("security/test_no_secret_is_shown", "test_a_bug_that_ends_the_daemon_shows_no_secret"),
    "2": (E2E + "files", "test_a_second_daemon_does_not_watch_the_same_folder"),
    "3": (E2E + "start_and_exit", "test_p4_a_redis_that_is_gone_does_not_hold_the_exit"),
    "4": (E2E + "start_and_exit", "test_a_wrong_secret_is_refused_at_the_start"),
    "130, 143": ("deploy/test_service_manager", "test_as_process_1_it_ends_by_sigterm_while_it_starts"),
    "134, under systemd 6/ABRT": ("deploy/test_service_manager", "test_a_daemon_whose_loop_stands_does_not_beat"),
    "137, under systemd 9/KILL": (E2E + "crashes", "test_kill_9_again_and_again_during_one_recording"),
}
"""First cell of a row → a module below ``tests/``, and the beginning of the name of the test in it."""
TEXT = PAGE.split("\n## What to do when …\n")[1].split("\n## ")[0]
SECTIONS = [section.split("\n")[0] for section in TEXT.split("\n### ")[1:] if "\n|---" in section]


def rows_of(section: str) -> list[str]:
    """Return the first cells of the section's table."""
    text = TEXT.split(f"\n### {section}\n")[1].split("\n### ")[0]
    return [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")][1:]


@pytest.mark.parametrize("section", SECTIONS)
def test_each_row_of_the_page_has_a_drill(section: str) -> None:
    here = {f"`{reason.value}`" for reason in ADVICE} | {f"`{FailureReason.ABORTED.value}`"}
    rows = rows_of(section)
    assert rows
    for row in rows:
        reasons = re.findall(r"`\w+`", row) if row not in ELSEWHERE else []
        assert row in ELSEWHERE or (reasons and set(reasons) <= here), f"no drill for {row!r}"


@pytest.mark.parametrize(("module", "name"), ELSEWHERE.values(), ids=list(ELSEWHERE))
def test_a_drill_elsewhere_exists(module: str, name: str) -> None:
    tree = ast.parse((ROOT / "tests" / f"{module}.py").read_text())
    tests = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert any(test.startswith(name) for test in tests), tests
