"""A command's resources, its retries, and its exit codes.

A command shares Redis with running daemons. Its lease has an owner of its own (under a daemon's name it could take over
that daemon's leases), so a command cannot change a stream that a daemon works on, nor the other way round.

Unlike the daemon, a command does not wait for a service that is unavailable: a few attempts, then one line and exit
code 4. Ctrl-C and SIGTERM cancel it: the current step is finished or not begun, and leases are released in a shield.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar
from uuid import uuid4

import trio

from cef_trio.checkpoint import CheckpointStore, Lease
from cef_trio.checkpoint.redis import Owners, parse_address
from cef_trio.cli.output import print_error
from cef_trio.daemon import checkpoint_store, find_owner, key_template, machine_id, s3_client
from cef_trio.exceptions import (
    CefMp4ProcessorError,
    ChunkProcessingError,
    LeaseLostError,
    OperationError,
    RedisOperationError,
    S3OperationError,
)
from cef_trio.exit_codes import ExitCode
from cef_trio.files import Disk, KernelDisk
from cef_trio.observability import configure
from cef_trio.resilience import RetryPolicy, run_in_thread
from cef_trio.s3 import S3Client
from cef_trio.settings import Settings, secret_values
from cef_trio.upload import HeldLease, KeyTemplate, Ownership, hold_lease, known_part_size

T = TypeVar("T")

_MOST_ATTEMPTS: Final = 3
_LONGEST_WAIT_SECONDS: Final = 2.0
_FOLDER_SECONDS: Final = 2.0
"""How long the watch folder may take to respond."""
_ABORT_MARGIN_SECONDS: Final = 1.0
"""An abort ends this long before its lease expires. A lease lasts 3 seconds at least."""
_SIGNALLED: Final = 128
"""A shell's exit code of a process that a signal ended is this and the signal's number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandContext:
    """A command's resources. ``lease`` is this command's own."""

    store: CheckpointStore
    s3: S3Client
    disk: Disk
    lease: Lease
    ownership: Ownership = field(default_factory=Ownership)
    """Decides which streams belong to this machine. Others are not changed."""
    owner_name: str
    """The owner whose streams the command works on."""
    owners: Owners | None = None
    """All owners behind the same key prefix."""
    bucket: str
    key_template: KeyTemplate
    part_size: int
    equal_parts: bool
    utc_now: Callable[[], datetime]

    def hold_lease(self, stream_id: str) -> AbstractAsyncContextManager[HeldLease | None]:
        """Hold a stream's lease for the block, and release it in any case. Yields ``None`` if it is held elsewhere."""
        return hold_lease(self.store, stream_id, self.lease, release_on_failure=True)

    def abort_deadline(self) -> float:
        """Return when an abort must end, by ``trio.current_time()``, if its stream's lease is acquired now."""
        return trio.current_time() + self.lease.ttl_seconds - _ABORT_MARGIN_SECONDS


@contextmanager
def aborting_until(deadline: float) -> Iterator[None]:
    """Cancel an abort at the deadline: once the lease has expired, a `retry` may open an upload under the same key.

    Raises:
        S3OperationError: S3 has not responded by then.
    """
    with trio.move_on_at(deadline) as scope:
        yield
    if scope.cancelled_caught:
        reason = "no answer while its stream was ours; repeat the command"
        raise S3OperationError("abort_multipart_upload", reason, transient=True)


@asynccontextmanager
async def open_context(settings: Settings) -> AsyncIterator[CommandContext]:
    """Build the context from the settings. Connects nothing yet; closes all connections at the end.

    Raises:
        SettingsError: a URL or the bucket's name is invalid, or no owner's name can be derived.
    """
    retrier = LimitedRetry(
        RetryPolicy(
            min(settings.retry_attempts, _MOST_ATTEMPTS),
            settings.retry_initial_seconds,
            min(settings.retry_max_seconds, _LONGEST_WAIT_SECONDS),
        )
    )
    disk = KernelDisk()
    owner = (await find_owner(settings)).name
    ownership = await _ownership(disk, settings.watch_dir)
    async with checkpoint_store(settings, owner, retrier) as store, s3_client(settings, retrier) as s3:
        yield CommandContext(
            store=store,
            s3=s3,
            disk=disk,
            ownership=ownership,
            lease=command_lease(settings.lease_seconds),
            bucket=settings.s3_bucket_name,
            owner_name=owner,
            owners=store.owners,
            key_template=key_template(settings, owner),
            part_size=known_part_size(settings.chunk_size_bytes),
            equal_parts=settings.s3_equal_parts,
            utc_now=lambda: datetime.now(UTC),
        )


async def _ownership(disk: Disk, watch_folder: Path) -> Ownership:
    """Return which streams may be changed here. Without the watch folder that is unknown, and all may be."""
    ownership = Ownership(machine_id())
    resolved = watch_folder
    with trio.move_on_after(_FOLDER_SECONDS):
        # May be abandoned: it only reads, and the mount of the folder may hang.
        resolved = await run_in_thread(watch_folder.resolve, abandon_on_cancel=True)
    await ownership.determine(disk, os.fspath(resolved))
    there = ownership.owner is not None and ownership.owner.mount is not None
    return ownership if there else Ownership()


def command_lease(ttl_seconds: float) -> Lease:
    """Return a lease with an owner that no daemon and no other command has."""
    return Lease(f"command-{uuid4().hex}", "1", ttl_seconds)


class LimitedRetry:
    """A retrier for interactive use: few attempts, no circuit breaker."""

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
    """Run a command and return its exit code.

    Raises:
        CefMp4ProcessorError: the request is invalid (exit code 2). Errors of S3, Redis and the disk are printed here,
            and have exit codes of their own.
    """

    async def with_context() -> ExitCode:
        try:
            async with open_context(settings) as context:
                return await work(context)
        except RedisOperationError as error:
            print_error(f"{error} [{parse_address(settings.redis_url.get_secret_value())}]")
            return ExitCode.REFUSED

    configure(settings.app_env, "WARNING", secrets=secret_values(settings))
    return run_cancellable(with_context)


def run_cancellable(work: Callable[[], Awaitable[ExitCode]]) -> int:
    """Run ``work``. SIGINT and SIGTERM cancel it; the exit code is then 128 and the signal's number."""
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
            code = await _map_errors(work)
        except Exception as error:  # noqa: BLE001 - raised outside the nursery, so not in a group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return code


async def _map_errors(work: Callable[[], Awaitable[ExitCode]]) -> ExitCode:
    try:
        return await work()
    except OperationError as error:
        print_error(str(error))
        return ExitCode.REFUSED
    except (LeaseLostError, ChunkProcessingError) as error:
        print_error(str(error))
        return ExitCode.ANSWER_IS_NO
