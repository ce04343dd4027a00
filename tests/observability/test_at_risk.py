"""P10, honest health: what is at risk and what is not, by every case there is."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cef_trio.admin.status_page import Phase, ReadyFacts, judge_ready
from cef_trio.checkpoint.protocols import StoredReport, StoredReports
from cef_trio.observability import daemon_report
from cef_trio.observability.at_risk import (
    RISK_ADVICE,
    SENTENCES,
    Facts,
    Reason,
    Risk,
    State,
    UploadProgress,
    Waiting,
    find_risks,
    judge,
)
from cef_trio.observability.daemon_report import DaemonReport
from cef_trio.observability.fleet import Fleet, read_fleet
from cef_trio.observability.lag import Lag

NOW = 1000.0
WELL = Facts(outages={})
SENDING = UploadProgress(last_progress_at=NOW - 1, size_bytes=10, lags=True, queues=False, trouble=None)


def reasons(facts: Facts) -> list[Reason]:
    return [risk.reason for risk in find_risks(facts, NOW)]


def test_p10_nothing_is_at_risk_while_nothing_waits_or_all_moves() -> None:
    assert find_risks(WELL, NOW) == ()
    assert find_risks(replace(WELL, uploads=(SENDING,) * 5), NOW) == ()


@pytest.mark.parametrize("seconds", [0.0, 59.0, 60.0])
def test_p10_a_minute_is_given_to_everything(seconds: float) -> None:
    waiting = Waiting(NOW - seconds, 10, "why")
    facts = Facts(
        outages={Reason.S3_DOWN: waiting, Reason.REDIS_DOWN: waiting},
        uploads=(replace(SENDING, last_progress_at=NOW - seconds, trouble="no"),),
        not_looked_up=(waiting,),
        failed=(waiting,),
        unreadable_files=(waiting,),
        hung_mounts=(waiting,),
        unreadable_records=(waiting,),
        newer_records=(waiting,),
        unreadable_folders=(waiting,),
        folder_lost=waiting,
        not_started=waiting,
        checker_silent=waiting,
    )
    assert find_risks(facts, NOW) == ()


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("not_looked_up", Reason.NOT_LOOKED_UP),
        ("failed", Reason.FAILED),
        ("unreadable_files", Reason.FILE_UNREADABLE),
        ("hung_mounts", Reason.MOUNT_HUNG),
        ("unreadable_records", Reason.RECORD_UNREADABLE),
        ("newer_records", Reason.RECORD_NEWER),
        ("unreadable_folders", Reason.FOLDER_UNREADABLE),
    ],
)
def test_p10_what_waits_for_more_than_a_minute_is_reported_with_its_bytes_and_the_first_reason(
    field: str, reason: Reason
) -> None:
    late = (Waiting(NOW - 70, 5, "second"), Waiting(NOW - 90, 7, "first"), Waiting(NOW - 3, 100, "not yet"))
    [risk] = find_risks(replace(WELL, **{field: late}), NOW)  # type: ignore[arg-type]
    assert risk == Risk(reason, NOW - 90, 12, 2, f"{SENTENCES[reason]}: first")


@pytest.mark.parametrize("reason", [Reason.S3_DOWN, Reason.REDIS_DOWN])
def test_p10_an_outage_is_a_risk_although_nothing_grows_and_takes_what_it_holds_back(reason: Reason) -> None:
    outage = {reason: Waiting(NOW - 100, why="refused")}
    [risk] = find_risks(Facts(outages=outage), NOW)
    assert (risk.reason, risk.size_bytes, risk.recordings) == (reason, 0, 0)
    held = (replace(SENDING, last_progress_at=NOW - 80), SENDING)
    less_than_a_part = Waiting(NOW - 2, 5)
    looked_up = (Waiting(NOW - 90, 4), Waiting(NOW - 1, 3))
    facts = Facts(outages=outage, uploads=held, growing=(less_than_a_part,), not_looked_up=looked_up)
    [risk] = find_risks(facts, NOW)  # all that is only on the disk, however young
    assert (risk.reason, risk.since, risk.size_bytes, risk.recordings) == (reason, NOW - 100, 32, 5)
    assert risk.why.endswith(": refused")


def test_p10_an_upload_that_stands_still_is_a_risk_with_its_last_error() -> None:
    [risk] = find_risks(replace(WELL, uploads=(replace(SENDING, last_progress_at=NOW - 61, trouble="no answer"),)), NOW)
    assert (risk.reason, risk.size_bytes, risk.recordings) == (Reason.NOT_MOVING, 10, 1)
    assert risk.why == "uploads stand still: no answer"


@pytest.mark.parametrize(
    ("queues", "trouble", "last_moved", "told"),
    [
        (True, None, 5, False),  # for its turn, and others move: MAX_UPLOAD_RATE, or all slots are taken
        (True, None, 61, True),  # nobody moves
        (True, "no", 5, True),  # it was its turn
        (False, None, 5, True),  # it hangs alone: a dead sub-mount
    ],
)
def test_p10_who_waits_for_his_turn_is_no_risk(
    queues: bool, trouble: str | None, last_moved: float, told: bool
) -> None:
    one = replace(SENDING, last_progress_at=NOW - 300, queues=queues, trouble=trouble)
    assert bool(reasons(Facts(outages={}, uploads=(one,), last_progress_at=NOW - last_moved))) is told


def test_p10_s3_may_take_its_time_to_put_a_large_object_together() -> None:
    complete = replace(SENDING, lags=False, last_progress_at=NOW - 200)
    assert reasons(replace(WELL, uploads=(complete,))) == []
    assert reasons(replace(WELL, uploads=(replace(complete, last_progress_at=NOW - 301),))) == [Reason.NOT_MOVING]
    assert reasons(replace(WELL, uploads=(replace(complete, trouble="500"),))) == [Reason.NOT_MOVING]


def test_p10_a_folder_that_is_lost_is_a_risk() -> None:
    [risk] = find_risks(replace(WELL, folder_lost=Waiting(NOW - 61, why="stale file handle")), NOW)
    assert (risk.reason, risk.why) == (Reason.FOLDER_LOST, f"{SENTENCES[Reason.FOLDER_LOST]}: stale file handle")


def test_p10_a_start_that_waits_for_the_owners_name_is_at_risk() -> None:
    [risk] = find_risks(replace(WELL, not_started=Waiting(NOW - 61, why="waiting for the owner's name")), NOW)
    assert (risk.reason, risk.since) == (Reason.NOT_STARTED, NOW - 61)
    assert risk.why.endswith("recordings are not seen: waiting for the owner's name")


def test_p10_an_idle_checker_that_hangs_is_a_risk() -> None:
    [risk] = find_risks(replace(WELL, checker_silent=Waiting(NOW - 61)), NOW)
    assert (risk.reason, risk.since, risk.size_bytes) == (Reason.CHECKER_SILENT, NOW - 61, 0)


def test_p10_less_than_a_part_of_a_growing_recording_is_a_risk_in_an_outage_only() -> None:
    growing = replace(WELL, growing=(Waiting(NOW - 999, 5),))
    assert find_risks(growing, NOW) == ()
    assert find_risks(replace(growing, outages={Reason.S3_DOWN: Waiting(NOW - 60)}), NOW) == ()


@pytest.mark.parametrize("risks", [(), (Risk(Reason.FAILED, NOW, 7, 1, "why"),)])
@pytest.mark.parametrize("waits_for", [(), ("s3",), ("s3", "redis")])
@pytest.mark.parametrize("starting", [True, False])
@pytest.mark.parametrize("stopping", [True, False])
def test_p10_it_is_ready_only_if_nothing_speaks_against_it(
    risks: tuple[Risk, ...], waits_for: tuple[str, ...], starting: bool, stopping: bool
) -> None:
    judged = judge(risks, waits_for, starting=starting, stopping=stopping)
    assert (judged.state is State.READY) is not (risks or waits_for or starting or stopping)
    assert (judged.state is State.AT_RISK) == bool(risks and not stopping)
    assert (judged.size_bytes, judged.recordings) == ((7, 1) if risks else (0, 0))
    # The same by /readyz, the page, and the report of commands.
    phase = Phase.DRAINING if stopping else Phase.STARTING if starting else Phase.RUNNING
    facts = judge_ready(
        ReadyFacts(phase=phase, redis_up="redis" not in waits_for, s3_up="s3" not in waits_for, at_risk=risks, now=NOW)
    )
    assert all(fact.good for fact in facts) is (judged.state is State.READY)
    report = replace(REPORT, risks=risks, waits_for=waits_for, starting=starting)
    read = daemon_report.decode(REPORT.instance, daemon_report.encode(report))
    if not stopping:
        assert read.judgement == judged
        assert read.is_ready is (judged.state is State.READY)


def test_p10_the_judgement_in_one_line_has_the_bytes_and_the_reasons() -> None:
    risks = (Risk(Reason.S3_DOWN, NOW, 3 << 20, 2, "/secret.mp4"), Risk(Reason.FOLDER_LOST, NOW, 0, 0, "why"))
    reasons = f"{SENTENCES[Reason.S3_DOWN]}; {SENTENCES[Reason.FOLDER_LOST]}"
    assert judge(risks).describe() == f"at risk: 3.0 MiB of 2 recordings do not get to S3: {reasons}"
    assert judge(risks[1:]).describe() == f"at risk: {SENTENCES[Reason.FOLDER_LOST]}"
    assert judge((), ("redis", "s3")).describe() == "waits for redis and s3"
    assert judge().describe() == "ready"


def fleet_of(texts: dict[str, str]) -> Fleet:
    return read_fleet(StoredReports({name: StoredReport(text, NOW) for name, text in texts.items()}, NOW))


REPORT = DaemonReport(
    instance="räum/1",
    at=NOW,
    folder="/rec",
    risks=(Risk(Reason.FAILED, NOW - 99, 7, 1, "why"),),
    lags={"s1": Lag(5, NOW - 2), "s2": Lag(1, None), "s3": Lag(0, None, 9)},
    activities={"s1": "uploading", "s4": "waiting"},
)


def test_a_report_is_read_as_it_was_written_and_lists_a_limited_number_of_streams() -> None:
    assert daemon_report.decode(REPORT.instance, daemon_report.encode(REPORT)) == REPORT
    numbers = {str(number): Lag(number, 1.0) for number in range(999)}
    many = replace(REPORT, lags=numbers, activities=dict.fromkeys(numbers, "uploading"))
    assert len(daemon_report.decode("i", daemon_report.encode(many)).activities) == daemon_report.MAX_LAGS
    assert set(daemon_report.decode("i", daemon_report.encode(many)).lags) == {str(n) for n in range(949, 999)}
    risks = tuple(Risk(reason, NOW, 1, 1, "\udcff" * 500) for reason in Reason)
    huge = replace(many, risks=risks, folder="/é" * 2000, host="h" * 5000)
    text = daemon_report.encode(huge)
    assert len(text) <= daemon_report.MAX_BYTES
    assert [risk.reason for risk in daemon_report.decode("i", text).risks] == list(Reason)


def test_a_report_of_another_version_is_read_as_far_as_it_is_known() -> None:
    earlier = '{"at":5.0,"folder":"/rec","stopped":false,"risks":[],"lags":{"s":[1,2.0]},"name":"cam"}'
    report = daemon_report.decode("cam", earlier, 6.0)
    assert report == DaemonReport(
        instance="cam", at=5.0, folder="/rec", received_at=6.0, lags={"s": Lag(1, 2.0)}, name="cam"
    )
    later = json.loads(daemon_report.encode(REPORT))
    later["risks"].append(["moon_phase", NOW, 1, 1, "why"])
    assert daemon_report.decode(REPORT.instance, json.dumps({**later, "colour": ["red"]})) == REPORT


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", '{"at":"x"}', "[" * 100_000, '{"at":1,"folder":1,"risks":[1]}']
)
def test_kind9_a_report_that_no_daemon_wrote_is_set_aside_and_hides_no_other(text: str) -> None:
    fleet = fleet_of({"a": text, "b": daemon_report.encode(REPORT)})
    assert [report.instance for report in fleet.reports] == ["b"]
    assert len(fleet.unreadable) == 1


def test_p10_a_daemon_that_reports_no_more_needs_attention_unless_it_was_stopped() -> None:
    well = replace(REPORT, risks=())
    assert Fleet((well,), NOW + 60).needing_attention() == []
    assert Fleet((well,), NOW + 61).needing_attention() == [well]
    assert "has not reported for 61 s" in daemon_report.describe_problems(well, NOW + 61)[0].says
    stopped = daemon_report.stopped(REPORT)
    assert Fleet((stopped,), NOW + 9999).needing_attention() == []
    assert Fleet((REPORT,), NOW).needing_attention() == [REPORT]
    [problem] = daemon_report.describe_problems(REPORT, NOW)
    assert problem.says == "7 B of 1 recording do not get to S3, for 99 s: why"
    assert problem.advice == RISK_ADVICE[REPORT.risks[0].reason]
