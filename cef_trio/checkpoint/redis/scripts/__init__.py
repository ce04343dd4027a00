"""The Lua scripts of the Redis store: one atomic step each.

``SCHEMA``, the current schema, and ``prelude.lua`` are put before each; `arguments.py` builds their arguments.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files

from cef_trio.checkpoint import rules, schema


@dataclass(frozen=True, slots=True)
class Script:
    """A script's source, and its SHA-1, which the server calls it by."""

    name: str
    source: str
    sha: str


def _read(name: str) -> Script:
    folder = files(__name__)
    texts = [(folder / f"{part}.lua").read_text() for part in ("prelude", name)]
    values = f"{schema.CURRENT}, '\\0streams', {rules.MAX_STARTS}, {rules.MAX_EVENTS}"
    names = f"local SCHEMA, COUNT_FIELD, MAX_STARTS, MAX_EVENTS = {values}\n"
    source = "".join([names, *texts])
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


ACQUIRE = _read("acquire")
CLAIM = _read("claim")
COMMIT = _read("commit")
COUNT_STREAMS = _read("count_streams")
CREATE = _read("create")
EXPIRED = _read("expired")
FORGET = _read("forget")
FORGET_REPORTS = _read("forget_reports")
INDEX = _read("index")
INDEX_PATHS = _read("index_paths")
LOAD = _read("load")
MOVE = _read("move")
PROBE = _read("probe")
RAISE_SCHEMA = _read("raise_schema")
RELEASE = _read("release")
RENEW = _read("renew")
REPORT = _read("report")
REPORTS = _read("reports")
REQUEST_ABORT = _read("request_abort")
SAVE_INTERRUPTED = _read("save_interrupted")
SCAN = _read("scan")
UNCLAIM = _read("unclaim")

ALL = (
    *(ACQUIRE, CLAIM, COMMIT, COUNT_STREAMS, CREATE, EXPIRED, FORGET, FORGET_REPORTS, INDEX, INDEX_PATHS, LOAD, MOVE),
    *(PROBE, RAISE_SCHEMA, RELEASE, RENEW, REPORT, REPORTS, REQUEST_ABORT),
    *(SAVE_INTERRUPTED, SCAN, UNCLAIM),
)
