"""Write this daemon's report into the registry every 15 seconds, for commands and pages on any machine (promise P10).

The other daemons' reports reveal a second running daemon with this one's identity (promise P9):

- *A duplicate INSTANCE_ID*: a report of another process with our name is updated while we run. It is logged; nothing
  else is needed, because leases and reports also contain what distinguishes hosts.
- *A cloned machine* with the same machine-id and file systems: a report of another running system with our owner's name
  is updated. Then only streams that a file proves count as ours.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

import structlog

from cef_trio import __version__
from cef_trio.checkpoint import StreamSet, schema
from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.observability import DaemonReport, Fleet, daemon_report, read_fleet
from cef_trio.resilience import Periodic, shielded
from cef_trio.upload.observer import Observer
from cef_trio.upload.ownership_rules import share_of
from cef_trio.upload.services import Services

log = structlog.get_logger(__name__)

PERIOD_SECONDS: Final = 15.0
_LAST_REPORT_SECONDS: Final = 0.5


async def report_for_ever(observer: Observer, last_turns: Callable[[], Mapping[str, float]] = dict) -> None:
    """Report every ``PERIOD_SECONDS``; when cancelled, report that the daemon stops, if Redis responds at once.

    While Redis is unavailable, a report is late, and readers see an old one. ``last_turns`` returns the last rounds of
    the periodic tasks by the field of :class:`DaemonReport`, by ``trio.current_time()``.
    """
    services = observer.services
    others = OtherDaemons(services, services.rules.watch_folder)

    def report() -> DaemonReport:
        turns = {name: services.unix_time(moment) for name, moment in last_turns().items()}
        return make_report(observer, others, **turns)

    refusal = ""
    await services.determine_owner()  # so that the first report already names our owner
    try:
        async for _ in Periodic(PERIOD_SECONDS):
            try:
                unused = others.update(read_fleet(await services.store.reports()))
                now = report()
                await services.store.report(now.instance, daemon_report.encode(now))
                if unused:
                    await services.store.forget_reports(unused)
                refusal = ""
            except CefMp4ProcessorError as error:
                log.debug("report_not_written", error=str(error))
                if not error.transient and str(error) != refusal:  # logged once: it does not pass by itself
                    refusal = str(error)
                    log.warning("report_refused", error=refusal)
    finally:
        if services.redis_breaker.outage is None:
            with shielded(_LAST_REPORT_SECONDS, saving="daemon's last report"), suppress(CefMp4ProcessorError):
                last = daemon_report.stopped(report())
                await services.store.report(last.instance, daemon_report.encode(last))


def make_report(
    observer: Observer, others: OtherDaemons, *, watcher_at: float | None = None, idle_checker_at: float | None = None
) -> DaemonReport:
    """Return the current report; the times are Unix time."""
    services, now = observer.services, observer()
    lease, owner, ended = services.lease, services.ownership.owner, services.metrics.survey.known_streams
    folder = services.rules.watch_folder
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
        owner=services.owner_name,
        place=others.place,
        share=share_of(owner, folder) if owner is not None else "",
        version=__version__,
        schema=schema.CURRENT,
        streams={state.value: count for state, count in now.active_streams.items() if count},
        completed=ended.get(StreamSet.COMPLETED),
        failed=ended.get(StreamSet.FAILED),
        behind=now.lag,
        bytes_per_second=now.bytes_per_second,
        watcher_at=watcher_at,
        idle_checker_at=idle_checker_at,
        waits_for=tuple(service for service, outage in now.outages.items() if outage is not None),
    )


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
    def place(self) -> str:
        """The name of our machine and folder, if no other host may have it; else empty."""
        owner = self._services.ownership.owner
        return owner.name if owner is not None and not owner.is_shared else ""

    @property
    def reported_as(self) -> str:
        """The name of our report: the owner, the instance, and the place, which distinguishes hosts."""
        name = f"{self._services.owner_name}/{self._lease.instance}"
        return (f"{name}@{self.place}" if self.place else name) + self._suffix

    def update(self, fleet: Fleet) -> frozenset[str]:
        """Evaluate the current reports; return the names that no process uses any more.

        A process is alive if its report changes between two calls; one report alone may be of an earlier process.
        """
        others = [one for one in fleet.reports if one.process != self._lease.token and not one.stopped]
        for one in others:
            lives = self._seen_at.get(one.process, one.at) != one.at
            if not lives or not one.process:
                continue
            if one.instance_id == self._lease.instance and one.process not in self._logged:
                self._logged.add(one.process)
                log.warning("instance_id_shared", instance=one.instance_id, host=one.host, folder=one.folder)
            if one.place and one.place == self.place and one.system != self._lease.host:
                log.error("machine_cloned", host=one.host, folder=one.folder)
                self._services.ownership.mark_cloned(self._lease.host)
            if one.instance == self.reported_as and one.process < self._lease.token:
                self._suffix = f"+{self._lease.token[:8]}"  # else both would overwrite each other's report
        self._seen_at = {one.process: one.at for one in others}
        unused = self._names_used - {self.reported_as}
        self._names_used = {self.reported_as}
        return frozenset(unused | {one.instance for one in others if self._is_earlier_life(one, fleet.now)})

    def _is_earlier_life(self, one: DaemonReport, now: float) -> bool:
        if one.instance_id != self._lease.instance or one.folder != self._folder or one.instance == self.reported_as:
            return False
        # Of a version that did not name its process, or of an ended process of this system with another disk there.
        return not one.process or (one.system == self._lease.host and one.is_silent(now))
