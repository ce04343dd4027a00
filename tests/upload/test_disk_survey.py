"""Which disks are measured for the metrics, and under which name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import trio
from trio.testing import MockClock

from cef_trio.exceptions import FileAccessError
from cef_trio.files import Disk, DiskSpace, FolderMount
from cef_trio.lab.world import World
from cef_trio.upload.disk_survey import PERIOD_SECONDS, survey_disks

SYSTEM, CAMERA, NAS = 1, 2, 3
DISKS = {
    "/rec": SYSTEM,
    "/more": SYSTEM,
    "/links": SYSTEM,
    "/nas": NAS,
    "/rec/cam1": CAMERA,
    "/rec/cam1-again": CAMERA,
    "/rec/hangs": 4,
}


class Disks:
    """Measures folders of ``DISKS`` only."""

    async def space(self, folder: str) -> DiskSpace:
        await trio.lowlevel.checkpoint()
        if folder not in DISKS:
            raise FileAccessError(f"cannot measure {folder}")
        return DiskSpace(1000, 10 * DISKS[folder], FolderMount(DISKS[folder]))


async def test_p10_disks_below_the_watch_folder_and_behind_links_are_measured_once_each(
    watch_dir: Path, autojump_clock: MockClock
) -> None:
    """A camera's disk was full, and no alert could know."""
    points = ["/rec", "/rec/cam1", "/rec/cam1-again", "/rec/gone", "/rec/hangs"]
    async with World(watch_dir).services() as opened, trio.open_nursery() as nursery:
        rules = replace(opened.rules, watch_folder="/rec", more_folders=("/more",), link_roots=("/links", "/nas"))
        services = replace(opened, rules=rules, disk=cast("Disk", Disks()))
        services.mounts.hung.value = {"/rec/hangs": 0.0}
        nursery.start_soon(survey_disks, services, lambda: points)
        await trio.sleep(1)
        found = {folder: one.free_bytes for folder, one in services.metrics.disks.items()}
        assert found == {"/rec": 10, "/more": 10, "/nas": 30, "/rec/cam1": 20}
        points.remove("/rec/cam1")  # unmounted
        await trio.sleep(PERIOD_SECONDS)
        assert list(services.metrics.disks) == ["/rec", "/more", "/nas", "/rec/cam1-again"]
        nursery.cancel_scope.cancel()
