"""Measure the watched file systems for the metrics, every half minute.

A file system that cannot be measured (its mount hangs, the folder is gone) has no values until it can be again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import structlog

from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.observability import DiskUse
from cef_trio.resilience import Periodic
from cef_trio.upload.services import Services

log = structlog.get_logger(__name__)

PERIOD_SECONDS: Final = 30.0


async def survey_disks(services: Services, folders: Iterable[str]) -> None:
    """Measure until cancelled."""
    folders = tuple(folders)
    async for _ in Periodic(PERIOD_SECONDS):
        found: dict[str, DiskUse] = {}
        for folder in folders:
            try:
                space = await services.disk.space(folder)
            except CefMp4ProcessorError as error:
                log.debug("disk_not_measured", folder=folder, error=str(error))
            else:
                if space.total_bytes:
                    found[folder] = DiskUse(space.free_bytes, space.total_bytes)
        services.metrics.disks = found
