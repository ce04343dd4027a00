"""How thorough a run of the tests is: ``CEF_TRIO_LONG=1`` runs the long forms, CI and ``.ci/test`` the short ones."""

from __future__ import annotations

import os
from typing import Final

import pytest

LONG: Final = bool(os.environ.get("CEF_TRIO_LONG"))


def only_long(reason: str) -> pytest.MarkDecorator:
    """Skip a test unless ``CEF_TRIO_LONG`` is set; ``reason``: why the other tests are enough for CI."""
    return pytest.mark.skipif(not LONG, reason=f"{reason}: set CEF_TRIO_LONG=1")
