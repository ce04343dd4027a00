"""What a command that only reads and writes Redis works with; retries, signals and exit codes of all commands.

``session.py`` adds S3 and the leases of streams. This module imports neither S3's client nor the daemon, so that
``cef-trio list`` starts quickly.

Unlike the daemon, a command does not wait for a service that is unavailable: a few attempts, then one line and exit
code 4. Ctrl-C and SIGTERM cancel it: the current step is finished or not begun, and leases are released in a shield.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

import trio

from cef_trio.checkpoint import CheckpointStore, Lease
from cef_trio.checkpoint.redis import OwnerClaim, Owners, Verifications, parse_address
from cef_trio.cli.arguments import owner_override
from cef_trio.cli.output import print_error
from cef_trio.cli.slow_files import notice_if_slow
from cef_trio.daemon import checkpoint_store, find_owner
from cef_trio.exceptions import (
    CefMp4ProcessorError,
    ChunkProcessingError,
    LeaseLostError,
    OperationError,
    RedisOperationError,
)
from cef_trio.exit_codes import ExitCode
from cef_trio.files import Disk, KernelDisk, Mounts
from cef_trio.observability import configure
from cef_trio.resilience import RetryPolicy
from cef_trio.settings import Settings, load_settings, secret_values

T = TypeVar("T")
ContextT = TypeVar("ContextT")

_MOST_ATTEMPTS: Final = 3
_LONGEST_WAIT_SECONDS: Final = 2.0
_LONGEST_FILE_SYSTEM_SECONDS: Final = 2.0
"""How long a command waits for a mount that does not respond, even if FILE_SYSTEM_TIMEOUT_SECONDS is longer."""
_SIGNALLED: Final = 128
"""A shell's exit code of a process that a signal ended is this and the signal's number."""
_NO_SYSTEM: Final = Lease("command", "1", 1.0, "command")


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisContext:
    """The resources of a command that needs no S3."""

    store: CheckpointStore
    disk: Disk
    owner_name: str
    """The owner whose streams the command works on."""
    owners: Owners | None = None
    """All owners behind the same key prefix."""
    claim: OwnerClaim | None = None
    """The claim of the owner's name, only to look at: whichever system has it is another one."""
    verifications: Verifications | None = None
    """When the owner's objects were last verified."""
    utc_now: Callable[[], datetime]


@asynccontextmanager
async def open_redis_context(settings: Settings) -> AsyncIterator[RedisContext]:
    """Build the context from the settings. Connects nothing yet; closes all connections at the end.

    Raises:
        SettingsError: ``REDIS_URL`` is invalid, or no owner's name can be derived.
    """
    owner = (await find_owner(settings)).name
    async with checkpoint_store(settings, owner, limited_retry(settings)) as store:
        yield RedisContext(
            store=store,
            disk=KernelDisk(
                Mounts(timeout_seconds=min(settings.file_system_timeout_seconds, _LONGEST_FILE_SYSTEM_SECONDS))
            ),
            owner_name=owner,
            owners=store.owners,
            claim=store.owner_claim(_NO_SYSTEM, "", exclusive=False),
            verifications=store.verifications,
            utc_now=lambda: datetime.now(UTC),
        )


def command_settings(arguments: argparse.Namespace, unneeded: Collection[str], **overrides: str) -> Settings:
    """Return the settings of a command; ``unneeded``: those that it does not use. ``--owner`` overrides them.

    Raises:
        SettingsError: a setting is missing or wrong.
    """
    with files_of_settings(arguments.env_file):
        return load_settings(arguments.env_file, unneeded=unneeded, **(overrides or owner_override(arguments)))


def files_of_settings(env_file: Path) -> AbstractContextManager[None]:
    """Say so if reading the settings takes long."""
    return notice_if_slow(f"the settings: for {env_file}, or for a file of a secret or of certificates that they name")


def limited_retry(settings: Settings) -> LimitedRetry:
    """Return the retrier of a command with these settings."""
    return LimitedRetry(
        RetryPolicy(
            min(settings.retry_attempts, _MOST_ATTEMPTS),
            settings.retry_initial_seconds,
            min(settings.retry_max_seconds, _LONGEST_WAIT_SECONDS),
        )
    )


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


def run_on_redis(settings: Settings, work: Callable[[RedisContext], Awaitable[ExitCode]]) -> int:
    """Run a command that needs no S3; see :func:`run_with`."""
    return run_with(settings, open_redis_context, work)


def run_with(
    settings: Settings,
    open_context: Callable[[Settings], AbstractAsyncContextManager[ContextT]],
    work: Callable[[ContextT], Awaitable[ExitCode]],
) -> int:
    """Run a command with its context, and return its exit code.

    Raises:
        CefMp4ProcessorError: the request is invalid (exit code 2). Errors of S3, Redis and the disk are printed here,
            and have exit codes of their own.
    """

    async def with_context() -> ExitCode:
        try:
            async with open_context(settings) as context:
                return await work(context)
        except RedisOperationError as error:
            address = parse_address(settings.redis_url.get_secret_value())
            source = "" if "redis_url" in settings.model_fields_set else ", because REDIS_URL is not set"
            print_error(f"{error} [{address}{source}]")
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
