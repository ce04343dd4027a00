"""The last hour is remembered, and no more than that (promise P7)."""

from __future__ import annotations

import sys

from cef_trio.observability import history as module
from cef_trio.observability.history import SAMPLES, SPARKLINE_SAMPLES, History
from cef_trio.observability.lag import Lag
from cef_trio.observability.metric_labels import StreamState
from cef_trio.observability.snapshot import Snapshot, StreamActivity, StreamSnapshot


def snapshot_at(at: float, **rates: float) -> Snapshot:
    return Snapshot(
        at=at,
        not_looked_up=Lag(5),
        streams=tuple(
            StreamSnapshot(
                stream_id=name,
                path=f"/rec/{name}",
                state=StreamState.WORKING,
                activity=StreamActivity.UPLOADING,
                size_on_disk_bytes=10,
                bytes_per_second=rate,
                lag=Lag(100),
            )
            for name, rate in rates.items()
        ),
    )


def test_the_daemon_and_each_stream_have_their_samples() -> None:
    history = History()
    history.record(snapshot_at(10.0, a=3.0))
    history.record(snapshot_at(20.0, a=4.0, b=0.0))
    assert list(history.times) == [10.0, 20.0]
    assert list(history.all.bytes_per_second) == [3.0, 4.0]
    assert list(history.all.lag_bytes) == [105.0, 205.0]
    assert list(history.of("a").bytes_per_second) == [3.0, 4.0]
    assert list(history.of("b").lag_bytes) == [100.0]
    assert list(history.of("unknown").lag_bytes) == []
    assert history.sparklines(["a", "b", "unknown"]) == {"a": [3, 4]}


def test_p7_it_ends_after_an_hour_and_with_the_stream() -> None:
    history = History()
    for turn in range(3 * SAMPLES):
        history.record(snapshot_at(float(turn), a=float(turn)))
    assert (history.times[0], len(history.times)) == (2 * SAMPLES, SAMPLES)
    assert len(history.all.lag_bytes) == SAMPLES
    assert len(history.of("a").bytes_per_second) == SAMPLES
    assert sys.getsizeof(history.of("a").bytes_per_second) < 2 * 4 * SAMPLES
    assert len(history.sparklines(["a"])["a"]) == SPARKLINE_SAMPLES
    history.record(snapshot_at(0.0))
    assert list(history.of("a").bytes_per_second) == []


def test_p7_of_very_many_streams_those_that_were_there_first_are_kept(monkeypatch: object) -> None:
    history = History()
    before = module.MAX_STREAMS
    module.MAX_STREAMS = 2  # type: ignore[misc]
    try:
        history.record(snapshot_at(1.0, b=1.0, c=1.0))
        history.record(snapshot_at(2.0, a=1.0, b=1.0, c=1.0))
    finally:
        module.MAX_STREAMS = before  # type: ignore[misc]
    assert [len(history.of(name).lag_bytes) for name in "abc"] == [0, 2, 2]
