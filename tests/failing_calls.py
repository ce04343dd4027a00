"""How a call of S3 may fail for as long as a test lasts, while all other calls work."""

from __future__ import annotations

from typing import Final

import pytest

from cef_trio.lab.world import World, is_probe
from cef_trio.s3_endpoint import CallInfo, Fault, Kind

FAILS: Final = (
    pytest.param({"kind": Kind.ERROR, "code": "InternalError"}, id="500 for ever"),
    pytest.param({"kind": Kind.ERROR, "code": "NotImplemented"}, id="501"),
    pytest.param({"kind": Kind.ERROR, "code": "AccessDenied"}, id="403"),
    pytest.param({"kind": Kind.FREEZE}, id="no answer"),
    pytest.param({"kind": Kind.RESET}, id="reset"),
)


def fail(world: World, operation: str, how: dict[str, object]) -> None:
    """Let each call of an operation fail."""
    world.endpoint.faults.arm(Fault(operation=operation, times=None, **how))  # type: ignore[arg-type]


def of_a_recording(call: CallInfo) -> bool:
    """Select the calls of recordings: not of their metadata, and not the daemon's probes."""
    key = call.key or ""
    return key.endswith(".mp4") and not is_probe(key)
