"""What every stream works with: the outside services, the limits, the rules. Made once, by the daemon."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, TypeVar

import trio
from trio_util import AsyncBool

from cef_trio.checkpoint import CheckpointStore, Lease, Saving, ShutdownFlush, Status, StreamMeta
from cef_trio.files import Disk, FileStat, Mounts, is_below, named, unproved_seconds
from cef_trio.media import MediaInfo
from cef_trio.observability import Metrics
from cef_trio.resilience import BestEffort, CircuitBreaker, shielded
from cef_trio.s3 import RateLimiter, S3Client
from cef_trio.settings import Settings
from cef_trio.upload.advice import Advice
from cef_trio.upload.object_key import KeyTemplate
from cef_trio.upload.orphan_cleanup import OrphanCleanup
from cef_trio.upload.ownership import Ownership
from cef_trio.upload.scan_history import ScanHistory
from cef_trio.webhook import WebhookClient

T = TypeVar("T")


class Prober(Protocol):
    """Asks what a recording is."""

    async def __call__(self, path: str) -> MediaInfo:
        """Probe the file.

        Raises:
            FFprobeError: it cannot be told.
        """
        ...


class WriterCheck(Protocol):
    """Asks whether anybody has a file open for writing."""

    async def __call__(self, path: str) -> bool | None:
        """True, false, or ``None`` where the file system or our rights do not let us know."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRules:
    """Settings that streams go by. Sizes in bytes, times in seconds."""

    bucket: str
    key_template: KeyTemplate
    part_size: int
    equal_parts: bool = False
    endpoint: str = ""
    """Where the bucket is reached, as it is recorded with each stream; empty: it is not recorded."""
    watch_folder: str = ""
    """A recording that is gone with this whole folder is not deleted; empty: it is not asked about."""
    close_grace_seconds: float = 1.0
    silence_seconds: float = 30.0
    """``STREAM_TIMEOUT_SECONDS``: where writers cannot be known, so long a silence is an end, and before a deletion."""
    gone_grace_seconds: float = 0.5
    """How long news of a missing file's new name is waited for before a scan is asked for, which decides."""
    save_seconds: float = 2.0
    """How long a state may take to be saved on the way out."""
    record_seconds: float = 1.0
    """How long a cancellation waits for a part's record. With Redis's own time-out it is within ``save_seconds``."""
    retry_initial_seconds: float = 1.0
    retry_max_seconds: float = 300.0
    max_uploads_lost: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything outside a stream that it may touch."""

    store: CheckpointStore
    s3: S3Client
    disk: Disk
    probe: Prober
    has_writer: WriterCheck
    lease: Lease
    exit_saves: ShutdownFlush
    s3_breaker: CircuitBreaker
    redis_breaker: CircuitBreaker
    stream_slots: trio.CapacityLimiter
    part_slots: trio.CapacityLimiter
    rules: StreamRules
    utc_now: Callable[[], datetime]
    new_stream_id: Callable[[], str]
    metrics: Metrics = field(default_factory=Metrics)
    rate_limiter: RateLimiter = field(default_factory=RateLimiter)
    """How fast ``s3`` sends; the rate may be changed while it does."""
    renew_credentials: Callable[[Settings], None] = lambda _settings: None
    """Lets S3's keys and Redis's login of settings that were read again take effect."""
    webhook: WebhookClient | None = None
    """Who is told of completed recordings; ``None``: nobody."""
    best_effort: BestEffort = field(default_factory=BestEffort)
    """Which calls of S3 are done without at present."""
    orphan_cleanup: OrphanCleanup = field(default_factory=OrphanCleanup)
    """When uploads that were left under ended streams' keys are looked for."""
    ownership: Ownership = field(default_factory=Ownership)
    """Whose streams are ours."""
    advice: Advice = field(default_factory=Advice)
    """Which settings would help, told once each."""
    mounts: Mounts = field(default_factory=Mounts)
    """Which mounts answer."""
    scans: ScanHistory = field(default_factory=ScanHistory)
    """The last scan of the watch folder."""
    webhook_enqueued: AsyncBool = field(default_factory=lambda: AsyncBool(False))
    """Set when a stream was completed that owes a webhook; whoever delivers them takes it back."""

    def __post_init__(self) -> None:
        self.metrics.failing_calls_by(lambda: len(self.best_effort.failing))
        self.metrics.hung_mounts_by(lambda: len(self.mounts.hung.value))

    async def attempt(self, operation: str, call: Callable[[], Awaitable[T]]) -> T | None:
        """Make a call of S3 that can be done without (:meth:`BestEffort.attempt`)."""
        return await self.best_effort.attempt(operation, call, reach=self.s3.head_bucket)

    def is_ours(self, meta: StreamMeta) -> bool:
        """Whether a stream is this daemon's to look after: of its watch folder, and of no other host's (P9)."""
        watched = self.rules.watch_folder
        return (not watched or is_below(meta.current_path, watched)) and self.ownership.is_ours(meta)

    async def look_at_folder(self) -> None:
        """See whose the watch folder is now."""
        await self.ownership.look(self.disk, self.rules.watch_folder)

    def unix_time(self, moment: float) -> float:
        """A moment of ``trio.current_time()`` as Unix time, in seconds."""
        return self.utc_now().timestamp() - trio.current_time() + moment

    def unproved_seconds(self, fs_type: str | None, stat: FileStat) -> float:
        """How long to wait, after this look, before the bytes are read that its time stamp is to stand for."""
        return unproved_seconds(named(fs_type), stat, int(self.utc_now().timestamp() * 1e9))

    async def give_back(self, stream_id: str) -> None:
        """Give a stream's lease back, and save that no task works on it: unless it has ended, it may be found as one
        that died with it left it (promise P3).
        """
        with shielded(self.rules.save_seconds, saving="parked state"):
            await self.exit_saves.save(Saving(stream_id, Status.INTERRUPTED_SHUTDOWN, self.utc_now()))

    async def record_effect(self, saving: str, write: Callable[[], Awaitable[None]]) -> None:
        """Record what S3 has just done, before anything else happens (promise P2).

        ``write`` must be safe to repeat. A cancellation waits for it, for ``record_seconds`` at most. If Redis does not
        answer in that time and nobody cancels, it is tried for as long as the outage lasts; if somebody does cancel,
        the effect is found in S3 by the next start (``recovery.py``).
        """
        with shielded(self.rules.record_seconds, saving=saving) as scope:
            await write()
        if scope.cancelled_caught:
            await write()
