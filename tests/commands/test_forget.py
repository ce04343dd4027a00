"""``forget``: a failed stream is let go, its upload is aborted, and its recording is neither touched nor uploaded."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import trio
from provoked_failures import of_recording
from servers.command import command
from servers.stream_records import DAEMON, a_stream, stream_id
from store_faults import CancelledAt
from waiting import begun, completed, until_idle

from cef_trio.admin.page_source import DaemonSource
from cef_trio.checkpoint.commit import Change
from cef_trio.checkpoint.memory import Moment
from cef_trio.checkpoint.model import Checkpoint
from cef_trio.checkpoint.states import ENDED, FAILED, FailureReason, History, Status, StreamSet
from cef_trio.cli import session
from cef_trio.cli.arguments import NO_FOLDER
from cef_trio.cli.forget import End, Wanted, end_of, forget_streams, why_not
from cef_trio.cli.list_selection import State, in_state
from cef_trio.cli.redis_session import RedisContext
from cef_trio.cli.retry import retry_stream
from cef_trio.cli.retry_plan import Presence
from cef_trio.cli.session import CommandContext
from cef_trio.cli.status import StatusReader
from cef_trio.exceptions import S3OperationError
from cef_trio.exit_codes import ExitCode
from cef_trio.lab.disk import InlineDisk
from cef_trio.lab.world import BUCKET, PART, World, WorldDaemon
from cef_trio.observability.redis_survey import survey_redis
from cef_trio.s3_endpoint import Fault, Kind
from cef_trio.settings import load_settings
from cef_trio.upload.file_triage import FILE_WAS_GONE
from cef_trio.upload.ownership import Ownership
from cef_trio.upload.ownership_rules import Claim
from cef_trio.upload.reporter import OtherDaemons, make_report

BY_ID = Wanted()
ALL_FAILED = Wanted(failed=True)


async def forget(context: CommandContext, *given: str, wanted: Wanted = BY_ID, dry_run: bool = False) -> ExitCode:
    return await forget_streams(context, given, wanted, dry_run=dry_run, as_json=False)


async def fails(world: World, daemon: WorldDaemon) -> Checkpoint:
    """The recording fails at its end, with an upload that is kept, and its daemon says so."""
    world.endpoint.faults.arm(
        Fault(
            Kind.ERROR,
            "CompleteMultipartUpload",
            code="AccessDenied",
            times=None,
            predicate=of_recording(),
        )
    )
    world.append(3 * PART)
    daemon.closed()
    await until_idle(world, Status.FAILED_ACCESS_DENIED)
    await trio.sleep(60)  # until its daemon says so
    world.endpoint.faults.clear()
    (failed,) = await world.checkpoints()
    assert failed.meta.status in FAILED
    assert (len(failed.parts), len(world.open_uploads())) == (3, 1)
    assert [risk.reason.value for risk in daemon.at_risk] == ["failed"]
    return failed


async def test_a_failed_stream_that_is_let_go_is_neither_failed_nor_at_risk_nor_uploaded_until_its_file_changes(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    async with world.daemon() as daemon:
        stream = (await fails(world, daemon)).meta.stream_id
        assert await forget(context, stream[:6]) is ExitCode.DONE
        assert "3 parts in S3 discarded; its recording stays, and is not uploaded" in capsys.readouterr().out
        assert world.open_uploads() == []  # P5
        await trio.sleep(60)
        assert daemon.at_risk == ()  # P10
    async with world.daemon() as daemon:  # a scan of a later daemon
        daemon.closed()
        await trio.sleep(120)
        (kept,) = await world.checkpoints()
        assert (kept.meta.status, kept.meta.s3_upload_id) == (Status.FAILED_ABORTED, None)
        assert kept.meta.let_go_at_utc is not None
        counts = await world.store.count_ended()
        assert (counts[History.FAILED], counts[History.DELETED]) == (0, 1)
        assert daemon.at_risk == ()
        assert world.objects() == {}
        assert await forget(context, stream) is ExitCode.ANSWER_IS_NO
        assert "it was let go before" in capsys.readouterr().out
        world.append(PART)  # a new recording, with a stream of its own
        daemon.closed()
        await trio.sleep(60)
    assert world.recordings() == [world.content()]
    assert stream not in next(iter(world.objects()))


async def test_a_stream_that_was_let_go_is_retried_as_a_failed_one(world: World, context: CommandContext) -> None:
    async with world.daemon() as daemon:
        stream = (await fails(world, daemon)).meta.stream_id
        assert await forget(context, stream) is ExitCode.DONE
        assert (await retry_stream(context, stream)).way is not None
        (again,) = await completed(world)
    assert (again.meta.stream_id, again.meta.let_go_at_utc, again.meta.let_go_size_bytes) == (stream, None, None)
    assert world.recordings() == [world.content()]


async def test_the_record_of_a_stream_whose_watch_folder_is_missing_is_kept(
    world: World, context: CommandContext
) -> None:
    """Else its recording would be uploaded when the folder is back. Its parent's file system tells nothing."""
    async with world.daemon() as daemon:
        await fails(world, daemon)
    away = world.folder.rename(world.folder.with_name("away"))
    assert await forget(context, wanted=ALL_FAILED) is ExitCode.DONE
    (kept,) = await world.checkpoints()
    assert kept.meta.let_go_at_utc is not None
    away.rename(world.folder)


async def test_the_record_of_a_stream_in_no_known_folder_is_kept(world: World, context: CommandContext) -> None:
    """Its folder may be one that is not mounted: what is above it tells nothing."""
    async with world.daemon() as daemon:
        failed = await fails(world, daemon)
    Path(failed.meta.current_path).unlink()
    assert await forget(replace(context, folders=["/srv/other"]), wanted=ALL_FAILED) is ExitCode.DONE
    (kept,) = await world.checkpoints()
    assert kept.meta.let_go_at_utc is not None


async def test_several_folders_of_which_a_mount_hangs_are_still_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_FOLDER_SECONDS", 0)
    folders = {"watch_dir": "/srv/a:/srv/b", "watch_link_roots": "/srv/c"}
    settings = load_settings(None, unneeded=NO_FOLDER, s3_bucket_name="recordings", **folders)
    assert await session._folders(settings) == ["/srv/a", "/srv/b", "/srv/c"]


async def test_the_record_of_a_stream_without_its_file_is_removed(world: World, context: CommandContext) -> None:
    async with world.daemon() as daemon:
        failed = await fails(world, daemon)
    Path(failed.meta.current_path).unlink()
    assert await forget(context, wanted=ALL_FAILED, dry_run=True) is ExitCode.DONE
    assert (await world.checkpoints(), len(world.open_uploads())) == ([failed], 1)
    assert await forget(context, wanted=ALL_FAILED) is ExitCode.DONE
    assert await world.checkpoints() == []
    assert world.open_uploads() == []
    assert await world.store.find_by_path([failed.meta.current_path]) == {}


async def test_an_open_stream_is_refused_with_what_to_do(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    async with world.daemon() as daemon:
        live = await begun(world, daemon, parts=2)
        for dry_run in (True, False):
            assert await forget(context, live.meta.stream_id, dry_run=dry_run) is ExitCode.ANSWER_IS_NO
            assert f"`cef-trio abort {live.meta.stream_id}` ends it" in capsys.readouterr().out
    (left,) = await world.checkpoints()
    assert await forget(context, left.meta.stream_id) is ExitCode.ANSWER_IS_NO
    assert "it is open (interrupted_shutdown)" in capsys.readouterr().out
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
    assert world.recordings() == [world.content()]


async def test_another_hosts_stream_is_left_alone(world: World, context: CommandContext) -> None:  # P9
    async with world.daemon() as daemon:
        failed = await fails(world, daemon)
    before = await world.checkpoints()

    class Elsewhere(Ownership):
        def claim(self, _meta: object) -> Claim:
            return Claim.OTHER_OWNER

    object.__setattr__(context, "ownership", Elsewhere())
    assert await forget(context, failed.meta.stream_id) is ExitCode.ANSWER_IS_NO
    assert await forget(context, wanted=ALL_FAILED) is ExitCode.DONE  # it is none of ours
    assert await world.checkpoints() == before
    assert len(world.open_uploads()) == 1


@pytest.mark.parametrize(("status", "presence", "claim"), list(product(Status, Presence, Claim)))
def test_what_may_be_let_go_and_what_becomes_of_its_record(status: Status, presence: Presence, claim: Claim) -> None:
    meta = a_stream(status=status, s3_upload_id="u")
    ours = claim is Claim.OURS or (claim is Claim.PERHAPS and presence is Presence.SAME)
    allowed = ours and status in ENDED - {Status.COMPLETED}
    assert (why_not(meta, claim, presence, "recordings") is None) == allowed
    assert why_not(meta, claim, presence, "another-bucket") is not None
    there = presence in {Presence.SAME, Presence.NOT_SEEN}
    assert (end_of(meta, presence) is End.KEPT) == (there and status not in FILE_WAS_GONE)


@pytest.mark.parametrize("status", sorted(ENDED - {Status.COMPLETED}))
def test_which_streams_are_chosen(status: Status) -> None:
    meta = a_stream(status=status)
    assert Wanted(failed=True).includes(meta) == (status in FAILED)
    assert Wanted(deleted=True).includes(meta) == (status not in FAILED)
    of_reason = Wanted(failed=True, reasons=frozenset({FailureReason.ACCESS_DENIED}))
    assert of_reason.includes(meta) == (status is Status.FAILED_ACCESS_DENIED)
    ended = meta.last_activity_at_utc
    assert not Wanted(failed=True, deleted=True, ended_before=ended).includes(meta)
    assert Wanted(failed=True, deleted=True, ended_before=ended + timedelta(seconds=1)).includes(meta)


async def test_a_dry_run_counts_those_that_would_be_let_go(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failed stream is refused whose upload is in another bucket, or that another process works on."""
    elsewhere = {"s3_upload_id": "u", "s3_bucket": "elsewhere"}
    for number, fields in enumerate(({}, elsewhere, {})):
        await world.store.create(
            a_stream(number, f"/rec/{number}.mp4", status=Status.FAILED_S3_REFUSED, **fields), DAEMON
        )
    await world.store.release([stream_id(0), stream_id(1)], DAEMON)
    assert await forget(context, wanted=ALL_FAILED, dry_run=True) is ExitCode.ANSWER_IS_NO
    out = capsys.readouterr().out
    assert (out.count(": would be let go"), out.count(": not let go")) == (1, 2)
    assert out.endswith("1 stream would be let go.\n")


async def test_it_is_listed_only_if_it_is_asked_for(world: World, context: CommandContext) -> None:
    async with world.daemon() as daemon:
        stream = (await fails(world, daemon)).meta.stream_id
    assert await forget(context, stream) is ExitCode.DONE
    known = (await world.store.load_metas([stream]))[stream]
    assert [state for state in (None, *State) if in_state(known, state)] == [State.LET_GO]


async def test_p10_metric_status_page_report_and_list_count_it_as_no_failure(
    world: World, context: CommandContext
) -> None:
    async with world.daemon() as daemon, trio.open_nursery() as nursery:
        stream = (await fails(world, daemon)).meta.stream_id
        assert daemon.observer is not None
        source = DaemonSource(daemon.services, str(world.folder), lambda: False)
        source.observer = observer = daemon.observer
        nursery.start_soon(survey_redis, daemon.services.store, daemon.services.metrics)
        nursery.start_soon(source.run)
        redis = RedisContext(store=world.store, disk=InlineDisk(), owner_name="", utc_now=world.utc_now)

        async def failed() -> dict[str, object]:
            source.page()  # someone looks, so that it is read
            await trio.sleep(60)  # virtual: longer than any of them is read again
            page, metrics = source.page(), daemon.services.metrics
            overview = await StatusReader(redis).read()
            known = (await world.store.load_metas(await world.store.members(StreamSet.FAILED))).values()
            of_set = partial(metrics.registry.get_sample_value, "cef_trio_known_streams")
            return {
                "metric": of_set({"set": "failed"}),
                "let go, in the metric": of_set({"set": "deleted"}),
                "status": overview.counts["failed"],
                "page": page.totals.failed,
                "page, one by one": len(page.failed),
                "report": make_report(observer, OtherDaemons(daemon.services, "/rec")).failed,
                "list": sum(in_state(one, State.FAILED) for one in known),
                "alert": metrics.registry.get_sample_value("cef_trio_failed_recordings"),
            }

        assert await failed() == {**dict.fromkeys(await failed(), 1), "let go, in the metric": 0}
        assert await forget(context, stream) is ExitCode.DONE
        assert await failed() == {**dict.fromkeys(await failed(), 0), "let go, in the metric": 1}
        nursery.cancel_scope.cancel()


async def test_what_s3_refuses_is_said_and_the_stream_still_counts_as_failed(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    async with world.daemon() as daemon:
        stream = (await fails(world, daemon)).meta.stream_id
    world.endpoint.faults.arm(Fault(Kind.ERROR, "AbortMultipartUpload", code="AccessDenied", times=None))
    assert await forget(context, wanted=ALL_FAILED) is ExitCode.ANSWER_IS_NO
    assert "not let go" in capsys.readouterr().out
    (after,) = await world.checkpoints()
    assert after.meta.s3_upload_id is not None
    assert (await world.store.count_ended())[History.FAILED] == 1
    world.endpoint.faults.clear()
    assert await forget(context, stream) is ExitCode.DONE
    assert world.open_uploads() == []
    (after,) = await world.checkpoints()
    assert (after.meta.failure_reason or "").count("let the stream go") == 1


async def test_an_outage_of_s3_ends_the_command_and_nothing_is_let_go(world: World, context: CommandContext) -> None:
    async with world.daemon() as daemon:
        stream = (await fails(world, daemon)).meta.stream_id
    world.endpoint.faults.arm(Fault(Kind.ERROR, "AbortMultipartUpload", code="SlowDown", times=None))
    with pytest.raises(S3OperationError):
        await forget(context, stream)
    assert (await world.store.count_ended())[History.FAILED] == 1


STEPS = ["acquire", "load", "find_by_path", "transition", "forget", "release"]


@pytest.mark.parametrize(("operation", "moment", "is_gone"), list(product(STEPS, Moment, (False, True))))
async def test_interrupted_at_any_step_it_is_finished_by_the_same_command(
    world: World, context: CommandContext, operation: str, moment: Moment, is_gone: bool
) -> None:
    """Between the steps the stream is failed, or let go with its upload aborted: never let go with an open upload."""
    created = await context.s3.create_multipart_upload(f"streams/{stream_id(1)}/a.mp4", metadata={})
    world.append(PART)
    path = world.path()
    meta = a_stream(
        status=Status.FAILED_ACCESS_DENIED,
        s3_upload_id=created.upload_id,
        s3_bucket=BUCKET,
        original_path=path,
        current_path=path,
    )
    await world.store.create(meta, DAEMON)
    await world.store.release([stream_id(1)], DAEMON)
    stat = Path(path).stat()
    identity = type(meta.identity)(stat.st_dev, stat.st_ino, 0, 0)
    assert await world.store.acquire(stream_id(1), DAEMON)
    await world.store.update(stream_id(1), DAEMON, Change({"identity": identity}))
    await world.store.release([stream_id(1)], DAEMON)
    if is_gone:
        Path(path).unlink()
    with trio.CancelScope() as scope:
        world.store.fault = CancelledAt(scope, operation, moment)
        await forget(context, stream_id(1))
    world.store.fault = None
    left = await world.checkpoints()
    if not left or left[0].meta.let_go_at_utc is not None:
        assert world.open_uploads() == []
    if left and left[0].meta.let_go_at_utc is None:
        assert await forget(context, stream_id(1)) is ExitCode.DONE
    assert world.open_uploads() == []
    after = await world.checkpoints()
    assert [one.meta.let_go_at_utc is not None for one in after] == ([] if is_gone else [True])


def test_many_need_a_confirmation_and_wrong_arguments_are_one_line() -> None:
    for arguments, says in (
        (["--failed"], "--yes, or --dry-run"),
        (["abc", "--failed", "--yes"], "takes ids of streams, or --failed, or --deleted"),
        ([], "takes ids of streams, or --failed, or --deleted"),
        (["abc", "--older-than", "3d"], "are for --failed and --deleted"),
        (["--deleted", "--reason", "access_denied", "--yes"], "--reason is for --failed"),
    ):
        done = command("forget", *arguments, code=ExitCode.BAD_SETTINGS)
        assert done.stderr.count("\n") == 1
        assert says in done.stderr
