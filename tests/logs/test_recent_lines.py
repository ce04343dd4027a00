"""The last log lines of each stream are kept for the status page: without secrets, and only so many (promise P7)."""

from __future__ import annotations

import io

import pytest
import structlog

from cef_trio.observability import logs
from cef_trio.observability.recent_lines import MAX_LINES, MAX_LINES_OF_A_STREAM, MAX_TEXT, LogLine, RecentLines
from cef_trio.settings.model import AppEnvironment

pytestmark = pytest.mark.usefixtures("restored_logging")

SECRET = "hunter2-hunter2"


@pytest.mark.parametrize("environment", list(AppEnvironment))
def test_a_streams_lines_are_kept_without_secrets_and_others_are_not(environment: AppEnvironment) -> None:
    recent, stream = RecentLines(), io.StringIO()
    logs.configure(environment, "INFO", secrets=[SECRET], stream=stream, recent=recent)
    log = structlog.get_logger("test")
    log.info("no_stream")
    log.debug("too_low", stream_id="a")
    log.warning("retry", stream_id="a", file="/rec/x.mp4", error=f"denied for {SECRET}", password=SECRET, number=3)
    try:
        raise ValueError(SECRET)
    except ValueError:
        log.exception("stream_failed", stream_id="a")
    retry, failed = recent.of("a")
    assert (retry.level, retry.event, retry.text) == ("warning", "retry", "error=denied for *** password=*** number=3")
    assert retry.at.startswith("20")
    assert (failed.level, failed.event, failed.text) == ("error", "stream_failed", "(exception in the log)")
    assert recent.of("b") == ()
    assert SECRET not in stream.getvalue()


def event(stream_id: object, text: str = "x") -> dict[str, object]:
    return {"stream_id": stream_id, "event": "e", "level": "info", "timestamp": "2026", "error": text}


def test_p7_lines_streams_and_texts_are_limited() -> None:
    recent = RecentLines()
    for number in range(3 * MAX_LINES_OF_A_STREAM):
        recent(None, "", event("busy", f"{number} " + "x" * 10_000))
    lines = recent.of("busy")
    assert len(lines) == MAX_LINES_OF_A_STREAM
    assert lines[-1].text.startswith(f"error={3 * MAX_LINES_OF_A_STREAM - 1} ")
    assert {len(line.text) for line in lines} == {MAX_TEXT}
    for number in range(MAX_LINES - MAX_LINES_OF_A_STREAM):
        recent(None, "", event(f"s{number}"))
    assert len(recent.of("busy")) == MAX_LINES_OF_A_STREAM
    recent(None, "", event("one more"))  # the stream that logged nothing for longest is forgotten
    assert recent.of("busy") == ()
    assert recent.of("s0") == (LogLine("2026", "info", "e", "error=x"),)
    for number in range(3 * MAX_LINES):
        recent(None, "", event(f"t{number}"))
    assert sum(len(recent.of(f"t{number}")) for number in range(3 * MAX_LINES)) == MAX_LINES


def test_what_is_no_text_is_no_streams_id() -> None:
    recent = RecentLines()
    assert recent(None, "", event(None))["event"] == "e"
    assert recent.of("None") == ()
