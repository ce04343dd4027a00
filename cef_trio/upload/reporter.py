"""Writes into Redis, every few seconds, how this daemon stands, for commands on any machine to read (promise P10).

It also looks at what the others write, and so notices a second living daemon with this one's identity (promise P9):

- *One INSTANCE_ID twice*: a report of another process with our name that is written anew while we look. It is named; no
  more is needed, since leases and reports bear beside the name what tells hosts apart.
- *A cloned machine*, whose machine-id and file systems are this one's: the same, of another running system with our
  owner's name. Then nothing is ours for certain any more, but what a file proves.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Final

import structlog
import trio
from trio_util import periodic

from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.observability import DaemonReport, Risk, daemon_report
from cef_trio.resilience import shielded
from cef_trio.upload.services import Services
from cef_trio.upload.supervisor import StreamSupervisor

log = structlog.get_logger(__name__)

PERIOD_SECONDS: Final = 15.0
_LAST_SECONDS: Final = 0.5


async def report_for_ever(
    services: Services, supervisor: StreamSupervisor, at_risk: Callable[[], tuple[Risk, ...]], folder: str
) -> None:
    """Report every ``PERIOD_SECONDS``. Cancelled, it says that the daemon was told to stop, if Redis takes it at once.

    A call waits for Redis as any other does; what is late is written late, and what is missing is old.
    """
    lease, others = services.lease, Others(services, folder)

    def report() -> DaemonReport:
        now = trio.current_time()
        lags = {one.processor.stream_id: one.lag(now) for one in supervisor.live}
        return DaemonReport(
            instance=others.reported_as,
            at=services.unix_time(now),
            folder=folder,
            risks=at_risk(),
            lags={
                key: replace(lag, since=services.unix_time(lag.since) if lag.since is not None else None)
                for key, lag in lags.items()
                if key is not None and (lag.size_bytes or lag.unwritten_bytes)
            },
            name=lease.instance,
            host=socket.gethostname(),
            system=lease.host,
            process=lease.token,
            owner=others.owner,
        )

    await services.look_at_folder()  # the first report says whose streams are ours already
    try:
        async with aclosing(periodic(PERIOD_SECONDS)) as rounds:
            async for _ in rounds:
                try:
                    unused = others.look(await services.store.reports(), services.unix_time(trio.current_time()))
                    await _write(services, report(), unused)
                except CefMp4ProcessorError as error:
                    log.debug("report_not_written", error=str(error))
    finally:
        if services.redis_breaker.outage is None:
            with shielded(_LAST_SECONDS, saving="daemon's last report"), suppress(CefMp4ProcessorError):
                last = daemon_report.stopped(report())
                await services.store.report(last.instance, daemon_report.encode(last))


class Others:
    """What the other daemons' reports say of who we are."""

    def __init__(self, services: Services, folder: str) -> None:
        self._services = services
        self._lease = services.lease
        self._folder = folder
        self._seen_at: dict[str, float] = {}
        self._named: set[str] = set()
        """Processes of our name that the log has named."""
        self._used: set[str] = set()
        self._suffix = ""

    @property
    def owner(self) -> str:
        """Our owner's name, where no other host may rightly have it."""
        owner = self._services.ownership.owner
        return owner.name if owner is not None and not owner.is_shared else ""

    @property
    def reported_as(self) -> str:
        """The name that we report under: the lasting one, and what tells hosts apart."""
        name = f"{self._lease.instance}@{self.owner}" if self.owner else self._lease.instance
        return name + self._suffix

    def look(self, texts: Mapping[str, str], now: float) -> frozenset[str]:
        """See what was written since the last look; returns the names under which nobody reports any more.

        A process lives if its report is written anew between two looks; one report may be of a life before.
        """
        reports, _ = daemon_report.decode_all(texts)
        others = [one for one in reports if one.process != self._lease.token and not one.stopped]
        for one in others:
            lives = self._seen_at.get(one.process, one.at) != one.at
            if not lives or not one.process:
                continue
            if one.instance_id == self._lease.instance and one.process not in self._named:
                self._named.add(one.process)
                log.warning("instance_id_shared", instance=one.instance_id, host=one.host, folder=one.folder)
            if one.owner and one.owner == self.owner and one.system != self._lease.host:
                log.error("machine_cloned", host=one.host, folder=one.folder)
                self._services.ownership.mark_cloned(self._lease.host)
            if one.instance == self.reported_as and one.process < self._lease.token:
                self._suffix = f"+{self._lease.token[:8]}"  # we would write over each other's reports
        self._seen_at = {one.process: one.at for one in others}
        unused = self._used - {self.reported_as}
        self._used = {self.reported_as}
        return frozenset(unused | {one.instance for one in others if self._is_earlier_life(one, now)})

    def _is_earlier_life(self, one: DaemonReport, now: float) -> bool:
        if one.instance_id != self._lease.instance or one.folder != self._folder or one.instance == self.reported_as:
            return False
        # A version that did not name its process; or a process of this system that is gone, and had another disk there.
        return not one.process or (one.system == self._lease.host and one.is_silent(now))


async def _write(services: Services, report: DaemonReport, unused: frozenset[str]) -> None:
    await services.store.report(report.instance, daemon_report.encode(report))
    known, _ = daemon_report.decode_all(await services.store.reports())
    gone = [one.instance for one in known if report.at - one.at > daemon_report.FORGOTTEN_SECONDS]
    if gone or unused:
        await services.store.forget_reports({*gone, *unused})
