"""The services, limits and rules that all streams share. Created once, by the daemon."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeVar

import structlog
import trio
from trio_util import AsyncBool

from cef_trio.checkpoint import (
    CheckpointStore,
    ExitState,
    Lease,
    ShutdownFlush,
    Status,
    StreamMeta,
    VerificationTotals,
)
from cef_trio.checkpoint import rules as checkpoint_rules
from cef_trio.checkpoint.redis import LegacyStreams, OwnerClaim, Owners
from cef_trio.exceptions import RedisOperationError, S3OperationError
from cef_trio.files import Disk, FileStat, Mounts, file_system_named, granularity_wait_seconds, root_of
from cef_trio.media import MediaInfo
from cef_trio.observability import Metrics
from cef_trio.resilience import BestEffort, CircuitBreaker, RetryPolicy, shielded
from cef_trio.s3 import RateLimiter, S3Client
from cef_trio.settings import Settings
from cef_trio.upload.object_key import KeyTemplate
from cef_trio.upload.orphan_cleanup import OrphanCleanup
from cef_trio.upload.ownership import Ownership
from cef_trio.upload.ownership_rules import share_of
from cef_trio.upload.part_size import AutoPartSize
from cef_trio.upload.scan_history import ScanHistory
from cef_trio.upload.setting_hints import Advice
from cef_trio.upload.start_minimum import StartMinimum
from cef_trio.upload.webhook_events import FAILED_EVENT, STARTED_EVENT
from cef_trio.upload.work_division import Peers, work_group
from cef_trio.webhook import WebhookClient

T = TypeVar("T")
log = structlog.get_logger(__name__)

_OTHER_OWNERS_SECONDS: Final = 30.0
"""How long what other owners know is asked for; a failover takes less."""
_OTHER_OWNERS_PAUSE_SECONDS: Final = 1.0
_RECORD_ROUNDS: Final = 5
"""How often the record of an effect is tried after the first time, each time once Redis works. One that is refused all
the same, some 20 seconds long, has an error of its own: its stream waits for that without a slot."""

Prober = Callable[[str], Awaitable[MediaInfo]]
"""Probes the recording at a path with ffprobe; raises ``FFprobeError``."""
WriterCheck = Callable[[str], Awaitable[bool | None]]
"""Returns whether the file at a path has a writer; ``None`` if the file system or missing permissions hide that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRules:
    """The settings of streams. Sizes in bytes, times in seconds."""

    bucket: str
    key_template: KeyTemplate
    part_size: int
    """The size of parts; with ``auto_part_size``, where nothing else is known."""
    equal_parts: bool = False
    auto_part_size: AutoPartSize | None = None
    """``CHUNK_SIZE_BYTES=auto``: the part size is chosen when a recording's upload begins."""
    endpoint: str = ""
    """The S3 endpoint that is recorded with each stream; empty: not recorded."""
    watch_folder: str = ""
    """The root of all recordings. If it is missing, missing recordings do not count as deleted; empty: not checked."""
    more_folders: tuple[str, ...] = ()
    """The other folders of ``WATCH_DIR``, if it names several."""
    link_roots: tuple[str, ...] = ()
    """Folders that links in the watch folder may lead to: the roots of the recordings in them."""
    watch_patterns: tuple[str, ...] = ()
    minimum: StartMinimum = field(default_factory=StartMinimum)
    """What a recording must reach before it is begun."""
    rescan_seconds: float = 30.0
    """``RESCAN_SECONDS``: how often the watch folder is scanned, here and by other daemons of a shared one."""
    close_grace_seconds: float = 1.0
    stream_timeout_seconds: float = 30.0
    """``STREAM_TIMEOUT_SECONDS``: where writers are unknown, a recording ends after this time without a write."""
    save_seconds: float = 2.0
    """The time limit for saving a stream's state at the end of its task."""
    record_seconds: float = 1.0
    """How long a cancellation waits for a part's record; less than ``save_seconds``."""
    retry: RetryPolicy = field(default_factory=lambda: RetryPolicy(initial_seconds=1.0, max_seconds=300.0))
    """The waits of a stream after its 1st, 2nd, … failure; ``attempts`` does not count."""

    @property
    def folders(self) -> tuple[str, ...]:
        """All folders that recordings may be in; empty: not known."""
        return (self.watch_folder, *self.more_folders, *self.link_roots) if self.watch_folder else ()

    @property
    def watch_folders(self) -> tuple[str, ...]:
        """The folders of ``WATCH_DIR``."""
        return (self.watch_folder, *self.more_folders)

    @property
    def described_folders(self) -> str:
        """The watch folders as ``WATCH_DIR`` names them."""
        return os.pathsep.join(self.watch_folders)

    def root_of(self, path: str) -> str:
        """Return the folder that a recording is in; the watch folder, if it is in none."""
        return root_of(path, self.folders) or self.watch_folder

    @property
    def recorded_part_size(self) -> int:
        """The part size in a new record: the least one if it is yet to be chosen."""
        return self.auto_part_size.least_bytes if self.auto_part_size else self.part_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The shared services of all streams."""

    store: CheckpointStore
    s3: S3Client
    disk: Disk
    probe: Prober
    has_writer: WriterCheck
    lease: Lease
    shutdown_flush: ShutdownFlush
    s3_breaker: CircuitBreaker
    redis_breaker: CircuitBreaker
    stream_slots: trio.CapacityLimiter
    part_slots: trio.CapacityLimiter
    rules: StreamRules
    utc_now: Callable[[], datetime]
    new_stream_id: Callable[[], str]
    metrics: Metrics = field(default_factory=Metrics)
    rate_limiter: RateLimiter = field(default_factory=RateLimiter)
    """Limits the upload rate of ``s3``; the rate may change at runtime."""
    renew_credentials: Callable[[Settings], None] = lambda _settings: None
    """Applies the S3 and Redis credentials of reloaded settings."""
    webhook: WebhookClient | None = None
    """The webhook for completed recordings; ``None``: no webhook is configured."""
    start_webhook: WebhookClient | None = None
    """The webhook for new streams."""
    failure_webhook: WebhookClient | None = None
    """The webhook for failed streams."""
    best_effort: BestEffort = field(default_factory=BestEffort)
    """Optional S3 calls, and which of them fail at present."""
    orphan_cleanup: OrphanCleanup = field(default_factory=OrphanCleanup)
    """Schedules the search for uploads left under the keys of ended streams."""
    owner_name: str = ""
    """The name of the owner, whose namespace in Redis and prefix in S3 this daemon works in (``OWNER_NAME``)."""
    owner_claim: OwnerClaim | None = None
    """The claim of that name; ``None``: without one, as in the laboratory."""
    owners: Owners | None = None
    """All owners behind the same key prefix."""
    verification_totals: Callable[[], Awaitable[VerificationTotals | None]] | None = None
    """Reads the result of ``cef-trio verify --all``, for the metrics; ``None``: without it, as in the laboratory."""
    legacy: LegacyStreams | None = None
    """The streams of earlier versions, which have no namespace."""
    twins: set[str] = field(default_factory=set)
    """The running daemons with our ``INSTANCE_ID`` on this system, by their tokens, as far as is known.

    Their leases look like those of an earlier process of ours.
    """
    ownership: Ownership = field(default_factory=Ownership)
    """Decides which streams belong to this host."""
    peers: Peers = field(default_factory=Peers)
    """The other daemons that work on the same folder for the same owner."""
    advice: Advice = field(default_factory=Advice)
    """Hints about settings, each logged once."""
    mounts: Mounts = field(default_factory=Mounts)
    """The mounts in use, and which of them hang."""
    scans: ScanHistory = field(default_factory=ScanHistory)
    """The last scan of the watch folder."""
    webhook_enqueued: AsyncBool = field(default_factory=lambda: AsyncBool(False))
    """Set when a completed stream enqueued a webhook; reset by the delivery task."""
    event_enqueued: Mapping[str, AsyncBool] = field(
        default_factory=lambda: {kind: AsyncBool(False) for kind in (STARTED_EVENT, FAILED_EVENT)}
    )
    """The same for the events of ``webhook_events.py``."""

    async def attempt(self, operation: str, call: Callable[[], Awaitable[T]]) -> T | None:
        """Make an optional S3 call; return ``None`` if it is suspended (:meth:`BestEffort.attempt`)."""
        return await self.best_effort.attempt(operation, call, reach=self.reach_s3)

    async def reach_s3(self) -> None:
        """Check whether S3 responds: to HEAD, or if that fails, to the write by which the breaker judges that.

        Raises:
            S3OperationError: S3 is down.
        """
        try:
            await self.s3.head_bucket()
        except S3OperationError:
            if not self.s3_breaker.up.value:
                raise

    def is_ours(self, meta: StreamMeta) -> bool:
        """Return whether a stream is in the watch folder and belongs to this host (promise P9)."""
        folders = self.rules.folders
        return (not folders or root_of(meta.current_path, folders) is not None) and self.ownership.is_ours(meta)

    async def known_elsewhere(self, stream_ids: Collection[str]) -> frozenset[str]:
        """Return those of these streams, unknown here, that another owner knows: its objects may have our prefix.

        In a cluster the other owners may be on a node that does not work, while ours does. After some time all are
        returned then, so that nothing waits for that node.

        Raises:
            RedisOperationError: Redis is unavailable, also for our owner.
        """
        if self.owners is None:
            return frozenset()
        why = "no answer"
        with trio.move_on_after(_OTHER_OWNERS_SECONDS):
            while True:
                try:
                    return await self.owners.known_elsewhere(stream_ids, mixed=self.rules.key_template.mixes_owners)
                except RedisOperationError as error:
                    if not error.transient:
                        raise
                    why = str(error)
                await self.store.ping()
                await trio.sleep(_OTHER_OWNERS_PAUSE_SECONDS)
        log.warning("other_owners_not_read", error=why)
        return frozenset(stream_ids)

    def may_take(self, holder: str | None) -> bool:
        """Return whether a stream's lease may be taken (:func:`rules.may_take`), and its holder is no :attr:`twins`."""
        return checkpoint_rules.may_take(holder, self.lease) and (holder or "").rpartition("/")[2] not in self.twins

    @property
    def watched(self) -> str:
        """The watch folder, if the paths of all recordings begin with it as it is set; else empty."""
        folder, *others = self.rules.folders or ("",)
        return folder if os.path.normpath(folder) == folder and not others else ""

    @property
    def shares_folder(self) -> bool:
        """Whether daemons of other hosts may work on the same folder, the first, for the same owner."""
        is_explicit = self.owner_claim is None or not self.owner_claim.exclusive
        return bool(self.owner_name) and is_explicit and self.ownership.is_shared

    @property
    def work_group(self) -> str:
        """What daemons that work on this folder have in common; empty: not known yet."""
        owner, rules = self.ownership.owner, self.rules
        if owner is None:
            return ""
        place = "" if owner.is_shared else owner.name
        return work_group(rules.described_folders, rules.watch_patterns, share_of(owner, rules.watch_folder), place)

    async def determine_owner(self) -> None:
        """Determine the owner of the watch folder, or of each of several."""
        await self.ownership.determine(self.disk, self.rules.folders)

    def unix_time(self, moment: float) -> float:
        """Convert a time of ``trio.current_time()`` to Unix time, in seconds."""
        return self.utc_now().timestamp() - trio.current_time() + moment

    def granularity_wait_seconds(self, fs_type: str | None, stat: FileStat) -> float:
        """Return how long to wait until a later write is certain to change the file's time stamp, in seconds."""
        return granularity_wait_seconds(file_system_named(fs_type), stat, int(self.utc_now().timestamp() * 1e9))

    async def park_stream(self, stream_id: str) -> None:
        """Release a stream's lease and save that no task works on it, as after an interrupted task (promise P3)."""
        with shielded(self.rules.save_seconds, saving="parked state"):
            await self.shutdown_flush.save(ExitState(stream_id, Status.INTERRUPTED_SHUTDOWN, self.utc_now()))

    async def record_effect(self, saving: str, write: Callable[[], Awaitable[None]]) -> None:
        """Record an effect of S3 in Redis before anything else happens to the stream (promise P2).

        ``write`` must be safe to repeat. A cancellation waits for it, for at most ``record_seconds``. If Redis does not
        respond in that time, or refuses for now, the write is repeated once the outage is over, which may be too late
        for the lease. If the task is cancelled meanwhile, or this raises, the next resume finds the effect in S3, on a
        store that lists it (``recovery.py``).

        Raises:
            RedisOperationError: permanent, or Redis works again and has refused this write ``_RECORD_ROUNDS`` times.
            LeaseLostError: another daemon has the stream.
        """
        with shielded(self.rules.record_seconds, saving=saving):
            if await _is_made(write):
                return
        for failures in range(1, _RECORD_ROUNDS):
            await self.redis_breaker.wait_up()
            if await _is_made(write):
                return
            await trio.sleep(self.rules.retry.ceiling_seconds(failures))
        await self.redis_breaker.wait_up()
        await write()


async def _is_made(write: Callable[[], Awaitable[None]]) -> bool:
    """Make a write; return false if it failed and may succeed later.

    Raises:
        RedisOperationError: permanent.
        LeaseLostError: another daemon has the stream.
    """
    try:
        await write()
    except RedisOperationError as error:
        if not error.transient:
            raise
        return False
    return True
