"""The nursery tree: how the daemon starts, runs and leaves. Read it downwards for the start, upwards for the end.

::

    root nursery
    ├─ signal listener                1st signal: drain · 2nd: cancel · 3rd: exit at once · SIGHUP: reload
    ├─ settings reloader              reads the settings once more when SIGHUP asks for it
    ├─ admin server                   metrics, health, the status page; up before the first word with S3 or Redis
    ├─ background nursery             lease renewal, probes of S3 and Redis, the cleanup of orphaned uploads
    └─ processor nursery              (drained, then cancelled) one task a stream
        └─ intake scope               (cancelled first) watcher, idle checker, resolver of unknown files,
                                      survey of Redis, report, watchdog, what follows an upload,
                                      webhooks

Leaving (promise P4): the first signal cancels the intake scope and tells the processors to drain, and in the same
moment gives the processor nursery a deadline, ``SHUTDOWN_GRACE_SECONDS`` away. So nothing that hangs, be it S3, Redis
or a disk, has to be waited for before the clock starts. A task that is cancelled saves its state in a shielded section
of at most ``SHUTDOWN_SAVE_SECONDS``. What could not be saved makes the exit code 3; the last checkpoints are true.

Every wait on the way out has a limit of its own. They may add up, and a worker thread that must not be abandoned may be
held by what has no limit (a name service, a server that trickles); so a thread counts the seconds, too, and needs this
loop for nothing (``exit_watchdog.py``).
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
from cef_trio.daemon.exit_watchdog import ENDING, ExitWatchdog
from cef_trio.daemon.intake_tasks import IntakeRules, IntakeTasks
from cef_trio.daemon.reload import SettingsReloader, SettingsSource, Terminal, take_hangups
from cef_trio.daemon.systemd import Heartbeat, ServiceNotifier
from cef_trio.daemon.wiring import RefusedAtStartError, check_reachable, lock_watch_folder, open_services
from cef_trio.exit_codes import ExitCode
from cef_trio.observability import Redactor, lost_lines
from cef_trio.postprocess import parse_rule
from cef_trio.resilience import ThreadedResolver
from cef_trio.settings import Settings, secret_values, without_secrets
from cef_trio.upload import IdleChecker, Observer, RiskObserver, Services, StreamSupervisor, abort_orphan_uploads
from cef_trio.watch import PathMatcher, ThreadedReader, Watcher, matcher

log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class Shutdown:
    """How far the daemon is on its way out, and what each signal does. Times in seconds."""

    grace_seconds: float
    save_seconds: float
    watchdog: ExitWatchdog | None = None
    """Ends the process when its time is over, or at the third signal."""
    intake: trio.CancelScope = field(default_factory=trio.CancelScope)
    workers: list[trio.CancelScope] = field(default_factory=list)
    """Scopes that are cancelled when the grace is over."""
    on_drain: list[Callable[[], object]] = field(default_factory=list)
    signals: int = 0
    began_at: float | None = None
    """``trio.current_time()`` of the first signal."""

    def request(self) -> None:
        """Take one step further out: drain, then cancel, then exit."""
        self.signals += 1
        if self.watchdog is not None:
            self.watchdog.asked(self.signals)
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
    """What is handed to whoever started the daemon in a nursery."""

    services: Services
    supervisor: StreamSupervisor
    watcher: Watcher
    idle_checker: IdleChecker
    shutdown: Shutdown

    def turns(self) -> list[Heartbeat]:
        """The turns of the tasks that look after others. In an outage the idle checker rightly waits for Redis."""
        redis_down = not self.services.redis_breaker.up.value
        return [
            Heartbeat("watcher", self.watcher.last_attempt, self.watcher.rescan_seconds),
            Heartbeat("idle checker", self.idle_checker.last_run, self.idle_checker.period_seconds, excused=redis_down),
        ]

    def describe(self) -> str:
        """How it stands, in one line."""
        down = [b.service for b in (self.services.redis_breaker, self.services.s3_breaker) if not b.up.value]
        return f"{len(self.supervisor.live_ids)} streams open{'; waiting for ' + ' and '.join(down) if down else ''}"


OpenServices = Callable[[Settings], AbstractAsyncContextManager[Services]]


def main_daemon(settings: Settings, source: SettingsSource) -> ExitCode:
    """Run the daemon until a signal ends it. ``source`` is where SIGHUP reads the settings once more."""
    watchdog = ExitWatchdog(settings.shutdown_grace_seconds, settings.shutdown_save_seconds)
    watchdog.start(block_signals=True)  # never stopped: the interpreter's own end is to be in time, too
    opened = partial(open_services, read_again=lambda: source.read()[0])
    return trio.run(partial(run_daemon, settings, source=source, open_services=opened, watchdog=watchdog))


async def run_daemon(
    settings: Settings,
    *,
    source: SettingsSource | None = None,
    open_services: OpenServices = open_services,
    watchdog: ExitWatchdog | None = None,
    task_status: trio.TaskStatus[RunningDaemon] = trio.TASK_STATUS_IGNORED,
) -> ExitCode:
    """Run the daemon until a signal, or :meth:`Shutdown.request`, ends it. ``watchdog`` is running; by default one is
    that ends with the daemon.

    Started (``nursery.start``) means: Redis and S3 have answered, the folder is watched and was scanned. Without a
    ``source`` SIGHUP finds nothing changed.

    Returns:
        ``DONE``; ``REFUSED`` if S3 or Redis refused us at the start; ``BAD_SETTINGS`` if the admin server cannot
        listen where it should; ``NOT_SAVED`` if a stream's end was not saved.
    """
    shutdown = Shutdown(settings.shutdown_grace_seconds, settings.shutdown_save_seconds)
    notifier = ServiceNotifier.from_environment()
    shutdown.on_drain.append(notifier.stopping)
    notifier.status("waiting for Redis and S3")
    log.info("daemon_starting", version=__version__, pid=os.getpid(), **without_secrets(settings))
    trio.socket.set_custom_hostname_resolver(ThreadedResolver())
    with _exit_in_time(shutdown, watchdog) as in_time:
        async with lock_watch_folder(settings.watch_dir), open_services(settings) as services:
            services.metrics.lost_log_lines_by(lost_lines)
            async with trio.open_nursery() as root:
                reloader = SettingsReloader(
                    settings,
                    source or SettingsSource(None, lambda: settings),
                    services.rate_limiter,
                    renew_credentials=services.renew_credentials,
                )
                root.start_soon(reloader.run)
                await root.start(_listen_for_signals, shutdown, reloader, in_time)
                shown = DaemonSource(
                    services,
                    os.fspath(settings.watch_dir),
                    lambda: shutdown.signals > 0,
                    Redactor(secret_values(settings)).text,
                )
                in_time.unsaved = lambda: services.exit_saves.unsaved | _live_ids(shown)
                try:
                    serve_page = partial(serve_admin, allowed_hosts=settings.prom_allowed_hosts)
                    await root.start(
                        serve_page, shown, services.metrics.registry, settings.prom_host, settings.prom_port
                    )
                except AdminPortError as error:
                    log.error("refused_at_start", error=str(error))  # noqa: TRY400 - a person's to mend: one clear line
                    exit_code = ExitCode.BAD_SETTINGS
                else:
                    exit_code = await serve(
                        services,
                        shutdown,
                        matcher(settings.watch_patterns),
                        lambda supervisor: _take_in(
                            settings,
                            services,
                            supervisor,
                            shutdown,
                            notifier=notifier,
                            shown=shown,
                            task_status=task_status,
                        ),
                    )
                root.cancel_scope.cancel()
            unsaved = services.exit_saves.unsaved
    if unsaved:
        log.error("streams_not_saved", streams=sorted(unsaved))
        exit_code = ExitCode.NOT_SAVED
    took = trio.current_time() - shutdown.began_at if shutdown.began_at is not None else 0.0
    log.info("daemon_stopped", exit_code=int(exit_code), shutdown_seconds=round(took, 3))
    return exit_code


async def _listen_for_signals(
    shutdown: Shutdown,
    reloader: SettingsReloader,
    watchdog: ExitWatchdog,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    terminal = Terminal()
    with (
        trio.open_signal_receiver(*ENDING, signal.SIGHUP) as signals,
        watchdog.taking_signals(),
    ):
        take_hangups()
        task_status.started()
        async for number in signals:
            log.info("signal_received", signal=signal.Signals(number).name)
            if number == signal.SIGHUP and not terminal.is_closed():
                reloader.request()
            else:
                shutdown.request()


@contextmanager
def _exit_in_time(shutdown: Shutdown, given: ExitWatchdog | None) -> Iterator[ExitWatchdog]:
    """A watchdog that the shutdown tells: the given one, or one of this daemon's own."""
    watchdog = given or ExitWatchdog(shutdown.grace_seconds, shutdown.save_seconds)
    shutdown.watchdog = watchdog
    with nullcontext() if given is not None else watchdog.running():
        yield watchdog


def _live_ids(shown: DaemonSource) -> frozenset[str]:
    return shown.supervisor.live_ids if shown.supervisor is not None else frozenset()


async def serve(
    services: Services,
    shutdown: Shutdown,
    matches: PathMatcher,
    take_in: Callable[[StreamSupervisor], Awaitable[ExitCode]],
) -> ExitCode:
    """The tree below the root: returns when ``shutdown`` was requested and every stream's task has ended.

    ``take_in`` finds files and tells the supervisor of them, until it is cancelled; what it returns before that is the
    exit code of a start that was refused.
    """
    exit_code = ExitCode.DONE
    async with _background(shutdown, services.s3_breaker.run, services.redis_breaker.run) as background:
        async with trio.open_nursery() as processors:
            shutdown.workers.append(processors.cancel_scope)
            supervisor = StreamSupervisor(services, processors, matches)
            observer = Observer(services, supervisor)
            observer.leaving_since = lambda: shutdown.began_at
            services.metrics.snapshots_by(observer)
            shutdown.on_drain += [services.exit_saves.leave, supervisor.drain]
            background.start_soon(supervisor.renew_leases)
            background.start_soon(services.best_effort.ask_again, services.s3.head_bucket)
            background.start_soon(abort_orphan_uploads, services)
            with shutdown.intake:
                exit_code = await take_in(supervisor)
        log.debug("processors_ended")
    return exit_code


async def _take_in(
    settings: Settings,
    services: Services,
    supervisor: StreamSupervisor,
    shutdown: Shutdown,
    *,
    notifier: ServiceNotifier,
    shown: DaemonSource,
    task_status: trio.TaskStatus[RunningDaemon],
) -> ExitCode:
    shown.supervisor = supervisor
    folder, matches = os.fspath(settings.watch_dir), matcher(settings.watch_patterns)
    risks = shown.risks = RiskObserver(services, supervisor, lambda: shutdown.signals > 0, shown.redact)
    services.metrics.at_risk_by(risks)
    try:
        await check_reachable(services, create_bucket=settings.s3_create_bucket)
    except RefusedAtStartError as error:
        log.error("refused_at_start", error=str(error))  # noqa: TRY400 - a person's to mend: one clear line
        return ExitCode.REFUSED
    reader = ThreadedReader(matches, services.mounts)
    watcher = Watcher(folder, matches, supervisor, rescan_seconds=settings.rescan_seconds, reader=reader)
    services.mounts.on_answer = watcher.rescan
    risks.watcher = watcher
    services.scans.request_scan = watcher.rescan
    check_seconds = min(settings.stale_check_seconds, settings.stream_timeout_seconds / 2)
    tasks = IntakeTasks(
        services,
        supervisor,
        risks,
        IntakeRules(
            folder=folder,
            timeout_seconds=settings.stream_timeout_seconds,
            check_seconds=check_seconds,
            after_upload=parse_rule(settings.after_upload),
            webhook_retry_seconds=settings.webhook_retry_hours * 3600,
            retention=timedelta(days=settings.completed_retention_days),
        ),
    )
    async with trio.open_nursery() as intake:
        await tasks.start(intake, lambda: intake.start(watcher.run))
        services.metrics.last_run_by("watcher", lambda: services.unix_time(watcher.last_run))
        intake.start_soon(shown.run)
        shown.watcher = IntakeTask(watcher, settings.rescan_seconds)
        shown.checker = IntakeTask(tasks.idle_checker, check_seconds)
        daemon = RunningDaemon(services, supervisor, watcher, tasks.idle_checker, shutdown)
        log.info("daemon_started", watch_dir=folder)
        notifier.ready(daemon.describe())
        intake.start_soon(notifier.watch, daemon.turns, daemon.describe)
        task_status.started(daemon)
    return ExitCode.DONE


@asynccontextmanager
async def _background(shutdown: Shutdown, *tasks: Callable[[], Awaitable[None]]) -> AsyncIterator[trio.Nursery]:
    """Tasks that serve the streams until the last one has ended, and never longer than the streams' grace."""
    async with trio.open_nursery() as nursery:
        shutdown.workers.append(nursery.cancel_scope)
        for task in tasks:
            nursery.start_soon(task)
        yield nursery
        nursery.cancel_scope.cancel()
