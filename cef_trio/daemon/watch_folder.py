"""The start at the watch folder: check and lock it, and wait as long as its mount does not respond.

A hung mount (an NFS server that is down, a FUSE server that stopped) holds every call in the kernel, without a limit.
So the calls are made in one worker thread. If it takes longer than ``FILE_SYSTEM_TIMEOUT_SECONDS``, the daemon logs
``watch_folder_not_responding``; meanwhile it serves ``/healthz``, ``/readyz``, the metrics and the page, and reports to
the registry (``upload/reporter.py``). A signal ends it (promise P4), and the start goes on by itself when the mount
responds.

A mount below the watch folder that hangs does not delay the start (``files/mounts.py``). Neither does one of several
watch folders that is missing (``settings/model.py``): it has no lock then, and the streams' leases keep daemons apart.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import time
from typing import Final

import structlog
import trio

from cef_trio import __version__
from cef_trio.admin import AdminPortError, WaitingSource, serve_admin
from cef_trio.checkpoint import schema
from cef_trio.daemon.exit_watchdog import EXIT_SIGNALS
from cef_trio.daemon.machine import boot_id
from cef_trio.daemon.owner_name import find_owner
from cef_trio.daemon.redis_store import checkpoint_store
from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.observability import DaemonReport, Metrics
from cef_trio.resilience import SingleAttempt, run_in_thread, shielded
from cef_trio.settings import Settings, SettingsError, check_folders
from cef_trio.upload import WaitingReport, waiting_name

log = structlog.get_logger(__name__)

_UNLOCK_SECONDS: Final = 0.2
"""Time limit for releasing the lock; process exit releases it too."""


class WatchFolderBusyError(CefMp4ProcessorError):
    """Another daemon watches this folder."""


@dataclass(frozen=True, slots=True)
class _Entered:
    """The settings with the watch folders' links resolved, and the descriptors that hold their locks."""

    settings: Settings
    descriptors: tuple[int, ...]


@asynccontextmanager
async def enter_watch_folder(
    settings: Settings, on_signal: Callable[[], object], on_wait: Callable[[str], object]
) -> AsyncIterator[Settings | None]:
    """Check and lock the watch folder, so that no second daemon on this machine uploads the same files.

    Yields the settings with the folder's symbolic links resolved; ``None`` if a signal came while its mount did not
    respond. ``on_signal`` is called at each SIGTERM and SIGINT until then, ``on_wait`` with a sentence once it waits.

    The lock is a ``flock`` on the folder itself: it needs no lock file and ends with the process.

    Raises:
        SettingsError: the folder is missing (of several: all are), or may not be used.
        WatchFolderBusyError: another process holds the lock.
    """
    entered = await _enter_in_thread(settings, on_signal, on_wait)
    if entered is None:
        yield None
        return
    try:
        yield entered.settings
    finally:
        with shielded(_UNLOCK_SECONDS, saving="watch folder's lock"):
            await run_in_thread(partial(_close, entered.descriptors), abandon_on_cancel=True)


async def _enter_in_thread(
    settings: Settings, on_signal: Callable[[], object], on_wait: Callable[[str], object]
) -> _Entered | None:
    entered, refused = None, None
    async with trio.open_nursery() as nursery:
        await nursery.start(_cancel_on_signal, nursery.cancel_scope, on_signal)
        nursery.start_soon(_tell_while_waiting, settings, on_wait)
        try:
            # May be abandoned: the process is about to end then, which releases the lock.
            entered = await run_in_thread(partial(_enter, settings), abandon_on_cancel=True)
        except CefMp4ProcessorError as error:  # raised outside the nursery, so not in a group
            refused = error
        nursery.cancel_scope.cancel()
    if refused is not None:
        raise refused
    return entered


def _enter(settings: Settings) -> _Entered:
    checked = check_folders(settings)
    descriptors: list[int] = []
    try:
        for folder in checked.watch_dirs:
            try:
                descriptors.append(_open_locked(folder))
            except OSError as error:  # of several, one that is missing; the watcher tells of it, and waits for it
                if len(checked.watch_dirs) == 1:
                    raise
                _log_not_locked(folder, error)
    except BaseException:
        _close(descriptors)
        raise
    return _Entered(checked, tuple(descriptors))


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _open_locked(folder: Path) -> int:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise WatchFolderBusyError(
            f"WATCH_DIR {os.fspath(folder)!r} is watched by another cef-trio on this machine: stop that one first"
        ) from error
    except OSError as error:  # not every network file system has locks; the streams' leases remain
        _log_not_locked(folder, error)
    return descriptor


def _log_not_locked(folder: Path, error: OSError) -> None:
    why = errno.errorcode.get(error.errno or 0, str(error))
    log.warning("watch_folder_not_locked", folder=os.fspath(folder), error=why)


# -- while its mount does not respond ----------------------------------------------------------------------------------


async def _cancel_on_signal(
    scope: trio.CancelScope,
    on_signal: Callable[[], object],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.open_signal_receiver(*EXIT_SIGNALS) as signals:
        task_status.started()
        async for number in signals:
            log.info("signal_received", signal=signal.Signals(number).name)
            on_signal()
            scope.cancel()


async def _tell_while_waiting(settings: Settings, on_wait: Callable[[str], object]) -> None:
    """After ``FILE_SYSTEM_TIMEOUT_SECONDS``, say what the start waits for, and serve health until cancelled."""
    since = time()
    await trio.sleep(settings.file_system_timeout_seconds)
    folders = [f"WATCH_DIR {os.fspath(settings.watch_dir)!r}"]
    if settings.after_upload.folder:
        folders.append(f"the folder {settings.after_upload.folder!r} of AFTER_UPLOAD")
    log.error("watch_folder_not_responding", folders=folders, seconds=settings.file_system_timeout_seconds)
    on_wait("waiting for the mount of the watch folder, which does not respond")
    source = WaitingSource(settings, " or ".join(folders), since)
    metrics = Metrics()
    metrics.snapshots_by(source.snapshot)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_report_while_waiting, settings, source)
        try:
            await serve_admin(
                source,
                metrics.registry,
                settings.prom_host,
                settings.prom_port,
                allowed_hosts=settings.prom_allowed_hosts,
            )
        except AdminPortError as error:  # the start itself refuses it
            log.warning("admin_server_not_started", error=str(error))


async def _report_while_waiting(settings: Settings, source: WaitingSource) -> None:
    """Report to the registry in Redis that the start waits, for commands and pages on other machines (P10)."""
    with suppress(SettingsError):  # the start itself refuses it. Without any lasting name only the folder has one
        owner, system, folder = (await find_owner(settings)).name, boot_id(), os.fspath(settings.watch_dir)

        def make() -> DaemonReport:
            now = source.snapshot()
            return DaemonReport(
                instance=waiting_name(owner, settings.instance_id, system, folder),
                at=now.at,
                folder=folder,
                starting=True,
                risks=now.risks,
                name=settings.instance_id,
                host=socket.gethostname(),
                system=system,
                owner=owner,
                version=__version__,
                schema=schema.CURRENT,
                waits_for=("watch folder",),
            )

        async with checkpoint_store(settings, owner, SingleAttempt()) as store:
            await WaitingReport(store, make).run()
