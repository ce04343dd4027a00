"""What every command works with, how long it is patient, and how it ends.

A command is a visitor: it shares Redis with daemons that run, and never takes anything from one. Its lease bears a name
that no daemon has (a daemon's own name would let it take that daemon's leases over), so a stream that somebody works on
cannot be changed by a command, nor one that a command has in hand by a daemon.

It does not wait for a service that is away, as the daemon does: some attempts, then one line and exit code 4. Ctrl-C
and SIGTERM cancel it: the step in hand is finished or not begun, leases are given back in a shield, nothing is
half-done.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, TypeVar
from uuid import uuid4

import trio

from cef_trio.checkpoint import CheckpointStore, Lease
from cef_trio.checkpoint.redis import parse_address
from cef_trio.cli.output import complain
from cef_trio.daemon import checkpoint_store, machine_id, s3_client
from cef_trio.exceptions import (
    CefMp4ProcessorError,
    ChunkProcessingError,
    LeaseLostError,
    OperationError,
    RedisOperationError,
)
from cef_trio.exit_codes import ExitCode
from cef_trio.files import Disk, KernelDisk
from cef_trio.observability import configure
from cef_trio.resilience import RetryPolicy, shielded
from cef_trio.s3 import S3Client
from cef_trio.settings import Settings, secret_values
from cef_trio.upload import KeyTemplate, Ownership

T = TypeVar("T")

_RELEASE_SECONDS: Final = 2.0
_MOST_ATTEMPTS: Final = 3
_LONGEST_WAIT_SECONDS: Final = 2.0
_SIGNALLED: Final = 128
"""A shell's exit code of a process that a signal ended is this and the signal's number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandContext:
    """Everything that a command may touch. ``lease`` is this command's own."""

    store: CheckpointStore
    s3: S3Client
    disk: Disk
    lease: Lease
    ownership: Ownership = field(default_factory=Ownership)
    """Whose streams are this machine's: of others' nothing is changed."""
    bucket: str
    key_template: KeyTemplate
    part_size: int
    equal_parts: bool
    utc_now: Callable[[], datetime]

    @asynccontextmanager
    async def holding(self, stream_id: str) -> AsyncIterator[bool]:
        """Hold a stream's lease, and give it back whatever happens; false if somebody else holds it."""
        try:
            yield await self.store.acquire(stream_id, self.lease)
        finally:
            # One that cannot be given back now runs out by itself.
            with shielded(_RELEASE_SECONDS, saving="command's lease"), suppress(CefMp4ProcessorError):
                await self.store.release([stream_id], self.lease)


@asynccontextmanager
async def open_context(settings: Settings) -> AsyncIterator[CommandContext]:
    """The real one. Nothing is connected yet; leaving closes what was.

    Raises:
        SettingsError: a URL or a bucket's name cannot be understood.
    """
    patience = FewAttempts(
        RetryPolicy(
            min(settings.retry_attempts, _MOST_ATTEMPTS),
            settings.retry_initial_seconds,
            min(settings.retry_max_seconds, _LONGEST_WAIT_SECONDS),
        )
    )
    disk = KernelDisk()
    ownership = await _ownership(disk, os.fspath(settings.watch_dir))
    async with checkpoint_store(settings, patience) as store, s3_client(settings, patience) as s3:
        yield CommandContext(
            store=store,
            s3=s3,
            disk=disk,
            ownership=ownership,
            lease=command_lease(settings.lease_seconds),
            bucket=settings.s3_bucket_name,
            key_template=KeyTemplate(settings.s3_key_template),
            part_size=settings.chunk_size_bytes,
            equal_parts=settings.s3_equal_parts,
            utc_now=lambda: datetime.now(UTC),
        )


async def _ownership(disk: Disk, watch_folder: str) -> Ownership:
    """Whose streams may be changed from here: where the watch folder is not, nobody can say, and the person knows."""
    ownership = Ownership(machine_id())
    await ownership.look(disk, watch_folder)
    there = ownership.owner is not None and ownership.owner.mount is not None
    return ownership if there else Ownership()


def command_lease(ttl_seconds: float) -> Lease:
    """A lease that is nobody else's, not even the next command's."""
    return Lease(f"command-{uuid4().hex}", "1", ttl_seconds)


class FewAttempts:
    """A retrier for a person who waits: no breaker, no outage to sit out."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy

    async def call(self, operation: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Run ``attempt`` up to ``policy.attempts`` times; the last attempt's error is raised as it is."""
        number = 1
        while True:
            try:
                return await attempt()
            except CefMp4ProcessorError as error:
                if not error.transient or number >= self._policy.attempts:
                    raise
            await trio.sleep(self._policy.ceiling_seconds(number))
            number += 1


def run_command(settings: Settings, work: Callable[[CommandContext], Awaitable[ExitCode]]) -> int:
    """Run a command to its exit code.

    Raises:
        CefMp4ProcessorError: what it was asked to do makes no sense (exit code 2); what S3, Redis or the disk refuse is
            said here, with its own exit code.
    """

    async def with_context() -> ExitCode:
        try:
            async with open_context(settings) as context:
                return await work(context)
        except RedisOperationError as error:
            complain(f"{error} [{parse_address(settings.redis_url.get_secret_value())}]")
            return ExitCode.REFUSED

    configure(settings.app_env, "WARNING", secrets=secret_values(settings))
    return run_cancellable(with_context)


def run_cancellable(work: Callable[[], Awaitable[ExitCode]]) -> int:
    """Run ``work``; a signal cancels it, and is the exit code then."""
    return trio.run(_until_signal, work)


async def _until_signal(work: Callable[[], Awaitable[ExitCode]]) -> int:
    code: int = ExitCode.BUG
    failure: Exception | None = None

    async def cancel_on_signal(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        nonlocal code
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for number in signals:
                code = _SIGNALLED + number
                nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        await nursery.start(cancel_on_signal)
        try:
            code = await _said(work)
        except Exception as error:  # noqa: BLE001 - carried out of the nursery as it is, not in a group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return code


async def _said(work: Callable[[], Awaitable[ExitCode]]) -> ExitCode:
    try:
        return await work()
    except OperationError as error:
        complain(str(error))
        return ExitCode.REFUSED
    except (LeaseLostError, ChunkProcessingError) as error:
        complain(str(error))
        return ExitCode.ANSWER_IS_NO
