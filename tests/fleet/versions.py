"""Earlier versions of the daemon, taken from this repository's history, to run beside the present one."""

from __future__ import annotations

import subprocess
from pathlib import Path

from servers.command import ROOT

LAST_OF_SCHEMA_1 = "59213a3576d6a548e60dfe0724858508f915ac1b"
"""The last version whose records bear no schema."""
FIRST = "29cc1a3e625c730dd2cb90becb0c6d768205065e"
"""The first version that could be installed; its records lack every field that was added later."""


class NoHistoryError(Exception):
    """This clone does not have the commit."""


def source_of(commit: str, folder: Path) -> Path:
    """Extract the package of a commit into a folder; return that folder, for ``PYTHONPATH``.

    Raises:
        NoHistoryError: this clone does not have the commit (a shallow one), or is none.
    """
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit, "cef_trio"], capture_output=True, check=False)
    if archive.returncode:
        raise NoHistoryError(
            f"this clone has no commit {commit[:7]} (git fetch --unshallow): {archive.stderr.decode()}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    # By tar: Python 3.11.2, which Debian has, extracts without a filter only.
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder
