"""Run a command (``cef-trio list``, …) as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from servers.fork_server import start
from servers.json_schemas import check_document

ROOT = Path(__file__).parents[2]


def run(*arguments: str | bytes, settings: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run ``cef-trio`` with these settings only."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        process = start(
            [sys.executable, "-m", "cef_trio", *arguments],
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT), **settings},
            cwd="/",
            stdout=out.fileno(),
            stderr=error.fileno(),
        )
        try:
            code = process.wait(60)
        finally:
            process.kill()
        printed = [_text(stream) for stream in (out, error)]
    return subprocess.CompletedProcess(process.args, code, *printed)


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode()


def command(
    *arguments: str, settings: Mapping[str, str] | None = None, code: int | None = 0
) -> subprocess.CompletedProcess[str]:
    """Run ``cef-trio`` with these settings only; ``code`` is the exit code that it must have, ``None``: any."""
    done = run(*arguments, settings=settings or {})
    assert "Traceback" not in done.stderr, done.stderr
    assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done


def answer(*arguments: str, settings: Mapping[str, str], code: int | None = 0) -> Any:
    """The one JSON document that the command prints with ``--json``; it is as its schema says."""
    document = json.loads(command(*arguments, "--json", settings=settings, code=code).stdout)
    check_document("retire" if "retire" in arguments else arguments[0], document)
    return document
