"""What ``/events`` sends: once everything, then only what has changed, in pieces that a slow listener can keep."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from admin.admin_scene import SetSource, snapshot_of, stream

from cef_trio.admin.app import asked_stream
from cef_trio.admin.page_events import ROWS_OF_AN_EVENT, Listener, PageState
from cef_trio.admin.page_source import MAX_STREAMS
from cef_trio.admin.status_page import Detail, HistoryPage, Phase, StreamRow

MAX_EVENT_BYTES = 300_000


def received(listener: Listener, state: PageState) -> list[tuple[str, Any]]:
    """The events, by name and as a browser reads them."""
    found = []
    for event in listener.news(state):
        assert len(event) < MAX_EVENT_BYTES
        *name, data, end, rest = event.decode().split("\n")
        assert (end, rest) == ("", "")
        found.append((name[0].removeprefix("event: ") if name else "", json.loads(data.removeprefix("data: "))))
    return found


def rows_of(events: list[tuple[str, Any]]) -> dict[str, Any]:
    """The streams that a browser has afterwards, by key."""
    known: dict[str, Any] = {}
    for name, data in events:
        if name == "":
            known = {}
        for key in data.get("gone", []):
            del known[key]
        known |= {row["stream_id"] or row["file"]: row for row in data.get("streams", []) if name in {"", "rows"}}
    return known


def test_first_everything_then_nothing_then_what_changed() -> None:
    source, listener = SetSource(snapshot_of(stream("a", "a.mp4"), stream("b", "b.mp4"))), Listener()
    state = PageState.of(source)
    ((name, everything),) = received(listener, state)
    assert name == ""
    assert {"phase", "totals", "failed", "completed", "outages", "streams"} <= everything.keys()
    assert received(listener, PageState.of(source, state)) == []
    changed = stream("b", "b.mp4", acknowledged_bytes=90)
    source.now = replace(source.now, streams=(changed, stream("c", "c.mp4")), phase=Phase.DRAINING)
    events = received(listener, state := PageState.of(source, state))
    assert (events[0][0], events[0][1]["phase"]) == ("change", "draining")
    assert not {"totals", "failed", "streams"} & events[0][1].keys()
    name, data = events[1]
    assert (name, [row["stream_id"] for row in data["streams"]], data["gone"]) == ("rows", ["b", "c"], ["a"])
    assert data["streams"][0]["acknowledged_bytes"] == 90
    assert received(listener, PageState.of(source, state)) == []


def test_a_stream_has_its_file_as_key_until_it_has_an_id() -> None:
    new = replace(stream("", "__proto__"), stream_id=None)
    source, listener = SetSource(snapshot_of(new)), Listener()
    events = received(listener, state := PageState.of(source))
    source.now = snapshot_of(stream("id", "__proto__"))
    events += received(listener, PageState.of(source, state))
    assert list(rows_of(events)) == ["id"]
    assert events[-1][1]["gone"] == ["__proto__"]


def test_p7_however_many_streams_there_are_an_event_has_a_limited_number() -> None:
    text = "x" * 500
    many = tuple(replace(stream(f"{n:05}", f"{text}{n}"), note=text) for n in range(MAX_STREAMS))
    source = SetSource(snapshot_of(*many), sparks={row.stream_id or "": [1 << 40] * 60 for row in many})
    source.past = HistoryPage(period_seconds=10, at=(1,), bytes_per_second=(2,), lag_bytes=(3,))
    listener = Listener()
    events = received(listener, state := PageState.of(source))
    assert len(rows_of(events)) == MAX_STREAMS
    for _, data in events:
        assert len(data.get("streams", [])) <= ROWS_OF_AN_EVENT
    source.now = snapshot_of()
    events += received(listener, PageState.of(source, state))
    assert rows_of(events) == {}
    assert all(len(data.get("gone", [])) <= ROWS_OF_AN_EVENT for _, data in events)


def test_what_is_sent_adds_up_to_the_page_whatever_the_listener_missed() -> None:
    def row(number: int, turn: int) -> StreamRow:
        return stream(str(number), f"{number}.mp4", acknowledged_bytes=(number * 7 + turn) % 50)

    source, listener, late, events, seen_late = SetSource(), Listener(), Listener(), [], []
    state = None
    for turn in range(60):
        source.now = snapshot_of(*(row(number, turn) for number in range(turn % 13, 250, 1 + turn % 5)))
        state = PageState.of(source, state)
        events += received(listener, state)
        if turn % 7 == 3:
            seen_late += received(late, state)
        expected = {one.stream_id: one.acknowledged_bytes for one in source.now.streams}
        assert {key: one["acknowledged_bytes"] for key, one in rows_of(events).items()} == expected
    assert state is not None
    seen_late += received(late, state)
    assert rows_of(seen_late) == rows_of(events)


def test_the_last_hour_is_sent_once_and_then_a_sample_at_a_time() -> None:
    source, listener = SetSource(snapshot_of(stream("a", "a.mp4"), stream("b", "b.mp4"))), Listener()
    source.past = HistoryPage(period_seconds=10, at=(10, 20), bytes_per_second=(1, 2), lag_bytes=(3, 4))
    source.sparks = {"a": [1, 2]}
    events = dict(received(listener, state := PageState.of(source)))
    assert events["history"] == {"period_seconds": 10, "at": [10, 20], "bytes_per_second": [1, 2], "lag_bytes": [3, 4]}
    assert events["sparklines"] == {"a": [1, 2]}
    assert received(listener, state) == []
    source.past = HistoryPage(period_seconds=10, at=(10, 20, 30), bytes_per_second=(1, 2, 7), lag_bytes=(3, 4, 8))
    source.now = snapshot_of(stream("a", "a.mp4"), replace(stream("b", "b.mp4"), bytes_per_second=0.0))
    events = dict(received(listener, PageState.of(source, state)))
    assert events["sample"] == {"at": 30, "bytes_per_second": 7, "lag_bytes": 8, "streams": {"a": 2048}}


def test_a_detail_is_sent_to_those_who_named_the_stream_and_when_it_changes() -> None:
    source = SetSource(snapshot_of(stream("a", "a.mp4")))
    other, listener, state = Listener(), Listener("a"), PageState.of(source)
    assert [name for name, _ in received(other, state)] == [""]
    assert [name for name, _ in received(listener, state)] == ["", "detail"]
    assert received(listener, state) == []
    source.details["a"] = Detail(stream_id="a", file="<b>.mp4", why="line\nbreak")
    assert received(listener, state) == []  # asked once a tick, for all listeners
    ((name, data),) = received(listener, PageState.of(source, state))
    assert (name, data["file"], data["why"], data["known"]) == ("detail", "<b>.mp4", "line\nbreak", None)


def test_the_address_names_one_stream_and_nothing_else() -> None:
    assert asked_stream("") is None
    assert asked_stream("stream=0123-abc") == "0123-abc"
    assert asked_stream("x=1&stream=a%20b&y") == "a b"
    assert asked_stream("stream=") is None
    assert len(asked_stream("stream=" + "x" * 10_000) or "") < 200
