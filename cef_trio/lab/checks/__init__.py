"""Checks of what no world of the laboratory has: connections, threads, pipes, programs, the admin server's clients.

A check is the smallest thing that convicts a mutation of such a part. It takes some milliseconds, needs no network, and
is silent about the daemon as it is. ``cef-trio lab replay CHECK`` runs one.
"""

from __future__ import annotations

from typing import Final

from cef_trio.lab.checks import answers, clients, process
from cef_trio.lab.checks.model import Check

CHECKS: Final = {check.name: check for theme in (answers, process, clients) for check in theme.CHECKS}
"""Every check, by name."""

__all__ = ("CHECKS", "Check")
