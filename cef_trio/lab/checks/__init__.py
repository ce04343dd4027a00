"""Checks of parts that a simulated world does not have: connections, threads, pipes, programs, admin clients.

A check is a minimal test that detects a mutation of such a part. It takes milliseconds, needs no network, and has no
violations without a mutation. ``cef-trio lab replay CHECK`` runs one.
"""

from __future__ import annotations

from typing import Final

from cef_trio.lab.checks import admin_clients, process, responses
from cef_trio.lab.checks.model import Check

CHECKS: Final = {check.name: check for theme in (responses, process, admin_clients) for check in theme.CHECKS}
"""Every check, by name."""

__all__ = ("CHECKS", "Check")
