"""P2: what S3 acknowledged is recorded, however long Redis refuses the record, on a store where no one could find it.

S3 lists neither parts nor uploads here, so an effect whose record is given up is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import trio
from waiting import until

from cef_trio.checkpoint.memory import Moment
from cef_trio.checkpoint.states import Status
from cef_trio.exceptions import RedisOperationError
from cef_trio.exit_codes import ExitCode
from cef_trio.lab.world import PART, World
from cef_trio.s3_endpoint import Fault, Kind


@dataclass
class Refusing:
    """Redis answers, and refuses these calls for ``seconds`` from the first of ``begins_with`` on."""

    begins_with: str
    refused: Callable[[str], bool]
    seconds: float
    began_at: float | None = None
    hits: list[str] = field(default_factory=list)

    async def __call__(self, operation: str, moment: Moment) -> None:
        if moment is not Moment.BEFORE:
            return
        if self.began_at is None and operation == self.begins_with:
            self.began_at = trio.current_time()
        if self.began_at is None or trio.current_time() >= self.began_at + self.seconds:
            return
        if self.refused(operation):
            self.hits.append(operation)
            raise RedisOperationError(operation, "OOM command not allowed", transient=True)


async def completed(world: World) -> None:
    """Wait until every stream is completed, past the store's faults."""
    await until(lambda: {known.meta.status for known in world.known()} == {Status.COMPLETED}, 300)


def all_calls(_operation: str) -> bool:
    return True


@pytest.fixture
def unlisted(world: World) -> World:
    """A world whose S3 lists neither uploads nor their parts."""
    for operation in ("ListParts", "ListMultipartUploads"):
        world.endpoint.faults.arm(Fault(Kind.ERROR, operation, code="NotImplemented", times=None))
    return world


@pytest.mark.parametrize("seconds", [2, 20])
async def test_p2_a_part_whose_record_redis_refuses_is_recorded_when_it_can_be_and_not_sent_again(
    unlisted: World, seconds: float
) -> None:
    refusing = unlisted.store.fault = Refusing("record_part", all_calls, seconds)
    async with unlisted.daemon() as daemon:
        unlisted.append(5 * PART + 10)
        daemon.closed()
        await completed(unlisted)
    assert "record_part" in refusing.hits
    assert unlisted.received_bytes() == 5 * PART + 10
    assert unlisted.recordings() == [unlisted.content()]


async def test_p5_an_upload_whose_id_redis_refuses_is_no_orphan(unlisted: World) -> None:
    async with unlisted.daemon() as daemon:
        create, refusing = daemon.services.s3.create_multipart_upload, Refusing("update", all_calls, 20)

        async def creates(*arguments: object, **named: object) -> object:
            created = await create(*arguments, **named)  # type: ignore[arg-type]
            unlisted.store.fault = refusing
            return created

        daemon.services.s3.create_multipart_upload = creates  # type: ignore[method-assign, assignment]
        unlisted.append(2 * PART + 10)
        daemon.closed()
        await completed(unlisted)
    assert "update" in refusing.hits
    assert unlisted.open_uploads() == []
    assert unlisted.recordings() == [unlisted.content()]


async def test_p2_a_record_that_is_refused_alone_for_a_few_seconds_is_made(unlisted: World) -> None:
    """The probe succeeds at once, so no outage lasts as long as that."""
    refusing = unlisted.store.fault = Refusing("record_part", lambda operation: operation == "record_part", 10)
    async with unlisted.daemon() as daemon:
        unlisted.append(5 * PART + 10)
        daemon.closed()
        await completed(unlisted)
    assert refusing.hits
    assert unlisted.received_bytes() == 5 * PART + 10


async def test_p2_a_record_that_is_refused_alone_for_ever_is_given_up_and_its_part_is_found_in_s3(world: World) -> None:
    """Its stream would hold its slots for ever, and say nothing."""
    refusing = world.store.fault = Refusing("record_part", lambda operation: operation == "record_part", 3600)
    async with world.daemon() as daemon:
        world.append(2 * PART)
        daemon.closed()
        await completed(world)
    assert refusing.hits
    assert world.received_bytes() == 2 * PART


@pytest.mark.parametrize("operation", [None, "record_part"])
async def test_p4_a_record_that_redis_refuses_does_not_hold_the_exit_and_its_part_is_found_in_s3(
    world: World, operation: str | None
) -> None:
    refusing = world.store.fault = Refusing("record_part", lambda call: operation in {None, call}, 3600)
    async with world.daemon() as daemon:
        world.append(3 * PART)
        daemon.closed()
        await until(lambda: refusing.hits)
        await trio.sleep(5)
        began = trio.current_time()
        daemon.shutdown.request()
    assert trio.current_time() - began <= world.grace_seconds + 2
    world.store.fault = None
    (checkpoint,) = await world.checkpoints()
    assert not checkpoint.parts
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
    assert world.received_bytes() == 3 * PART


async def test_p2_a_record_that_waits_is_made_when_redis_is_back_within_the_grace(unlisted: World) -> None:
    refusing = unlisted.store.fault = Refusing("record_part", all_calls, 3600)
    async with unlisted.daemon() as daemon:
        unlisted.append(3 * PART)
        daemon.closed()
        await until(lambda: refusing.hits)
        await trio.sleep(10)
        daemon.shutdown.request()
        refusing.seconds = 0
    assert daemon.exit_code is ExitCode.DONE
    (checkpoint,) = await unlisted.checkpoints()
    assert len(checkpoint.parts) == 3


async def test_p2_a_lease_that_was_lost_ends_the_wait_and_nothing_is_written(world: World) -> None:
    refusing = world.store.fault = Refusing("record_part", all_calls, 3600)
    async with world.daemon() as daemon:
        world.append(3 * PART)
        daemon.closed()
        await until(lambda: refusing.hits)
        await trio.sleep(100)
        (known,) = world.known()
        assert not known.parts
        refusing.seconds = 0
        await completed(world)
    assert world.recordings() == [world.content()]
