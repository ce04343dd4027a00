"""The laboratory's daemon runs the tasks of the real one, except those for the process and the status page."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio

from cef_trio.daemon.main import RunningDaemon, run_daemon
from cef_trio.lab.task_locations import tasks_below
from cef_trio.lab.world import World, WorldDaemon
from cef_trio.settings.after_upload import AfterUploadAction, AfterUploadRule
from cef_trio.settings.model import Settings, load_settings
from cef_trio.upload.services import Services

ONLY_IN_A_PROCESS = {
    "cef_trio.daemon.main._listen_for_signals",
    "cef_trio.daemon.reload.SettingsReloader.run",
    "cef_trio.daemon.systemd.ServiceNotifier.watch",
    "cef_trio.admin.page_source.DaemonSource._read_while",
    "cef_trio.admin.page_source.DaemonSource._record_history",
    "cef_trio.admin.page_source.DaemonSource.run",
    "cef_trio.upload.disk_survey.survey_disks",
}
"""Signals, reload of settings, systemd, the status page, the space of disks. The tasks of the admin server are left
out too, since no stream depends on them."""


def names(tasks: Iterable[trio.lowlevel.Task]) -> set[str]:
    return {task.name for task in tasks if task.name.startswith("cef_trio.") and ".lab." not in task.name}


@pytest.mark.timeout(300)
async def test_every_task_of_the_daemon_runs_in_the_laboratory(tmp_path: Path) -> None:
    (tmp_path / "watch").mkdir()
    (tmp_path / "base").mkdir()
    watch = tmp_path / "base" / "watch"
    world = World(watch, base=tmp_path / "base")
    world.after_upload = AfterUploadRule(AfterUploadAction.DELETE)
    world.webhook = True
    settings = load_settings(
        None,
        watch_dir=tmp_path / "watch",
        s3_bucket_name=world.bucket,
        redis_url="redis://127.0.0.1:1/0",
        after_upload="delete",
        prom_host="127.0.0.1",
        prom_port=0,
    )

    def of_the_world(_settings: Settings) -> AbstractAsyncContextManager[Services]:
        return world.services()

    async def run(*, task_status: trio.TaskStatus[RunningDaemon]) -> None:
        await run_daemon(settings, open_services=of_the_world, task_status=task_status)

    async with trio.open_nursery() as nursery:
        daemon: RunningDaemon = await nursery.start(run)
        await trio.testing.wait_all_tasks_blocked()
        (root,) = nursery.child_tasks
        real = names(tasks_below(root))
        daemon.shutdown.request()
    async with world.services() as services, trio.open_nursery() as nursery:
        simulated = WorldDaemon(world, services)
        await nursery.start(simulated.run)
        await trio.testing.wait_all_tasks_blocked()
        (root,) = nursery.child_tasks
        in_the_world = names(tasks_below(root))
        simulated.shutdown.request()
    left_out = {name for name in real - in_the_world if not name.startswith("cef_trio.admin.server")}
    assert left_out <= ONLY_IN_A_PROCESS
    assert in_the_world <= real
    assert {"cef_trio.upload.orphan_cleanup.abort_orphan_uploads", "cef_trio.watch.watcher.Watcher.run"} <= in_the_world
