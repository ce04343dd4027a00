"""Measure the watched file systems for the metrics, every half minute.

That of each folder of ``WATCH_DIR`` in any case; of a folder of ``WATCH_LINK_ROOTS``, and of a mount point below any of
them, if it is another one. The mount points are those of the watcher, so without what ``WATCH_EXCLUDE`` leaves out.

A file system that cannot be measured (its mount hangs, the folder is gone) has no values until it can be again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import structlog

from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.observability import DiskUse
from cef_trio.resilience import Periodic
from cef_trio.upload.services import Services

log = structlog.get_logger(__name__)

PERIOD_SECONDS: Final = 30.0


async def survey_disks(services: Services, mount_points: Callable[[], Iterable[str]]) -> None:
    """Measure until cancelled. ``mount_points``: those that the last scan found."""
    watched, links = services.rules.watch_folders, services.rules.link_roots
    async for _ in Periodic(PERIOD_SECONDS):
        found: dict[str, DiskUse] = {}
        devices: set[int] = set()
        for folder in dict.fromkeys([*watched, *links, *mount_points()]):
            if services.mounts.hangs(folder):
                continue
            try:
                space = await services.disk.space(folder)
            except CefMp4ProcessorError as error:
                log.debug("disk_not_measured", folder=folder, error=str(error))
            else:
                is_another = space.place.file_dev not in devices
                devices.add(space.place.file_dev)
                if space.total_bytes and (is_another or folder in watched):
                    found[folder] = DiskUse(space.free_bytes, space.total_bytes)
        services.metrics.disks = found
