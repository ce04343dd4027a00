"""Intake tasks: find files, supervise streams, run follow-ups and report status; and the objects they work with.

The daemon and the laboratory build the same objects and start the same tasks (``tests/lab/test_lab_daemon.py``). Only
the source of file events differs: the watcher, or a test's script.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random

import trio

from cef_trio.daemon.owner_claim import ClaimKeeper
from cef_trio.daemon.upgrade import Upgrade
from cef_trio.observability import survey_redis
from cef_trio.postprocess import (
    AfterUpload,
    Completions,
    Events,
    Source,
    WebhookDeliverer,
    forget_old_streams,
    mend_indexes,
)
from cef_trio.settings import KEEP_RECORDING, AfterUploadRule
from cef_trio.upload import (
    FAILED_EVENT,
    STARTED_EVENT,
    Heartbeat,
    IdleChecker,
    Observer,
    Reporter,
    RiskObserver,
    Services,
    StreamSupervisor,
    waiting_report,
)
from cef_trio.watch import PathMatcher, Watcher
from cef_trio.webhook import WebhookClient


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeRules:
    """Parameters of the intake tasks. Times in seconds."""

    timeout_seconds: float = 30.0
    """``STREAM_TIMEOUT_SECONDS``."""
    check_seconds: float = 5.0
    after_upload: AfterUploadRule = KEEP_RECORDING
    webhook_retry_seconds: float = 86_400.0
    retention: timedelta = timedelta(days=30)
    failed_retention: timedelta | None = None
    """``FAILED_RETENTION_DAYS``; ``None``: as ``retention``."""
    random: Random = field(default_factory=Random)


class IntakeTasks:
    """The intake tasks of one daemon, and the objects that they work with; started once."""

    def __init__(
        self,
        services: Services,
        processors: trio.Nursery,
        matches: PathMatcher,
        rules: IntakeRules,
        *,
        leaving_since: Callable[[], float | None],
        redact: Callable[[str], str],
    ) -> None:
        """``leaving_since``: see :class:`Observer`; ``redact`` removes secrets from the texts of risks."""
        self.services = services
        self.claim = ClaimKeeper(services)
        self.upgrade = Upgrade(services)
        self.supervisor = StreamSupervisor(services, processors, matches)
        self.risks = RiskObserver(services, self.supervisor, lambda: leaving_since() is not None, redact)
        self.observer = Observer(services, self.supervisor, self.risks, leaving_since)
        self.waiting = waiting_report(self.observer, lambda: self.claim.is_taken)
        """Run by the daemon while its start waits, before :meth:`start`."""
        self._reporter = Reporter(self.observer, self._last_turns, lambda: self.claim.lost_to, self.waiting.end)
        heartbeat = Heartbeat(services, self.supervisor, self._reporter, period_seconds=rules.check_seconds)
        self.idle_checker = IdleChecker(
            services,
            self.supervisor,
            timeout_seconds=rules.timeout_seconds,
            period_seconds=rules.check_seconds,
            ask_expired=heartbeat.expired,
        )
        self._after_upload = AfterUpload(
            services, rules.after_upload, self.supervisor.files.has_settled, lambda: self.supervisor.unverified
        )
        free_space = self._after_upload.free_space
        if free_space is not None:
            self.risks.disk_short = lambda: free_space.stuck
            services.metrics.missing_space_by(lambda: free_space.missing_bytes)
        self._rules = rules

    async def start(self, nursery: trio.Nursery, watch: Callable[[], Awaitable[object]]) -> None:
        """Start all tasks. ``watch`` starts the source of file events and returns after the first scan."""
        services, rules = self.services, self._rules
        nursery.start_soon(self.supervisor.run, self._after_upload.offer)
        nursery.start_soon(self._reporter.run)
        nursery.start_soon(self._after_upload.run)
        if deliverers := tuple(self._deliverers()):
            services.metrics.pending_webhooks_by(lambda: sum(one.pending for one in deliverers))
        for deliverer in deliverers:
            nursery.start_soon(deliverer.run)
        await watch()
        self.risks.starting, self.risks.checker = False, self.idle_checker
        nursery.start_soon(self.idle_checker.run)
        services.metrics.last_run_by("idle_checker", lambda: services.unix_time(self.idle_checker.last_run))
        nursery.start_soon(survey_redis, services.store, services.metrics, services.verification_totals)
        nursery.start_soon(forget_old_streams, services, rules.retention, rules.failed_retention)
        nursery.start_soon(mend_indexes, services)

    def _deliverers(self) -> Iterator[WebhookDeliverer]:
        """Yield the tasks that deliver webhooks, one for each receiver."""
        services, rules = self.services, self._rules
        receivers: list[tuple[WebhookClient | None, Source]] = [
            (services.webhook, Completions(services)),
            (services.start_webhook, Events(services, STARTED_EVENT)),
            (services.failure_webhook, Events(services, FAILED_EVENT)),
        ]
        for client, source in receivers:
            if client is not None:
                yield WebhookDeliverer(
                    services, client, retry_seconds=rules.webhook_retry_seconds, random=rules.random, source=source
                )

    def _last_turns(self) -> dict[str, float]:
        turns = {"idle_checker_at": self.idle_checker.last_run}
        return turns if self.risks.watcher is None else {**turns, "watcher_at": self.risks.watcher.last_run}

    async def watch(self, nursery: trio.Nursery, watcher: Watcher) -> None:
        """Start the watcher as the source of file events, and of the scans that other objects request."""
        self.services.scans.request_scan = self.services.mounts.on_recovery = watcher.rescan
        self.risks.watcher = watcher
        await nursery.start(watcher.run)
        self.services.metrics.last_run_by("watcher", lambda: self.services.unix_time(watcher.last_run))
