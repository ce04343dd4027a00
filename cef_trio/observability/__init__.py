"""Logs, metrics, lag, and the judgement of what is at risk.

Promise P10: while bytes that should be in S3 are not getting there, every signal says so, and why.

Open `logs.py` and `log_writer.py` for log lines; `metrics.py` and `metric_families.py` for metrics; `redis_survey.py`
for sizes that only Redis knows; `metric_labels.py` for label values; `lag.py` for what lag and upload rate mean (the
lag of a stream is computed in `upload/live_stream.py`); `snapshot.py` for the state of a daemon, from which metrics,
status page and report are made (`upload/observer.py` takes it); `stream_detail.py`, `history.py` and `recent_lines.py`
for what the page shows of one stream, the last hour and log lines; `at_risk.py` for the one judgement of health
(`upload/risks.py` gathers its input); `daemon_report.py` for what a daemon reports into Redis, `fleet.py` for all of
them; the room `admin/` for the status page, health and readiness.
"""

from typing import TYPE_CHECKING

from cef_trio.lazy_door import lazy_door

if TYPE_CHECKING:
    from cef_trio.observability import daemon_report, logs
    from cef_trio.observability.at_risk import (
        NOT_JUDGED,
        RISK_ADVICE,
        SENTENCES,
        Facts,
        Judgement,
        Reason,
        Risk,
        State,
        UploadProgress,
        Waiting,
        amount_at_risk,
        describe_amount,
        find_risks,
        judge,
    )
    from cef_trio.observability.daemon_report import NEW_MACHINE_ID, DaemonReport, describe_problems
    from cef_trio.observability.fleet import (
        Fleet,
        FleetFinding,
        fleet_document,
        is_urgent,
        judge_fleet,
        read_fleet,
        streams_by_state,
    )
    from cef_trio.observability.history import PERIOD_SECONDS as HISTORY_PERIOD_SECONDS
    from cef_trio.observability.history import History, rounded
    from cef_trio.observability.lag import RATE_WINDOW, FirstSeenTimes, Lag, lag_of, total_rate, upload_rate
    from cef_trio.observability.logs import (
        Redactor,
        configure,
        configure_for,
        flush,
        lost_lines,
        recent_lines_of,
        set_level,
    )
    from cef_trio.observability.metric_labels import FreedBy, StreamState, WebhookOutcome
    from cef_trio.observability.metrics import DiskUse, Metrics
    from cef_trio.observability.recent_lines import LogLine
    from cef_trio.observability.redis_survey import survey_redis
    from cef_trio.observability.snapshot import (
        OUTAGE_ADVICE,
        LimiterUse,
        PastOutage,
        ProbeCounts,
        ServiceOutage,
        Snapshot,
        StreamActivity,
        StreamSnapshot,
        activity_of,
    )
    from cef_trio.observability.stream_detail import PartRun, PartState, StreamDetail, runs_of
else:
    __getattr__ = lazy_door(__name__)

__all__ = [
    "HISTORY_PERIOD_SECONDS",
    "NEW_MACHINE_ID",
    "NOT_JUDGED",
    "OUTAGE_ADVICE",
    "RATE_WINDOW",
    "RISK_ADVICE",
    "SENTENCES",
    "DaemonReport",
    "DiskUse",
    "Facts",
    "FirstSeenTimes",
    "Fleet",
    "FleetFinding",
    "FreedBy",
    "History",
    "Judgement",
    "Lag",
    "LimiterUse",
    "LogLine",
    "Metrics",
    "PartRun",
    "PartState",
    "PastOutage",
    "ProbeCounts",
    "Reason",
    "Redactor",
    "Risk",
    "ServiceOutage",
    "Snapshot",
    "State",
    "StreamActivity",
    "StreamDetail",
    "StreamSnapshot",
    "StreamState",
    "UploadProgress",
    "Waiting",
    "WebhookOutcome",
    "activity_of",
    "amount_at_risk",
    "configure",
    "configure_for",
    "daemon_report",
    "describe_amount",
    "describe_problems",
    "find_risks",
    "fleet_document",
    "flush",
    "is_urgent",
    "judge",
    "judge_fleet",
    "lag_of",
    "logs",
    "lost_lines",
    "read_fleet",
    "recent_lines_of",
    "rounded",
    "runs_of",
    "set_level",
    "streams_by_state",
    "survey_redis",
    "total_rate",
    "upload_rate",
]
