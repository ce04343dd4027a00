"""Commands beside a record of a newer schema: each says so, leaves it alone, and goes on with the others."""

from __future__ import annotations

import pytest
from servers.stream_records import DAEMON, a_stream, stream_id

from cef_trio.checkpoint import schema
from cef_trio.checkpoint.states import Status
from cef_trio.cli.abort import abort_streams
from cef_trio.cli.fleet import retire
from cef_trio.cli.retry import retry_stream
from cef_trio.cli.session import CommandContext
from cef_trio.cli.verify import verify_stream
from cef_trio.exceptions import RecordUnreadableError
from cef_trio.exit_codes import ExitCode
from cef_trio.lab.world import PART, World

NEWER, ORDINARY = stream_id(1), stream_id(2)


async def both(world: World, status: Status) -> None:
    """Two streams without a daemon, of which one is of a newer schema."""
    for number, name in enumerate(("newer.mp4", "ordinary.mp4"), 1):
        world.append(PART, name)
        await world.store.create(a_stream(number, world.path(name), status=status), DAEMON)
        await world.store.release([stream_id(number)], DAEMON)
    world.store.set_schema(NEWER, schema.CURRENT + 1)


async def test_the_others_are_aborted(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    await both(world, Status.ACTIVE)
    before = world.store.snapshot().streams[NEWER]
    code = await abort_streams(context, [NEWER, ORDINARY], wait_seconds=0, as_json=False)
    assert code is ExitCode.ANSWER_IS_NO
    assert f"schema {schema.CURRENT + 1}, of a newer version" in " ".join(capsys.readouterr().out.split())
    assert world.store.snapshot().streams[NEWER] == before
    assert world.store.snapshot().streams[ORDINARY].meta.status is Status.FAILED_ABORTED


async def test_a_recording_with_a_newer_record_is_not_called_unknown(world: World, context: CommandContext) -> None:
    await both(world, Status.COMPLETED)
    with pytest.raises(RecordUnreadableError, match="of a newer version"):
        await verify_stream(context, world.path("newer.mp4"), as_json=False)


async def test_p2_a_stream_whose_name_a_newer_record_has_is_not_retried(world: World, context: CommandContext) -> None:
    """Else the older daemon would upload the file beside the newer one."""
    path = world.path("newer.mp4")
    world.append(PART, "newer.mp4")
    await world.store.create(a_stream(2, path, status=Status.FAILED_UNEXPECTED), DAEMON)
    await world.store.release([ORDINARY], DAEMON)
    await world.store.create(a_stream(1, path), DAEMON, replaced_stream_id=ORDINARY)
    await world.store.release([NEWER], DAEMON)
    world.store.set_schema(NEWER, schema.CURRENT + 1)
    assert "belongs to a newer stream" in (await retry_stream(context, ORDINARY)).says


async def test_retire_says_what_it_could_not_forget(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    await both(world, Status.COMPLETED)
    assert await retire(context, forget_history=True, as_json=False) is ExitCode.DONE
    said = " ".join(capsys.readouterr().out.split())
    assert "1 ended stream forgotten; 1 stream stays, whose record this version cannot read" in said
    assert world.store.snapshot().streams.keys() == {NEWER}
