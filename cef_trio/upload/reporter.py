"""Write this daemon's report into the registry every 15 seconds, for commands and pages on any machine (promise P10).

The reports of this owner's daemons, which the same call returns, show who shares the work (``work_division.py``), and
reveal a second one with this one's identity (P9):

- *A duplicate INSTANCE_ID*: a report of another process with our name is updated while we run. It is logged; nothing
  else is needed, because leases and reports also contain what distinguishes hosts.
- *A cloned machine* with the same machine-id, file systems and explicit ``OWNER_NAME`` (with a derived name it does not
  start work: ``daemon/owner_claim.py``): a report of another running system is updated. Then only streams that a file
  proves count as ours.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import inf
from typing import Final

import structlog
import trio
from trio_util import AsyncBool

from cef_trio import __version__
from cef_trio.checkpoint import CheckpointStore, StoredReports, StreamSet, schema
from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.observability import DaemonReport, Fleet, State, daemon_report, read_fleet
from cef_trio.resilience import shielded
from cef_trio.upload.observer import Observer
from cef_trio.upload.ownership_rules import cloned, share_of
from cef_trio.upload.services import Services

log = structlog.get_logger(__name__)

PERIOD_SECONDS: Final = 15.0
_LATE: Final = 1 / 3
"""By this share of the period; then the reporter makes a call of its own."""
_ALMOST: Final = 0.9
"""The heartbeat's rounds are not exact: a report is due a little earlier."""
_LAST_REPORT_SECONDS: Final = 0.5
_REGISTER_SECONDS: Final = 600.0
"""How often the owner's name is registered again: Redis may have lost it, or it was retired by mistake."""


class Reporter:
    """Reports every ``PERIOD_SECONDS``, usually by a heartbeat (``heartbeat.py``), else by its own call.

    ``last_turns`` returns the last rounds of the periodic tasks by the field of :class:`DaemonReport`, by
    ``trio.current_time()``. ``name_taken_by`` returns boot id and host of the system that took the owner's name.
    ``takes_over`` is called whenever a report is stored (:meth:`WaitingReport.end`).
    """

    def __init__(
        self,
        observer: Observer,
        last_turns: Callable[[], Mapping[str, float]] = dict,
        name_taken_by: Callable[[], tuple[str, str] | None] = lambda: None,
        takes_over: Callable[[], object] = lambda: None,
    ) -> None:
        self._services = observer.services
        self._observer = observer
        self._last_turns = last_turns
        self._name_taken_by = name_taken_by
        self._takes_over = takes_over
        self._others = OtherDaemons(self._services, self._services.rules.watch_folder)
        self._ours = f"{self._services.owner_name}/"
        self._reported_at = -inf
        """When the last report was stored, by ``trio.current_time()``."""
        self._tried_at = -inf
        """When the last report was sent."""
        self._registered_at = -inf
        self._made_at = 0.0
        """When it was made, in Unix time."""
        self._runs = False
        self._was_starting = False
        """Whether the last report has the daemon as starting."""
        self._refusal = ""
        """The error that is logged already."""
        self._unused: frozenset[str] = frozenset()
        """Names in the registry that no process uses any more."""

    async def run(self) -> None:
        """Report until cancelled; then report that the daemon stops, if Redis responds at once.

        While Redis is unavailable, a report is late, and readers see an old one.
        """
        store = self._services.store
        await self._services.determine_owner()  # so that the first report already names our owner
        self._runs = True
        try:
            while True:
                await self._report_if_late()
                await trio.sleep(PERIOD_SECONDS * _LATE)
        finally:
            self._runs = False
            if self._services.redis_breaker.outage is None:
                with shielded(_LAST_REPORT_SECONDS, saving="daemon's last report"), suppress(CefMp4ProcessorError):
                    last = daemon_report.stopped(self._current(), self._name_taken_by())
                    await store.report(last.instance, daemon_report.encode(last), beginning=self._ours)

    async def _report_if_late(self) -> None:
        """Report if no heartbeat has; forget the names that are not used any more; register the owner's name."""
        store, now = self._services.store, trio.current_time()
        try:
            has_started = self._was_starting and self._observer().judgement.state is not State.STARTING
            if has_started or now >= self._reported_at + (1 + _LATE) * PERIOD_SECONDS:
                name, text, ours = self._report()
                self.reported(await store.report(name, text, beginning=ours))
            if self._unused:
                await store.forget_reports(self._unused)
                self._unused = frozenset()
            if self._services.owners is not None and now >= self._registered_at + _REGISTER_SECONDS:
                await self._services.owners.register()
                self._registered_at = now
        except CefMp4ProcessorError as error:
            log.debug("report_not_written", error=str(error))
            if not error.transient and str(error) != self._refusal:  # logged once: it does not pass by itself
                self._refusal = str(error)
                log.warning("report_refused", error=self._refusal)

    def due_report(self) -> tuple[str, str, str] | None:
        """Return the arguments of the report that is due; ``None`` if none is. Sent but not stored, it is due later."""
        now = trio.current_time()
        if not self._runs or now < max(self._reported_at, self._tried_at) + _ALMOST * PERIOD_SECONDS:
            return None
        self._tried_at = now
        return self._report()

    def reported(self, before: StoredReports) -> None:
        """Note that the report was stored; evaluate the reports of our owner's daemons before it."""
        self._reported_at, self._refusal = trio.current_time(), ""
        self._takes_over()
        self._services.metrics.redis_clock_offset_seconds = self._made_at - before.now
        fleet, services = read_fleet(before), self._services
        self._unused = self._others.update(fleet)
        services.peers.update(fleet, services.work_group, services.lease.token, self._reported_at)

    def _report(self) -> tuple[str, str, str]:
        report = self._current()
        self._made_at, self._was_starting = report.at, report.starting
        return report.instance, daemon_report.encode(report), self._ours

    def _current(self) -> DaemonReport:
        turns = {name: self._services.unix_time(moment) for name, moment in self._last_turns().items()}
        return make_report(self._observer, self._others, **turns)


def make_report(
    observer: Observer, others: OtherDaemons, *, watcher_at: float | None = None, idle_checker_at: float | None = None
) -> DaemonReport:
    """Return the current report; the times are Unix time."""
    services, now = observer.services, observer()
    rules = services.rules
    lease, owner, known = services.lease, services.ownership.owner, services.metrics.survey.known_streams
    folder = rules.watch_folder
    return DaemonReport(
        instance=others.reported_as,
        at=now.at,
        folder=rules.described_folders,
        starting=now.judgement.state is State.STARTING,
        risks=now.risks,
        activities={
            one.stream_id: one.activity.value
            for one in sorted(now.streams, key=lambda one: one.lag.size_bytes, reverse=True)
            if one.stream_id is not None
        },
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
        objects=f"{rules.endpoint} {rules.bucket}/{rules.key_template.prefix}",
        mixes_owners=rules.key_template.mixes_owners,
        work_group=services.work_group,
        version=__version__,
        schema=schema.CURRENT,
        newer_records=now.newer_records or None,
        streams={state.value: count for state, count in now.active_streams.items() if count},
        completed=known.get(StreamSet.COMPLETED),
        failed=known.get(StreamSet.FAILED),
        behind=now.lag,
        bytes_per_second=now.bytes_per_second,
        sent_per_second=round(now.sent_per_second) or None,
        upload_limit=now.upload_limit or None,
        watcher_at=watcher_at,
        idle_checker_at=idle_checker_at,
        waits_for=tuple(service for service, outage in now.outages.items() if outage is not None),
    )


class WaitingReport:
    """The report of a daemon whose start waits: for its watch folder, for S3, for its owner's name, and so on.

    It is written every ``PERIOD_SECONDS``, once the start takes that long, and removed when the reporter takes over, or
    the start ends. Its name does not begin with the owner's: as long as another running system may have that name (a
    clone's original), a report under it may be that system's; and the daemons of the owner do not take it for one of
    them, which would share their work.

    ``make`` returns the current report, whose name is that of :func:`waiting_name`; ``is_reachable`` whether Redis is
    up, as far as is known.
    """

    def __init__(
        self, store: CheckpointStore, make: Callable[[], DaemonReport], is_reachable: Callable[[], bool] = lambda: True
    ) -> None:
        self._store = store
        self._make = make
        self._is_reachable = is_reachable
        self._over = AsyncBool(False)
        self._written = ""
        """Its name, if Redis may have it."""

    def end(self) -> None:
        """Have it removed: the reporter's first report is stored."""
        self._over.value = True

    async def run(self) -> None:
        """Write it until :meth:`end` was called, or until cancelled; then remove it, if Redis responds."""
        try:
            while not await self._ends_within(PERIOD_SECONDS):
                await self._write()
            await self._remove()
        finally:
            if self._written and self._is_reachable():
                with shielded(_LAST_REPORT_SECONDS, saving="end of the wait"):
                    await self._remove()

    async def _ends_within(self, seconds: float) -> bool:
        with trio.move_on_after(seconds):
            await self._over.wait_value(True)
        is_over: bool = self._over.value
        return is_over

    async def _write(self) -> None:
        report = self._make()
        self._written = report.instance  # also if the reply is lost
        try:
            await self._store.report(report.instance, daemon_report.encode(report), beginning=f"{report.instance}/")
        except CefMp4ProcessorError as error:
            log.debug("report_not_written", error=str(error))

    async def _remove(self) -> None:
        while self._written:
            try:
                await self._store.forget_reports([self._written])
                self._written = ""
            except CefMp4ProcessorError as error:
                if not error.transient:
                    return  # it counts for a minute only
                await trio.sleep(PERIOD_SECONDS)


def waiting_name(owner: str, instance: str, system: str, folder: str) -> str:
    """Return the name of the report of a daemon whose start waits."""
    return f"waiting {owner}/{instance}@{system} {folder}"


def waiting_report(observer: Observer, name_is_taken: Callable[[], bool]) -> WaitingReport:
    """Return the report of a daemon with services; ``name_is_taken``: another running system has the owner's name."""
    services = observer.services
    lease, folder = services.lease, services.rules.described_folders

    def make() -> DaemonReport:
        now, is_taken = observer(), name_is_taken()
        waits_for = [service for service, outage in now.outages.items() if outage is not None]
        if is_taken:
            waits_for.append("owner's name")
        return DaemonReport(
            instance=waiting_name(services.owner_name, lease.instance, lease.host, folder),
            at=now.at,
            folder=folder,
            starting=True,
            risks=now.risks,
            name=lease.instance,
            host=socket.gethostname(),
            system=lease.host,
            # Without one it is no second daemon beside the last report of its earlier life, which counts for a minute.
            process=lease.token if is_taken else "",
            owner=services.owner_name,
            version=__version__,
            schema=schema.CURRENT,
            waits_for=tuple(waits_for),
        )

    return WaitingReport(services.store, make, lambda: services.redis_breaker.outage is None)


class OtherDaemons:
    """What the reports of our owner's other daemons reveal about our identity."""

    def __init__(self, services: Services, folder: str) -> None:
        self._services = services
        self._lease = services.lease
        self._folder = folder
        self._seen_at: dict[str, float] = {}
        self._logged: set[str] = set()
        """Processes with our name that are logged already."""
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
        """Evaluate the reports of our owner's daemons; return the names that no process uses any more.

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
            if one.instance_id == self._lease.instance and one.system == self._lease.host:
                self._services.twins.add(one.process)
            if one.system != self._lease.host and self._has_our_place(one):
                log.error("machine_cloned", host=one.host, folder=one.folder)
                self._services.ownership.mark_cloned(self._lease.host)
            if one.instance == self.reported_as and one.process < self._lease.token:
                self._suffix = f"+{self._lease.token[:8]}"  # else both would overwrite each other's report
        self._services.twins.intersection_update(one.process for one in others if one.lives(fleet.now))
        self._seen_at = {one.process: one.at for one in others}
        return frozenset(one.instance for one in fleet.reports if self._is_unused(one, fleet.now))

    def _has_our_place(self, one: DaemonReport) -> bool:
        """Return whether a report is of our machine and folder, also if its daemon has noticed us already."""
        owner = self._services.ownership.owner
        if owner is None or not one.place:
            return False
        return one.place in {self.place, cloned(owner, one.system).name}

    def _is_unused(self, one: DaemonReport, now: float) -> bool:
        if one.process == self._lease.token:  # not by our earlier name: a clone, or a twin, may have that still
            return one.instance != self.reported_as
        return not one.stopped and self._is_earlier_life(one, now)

    def _is_earlier_life(self, one: DaemonReport, now: float) -> bool:
        if one.instance_id != self._lease.instance or one.folder != self._folder or one.instance == self.reported_as:
            return False
        # Of a version that did not name its process, or of an ended process of this system with another disk there.
        return not one.process or (one.system == self._lease.host and one.is_silent(now))
