"""Writes into Redis, every few seconds, how this daemon stands, for commands on any machine to read (promise P10)."""

from __future__ import annotations

from collections.abc import Callable
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

    def report() -> DaemonReport:
        now = trio.current_time()
        lags = {one.processor.stream_id: one.lag(now) for one in supervisor.live}
        return DaemonReport(
            instance=services.lease.instance,
            at=services.unix_time(now),
            folder=folder,
            risks=at_risk(),
            lags={
                key: replace(lag, since=services.unix_time(lag.since) if lag.since is not None else None)
                for key, lag in lags.items()
                if key is not None and (lag.size_bytes or lag.unwritten_bytes)
            },
        )

    try:
        async with aclosing(periodic(PERIOD_SECONDS)) as rounds:
            async for _ in rounds:
                try:
                    await _write(services, report())
                except CefMp4ProcessorError as error:
                    log.debug("report_not_written", error=str(error))
    finally:
        if services.redis_breaker.outage is None:
            with shielded(_LAST_SECONDS, saving="daemon's last report"), suppress(CefMp4ProcessorError):
                await services.store.report(
                    services.lease.instance, daemon_report.encode(daemon_report.stopped(report()))
                )


async def _write(services: Services, report: DaemonReport) -> None:
    await services.store.report(report.instance, daemon_report.encode(report))
    known, _ = daemon_report.decode_all(await services.store.reports())
    gone = [one.instance for one in known if report.at - one.at > daemon_report.FORGOTTEN_SECONDS]
    if gone:
        await services.store.forget_reports(gone)
