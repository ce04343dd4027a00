"""Intake tasks: find files, supervise streams, run follow-ups and report status.

The daemon and the laboratory start the same tasks (``tests/lab/test_lab_daemon.py``). Only the source of file events
differs: the watcher, or a test's script.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random

import trio

from cef_trio.observability import survey_redis
from cef_trio.postprocess import (
    AfterUpload,
    WebhookDeliverer,
    forget_old_streams,
)
from cef_trio.settings import KEEP, AfterUploadRule
from cef_trio.upload import IdleChecker, Observer, report_for_ever


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeRules:
    """Parameters of the intake tasks. Times in seconds."""

    folder: str
    timeout_seconds: float = 30.0
    """``STREAM_TIMEOUT_SECONDS``."""
    check_seconds: float = 5.0
    after_upload: AfterUploadRule = KEEP
    webhook_retry_seconds: float = 86_400.0
    retention: timedelta = timedelta(days=30)
    random: Random = field(default_factory=Random)


class IntakeTasks:
    """The intake tasks of one daemon; started once."""

    def __init__(self, observer: Observer, rules: IntakeRules) -> None:
        services, supervisor = observer.services, observer.supervisor
        self.idle_checker = IdleChecker(
            services,
            supervisor,
            watch_folder=rules.folder,
            timeout_seconds=rules.timeout_seconds,
            period_seconds=rules.check_seconds,
        )
        self._after_upload = AfterUpload(services, rules.after_upload, rules.folder)
        supervisor.on_uploaded = self._after_upload.offer
        self._observer = observer
        self._rules = rules

    async def start(self, nursery: trio.Nursery, watch: Callable[[], Awaitable[object]]) -> None:
        """Start all tasks. ``watch`` starts the source of file events and returns after the first scan."""
        services, rules = self._observer.services, self._rules
        nursery.start_soon(self._observer.supervisor.run)
        nursery.start_soon(report_for_ever, services, self._observer, rules.folder)
        nursery.start_soon(self._after_upload.run)
        if services.webhook is not None:
            deliverer = WebhookDeliverer(
                services,
                services.webhook,
                watch_folder=rules.folder,
                retry_seconds=rules.webhook_retry_seconds,
                random=rules.random,
            )
            services.metrics.pending_webhooks_by(lambda: deliverer.pending)
            nursery.start_soon(deliverer.run)
        await watch()
        nursery.start_soon(self.idle_checker.run)
        services.metrics.last_run_by("idle_checker", lambda: services.unix_time(self.idle_checker.last_run))
        nursery.start_soon(survey_redis, services.store, services.metrics)
        nursery.start_soon(forget_old_streams, services, rules.retention)
