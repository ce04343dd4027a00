"""A daemon that is not root: it has no capability, so the kernel grants it no lease on another user's file.

It runs as ``nobody`` where that user may read this Python and its packages, else as root without any capability, which
is the same to the kernel as far as files of other users go.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import pytest

_NOBODY = 65534
_RIGHTS = "-dac_override,-dac_read_search"
ORDINARY = ["setpriv", f"--inh-caps={_RIGHTS}", f"--bounding-set={_RIGHTS}"] if os.geteuid() == 0 else []
"""Root reads every file by two capabilities; started under this it has the rights that a file's mode gives."""


@dataclass(frozen=True, slots=True)
class OrdinaryUser:
    """Who it is, and ``under`` which program a process is started to be it."""

    uid: int
    under: Sequence[str]

    @property
    def another(self) -> int:
        """Another user's number."""
        return 0 if self.uid else _NOBODY


@cache
def ordinary_user() -> OrdinaryUser:
    """Somebody else than root; the test is skipped where there is no such choice."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("this takes root, and setpriv (util-linux)")
    without_rights = ["setpriv", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    nobody = [*without_rights, f"--reuid={_NOBODY}", f"--regid={_NOBODY}"]
    if (
        subprocess.run(
            [*nobody, sys.executable, "-c", "import cef_trio.daemon.main, cef_trio.daemon.wiring"], check=False, cwd="/"
        ).returncode
        == 0
    ):
        return OrdinaryUser(_NOBODY, nobody)
    return OrdinaryUser(0, without_rights)
