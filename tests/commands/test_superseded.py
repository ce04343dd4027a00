"""``gc --superseded`` deletes the earlier objects of a recording that changed after its completion, and no other."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import trio
from servers.stream_records import NOW, a_stream
from waiting import completed

from cef_trio.checkpoint.model import StreamMeta
from cef_trio.checkpoint.states import Status
from cef_trio.cli.session import CommandContext
from cef_trio.cli.superseded import collect_superseded, why_kept
from cef_trio.lab.world import OTHER_BUCKET, PART, World
from cef_trio.s3_endpoint import Fault, Kind
from cef_trio.s3_endpoint import Moment as FaultMoment

DONE = {"status": Status.COMPLETED, "completed_at_utc": NOW, "verified_size_bytes": 7}
EARLIER = a_stream(1, "/rec/a.mp4", **DONE)
LATER = replace(
    a_stream(2, "/rec/a.mp4", **DONE),
    supersedes_stream_id=EARLIER.stream_id,
    supersedes_key=EARLIER.s3_key_prefix,
)


def judged(later: StreamMeta = LATER, earlier: StreamMeta | None = EARLIER, **more: bool) -> str | None:
    given = {"is_ours": True, "webhook_pending": False, "predecessor_kept": False, **more}
    return why_kept(later, earlier, completed_before=NOW, bucket=LATER.s3_bucket, **given)


def test_p8_only_what_cannot_be_missed_is_deleted() -> None:
    assert judged() is None
    assert judged(earlier=None) is None, "its record is gone, and it is still named"
    assert judged(replace(LATER, current_path="/rec/renamed.mp4")) is None
    for status in set(Status) - {Status.COMPLETED}:
        assert judged(replace(LATER, status=status))
        assert judged(earlier=replace(EARLIER, status=status))
    assert judged(replace(LATER, completed_at_utc=NOW + timedelta(seconds=1)))
    assert judged(replace(LATER, s3_bucket=OTHER_BUCKET))
    assert judged(replace(LATER, s3_key_prefix=EARLIER.s3_key_prefix))
    assert judged(earlier=replace(EARLIER, s3_bucket=OTHER_BUCKET))
    assert judged(earlier=replace(EARLIER, s3_key_prefix="streams/other/a.mp4"))
    assert judged(earlier=replace(EARLIER, current_path="/rec/copy.mp4")), "that file is settled by this object"
    assert judged(is_ours=False)
    assert judged(webhook_pending=True)
    assert judged(predecessor_kept=True)


async def deletions(
    context: CommandContext, capsys: pytest.CaptureFixture[str], *, dry_run: bool = False
) -> list[tuple[bool, str]]:
    capsys.readouterr()
    await collect_superseded(context, timedelta(0), dry_run=dry_run, as_json=True)
    return [(one["deleted"], one["says"]) for one in json.loads(capsys.readouterr().out)["results"]]


async def grow(world: World, times: int) -> None:
    """A recording that is completed so many times, and grows in between."""
    async with world.daemon() as daemon:
        for _ in range(times):
            world.append(2 * PART + 300)
            daemon.closed()
            await trio.sleep(20)
        await completed(world)
    await trio.sleep(60)


async def test_p8_one_object_is_left_of_a_recording_that_grew(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    await grow(world, 4)
    assert len(world.recordings()) == 4
    assert [deleted for deleted, _ in await deletions(context, capsys, dry_run=True)] == [False] * 3
    assert len(world.recordings()) == 4
    assert [deleted for deleted, _ in await deletions(context, capsys)] == [True] * 3
    assert world.recordings() == [world.content()]
    assert len(world.objects()) == 2, "and its metadata"
    assert await deletions(context, capsys) == [(False, "kept: it is gone already")]
    world.endpoint.log.reset()
    async with world.daemon():
        await trio.sleep(120)
    assert world.received_bytes() == 0
    assert [one.meta.current_path for one in await world.checkpoints()] == [world.path()]


@pytest.mark.parametrize("call", [1, 2, 3, 4])
async def test_an_interruption_leaves_nothing_that_the_next_run_does_not_find(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str], call: int
) -> None:
    await grow(world, 3)
    world.endpoint.faults.arm(Fault(Kind.FREEZE, "DeleteObject", FaultMoment.BEFORE, nth=call, times=None))
    with trio.move_on_after(5):
        await deletions(context, capsys)
    world.endpoint.faults.clear()
    await trio.sleep(60)
    await deletions(context, capsys)
    assert world.recordings() == [world.content()]
    assert len(world.objects()) == 2


async def test_p8_nothing_is_deleted_while_the_later_object_is_not_in_s3(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    await grow(world, 3)
    (last,) = [key for key, body in world.objects().items() if body == world.content()]
    await context.s3.delete_object(last)
    found = await deletions(context, capsys)
    assert [deleted for deleted, _ in found] == [True, False]
    assert found[1][1] == f"kept: the later object is not in S3: {last}"
    assert len(world.recordings()) == 1


async def test_p9_an_object_that_somebody_else_put_under_the_key_stays(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    await grow(world, 2)
    (key,) = [key for key, body in world.objects().items() if key.endswith(".mp4") and body != world.content()]
    await world.put_foreign(key)
    assert await deletions(context, capsys) == [(False, "kept: it is not the object of that stream")]


async def test_p8_an_object_that_another_file_is_settled_by_stays(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    """The completed recording was renamed, and a longer one with its beginning has its name now."""
    await grow(world, 2)
    (earlier,) = [one for one in await world.checkpoints() if one.meta.supersedes_key is None]
    copy = world.path("copy")
    Path(copy).write_bytes(world.content()[: earlier.meta.verified_size_bytes])
    lease = context.lease
    assert await context.store.acquire(earlier.meta.stream_id, lease)
    await context.store.rename(earlier.meta.stream_id, lease, copy)
    await context.store.release([earlier.meta.stream_id], lease)
    ((deleted, says),) = await deletions(context, capsys)
    assert not deleted
    assert says == f"kept: another file has its bytes: {copy}"
