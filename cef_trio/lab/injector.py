"""Inject the faults of a plan into a daemon, before the planned steps and in the planned calls."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import trio

from cef_trio.lab.crash_simulation import Life
from cef_trio.lab.faults import FaultKind, Injection
from cef_trio.lab.journal import Lane
from cef_trio.lab.task_locations import location_of, tasks_below
from cef_trio.lab.world import WorldDaemon


@dataclass(slots=True)
class Injected:
    """An injection that took place."""

    injection: Injection
    seconds: float
    location: str
    """Location of the task whose step or call it was."""
    tasks: list[str]
    """Locations of all tasks of the daemon."""


class Injector(trio.abc.Instrument):
    """Count the steps of a daemon's tasks, and inject faults before the planned ones."""

    def __init__(
        self, daemon: WorldDaemon, life: Life, injections: Iterable[Injection], injected: list[Injected]
    ) -> None:
        self.root: trio.lowlevel.Task | None = None
        self.steps = 0
        self.ended_at: float | None = None
        self.shutdown_at: float | None = None
        """When the shutdown was first requested."""
        self.cancelled_at: float | None = None
        self._daemon = daemon
        self.life = life
        self._injections = {injection.at: injection for injection in injections}
        self._injected = injected
        self._daemon_tasks: dict[trio.lowlevel.Task, bool] = {}
        self._running: trio.lowlevel.Task | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """See :class:`trio.abc.Instrument`."""
        if not self._is_daemon_task(task):
            return
        self._running = task
        if self.shutdown_at is None and self._daemon.shutdown.signals:
            self.shutdown_at = trio.current_time()
        if self.life.ended:
            return  # it has no effect any more
        self.steps += 1
        injection = self._injections.get(self.steps)
        if injection is not None:
            self._record(injection, task)
            self._inject(injection.fault)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        """See :class:`trio.abc.Instrument`."""
        self._daemon_tasks.pop(task, None)

    def crashed(self, injection: Injection) -> None:
        """Record a crash in a call, and cancel the tasks."""
        task = self._running
        if task is not None:
            self._record(injection, task)
        self.cancel_tasks()

    def _inject(self, fault: FaultKind) -> None:
        shutdown = self._daemon.shutdown
        if fault is FaultKind.ABORT:
            self._daemon.world.want_aborted(self._daemon)
            return
        if fault is FaultKind.DRAIN:
            if shutdown.signals == 0:
                shutdown.request()
        elif fault is FaultKind.CANCEL:
            self.cancel_tasks()
            self.cancelled_at = trio.current_time()
        elif fault is FaultKind.KILL:
            self.life.on_end = self.cancel_tasks
            self.life.end()
        if self.shutdown_at is None:
            self.shutdown_at = trio.current_time()

    def cancel_tasks(self) -> None:
        """Cancel the daemon's tasks, as the second signal does."""
        shutdown = self._daemon.shutdown
        while shutdown.signals < 2:  # noqa: PLR2004 - the second signal cancels, a third would end this process
            shutdown.request()

    def _record(self, injection: Injection, task: trio.lowlevel.Task) -> None:
        root = self.root
        tasks = [f"{_name(other)} at {location_of(other)}" for other in tasks_below(root)] if root is not None else []
        self._daemon.world.journal.note(Lane.LAB, str(injection))
        self._injected.append(Injected(injection, trio.current_time(), location_of(task), tasks))

    def _is_daemon_task(self, task: trio.lowlevel.Task) -> bool:
        known = self._daemon_tasks.get(task)
        if known is None and self.root is None:
            return False
        if known is None:
            nursery: Any = task.parent_nursery
            known = task is self.root or (nursery is not None and self._is_daemon_task(nursery.parent_task))
            self._daemon_tasks[task] = known
        return known


async def run_daemon_task(daemon: WorldDaemon, injector: Injector) -> None:
    """Run a daemon whose steps the injector counts."""
    injector.root = trio.lowlevel.current_task()
    try:
        await daemon.run()
    except Exception:  # raised by a crashed process, whose calls all fail
        if not injector.life.ended:
            raise
    finally:
        injector.ended_at = trio.current_time()


def _name(task: trio.lowlevel.Task) -> str:
    return task.name.rpartition(".")[2]
