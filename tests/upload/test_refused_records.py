"""Kinds 6 and 9: Redis accepts a stream and denies one command (NOPERM): that is reported and waited for."""

from __future__ import annotations

import pytest
import trio
from structlog.testing import capture_logs
from waiting import completed

from cef_trio.checkpoint.memory import Moment
from cef_trio.checkpoint.states import Status
from cef_trio.exceptions import RedisOperationError
from cef_trio.lab.world import PART, World
from cef_trio.observability.at_risk import Reason
from cef_trio.s3_endpoint import Fault, Kind
from cef_trio.upload.risks import RiskObserver

NOPERM = "NOPERM User 'recorder' has no permissions to access one of the keys used as arguments"


def refuse(world: World, *operations: str) -> None:
    async def fault(operation: str, moment: Moment) -> None:
        if operation in operations and moment is Moment.BEFORE:
            error = RedisOperationError(operation, NOPERM)
            error.rejected = True
            raise error

    world.store.fault = fault


@pytest.mark.parametrize("fails", [False, True], ids=["at its end", "when it has failed"])
async def test_p6_p10_a_command_that_redis_denies_is_waited_for_and_reported_without_a_busy_loop(
    world: World, fails: bool
) -> None:
    if fails:
        refused = Fault(Kind.ERROR, "CompleteMultipartUpload", status=400, code="KeyTooLongError", times=None)
        world.endpoint.faults.arm(refused)
    world.append(2 * PART)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(2)
        refuse(world, "transition")
        with capture_logs() as logs:
            daemon.closed()
            await trio.sleep(1800)
        assert len(logs) < 150, "it grows with the waits, not with the seconds"
        assert not [entry for entry in logs if entry.get("exc_info")], "a right that is missing is no bug"
        [risk] = RiskObserver(daemon.services, daemon.supervisor)()
        assert risk.reason is Reason.NOT_MOVING
        assert "NOPERM" in risk.why
        world.store.fault = None
        await trio.sleep(400)
        if not fails:
            await completed(world)
            assert world.recordings() == [world.content()]
    [known] = world.known()
    assert known.meta.status is (Status.FAILED_FINALIZATION if fails else Status.COMPLETED)
