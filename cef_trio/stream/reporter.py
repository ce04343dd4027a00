"""Writes into Redis, every few seconds, how this daemon stands, for commands on any machine to read (promise P10).

It also looks at what the others write, and so notices a second living daemon with this one's identity (promise P9):

- *One INSTANCE_ID twice*: whoever finds that another process has written over its report. The one whose token is the
  greater then reports under a name of its own, so that both are seen. Nothing else depends on the name: leases bear the
  running system beside it.
- *A cloned machine*, whose machine-id and file systems are this one's: a report of another running system with our
  owner's name, that is written anew while we look. Then nothing is ours for certain any more, but what a file proves.
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
from cef_trio.shielded import shielded
from cef_trio.stream.services import Services
from cef_trio.stream.supervisor import StreamSupervisor
from cef_trio.telemetry import daemon_report
from cef_trio.telemetry.at_risk import Risk
from cef_trio.telemetry.daemon_report import DaemonReport

log = structlog.get_logger(__name__)

PERIOD_SECONDS: Final = 15.0
_LAST_SECONDS: Final = 0.5


async def report_for_ever(
    services: Services, supervisor: StreamSupervisor, at_risk: Callable[[], tuple[Risk, ...]], folder: str
) -> None:
    """Report every ``PERIOD_SECONDS``. Cancelled, it says that the daemon was told to stop, if Redis takes it at once.

    A call waits for Redis as any other does; what is late is written late, and what is missing is old.
    """
    lease, others = services.lease, Others(services)

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

    try:
        async with aclosing(periodic(PERIOD_SECONDS)) as rounds:
            async for _ in rounds:
                try:
                    others.look(await services.store.reports())
                    await _write(services, report())
                except CefMp4ProcessorError as error:
                    log.debug("report_not_written", error=str(error))
    finally:
        if services.redis_breaker.outage is None:
            with shielded(_LAST_SECONDS, saving="daemon's last report"), suppress(CefMp4ProcessorError):
                last = daemon_report.stopped(report())
                await services.store.report(last.instance, daemon_report.encode(last))


class Others:
    """What the other daemons' reports say of who we are."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lease = services.lease
        self._seen_at: dict[str, float] = {}
        self._has_reported = False
        self.reported_as = services.lease.instance

    @property
    def owner(self) -> str:
        """Our owner's name, where no other host may rightly have it."""
        owner = self._services.ownership.owner
        return owner.name if owner is not None and not owner.is_shared else ""

    def look(self, texts: Mapping[str, str]) -> None:
        """See what was written since the last look; called before each report of ours."""
        reports, _ = daemon_report.decode_all(texts)
        others = [one for one in reports if one.process not in {"", self._lease.token} and not one.stopped]
        for one in others:
            written_anew = self._seen_at.get(one.process, one.at) != one.at
            self._seen_at[one.process] = one.at
            if one.instance == self._lease.instance and self._has_reported:
                self._share_name(one)
            if written_anew and one.owner and one.owner == self.owner and one.system != self._lease.host:
                log.error("machine_cloned", host=one.host, folder=one.folder)
                self._services.ownership.tell_apart(self._lease.host)
        self._seen_at = {one.process: self._seen_at[one.process] for one in others}
        self._has_reported = True

    def _share_name(self, one: DaemonReport) -> None:
        """It wrote over our report, so it lives."""
        log.warning("instance_id_shared", instance=self._lease.instance, host=one.host, folder=one.folder)
        if one.process < self._lease.token:
            self.reported_as = self._lease.holder


async def _write(services: Services, report: DaemonReport) -> None:
    await services.store.report(report.instance, daemon_report.encode(report))
    known, _ = daemon_report.decode_all(await services.store.reports())
    gone = [one.instance for one in known if report.at - one.at > daemon_report.FORGOTTEN_SECONDS]
    if gone:
        await services.store.forget_reports(gone)
