"""Run a command (``cef-trio list``, …) as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from servers.json_schemas import check_document

ROOT = Path(__file__).parents[2]


def command(
    *arguments: str, settings: Mapping[str, str] | None = None, code: int | None = 0
) -> subprocess.CompletedProcess[str]:
    """Run ``cef-trio`` with these settings only; ``code`` is the exit code that it must have, ``None``: any."""
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


def answer(*arguments: str, settings: Mapping[str, str], code: int | None = 0) -> Any:
    """The one JSON document that the command prints with ``--json``; it is as its schema says."""
    document = json.loads(command(*arguments, "--json", settings=settings, code=code).stdout)
    check_document("retire" if "retire" in arguments else arguments[0], document)
    return document
