"""A command as a process of its own, and streams put into Redis for it to find."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cef_trio.checkpoint.model import FileIdentity, Lease, PartRecord, StreamMeta
from cef_trio.checkpoint.states import Status

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DAEMON = Lease("a-daemon", "its-token", 30.0)
ROOT = Path(__file__).parents[2]
PART = 5 * 1024 * 1024


def stream_id(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-000000000000"


def a_stream(number: int = 1, path: str = "/rec/a.mp4", **fields: Any) -> StreamMeta:
    meta = StreamMeta(
        stream_id=stream_id(number),
        original_path=path,
        current_path=path,
        identity=FileIdentity(1, number),
        s3_bucket="recordings",
        s3_key_prefix=f"streams/{stream_id(number)}/a.mp4",
        part_size=PART,
        equal_parts=False,
        started_at_utc=NOW - timedelta(minutes=10),
        last_activity_at_utc=NOW - timedelta(seconds=10),
        status=Status.ACTIVE,
    )
    return replace(meta, **fields)


def a_part(number: int = 1, size_bytes: int = PART, seconds_ago: float = 10.0) -> PartRecord:
    return PartRecord(number, f"{number:032x}", size_bytes, number, NOW - timedelta(seconds=seconds_ago))


def command(
    *arguments: str, settings: Mapping[str, str] | None = None, code: int | None = 0
) -> subprocess.CompletedProcess[str]:
    """Run ``cef-trio``; ``code`` is the exit code that it must have."""
    done = subprocess.run(
        [sys.executable, "-m", "cef_trio", *arguments],
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT), **(settings or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done


def answer(*arguments: str, settings: Mapping[str, str], code: int = 0) -> Any:
    """The one JSON document that the command prints with ``--json``."""
    return json.loads(command(*arguments, "--json", settings=settings, code=code).stdout)
