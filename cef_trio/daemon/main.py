"""The nursery tree: how the daemon starts, runs and shuts down.

::

    root nursery
    ├─ signal listener           1st signal: drain · 2nd: cancel · 3rd: exit at once · SIGHUP: reload
    ├─ settings reloader         reads the settings again after SIGHUP
    ├─ admin server              status page, metrics, health, readiness; starts before S3 and Redis are reached
    ├─ background nursery        lease renewal, probes of S3 and Redis, abort of orphan uploads, the owner's claim
    └─ processor nursery         (drained, then cancelled) one task per stream
        └─ intake scope          (cancelled first)
            ├─ watcher           inotify events are hints; a periodic rescan is the truth
            ├─ resolver          looks up unknown files in Redis and starts their streams
            ├─ idle checker      idle → finalize · grew → upload · shrank or vanished → check · no task → resume
            ├─ after upload      deletes or moves completed recordings (AFTER_UPLOAD)
            ├─ webhooks          delivers pending webhooks (ON_COMPLETE_WEBHOOK)
            ├─ retention         forgets ended streams, COMPLETED_RETENTION_DAYS after their files are gone
            ├─ waiting report    takes the reporter's place in the registry while the start waits
            ├─ reporter          writes the daemon's report into the registry, for commands and pages
            ├─ Redis survey      reads what metrics need from Redis
            ├─ status source     samples the last hour; while someone looks, reads ended streams and the fleet
            └─ watchdog          notifies systemd while the loop, the watcher and the idle checker make progress

``README.md`` and ``docs/architecture.md`` copy this tree; ``tests/house/test_nursery_tree.py`` compares them.

Shutdown (promise P4): the first signal cancels the intake scope, drains the processors, and sets the deadline of the
processor nursery to ``SHUTDOWN_GRACE_SECONDS`` from now. The deadline starts at the signal, so a hung S3, Redis or disk
cannot delay it. A cancelled task saves its state in a shielded section of at most ``SHUTDOWN_SAVE_SECONDS``. If a save
fails, the exit code is 3 and the last checkpoint remains valid.

Each wait during shutdown has its own limit, but the limits may add up, and a worker thread that cannot be abandoned may
block in a call without one (a name lookup, a slow server). ``exit_watchdog.py`` therefore enforces the total from a
thread of its own.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

import structlog
import trio

from cef_trio import __version__
from cef_trio.admin import AdminPortError, DaemonSource, IntakeTask, serve_admin
from cef_trio.daemon.exit_watchdog import EXIT_SIGNALS, ExitWatchdog
from cef_trio.daemon.intake_tasks import IntakeRules, IntakeTasks
from cef_trio.daemon.reload import SettingsReloader, SettingsSource, Terminal, unblock_sighup
from cef_trio.daemon.start_checks import (
    RefusedAtStartError,
    check_reachable,
    raise_schema,
    retry_until_reachable,
    warn_of_shared_folder,
    warn_of_unused_proxy,
)
from cef_trio.daemon.systemd import STATUS_SECONDS, Heartbeat, ServiceNotifier
from cef_trio.daemon.watch_folder import enter_watch_folder
from cef_trio.daemon.wiring import open_services
from cef_trio.exit_codes import ExitCode
from cef_trio.observability import Redactor, Waiting, lost_lines, recent_lines_of
from cef_trio.resilience import Periodic, ThreadedResolver
from cef_trio.settings import Settings, secret_values, without_secrets
from cef_trio.upload import (
    IdleChecker,
    RiskObserver,
    Services,
    StreamSupervisor,
    abort_orphan_uploads,
    survey_disks,
)
from cef_trio.watch import PathMatcher, ThreadedReader, Watcher, WatchScope

log = structlog.get_logger(__name__)

_WAITS = "waiting for Redis and S3"


@dataclass(eq=False, slots=True)
class Shutdown:
    """State of the shutdown, and the effect of each signal. Times in seconds."""

    grace_seconds: float
    save_seconds: float
    watchdog: ExitWatchdog | None = None
    """Ends the process at the deadline or at the third signal."""
    intake: trio.CancelScope = field(default_factory=trio.CancelScope)
    workers: list[trio.CancelScope] = field(default_factory=list)
    """Scopes that are cancelled when the grace period ends."""
    on_drain: list[Callable[[], object]] = field(default_factory=list)
    signals: int = 0
    began_at: float | None = None
    """``trio.current_time()`` of the first signal."""

    def request(self) -> None:
        """Advance the shutdown: drain, then cancel, then exit."""
        self.signals += 1
        if self.watchdog is not None:
            self.watchdog.count_signal(self.signals)
        match self.signals:
            case 1:
                self.began_at = trio.current_time()
                log.info("shutdown_started", grace_seconds=self.grace_seconds)
                for drain in self.on_drain:
                    drain()
                for scope in self.workers:
                    scope.deadline = trio.current_time() + self.grace_seconds
                self.intake.cancel()
            case 2:
                log.warning("shutdown_grace_skipped")
                for scope in self.workers:
                    scope.cancel()


@dataclass(eq=False, slots=True)
class RunningDaemon:
    """Handle to a started daemon, passed to ``task_status.started``."""

    services: Services
    supervisor: StreamSupervisor
    watcher: Watcher
    idle_checker: IdleChecker
    risks: RiskObserver
    shutdown: Shutdown

    def heartbeats(self) -> list[Heartbeat]:
        """Return the heartbeats of the supervising tasks. The idle checker is excused while Redis is down."""
        redis_down, watcher = not self.services.redis_breaker.up.value, self.watcher
        return [
            Heartbeat("watcher", max(watcher.last_attempt, watcher.read_at), watcher.rescan_seconds),
            Heartbeat("idle checker", self.idle_checker.last_run, self.idle_checker.period_seconds, excused=redis_down),
        ]

    def describe(self) -> str:
        """Return a one-line status for the service manager."""
        open_streams = len(self.supervisor.live_ids)
        return f"{self.risks.judgement().describe()}; {open_streams} open stream{'' if open_streams == 1 else 's'}"


OpenServices = Callable[[Settings], AbstractAsyncContextManager[Services]]


def main_daemon(settings: Settings, source: SettingsSource) -> ExitCode:
    """Run the daemon until a signal ends it, then end the process. ``source`` is read again on SIGHUP.

    The process ends without the interpreter's teardown: nothing is left to save, and on a starved machine the teardown
    could outlast the deadline (P4).
    """
    watchdog = ExitWatchdog(settings.shutdown_grace_seconds, settings.shutdown_save_seconds)
    watchdog.start(block_signals=True)  # never stopped: it also bounds the last steps
    open_real_services = partial(open_services, read_again=lambda: source.read()[0])
    code = trio.run(partial(run_daemon, settings, source=source, open_services=open_real_services, watchdog=watchdog))
    watchdog.exit(code)
    return code


async def run_daemon(
    settings: Settings,
    *,
    source: SettingsSource | None = None,
    open_services: OpenServices = open_services,
    watchdog: ExitWatchdog | None = None,
    task_status: trio.TaskStatus[RunningDaemon] = trio.TASK_STATUS_IGNORED,
) -> ExitCode:
    """Run the daemon until a signal or :meth:`Shutdown.request` ends it.

    Reports started (``nursery.start``) once Redis and S3 have responded and the watch folder was scanned.

    ``source`` is where SIGHUP reads the settings from; by default SIGHUP changes nothing. The laboratory passes its own
    ``open_services``. ``watchdog`` is a running one; by default there is one as long as the daemon runs.

    Waits while the mount of the watch folder does not respond (``watch_folder.py``).

    Returns:
        ``DONE``; ``REFUSED`` if S3 or Redis refused the connection at the start; ``BAD_SETTINGS`` if the admin server
        cannot listen on its address; ``NOT_SAVED`` if the state of a stream was not saved.
    """
    shutdown = Shutdown(settings.shutdown_grace_seconds, settings.shutdown_save_seconds)
    notifier = ServiceNotifier.from_environment()
    shutdown.on_drain.append(notifier.stopping)
    notifier.status(_WAITS)
    log.info("daemon_starting", version=__version__, pid=os.getpid(), **without_secrets(settings))
    if settings.s3_proxy_url is None:
        warn_of_unused_proxy()
    trio.socket.set_custom_hostname_resolver(ThreadedResolver())
    exit_code, unsaved = ExitCode.DONE, set[str]()
    with _running_watchdog(shutdown, watchdog) as running_watchdog:
        async with enter_watch_folder(settings, shutdown.request, notifier.status) as entered:
            if entered is not None:
                async with open_services(entered) as services:
                    services.metrics.lost_log_lines_by(lost_lines)
                    reloader = SettingsReloader(
                        settings,
                        source or SettingsSource(None, lambda: settings),
                        services.rate_limiter,
                        renew_credentials=services.renew_credentials,
                    )
                    exit_code = await _run_root(
                        entered,
                        services,
                        shutdown,
                        reloader,
                        watchdog=running_watchdog,
                        notifier=notifier,
                        task_status=task_status,
                    )
                    unsaved = services.shutdown_flush.unsaved
    if unsaved:
        log.error("streams_not_saved", streams=sorted(unsaved))
        exit_code = ExitCode.NOT_SAVED
    took = trio.current_time() - shutdown.began_at if shutdown.began_at is not None else 0.0
    log.info("daemon_stopped", exit_code=int(exit_code), shutdown_seconds=round(took, 3))
    if watchdog is not None:
        watchdog.finished(exit_code)
    return exit_code


async def _run_root(
    settings: Settings,
    services: Services,
    shutdown: Shutdown,
    reloader: SettingsReloader,
    *,
    watchdog: ExitWatchdog,
    notifier: ServiceNotifier,
    task_status: trio.TaskStatus[RunningDaemon],
) -> ExitCode:
    """Run the root nursery. Return the exit code, as if every state was saved."""
    async with trio.open_nursery() as root:
        root.start_soon(reloader.run)
        await root.start(_listen_for_signals, shutdown, reloader, watchdog)
        status = DaemonSource(
            services,
            services.rules.described_folders,
            lambda: shutdown.signals > 0,
            Redactor(secret_values(settings)).text,
            recent_lines_of,
        )
        watchdog.unsaved = lambda: services.shutdown_flush.unsaved | _live_ids(status)
        try:
            serve_page = partial(serve_admin, allowed_hosts=settings.prom_allowed_hosts)
            await root.start(serve_page, status, services.metrics.registry, settings.prom_host, settings.prom_port)
        except AdminPortError as error:
            log.error("refused_at_start", error=str(error))  # noqa: TRY400 - operator error: no traceback
            exit_code = ExitCode.BAD_SETTINGS
        else:
            exit_code = await serve(
                services,
                shutdown,
                _scope(settings),
                _intake_rules(settings),
                lambda tasks: _run_intake(
                    settings, tasks, shutdown, notifier=notifier, status=status, task_status=task_status
                ),
                redact=status.redact,
            )
        root.cancel_scope.cancel()
    return exit_code


async def _listen_for_signals(
    shutdown: Shutdown,
    reloader: SettingsReloader,
    watchdog: ExitWatchdog,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    terminal = Terminal()
    with trio.open_signal_receiver(*EXIT_SIGNALS, signal.SIGHUP) as signals, watchdog.counting_signals():
        unblock_sighup()
        task_status.started()
        async for number in signals:
            log.info("signal_received", signal=signal.Signals(number).name)
            if number == signal.SIGHUP and not terminal.is_closed():
                reloader.request()
            else:
                shutdown.request()


@contextmanager
def _running_watchdog(shutdown: Shutdown, given: ExitWatchdog | None) -> Iterator[ExitWatchdog]:
    """Connect the shutdown to the given watchdog, or to a new one that is stopped at the end."""
    watchdog = given or ExitWatchdog(shutdown.grace_seconds, shutdown.save_seconds)
    shutdown.watchdog = watchdog
    with nullcontext() if given is not None else watchdog.running():
        yield watchdog


def _live_ids(status: DaemonSource) -> frozenset[str]:
    return status.observer.supervisor.live_ids if status.observer is not None else frozenset()


async def serve(
    services: Services,
    shutdown: Shutdown,
    matches: PathMatcher,
    rules: IntakeRules,
    run_intake: Callable[[IntakeTasks], Awaitable[ExitCode]],
    *,
    redact: Callable[[str], str] = str,
) -> ExitCode:
    """Run the tree below the root nursery until ``shutdown`` was requested and every stream's task has ended.

    ``run_intake`` starts the tasks and passes files to their supervisor until it is cancelled. Its return value is the
    exit code of a refused start. ``redact`` removes secrets from the texts of risks.
    """
    exit_code = ExitCode.DONE
    async with _background(shutdown, services.s3_breaker.run, services.redis_breaker.run) as background:
        async with trio.open_nursery() as processors:
            shutdown.workers.append(processors.cancel_scope)
            tasks = IntakeTasks(
                services, processors, matches, rules, leaving_since=lambda: shutdown.began_at, redact=redact
            )
            services.metrics.snapshots_by(tasks.observer)
            shutdown.on_drain += [services.shutdown_flush.leave, tasks.supervisor.drain]
            background.start_soon(tasks.supervisor.renew_leases)
            background.start_soon(services.best_effort.retry_failing, services.reach_s3)
            background.start_soon(abort_orphan_uploads, services, lambda: tasks.claim.allows_work)
            background.start_soon(tasks.claim.keep, shutdown.request)
            with shutdown.intake:
                exit_code = await run_intake(tasks)
        log.debug("processors_ended")
    return ExitCode.REFUSED if tasks.claim.lost else exit_code


def _scope(settings: Settings) -> WatchScope:
    return WatchScope.of(
        map(os.fspath, settings.watch_dirs),
        settings.watch_patterns,
        settings.watch_exclude,
        map(os.fspath, settings.watch_link_roots),
    )


def _intake_rules(settings: Settings) -> IntakeRules:
    return IntakeRules(
        timeout_seconds=settings.stream_timeout_seconds,
        check_seconds=min(settings.stale_check_seconds, settings.stream_timeout_seconds / 2),
        after_upload=settings.after_upload_rule,
        webhook_retry_seconds=settings.webhook_retry_hours * 3600,
        retention=timedelta(days=settings.completed_retention_days),
        failed_retention=timedelta(days=settings.failed_retention_days) if settings.failed_retention_days else None,
    )


async def _run_intake(
    settings: Settings,
    tasks: IntakeTasks,
    shutdown: Shutdown,
    *,
    notifier: ServiceNotifier,
    status: DaemonSource,
    task_status: trio.TaskStatus[RunningDaemon],
) -> ExitCode:
    status.observer = tasks.observer
    services = tasks.services
    start, step = trio.CancelScope(), _WAITS
    async with trio.open_nursery() as intake:
        intake.start_soon(tasks.waiting.run)
        intake.start_soon(_keep_status, start, notifier, lambda: _describe_start(tasks, status, step))
        try:
            await check_reachable(services, create_bucket=settings.s3_create_bucket)
            await _enter_namespace(tasks, partial(_report_wait, tasks, notifier, status))
        except RefusedAtStartError as error:
            log.error("refused_at_start", error=str(error))  # noqa: TRY400 - operator error: no traceback
            intake.cancel_scope.cancel()
            return ExitCode.REFUSED
        status.waits_for, tasks.risks.not_started = "", None
        step = "reading the watch folder"
        notifier.status(_describe_start(tasks, status, step))
        folder, matches = os.fspath(settings.watch_dir), _scope(settings)
        reader = ThreadedReader(matches, services.mounts)
        watcher = Watcher(
            folder,
            matches,
            tasks.supervisor,
            rescan_seconds=settings.rescan_seconds,
            reader=reader,
            links=settings.watch_dir_links,
        )
        reader.on_progress = watcher.progressed
        await tasks.start(intake, lambda: tasks.watch(intake, watcher))
        intake.start_soon(status.run)
        intake.start_soon(survey_disks, services, lambda: watcher.mount_points)
        intake.start_soon(tasks.upgrade.keep_moving)
        status.watcher = IntakeTask(watcher, settings.rescan_seconds)
        status.checker = IntakeTask(tasks.idle_checker, tasks.idle_checker.period_seconds)
        daemon = RunningDaemon(services, tasks.supervisor, watcher, tasks.idle_checker, tasks.risks, shutdown)
        log.info("daemon_started", watch_dir=services.rules.described_folders)
        start.cancel()
        notifier.ready(daemon.describe())
        intake.start_soon(notifier.watch, daemon.heartbeats, daemon.describe)
        task_status.started(daemon)
    return ExitCode.DONE


async def _keep_status(scope: trio.CancelScope, notifier: ServiceNotifier, describe: Callable[[], str]) -> None:
    """Keep the status line current while the daemon starts, which may take hours; then the notifier does it."""
    with scope:
        async for _ in Periodic(STATUS_SECONDS):
            notifier.status(describe())


def _describe_start(tasks: IntakeTasks, status: DaemonSource, step: str) -> str:
    """Return the judgement, and what the start waits for, or its step."""
    return f"{tasks.risks.judgement().describe()}; {status.waits_for or step}"


def _report_wait(tasks: IntakeTasks, notifier: ServiceNotifier, status: DaemonSource, text: str) -> None:
    before = tasks.risks.not_started
    status.waits_for = text
    tasks.risks.not_started = Waiting(before.since if before is not None else trio.current_time(), why=text)
    notifier.status(_describe_start(tasks, status, text))


async def _enter_namespace(tasks: IntakeTasks, report: Callable[[str], object]) -> None:
    """Claim the owner's name, and move the streams of earlier versions into its namespace.

    Raises:
        RefusedAtStartError: Redis denies access.
    """
    services = tasks.services
    breaker = services.redis_breaker
    await warn_of_shared_folder(services)
    await retry_until_reachable("claim_owner", partial(tasks.claim.take, report), breaker)
    await raise_schema(services)
    # Elsewhere the reporter registers it: in a cluster the registry may be on a node that is down.
    if services.owners is not None and services.rules.key_template.mixes_owners:
        await retry_until_reachable("register_owner", services.owners.register, breaker)
    await retry_until_reachable("move_legacy", partial(tasks.upgrade.run, report), breaker)


@asynccontextmanager
async def _background(shutdown: Shutdown, *tasks: Callable[[], Awaitable[None]]) -> AsyncIterator[trio.Nursery]:
    """Run tasks that the streams need, until the last stream has ended or the grace period is over."""
    async with trio.open_nursery() as nursery:
        shutdown.workers.append(nursery.cancel_scope)
        for task in tasks:
            nursery.start_soon(task)
        yield nursery
        nursery.cancel_scope.cancel()
