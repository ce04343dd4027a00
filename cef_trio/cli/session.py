"""What a command that needs Redis and S3 works with.

A command shares Redis with running daemons. Its lease has an owner of its own (under a daemon's name it could take over
that daemon's leases), so a command cannot change a stream that a daemon works on, nor the other way round.

``redis_session.py`` has what all commands share: retries, signals, exit codes.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final
from uuid import uuid4

import trio

from cef_trio.checkpoint import Lease
from cef_trio.cli.redis_session import RedisContext, limited_retry, run_with
from cef_trio.daemon import checkpoint_store, find_owner, key_template, machine_id, s3_client
from cef_trio.exceptions import S3OperationError
from cef_trio.exit_codes import ExitCode
from cef_trio.files import Disk, KernelDisk, Mounts
from cef_trio.resilience import run_in_thread
from cef_trio.s3 import S3Client
from cef_trio.settings import Settings, split_watch_dir
from cef_trio.upload import HeldLease, KeyTemplate, Ownership, hold_lease, known_part_size

_FOLDER_SECONDS: Final = 2.0
"""How long the watch folder may take to respond."""
_ABORT_MARGIN_SECONDS: Final = 1.0
"""An abort ends this long before its lease expires. A lease lasts 3 seconds at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandContext(RedisContext):
    """A command's resources. ``lease`` is this command's own."""

    s3: S3Client
    lease: Lease
    ownership: Ownership = field(default_factory=Ownership)
    """Decides which streams belong to this machine. Others are not changed."""
    folders: Sequence[str] = ()
    """The folders that recordings may be in."""
    bucket: str
    key_template: KeyTemplate
    part_size: int
    equal_parts: bool

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
    retrier = limited_retry(settings)
    disk = KernelDisk(Mounts(timeout_seconds=settings.file_system_timeout_seconds))
    owner = (await find_owner(settings)).name
    folders = await _folders(settings)
    ownership = await _ownership(disk, folders)
    async with checkpoint_store(settings, owner, retrier) as store, s3_client(settings, retrier) as s3:
        yield CommandContext(
            store=store,
            s3=s3,
            disk=disk,
            ownership=ownership,
            folders=folders,
            lease=command_lease(settings.lease_seconds),
            bucket=settings.s3_bucket_name,
            owner_name=owner,
            owners=store.owners,
            verifications=store.verifications,
            key_template=key_template(settings, owner),
            part_size=known_part_size(settings.chunk_size_bytes),
            equal_parts=settings.s3_equal_parts,
            utc_now=lambda: datetime.now(UTC),
        )


async def _folders(settings: Settings) -> Sequence[str]:
    """Return the folders that recordings may be in, as a daemon names them."""
    resolved = _folders_by_text(settings)
    with trio.move_on_after(_FOLDER_SECONDS):
        # May be abandoned: it only reads, and the mount of the folder may hang.
        resolved = await run_in_thread(partial(_all_folders, settings), abandon_on_cancel=True)
    return [os.fspath(folder) for folder in resolved]


async def _ownership(disk: Disk, folders: Sequence[str]) -> Ownership:
    """Return which streams may be changed here. Without the watch folder that is unknown, and all may be."""
    ownership = Ownership(machine_id())
    await ownership.determine(disk, folders)
    there = ownership.owner is not None and ownership.owner.mount is not None
    return ownership if there else Ownership()


def _folders_by_text(settings: Settings) -> list[Path]:
    """Return the folders as the settings name them, for a mount that does not respond. Blocks on no disk."""
    parts = os.fspath(settings.watch_dir).split(":")
    return [*(Path(part).absolute() for part in parts if part), *settings.watch_link_roots]


def _all_folders(settings: Settings) -> list[Path]:
    """See :func:`_folders`. Blocks."""
    folders = (*split_watch_dir(settings.watch_dir), *settings.watch_link_roots)
    return [Path(os.path.realpath(folder)) for folder in folders]  # a circle of links comes later, as for a daemon


def command_lease(ttl_seconds: float) -> Lease:
    """Return a lease with an owner that no daemon and no other command has."""
    return Lease(f"command-{uuid4().hex}", "1", ttl_seconds)


def run_command(settings: Settings, work: Callable[[CommandContext], Awaitable[ExitCode]]) -> int:
    """Run a command that needs Redis and S3, and return its exit code.

    Raises:
        CefMp4ProcessorError: the request is invalid (exit code 2). Errors of S3, Redis and the disk are printed, and
            have exit codes of their own.
    """
    return run_with(settings, open_context, work)
