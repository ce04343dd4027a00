"""P10: a daemon whose start waits reports so, under a name of its own, until the reporter takes over."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from waiting import until

from cef_trio.checkpoint.memory import Moment
from cef_trio.daemon import main as main_module
from cef_trio.daemon import watch_folder
from cef_trio.daemon.intake_tasks import IntakeRules, IntakeTasks
from cef_trio.daemon.main import Shutdown, _run_intake, serve
from cef_trio.daemon.owner_name import OwnerName, OwnerSource
from cef_trio.exceptions import RedisOperationError, S3OperationError
from cef_trio.exit_codes import ExitCode
from cef_trio.lab.world import World
from cef_trio.observability import Fleet, Reason, fleet_document, judge_fleet, read_fleet
from cef_trio.observability.fleet import MAX_CLOCK_SECONDS
from cef_trio.s3_endpoint import Fault, Kind
from cef_trio.settings import Settings
from cef_trio.upload import Services

S3_DOWN = Fault(Kind.RESET, "*", times=None)


async def fleet_of(world: World) -> Fleet:
    return read_fleet(await world.store.reports())


def shown(fleet: Fleet) -> list[tuple[str, list[str]]]:
    return [(one["state"], one["risks"]) for one in fleet_document(fleet)["daemons"]]


@asynccontextmanager
async def starting(
    world: World, codes: list[ExitCode] | None = None, told: list[str] | None = None
) -> AsyncIterator[tuple[Services, Shutdown]]:
    """A daemon that starts as the real one does; cancelled at the end. ``told``: its status lines."""
    told = [] if told is None else told
    shutdown, quiet = Shutdown(6.0, 2.0), cast("Any", SimpleNamespace(status=told.append, waits_for=""))
    settings = cast("Any", SimpleNamespace(s3_create_bucket=False))

    async def intake(tasks: IntakeTasks) -> ExitCode:
        return await _run_intake(
            settings, tasks, shutdown, notifier=quiet, status=quiet, task_status=trio.TASK_STATUS_IGNORED
        )

    async with world.services() as services, trio.open_nursery() as nursery:

        async def run() -> None:
            code = await serve(services, shutdown, lambda path: path.endswith(".mp4"), IntakeRules(), intake)
            if codes is not None:
                codes.append(code)

        nursery.start_soon(run)
        yield services, shutdown
        nursery.cancel_scope.cancel()


async def test_p10_a_start_that_waits_for_s3_is_at_risk_and_not_stopped(world: World) -> None:
    async with world.daemon():
        await trio.sleep(1)
    assert shown(await fleet_of(world)) == [("stopped", [])]
    world.endpoint.faults.arm(S3_DOWN)
    async with starting(world):
        await trio.sleep(35)
        assert shown(await fleet_of(world)) == [("waits", [])]
        await trio.sleep(60)
        fleet = await fleet_of(world)
        assert fleet.state == "at risk"
        assert shown(fleet) == [("at risk", [Reason.S3_DOWN])]
        assert fleet.judgement is not None
        assert fleet.judgement.waits_for == ("s3",)
        assert judge_fleet(fleet) == []
    assert shown(await fleet_of(world)) == [("stopped", [])], "it is removed when the start is cancelled"


async def test_p10_a_start_that_waits_for_s3_tells_the_service_manager_its_judgement(world: World) -> None:
    world.endpoint.faults.arm(S3_DOWN)
    told = list[str]()
    async with starting(world, told=told):
        await trio.sleep(35)
        assert told[0] == "starting; waiting for Redis and S3"
        assert told[-1] == "waits for s3; waiting for Redis and S3"
        await trio.sleep(60)
        assert told[-1] == "at risk: S3 cannot be reached, or refuses everything; waiting for Redis and S3"


class SlowWatcher:
    """A watcher whose first scan takes a minute."""

    def __init__(self, *_args: object, **_options: object) -> None:
        self.last_run, self.rescan_seconds, self.trouble = trio.current_time(), 30.0, None
        self.last_attempt = self.read_at = self.last_run

    def rescan(self) -> None: ...

    def progressed(self) -> None: ...

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(60)
        task_status.started()


async def for_ever(*_args: object) -> None:
    await trio.sleep_forever()


async def test_p10_a_start_that_reads_the_folder_for_minutes_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = list[str]()
    service_manager: Any = SimpleNamespace(status=told.append, ready=told.append, watch=for_ever)
    status: Any = SimpleNamespace(waits_for="", run=for_ever)
    settings: Any = SimpleNamespace(
        s3_create_bucket=False,
        watch_dir=world.folder,
        watch_dirs=(world.folder,),
        watch_patterns=("*.mp4",),
        watch_exclude=(),
        watch_link_roots=(),
        watch_dir_links={},
        rescan_seconds=30.0,
    )
    shutdown = Shutdown(6.0, 2.0)
    monkeypatch.setattr(main_module, "Watcher", SlowWatcher)
    monkeypatch.setattr(main_module, "survey_disks", for_ever)

    async def intake(tasks: IntakeTasks) -> ExitCode:
        return await _run_intake(
            settings, tasks, shutdown, notifier=service_manager, status=status, task_status=trio.TASK_STATUS_IGNORED
        )

    async with world.services() as services, trio.open_nursery() as nursery:
        nursery.start_soon(serve, services, shutdown, lambda path: path.endswith(".mp4"), IntakeRules(), intake)
        await until(lambda: told[-1:] == ["starting; reading the watch folder"])
        services.s3_breaker.trip(S3OperationError("put_object", "no answer", transient=True))
        world.endpoint.faults.arm(S3_DOWN)
        await trio.sleep(31)
        assert told[-1] == "waits for s3; reading the watch folder"
        await trio.sleep(60)
        assert told[-1] == "waits for s3; 0 open streams", "the last one is of the daemon that has started"
        nursery.cancel_scope.cancel()


async def test_p10_a_restart_within_a_minute_of_a_kill_is_no_second_daemon(world: World) -> None:
    async with world.killed_daemon():
        await trio.sleep(1)
    world.endpoint.faults.arm(S3_DOWN)
    async with starting(world):
        await trio.sleep(20)
        fleet = await fleet_of(world)
        assert [one.stopped for one in fleet.living] == [False, False]
        assert judge_fleet(fleet) == []
        reset = [one if one.starting else replace(one, system="the boot before") for one in fleet.reports]
        assert judge_fleet(replace(fleet, reports=tuple(reset))) == []
        await trio.sleep(70)
        assert shown(await fleet_of(world)) == [("at risk", [Reason.S3_DOWN])]


@pytest.mark.parametrize("refused", [False, True])
async def test_a_start_that_is_stopped_or_refused_leaves_no_report(world: World, refused: bool) -> None:
    world.endpoint.faults.arm(S3_DOWN)
    codes: list[ExitCode] = []
    async with starting(world, codes) as (_, shutdown):
        await trio.sleep(100)
        assert shown(await fleet_of(world)) == [("at risk", [Reason.S3_DOWN])]
        if refused:
            world.endpoint.faults.clear()
            for operation in ("HeadBucket", "ListMultipartUploads"):
                world.endpoint.faults.arm(Fault(Kind.ERROR, operation, code="NoSuchBucket", status=404, times=None))
        else:
            shutdown.request()
        await until(lambda: bool(codes))
        assert codes == [ExitCode.REFUSED if refused else ExitCode.DONE]
        assert shown(await fleet_of(world)) == []


async def test_p10_a_report_that_redis_cannot_take_is_made_anew_when_it_can(world: World) -> None:
    async def down(operation: str, _moment: Moment) -> None:
        await trio.lowlevel.checkpoint()
        raise RedisOperationError(operation, "no", transient=True)

    world.endpoint.faults.arm(S3_DOWN)
    async with starting(world):
        await trio.sleep(1)
        world.store.fault = down
        await trio.sleep(200)
        world.store.fault = None
        assert (await fleet_of(world)).reports == ()

        async def reported() -> bool:
            return bool((await fleet_of(world)).reports)

        await until(reported)
        (report,) = (await fleet_of(world)).reports
        assert abs(report.clock_ahead_seconds) < MAX_CLOCK_SECONDS
        assert [risk.reason for risk in report.risks] == [Reason.S3_DOWN]


@pytest.mark.parametrize(("hung_for", "state", "risks"), [(0.0, "waits", []), (61.0, "at risk", ["mount_hung"])])
async def test_p10_a_start_that_waits_for_the_watch_folder_is_in_the_registry_until_it_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch, hung_for: float, state: str, risks: list[str]
) -> None:
    async with world.daemon():
        await trio.sleep(1)
    responds, told = threading.Event(), list[str]()

    def check(settings: Settings) -> Settings:
        responds.wait(30)
        return settings

    async def serves(*_args: object, **_options: object) -> None:
        await trio.sleep_forever()

    async def owner_of(settings: Settings) -> OwnerName:  # without its thread, which is no match for the virtual clock
        return OwnerName(settings.owner_name, OwnerSource.SETTING)

    monkeypatch.setattr(watch_folder, "find_owner", owner_of)
    monkeypatch.setattr(watch_folder, "check_folders", check)
    monkeypatch.setattr(watch_folder, "checkpoint_store", lambda *_: nullcontext(world.store))
    monkeypatch.setattr(watch_folder, "serve_admin", serves)
    monkeypatch.setattr(watch_folder, "time", lambda: time.time() - hung_for)
    settings = Settings(watch_dir=world.folder, owner_name="studio", instance_id="one", s3_bucket_name="recordings")
    entered = trio.Event()

    async def start() -> None:
        async with watch_folder.enter_watch_folder(settings, lambda: None, told.append):
            entered.set()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            await trio.sleep(settings.file_system_timeout_seconds + 20)
            assert told == ["waiting for the mount of the watch folder, which does not respond"]
            fleet = await fleet_of(world)
            [waiting] = fleet.living
            assert (waiting.instance_id, waiting.folder, waiting.waits_for) == (
                "one",
                str(world.folder),
                ("watch folder",),
            )
            assert (state, risks) in shown(fleet)
            responds.set()
            await entered.wait()
            assert (await fleet_of(world)).living == ()
    finally:
        responds.set()


async def test_the_reporter_takes_over(world: World) -> None:
    async with world.services() as services, trio.open_nursery() as nursery:
        tasks = IntakeTasks(
            services, nursery, lambda _: True, IntakeRules(), leaving_since=lambda: None, redact=lambda text: text
        )
        nursery.start_soon(tasks.waiting.run)
        await trio.sleep(14)
        assert (await fleet_of(world)).reports == ()
        await trio.sleep(2)
        (waiting,) = (await fleet_of(world)).reports
        assert waiting.instance.startswith("waiting ")
        nursery.start_soon(tasks._reporter.run)
        await trio.sleep(1)
        (own,) = (await fleet_of(world)).reports
        assert own.instance == tasks._reporter._others.reported_as
        await trio.sleep(100)
        assert len((await fleet_of(world)).reports) == 1
        nursery.cancel_scope.cancel()
