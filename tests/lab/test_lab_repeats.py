"""A run is reproducible: the same plan gives the same run, in any process and folder."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cef_trio.lab.command import arguments_of
from cef_trio.lab.faults import FaultKind, Injection
from cef_trio.lab.fleet_simulation import FLEET
from cef_trio.lab.run import Plan, run_plan
from cef_trio.lab.simulation import SIMULATED, injections_of

ROOT = Path(__file__).parents[2]
PLANS = [
    Plan("many-parts", (Injection(FaultKind.CANCEL, 150),)),
    Plan("transient-errors", (Injection(FaultKind.DIE_UNANSWERED, 5), Injection(FaultKind.KILL, 20, life=2)), seed=3),
    *(Plan(SIMULATED, injections_of(seed), seed) for seed in (3, 82, 1746)),
]


def violations(seed: int) -> list[str]:
    """Return the violations of a random world."""
    return run_plan(Plan(SIMULATED, injections_of(seed), seed)).violations


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_the_same_plan_gives_the_same_run(plan: Plan) -> None:
    first, second = run_plan(plan), run_plan(plan)
    assert first.digest == second.digest
    assert first.steps == second.steps


def test_another_seed_gives_another_run() -> None:
    assert run_plan(Plan("many-parts", seed=1)).digest != run_plan(Plan("many-parts", seed=2)).digest


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_another_process_with_another_hash_seed_gives_the_same_run(plan: Plan) -> None:
    words = [sys.executable, "-m", "cef_trio", "lab", "replay", *shlex.split(arguments_of(plan))]
    told = [
        subprocess.run(
            words,
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        )
        for seed in ("1", "2")
    ]
    assert [run.stderr for run in told] == ["", ""]
    fingerprint = f"Fingerprint: {run_plan(plan).digest[:16]}"
    assert [fingerprint in run.stdout.splitlines() for run in told] == [True, True]


def test_a_recording_that_changes_after_its_abort_is_another_one_if_its_object_was_complete() -> None:
    """The oracle took the file for settled, ended the run, and found the new stream interrupted."""
    assert violations(500953) == []


def test_p1_a_recording_with_the_number_of_an_aborted_one_is_looked_at_again_when_it_is_readable() -> None:
    assert violations(526689) == []


def test_p5_an_upload_that_was_aborted_while_the_settings_led_elsewhere_is_named_by_its_record() -> None:
    """The key template changed too, so that no listing finds it: `cef-trio gc` with the earlier one does."""
    assert violations(530363) == []


@pytest.mark.parametrize("seed", [1067, 2093, 6328])
def test_an_object_that_is_complete_in_the_bucket_of_earlier_settings_breaks_no_promise(seed: int) -> None:
    """The stream ends as ``failed:finalization``: its bytes are in S3, and after a minute it is reported as at risk."""
    report = run_plan(Plan(SIMULATED, injections_of(seed), seed))
    assert report.hits["setting: bucket"]
    assert report.violations == []


def test_an_object_stays_in_the_bucket_of_earlier_settings_if_its_process_died_in_complete() -> None:
    """The next process sends the recording to the new bucket, and names what it leaves in the old one."""
    assert violations(305012) == []


@pytest.mark.parametrize("seed", [11698, 14182])
def test_a_part_that_s3_stored_damaged_is_not_acknowledged(seed: int) -> None:
    """In MD5 mode only the ETag of the response tells, so the daemon sends the part again and records nothing."""
    assert violations(seed) == []


def test_a_recording_that_is_completed_is_not_given_to_a_stream_that_misses_its_file() -> None:
    assert violations(6429) == []


@pytest.mark.parametrize("seed", [28296, 29220, 29469])
def test_a_completed_recording_is_deleted_although_s3_denied_it_or_its_inode_number_changed(seed: int) -> None:
    assert violations(seed) == []


def test_a_copy_of_a_completed_recording_that_has_its_time_stamp_and_its_inode_number_is_recognized() -> None:
    assert violations(16428) == []


def test_an_ended_stream_that_redis_lost_and_that_a_failover_brought_back_is_excused() -> None:
    """Its end was saved; Redis lost everything, and then the replica that took over had an older record of it."""
    assert violations(59766) == []


def test_a_recording_that_was_renamed_before_its_lookup_had_an_answer_is_not_begun_again() -> None:
    assert violations(79844) == []


def test_an_object_stored_without_a_record_stays_that_of_its_file_though_another_one_has_the_name() -> None:
    assert violations(417849) == []


@pytest.mark.parametrize("seed", [9664, 10103, 10641, 200848, 202651, 308262, 326895])
def test_an_aborted_recording_stays_and_leaves_no_upload_in_reach(seed: int) -> None:
    """Also where recordings are deleted after their upload, and where the key template changes after the abort."""
    assert violations(seed) == []


def test_an_object_that_a_store_damaged_is_named_by_the_stream_that_ends_without_one() -> None:
    assert violations(870136) == []


@pytest.mark.parametrize("seed", [1000266, 1001759])
def test_a_recording_that_was_renamed_while_its_status_could_not_be_read_is_not_taken_for_deleted(seed: int) -> None:
    assert violations(seed) == []


def test_the_upload_of_a_killed_probe_is_known_by_the_key_of_any_template() -> None:
    """The oracle took ``elsewhere/<nil UUID>`` for a recording's; an earlier template's uploads are for `gc`."""
    assert violations(1013637) == []


def test_a_record_that_redis_rolled_back_is_completed_with_the_key_of_its_object() -> None:
    """All such pairs of a write and an older record: ``tests/upload/test_rolled_back_records.py``."""
    assert violations(1029799) == []


def test_a_stream_that_its_number_led_to_another_file_does_not_rename_the_recording_at_its_path() -> None:
    assert violations(1035865) == []


def test_an_upload_that_a_daemon_creates_after_it_lost_its_lease_is_aborted() -> None:
    """Its host was cut off from S3 and Redis, and was back when all else was at rest already."""
    assert run_plan(Plan(FLEET, seed=1043948)).violations == []


def test_the_upload_of_an_interrupted_probe_is_in_no_record() -> None:
    assert violations(1060171) == []
