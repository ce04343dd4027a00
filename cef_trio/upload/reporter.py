"""Write this daemon's state into Redis every 15 seconds, for commands on any machine to read (promise P10).

The other daemons' reports reveal a second running daemon with this one's identity (promise P9):

- *A duplicate INSTANCE_ID*: a report of another process with our name is updated while we run. It is logged; nothing
  else is needed, because leases and reports also contain what distinguishes hosts.
- *A cloned machine* with the same machine-id and file systems: a report of another running system with our owner's name
  is updated. Then only streams that a file proves count as ours.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import structlog
import trio

from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.observability import DaemonReport, daemon_report
from cef_trio.resilience import Periodic, shielded
from cef_trio.upload.observer import Observer
from cef_trio.upload.services import Services

log = structlog.get_logger(__name__)

PERIOD_SECONDS: Final = 15.0
_LAST_REPORT_SECONDS: Final = 0.5


async def report_for_ever(observer: Observer) -> None:
    """Report every ``PERIOD_SECONDS``; when cancelled, report that the daemon stops, if Redis responds at once.

    While Redis is unavailable, a report is late, and readers see an old one.
    """
    services, folder = observer.services, observer.services.rules.watch_folder
    lease, others = services.lease, OtherDaemons(services, folder)

    def report() -> DaemonReport:
        now = observer()
        return DaemonReport(
            instance=others.reported_as,
            at=now.at,
            folder=folder,
            risks=now.risks,
            lags={
                one.stream_id: one.lag
                for one in now.streams
                if one.stream_id is not None and (one.lag.size_bytes or one.lag.unwritten_bytes)
            },
            name=lease.instance,
            host=socket.gethostname(),
            system=lease.host,
            process=lease.token,
            owner=others.owner,
        )

    await services.determine_owner()  # so that the first report already names our owner
    try:
        async for _ in Periodic(PERIOD_SECONDS):
            try:
                unused = others.update(await services.store.reports(), services.unix_time(trio.current_time()))
                await _write(services, report(), unused)
            except CefMp4ProcessorError as error:
                log.debug("report_not_written", error=str(error))
    finally:
        if services.redis_breaker.outage is None:
            with shielded(_LAST_REPORT_SECONDS, saving="daemon's last report"), suppress(CefMp4ProcessorError):
                last = daemon_report.stopped(report())
                await services.store.report(last.instance, daemon_report.encode(last))


class OtherDaemons:
    """What the other daemons' reports reveal about our identity."""

    def __init__(self, services: Services, folder: str) -> None:
        self._services = services
        self._lease = services.lease
        self._folder = folder
        self._seen_at: dict[str, float] = {}
        self._logged: set[str] = set()
        """Processes with our name that are logged already."""
        self._names_used: set[str] = set()
        self._suffix = ""

    @property
    def owner(self) -> str:
        """Our owner's name, if no other host may have it; else empty."""
        owner = self._services.ownership.owner
        return owner.name if owner is not None and not owner.is_shared else ""

    @property
    def reported_as(self) -> str:
        """The name of our report: the instance, and the owner, which distinguishes hosts."""
        name = f"{self._lease.instance}@{self.owner}" if self.owner else self._lease.instance
        return name + self._suffix

    def update(self, texts: Mapping[str, str], now: float) -> frozenset[str]:
        """Evaluate the current reports; return the names that no process uses any more.

        A process is alive if its report changes between two calls; one report alone may be of an earlier process.
        """
        reports, _ = daemon_report.decode_all(texts)
        others = [one for one in reports if one.process != self._lease.token and not one.stopped]
        for one in others:
            lives = self._seen_at.get(one.process, one.at) != one.at
            if not lives or not one.process:
                continue
            if one.instance_id == self._lease.instance and one.process not in self._logged:
                self._logged.add(one.process)
                log.warning("instance_id_shared", instance=one.instance_id, host=one.host, folder=one.folder)
            if one.owner and one.owner == self.owner and one.system != self._lease.host:
                log.error("machine_cloned", host=one.host, folder=one.folder)
                self._services.ownership.mark_cloned(self._lease.host)
            if one.instance == self.reported_as and one.process < self._lease.token:
                self._suffix = f"+{self._lease.token[:8]}"  # else both would overwrite each other's report
        self._seen_at = {one.process: one.at for one in others}
        unused = self._names_used - {self.reported_as}
        self._names_used = {self.reported_as}
        return frozenset(unused | {one.instance for one in others if self._is_earlier_life(one, now)})

    def _is_earlier_life(self, one: DaemonReport, now: float) -> bool:
        if one.instance_id != self._lease.instance or one.folder != self._folder or one.instance == self.reported_as:
            return False
        # Of a version that did not name its process, or of an ended process of this system with another disk there.
        return not one.process or (one.system == self._lease.host and one.is_silent(now))


async def _write(services: Services, report: DaemonReport, unused: frozenset[str]) -> None:
    await services.store.report(report.instance, daemon_report.encode(report))
    known, _ = daemon_report.decode_all(await services.store.reports())
    gone = [one.instance for one in known if report.at - one.at > daemon_report.FORGOTTEN_SECONDS]
    if gone or unused:
        await services.store.forget_reports({*gone, *unused})
