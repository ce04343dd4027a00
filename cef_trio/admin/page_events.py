"""What ``/events`` sends: once everything, then only what has changed.

The first event, without a name, is the whole page with its first streams. Then:

- ``rows``: streams that are new or changed, and the keys of those that are gone;
- ``change``: other fields of the page that have changed;
- ``history`` (once), ``sparklines`` (once) and ``sample``: throughput and lag of the last hour;
- ``detail``: the one stream that the listener named, whenever it has changed.

An event has at most ``ROWS_OF_AN_EVENT`` streams, so that a listener that reads slowly keeps no large text in memory
(promise P7). Nothing here awaits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice
from typing import Any, Final

from cef_trio.admin.page_source import PageSource
from cef_trio.admin.status_page import HistoryPage, StatusPage, StreamRow, as_json, to_json

ROWS_OF_AN_EVENT: Final = 100
_JUDGED: Final = ("state", "bytes_at_risk", "recordings_at_risk")
_NAMES: Final = (*(one.name for one in fields(StatusPage) if one.name != "streams"), *_JUDGED)
_ROW_NAMES: Final = tuple(one.name for one in fields(StreamRow))


@dataclass(frozen=True, slots=True)
class PageState:
    """The page at one tick, encoded once for all listeners."""

    source: PageSource
    fields: Mapping[str, str]
    """Every field but the streams, as JSON."""
    rows: Mapping[str, tuple[StreamRow, str]]
    """Each stream by its key, also as JSON."""
    history: HistoryPage
    _details: dict[str, str] = field(default_factory=dict)

    def detail(self, stream_id: str) -> str:
        """Return what is known of one stream, as JSON."""
        if stream_id not in self._details:
            self._details[stream_id] = to_json(self.source.detail(stream_id))
        return self._details[stream_id]

    @classmethod
    def of(cls, source: PageSource, before: PageState | None = None) -> PageState:
        """Return the state now; what is the same as ``before`` is not encoded again."""
        page = source.page()
        known = before.rows if before is not None else {}
        rows: dict[str, tuple[StreamRow, str]] = {}
        for row in page.streams:
            key = row.stream_id or row.file
            old = known.get(key)
            rows[key] = old if old is not None and old[0] == row else (row, _row_json(row))
        return cls(source, {name: as_json(getattr(page, name)) for name in _NAMES}, rows, source.history())


@dataclass(slots=True)
class Listener:
    """One listener, and what it has been sent. ``stream_id``: the stream whose detail it shows."""

    stream_id: str | None = None
    _fields: Mapping[str, str] | None = None
    _rows: Mapping[str, tuple[StreamRow, str]] = field(default_factory=dict)
    _sampled_at: int | None = None
    _detail: str = ""

    def news(self, state: PageState) -> Iterator[bytes]:
        """Yield the events that bring the listener up to date."""
        if self._fields is None:
            yield from self._everything(state)
        else:
            yield from self._changes(state, self._fields)
        self._fields, self._rows = state.fields, state.rows
        if self.stream_id is not None and (text := state.detail(self.stream_id)) != self._detail:
            self._detail = text
            yield _event("detail", text)

    def _everything(self, state: PageState) -> Iterator[bytes]:
        rows = [text for _, text in state.rows.values()]
        yield _event("", _object({**state.fields, "streams": _array(rows[:ROWS_OF_AN_EVENT])}))
        yield from _row_events(rows[ROWS_OF_AN_EVENT:], [])
        history = state.history
        if history.at:
            yield _event("history", to_json(history))
        sparklines = iter(state.source.sparklines().items())
        while batch := dict(islice(sparklines, ROWS_OF_AN_EVENT)):
            yield _event("sparklines", as_json(batch))
        self._sampled_at = history.at[-1] if history.at else None

    def _changes(self, state: PageState, before: Mapping[str, str]) -> Iterator[bytes]:
        changed = {name: text for name, text in state.fields.items() if before[name] != text}
        if changed:
            yield _event("change", _object(changed))
        if state.rows is not self._rows:
            known = self._rows
            news = [text for key, (row, text) in state.rows.items() if key not in known or known[key][0] != row]
            yield from _row_events(news, [key for key in known if key not in state.rows])
        history = state.history
        if history.at and history.at[-1] != self._sampled_at:
            self._sampled_at = history.at[-1]
            yield _event("sample", as_json(_sample(state)))


def _sample(state: PageState) -> dict[str, Any]:
    history = state.history
    rates = {row.stream_id: round(row.bytes_per_second) for row, _ in state.rows.values() if row.bytes_per_second}
    return {
        "at": history.at[-1],
        "bytes_per_second": history.bytes_per_second[-1],
        "lag_bytes": history.lag_bytes[-1],
        "streams": rates,
    }


def _row_events(rows: Sequence[str], gone: Sequence[str]) -> Iterator[bytes]:
    for start in range(0, max(len(rows), len(gone)), ROWS_OF_AN_EVENT):
        batch, left = rows[start : start + ROWS_OF_AN_EVENT], gone[start : start + ROWS_OF_AN_EVENT]
        yield _event("rows", _object({"streams": _array(batch), "gone": as_json(left)}))


def _row_json(row: StreamRow) -> str:
    return json.dumps({name: getattr(row, name) for name in _ROW_NAMES}, separators=(",", ":"))


def _object(members: Mapping[str, str]) -> str:
    return "{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in members.items()) + "}"


def _array(members: Sequence[str]) -> str:
    return "[" + ",".join(members) + "]"


def _event(name: str, data: str) -> bytes:
    return (f"event: {name}\n" if name else "").encode() + f"data: {data}\n\n".encode()
