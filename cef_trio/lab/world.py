"""A world in one process: a watch folder, an S3 endpoint, a checkpoint store, and a daemon, on a virtual clock.

All that a daemon depends on is here. Faults are switched on at the endpoint (``endpoint.faults``), the store
(``store.fault``), the proxy (``proxy``) and the kernel (``kernel``); their contents can be inspected. The daemon's
nursery tree is the real one (``daemon.serve``). A world with a simulated kernel (``kernel.py``) has the real watcher;
in one with real files the test calls ``WorldDaemon.seen`` and the like instead.

Ids, jitter and the order of tasks come from ``seed``, so a run is reproducible.
"""

from __future__ import annotations

import base64
import os
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Final, cast
from uuid import UUID

import trio
from inotify_simple import INotify

from cef_trio.checkpoint.memory import MemoryCheckpointStore, StoreSnapshot
from cef_trio.checkpoint.model import Checkpoint, Lease
from cef_trio.checkpoint.protocols import CheckpointStore
from cef_trio.checkpoint.redis import Keys, OwnerClaim
from cef_trio.checkpoint.shutdown_flush import ShutdownFlush
from cef_trio.checkpoint.states import ENDED, INTERRUPTED, StreamSet
from cef_trio.daemon.intake_tasks import IntakeRules, IntakeTasks
from cef_trio.daemon.main import Shutdown, serve
from cef_trio.daemon.wiring import knows_writer, make_clients
from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.exit_codes import ExitCode
from cef_trio.files.disk_space import DiskSpace
from cef_trio.files.file_stat import FileStat
from cef_trio.files.reader import regular_file_stat
from cef_trio.files.writers import writer_state_now
from cef_trio.lab import receiver
from cef_trio.lab.claims import Claimed, SimulatedClaim
from cef_trio.lab.completed_parts import with_parts
from cef_trio.lab.crash_simulation import (
    Acknowledgements,
    CrashableStore,
    CrashableTransport,
    Life,
    StoreClient,
    call_name,
)
from cef_trio.lab.disk import CrashableDisk, InlineReader
from cef_trio.lab.filesystem import FileSystem, Leases
from cef_trio.lab.journal import Journal, Lane
from cef_trio.lab.kernel import Host, Kernel
from cef_trio.lab.proxy import Proxy, ProxyTransport
from cef_trio.lab.receiver import CrashableReceiver, Receiver
from cef_trio.media.metadata import MediaInfo
from cef_trio.observability.at_risk import Risk
from cef_trio.resilience import Retrier, RetryPolicy
from cef_trio.s3.client import S3Client
from cef_trio.s3.config import ChecksumMode, S3Config
from cef_trio.s3.credentials import StaticCredentials
from cef_trio.s3.model import ByteSource, ChecksumAlgorithm, PartToComplete
from cef_trio.s3.model import StoredObject as S3Object
from cef_trio.s3.rate_limiter import Rate, RateLimiter
from cef_trio.s3.signing import Credentials
from cef_trio.s3_endpoint import DEFAULT_ACCESS_KEY_ID, DEFAULT_SECRET_ACCESS_KEY, InProcessTransport, S3Endpoint
from cef_trio.settings.after_upload import KEEP_RECORDING
from cef_trio.settings.object_options import DEFAULT_CONTENT_TYPE, ObjectOptions
from cef_trio.settings.watch_exclude import Exclusion
from cef_trio.upload.object_key import KeyTemplate, metadata_key
from cef_trio.upload.observer import Observer
from cef_trio.upload.ownership import Ownership
from cef_trio.upload.part_size import AutoPartSize
from cef_trio.upload.services import Services, StreamRules
from cef_trio.upload.start_minimum import StartMinimum
from cef_trio.upload.supervisor import StreamSupervisor
from cef_trio.watch.events import Closed, Gone, Moved, Scanned, Seen
from cef_trio.watch.patterns import WatchScope
from cef_trio.watch.watcher import Watcher
from cef_trio.webhook.client import WebhookClient

BUCKET: Final = "recordings"
OTHER_BUCKET: Final = "elsewhere"
PART: Final = 1000
"""Size of a part in a world, bytes."""
NOT_OURS: Final = b"not ours"
"""The content of another program's object."""
PROBE: Final = "cef-trio-probe"
"""What the keys of the daemon's probes contain; with a template without the file's name :data:`_PROBE_ID`."""
_PROBE_ID: Final = str(UUID(int=0))
AUTO_PART_SIZE: Final = AutoPartSize(
    least_bytes=PART // 2,
    most_bytes=4 * PART,
    default_bytes=PART,
    unit_bytes=1,
    part_seconds=10.0,
    longest_seconds=30.0,
)
"""``CHUNK_SIZE_BYTES=auto`` in a world's measure."""
WEBHOOK_SECRET: Final = "whsec_" + base64.b64encode(b"a world's secret, 24 bytes").decode()
INACTIVE: Final = INTERRUPTED | ENDED
"""Statuses of streams without a task."""
EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)


def is_probe(key: str) -> bool:
    """Return whether a key is one of the daemon's probes of S3, by any template."""
    return PROBE in key or _PROBE_ID in key


def utc_now() -> datetime:
    """Return the true time of day: ``EPOCH`` plus trio's clock."""
    return EPOCH + timedelta(seconds=trio.current_time())


def _make_store() -> MemoryCheckpointStore:
    store = MemoryCheckpointStore()
    store.unix_clock = lambda: utc_now().timestamp()
    return store


def make_endpoint(random: Random, seed: int) -> S3Endpoint:
    """Return an empty S3 endpoint; ``random`` is the source of its request ids."""
    # Not drawn from ``random``, so that the worlds of a seed stay what they were.
    upload_tokens = Random(f"upload tokens {seed}")  # noqa: S311 - to be repeated, not secret
    return S3Endpoint(
        buckets=[BUCKET, OTHER_BUCKET],
        clock=lambda: utc_now().timestamp(),
        minimum_part_size_bytes=1,
        new_request_id=lambda: f"{random.getrandbits(64):016X}",
        new_upload_token=lambda: f"{upload_tokens.getrandbits(64):016x}",
    )


@dataclass(frozen=True, slots=True)
class Cloud:
    """What several owners share: the S3 endpoint, the Redis server, and the journal of the run."""

    endpoint: S3Endpoint
    stores: dict[str, MemoryCheckpointStore] = field(default_factory=dict)
    """By namespace: what all keys of an owner begin with."""
    claims: dict[str, Claimed] = field(default_factory=dict)
    """The claims of owners' names."""
    journal: Journal = field(default_factory=Journal)


@dataclass(frozen=True, slots=True)
class Owner:
    """An owner among others (``OWNER_NAME``)."""

    name: str
    cloud: Cloud
    seen_as: Path
    """The path of the watch folder on every machine."""
    is_derived: bool = True
    """Whether only one running system may have the name, as it was not set."""

    @property
    def key_template(self) -> str:
        """The key template of its daemons."""
        return KeyTemplate.of_owner("streams/{owner}/{stream_id}/{file_name}", self.name).template

    @property
    def prefix(self) -> str:
        """What its keys in S3 begin with."""
        return f"streams/{self.name}/"

    def store(self) -> MemoryCheckpointStore:
        """Return the store of its namespace in Redis."""
        return self.cloud.stores.setdefault(Keys(owner=self.name).prefix, _make_store())


class World:
    """The environment of one or more consecutive daemons."""

    def __init__(  # noqa: PLR0915 - a list of all switches
        self,
        folder: Path,
        *,
        seed: int = 0,
        max_concurrent_streams: int = 10,
        max_concurrent_parts: int = 4,
        policy: RetryPolicy | None = None,
        base: Path | None = None,
        file_system: FileSystem | None = None,
        owner: Owner | None = None,
    ) -> None:
        self._kernel: Kernel | None = None
        if base is not None:
            self._kernel = Kernel(base, lambda: int(self.utc_now().timestamp() * 1e9))
            self._kernel.make_folder(folder, file_system or FileSystem())
        self.host = Host("world", folder, owner.seen_as if owner is not None else folder)
        """The machine of the daemons, unless another one is given."""
        self.owner = owner
        """The owner whose world this is, beside those of others; ``None``: the only one."""
        self.bucket = BUCKET
        """The bucket of the next daemon."""
        self.buckets_used: set[str] = set()
        self.templates_used: set[str] = set()
        """The buckets of all daemons so far."""
        self.s3_name = ""
        """The name of the S3 endpoint that the next daemon records; empty: none."""
        self.key_template = owner.key_template if owner is not None else "streams/{stream_id}/{file_name}"
        self.part_size = PART
        self.auto_part_size: AutoPartSize | None = None
        self.equal_parts = False
        self.minimum = StartMinimum()
        self.watched_below: tuple[str, ...] = ()
        """The folders in the watch folder that are watched instead of it, as if ``WATCH_DIR`` named them."""
        self.random = Random(seed)  # noqa: S311 - to be repeated, not secret
        self.endpoint = owner.cloud.endpoint if owner is not None else make_endpoint(self.random, seed)
        self.store = owner.store() if owner is not None else _make_store()
        self.policy = policy or RetryPolicy(attempts=3, initial_seconds=0.2, max_seconds=2.0)
        self.grace_seconds = 6.0
        self.stream_timeout_seconds = 30.0
        self.has_writer: bool | None = None
        """Whether every real file has a writer; ``None``: a file has one until ``WorldDaemon.closed`` is called for it.

        With a simulated kernel the daemon asks the kernel.
        """
        self.closed: set[str] = set()
        """Paths of real files that were closed since they were last written."""
        self.rescan_seconds = 20.0
        self.read_seconds = 0.0
        """Duration of each read of a file."""
        self.options = ObjectOptions()
        """Object options of the next daemon."""
        self.checksum = ChecksumMode.AUTO
        self.upload_rate: Rate = 0
        """``MAX_UPLOAD_RATE`` of the next daemon, bytes per second; 0: no limit."""
        self.after_upload = KEEP_RECORDING
        """``AFTER_UPLOAD`` of the daemons."""
        self.wanted_aborted: set[str] = set()
        """The streams that an operator wanted aborted."""
        self.disk_bytes = 0
        """The size of the disk of the watch folder; 0: that of the real one."""
        self.frees_space = True
        """Whether deleting a file frees its bytes; false: a snapshot keeps those of every file."""
        self._most_used_bytes = 0
        self.webhook = False
        """Whether the daemons have the webhook :attr:`receiver`."""
        self.webhooks_of_events = False
        """Whether it also gets the starts and failures."""
        self.webhook_retry_seconds = 86_400.0
        self.receiver = Receiver()
        self.proxy = Proxy()
        """The proxy between the daemons and S3."""
        self.removed_unsaved: list[str] = []
        """Names of recordings that a daemon removed while S3 had no object with their bytes."""
        self.completed: list[bytes] = []
        """The bytes of every object at the moment when a daemon's CompleteMultipartUpload or PutObject succeeded."""
        self.removed_while_written: list[str] = []
        """Names of recordings that a daemon removed while a writer had them open."""
        self.redis_losses = 0
        """How often Redis lost acknowledged writes."""
        self.rolled_back: dict[str, Checkpoint] = {}
        """The checkpoints after the last loss, of streams that had no task before one of the losses."""
        self._lost_inactive: set[str] = set()
        """Streams that had no task before one of the losses; a failover may bring an older checkpoint of them back."""
        self.daemons_started = 0
        self.life = Life()
        self.journal = owner.cloud.journal if owner is not None else Journal()
        """The journal of the run."""
        self.acknowledgements = Acknowledgements()
        """The responses of S3 that reached the current daemon."""
        self._max_concurrent_streams = max_concurrent_streams
        self._max_concurrent_parts = max_concurrent_parts

    def utc_now(self) -> datetime:
        """Return the time of day in this world."""
        return utc_now()

    @property
    def folder(self) -> Path:
        """The real path of the watch folder of :attr:`host`."""
        return self.host.folder

    @property
    def has_kernel(self) -> bool:
        """Whether the world has a simulated kernel (``base`` was given)."""
        return self._kernel is not None

    @property
    def kernel(self) -> Kernel:
        """The simulated kernel.

        Raises:
            RuntimeError: the files are real.
        """
        if self._kernel is None:
            raise RuntimeError("this world's files are real")
        return self._kernel

    def add_host(self, name: str, *, machine: str | None = "another", file_system: FileSystem | None = None) -> Host:
        """Add a machine whose watch folder has the same path as this one's.

        With the same ``machine`` it is a container on that machine, with a file system of its own.
        """
        host = Host(name, self.folder.parent / f"{self.folder.name}-{name}", self.folder, machine)
        self.kernel.make_folder(host.folder, file_system or FileSystem())
        return host

    def _intercepting(self, host: Host) -> AbstractContextManager[None]:
        return self._kernel.intercepting(host) if self._kernel is not None else nullcontext()

    @contextmanager
    def _recording_removals(self, host: Host) -> Iterator[None]:
        """Record the recordings that a daemon removes before S3 has them, or while they are written (P8)."""
        before = {entry: entry.read_bytes() for entry in host.folder.rglob("*.mp4")}
        written = {entry for entry in before if self._is_written(entry)}
        yield
        saved = self.recordings()
        for entry, content in before.items():
            if not entry.exists():
                self.journal.note(Lane.FILE, f"the daemon removes {entry.name}")
                if content not in saved:
                    self.removed_unsaved.append(entry.name)
                if entry in written:
                    self.removed_while_written.append(entry.name)
        if self._kernel is not None:
            self._kernel.sweep()

    def _is_written(self, path: Path) -> bool:
        """Return whether a file is written; without usable leases it is not after ``STREAM_TIMEOUT_SECONDS`` idle."""
        if self._kernel is None:
            return False
        inode = self._kernel.inode(path)
        silent = trio.current_time() - inode.written_at >= self.stream_timeout_seconds
        return inode.writers > 0 and (inode.file_system.leases is Leases.TRUE or not silent)

    def _measure_disk(self, real: DiskSpace) -> DiskSpace:
        """Return the space of the disk of the watch folder: whole blocks of its recordings are used."""
        if not self.disk_bytes:
            return real
        used = self.used_bytes()
        self._most_used_bytes = used if self.frees_space else max(used, self._most_used_bytes)
        return replace(real, total_bytes=self.disk_bytes, free_bytes=max(0, self.disk_bytes - self._most_used_bytes))

    def used_bytes(self) -> int:
        """Return how much the recordings occupy, each file once."""
        stats = [entry.lstat() for entry in self.folder.rglob("*.mp4")]
        return sum(size for _, size in {(one.st_ino, one.st_blocks * 512) for one in stats})

    # -- files --------------------------------------------------------------------------------------------------------

    def path(self, name: str = "a.mp4") -> str:
        """Return the path of a file in the watch folder."""
        return str(self.folder / name)

    def append(self, size_bytes: int, name: str = "a.mp4") -> FileStat:
        """Append random bytes."""
        self.journal.note(Lane.FILE, f"append {size_bytes} to {name}")
        self.closed.discard(self.path(name))
        with Path(self.path(name)).open("ab") as file:
            file.write(self.random.randbytes(size_bytes))
        return self.stat(name)

    def patch(self, offset: int, data: bytes, name: str = "a.mp4") -> FileStat:
        """Overwrite earlier bytes."""
        self.journal.note(Lane.FILE, f"patch {name} at {offset}, {len(data)} bytes")
        self.closed.discard(self.path(name))
        with Path(self.path(name)).open("r+b") as file:
            file.seek(offset)
            file.write(data)
        return self.stat(name)

    def stat(self, name: str = "a.mp4") -> FileStat:
        """Set the modification time to this world's time, and return the stat result."""
        path = self.path(name)
        now = int(self.utc_now().timestamp() * 1e9)
        os.utime(path, ns=(now, now))
        found = regular_file_stat(Path(path).stat())
        if found is None:
            raise FileNotFoundError(path)
        return found

    def scan(self) -> Scanned:
        """Return the result of a scan of the watch folder."""
        found = {}
        for entry in sorted(self.folder.rglob("*")):
            stat = regular_file_stat(entry.lstat())
            if stat is not None and entry.suffix == ".mp4":
                found[str(entry)] = stat
        return Scanned(found, began_at=trio.current_time())

    def content(self, name: str = "a.mp4") -> bytes:
        """Return the bytes of a file."""
        return Path(self.path(name)).read_bytes()

    # -- contents of S3 and the store ---------------------------------------------------------------------------------

    @property
    def prefix(self) -> str:
        """What the keys of this world's owner begin with; empty: there are no other owners."""
        return self.owner.prefix if self.owner is not None else ""

    def want_aborted(self, daemon: WorldDaemon) -> None:
        """Request that all open streams be aborted, as ``cef-trio abort`` does; the daemon reads it at this moment."""
        opened = {one.meta.stream_id for one in self.known() if one.meta.status not in ENDED}
        self.wanted_aborted |= opened
        self.store.note_abort_requests(opened)
        if daemon.observer is not None:
            daemon.supervisor.abort(opened)

    def objects(self, bucket: str = BUCKET) -> dict[str, bytes]:
        """Return all objects of this world's owner in a bucket, by key."""
        model = self.endpoint.model
        listed = model.list_objects(bucket, prefix=self.prefix, delimiter="", after="", limit=1000)
        found = {}
        for record in listed.objects:
            with closing(model.storage.open_blob(record.blob)) as blob:
                found[record.key] = blob.read(0, record.size_bytes)
        return found

    def recordings(self) -> list[bytes]:
        """Return the bodies of the recordings in S3, without their metadata."""
        objects = [*self.objects().items(), *self.objects(OTHER_BUCKET).items()]
        return [body for key, body in objects if not key.endswith(metadata_key(""))]

    def open_uploads(self) -> list[str]:
        """Return the keys of open uploads."""
        page = self.endpoint.model.list_uploads(
            BUCKET, prefix=self.prefix, delimiter="", key_marker="", upload_id_marker="", limit=1000
        )
        return [upload.key for upload in page.uploads]

    def received_bytes(self) -> int:
        """Return the number of bytes of recordings that S3 received, repetitions included."""
        return sum(self.received_parts().values())

    def received_parts(self) -> dict[tuple[str, int], int]:
        """Return the bytes of recordings that S3 received, by key and part number (1 for PutObject)."""
        return {
            (key, number): size_bytes
            for (key, number), size_bytes in self.endpoint.log.received_bytes.items()
            if not key.endswith(metadata_key("")) and not is_probe(key)
        }

    def known(self) -> list[Checkpoint]:
        """Return all checkpoints of the store, past its faults; those of completed streams with their parts in S3."""
        streams = self.store.snapshot().streams
        return [
            with_parts(self.endpoint.model, replace(one, parts=dict(one.parts))) for _, one in sorted(streams.items())
        ]

    def leases_of(self, holder: str) -> list[str]:
        """Return the streams under the leases of one daemon, past the store's faults."""
        leases, now = self.store.snapshot().leases, trio.current_time()
        return [stream_id for stream_id, held in leases.items() if held.holder == holder and held.expires_at > now]

    async def checkpoints(self) -> list[Checkpoint]:
        """Return all checkpoints through the store's calls, which its faults affect; the completed ones with parts."""
        ids = [stream_id for stream_set in StreamSet for stream_id in await self.store.members(stream_set)]
        found = [await self.store.load(stream_id) for stream_id in sorted(ids)]
        return [with_parts(self.endpoint.model, checkpoint) for checkpoint in found if checkpoint is not None]

    @property
    def pending_webhooks(self) -> frozenset[str]:
        """The streams with a pending webhook, past the store's faults."""
        return self.store.snapshot().pending_webhooks

    @property
    def redis_lost(self) -> bool:
        """Whether Redis ever lost acknowledged writes."""
        return self.redis_losses > 0

    def lose_redis(self, *, down_to: StoreSnapshot | None = None) -> None:
        """Make Redis lose everything, or what is not in a snapshot."""
        self.journal.note(Lane.LAB, "Redis loses everything" if down_to is None else "Redis loses its last second")
        self.redis_losses += 1
        self._lost_inactive |= {one.meta.stream_id for one in self.known() if one.meta.status in INACTIVE}
        if down_to is None:
            self.store.clear()
        else:
            self.store.restore(down_to)
        self.rolled_back = {
            one.meta.stream_id: one for one in self.known() if one.meta.stream_id in self._lost_inactive
        }
        self.acknowledgements.forget()
        self.acknowledgements.redis_lost = True

    async def abort_open_uploads(self) -> list[str]:
        """Abort every open upload, as a lifecycle rule does; return their keys."""
        self.journal.note(Lane.LAB, "a lifecycle rule aborts all uploads")
        model = self.endpoint.model
        page = model.list_uploads(BUCKET, prefix="", delimiter="", key_marker="", upload_id_marker="", limit=1000)
        for upload in page.uploads:
            await model.abort(BUCKET, upload.key, upload.upload_id)
        return [upload.key for upload in page.uploads]

    async def put_foreign(self, key: str) -> None:
        """Put an object of another program under a stream's key."""
        self.journal.note(Lane.LAB, "another program puts an object under our key")
        async with self.foreign_client() as s3:
            await s3.put_object(key, NOT_OURS, content_type="text/plain", metadata={})

    def foreign_client(self) -> S3Client:
        """Return a client of another program for the same bucket."""
        config = S3Config(
            bucket=BUCKET,
            credentials=StaticCredentials(Credentials(DEFAULT_ACCESS_KEY_ID, DEFAULT_SECRET_ACCESS_KEY)),
            endpoint_url="http://s3.world.test",
        )
        return S3Client(config, transport=InProcessTransport(self.endpoint), now=self.utc_now)

    # -- a daemon -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def services(
        self,
        life: Life | None = None,
        *,
        instance: str = "world",
        acknowledgements: Acknowledgements | None = None,
        host: Host | None = None,
    ) -> AsyncIterator[Services]:
        """Open the services of a daemon.

        Args:
            life: its process; default: a new one.
            instance: its ``INSTANCE_ID``.
            acknowledgements: where the responses of S3 are recorded; default: :attr:`acknowledgements`.
            host: its machine; default: :attr:`host`.
        """
        host = host or self.host
        self.daemons_started += 1
        self.buckets_used.add(self.bucket)
        self.templates_used.add(self.key_template)
        acknowledgements = acknowledgements or self.acknowledgements
        self.life = life = life or Life()
        random = Random(self.random.getrandbits(64))  # noqa: S311 - as above
        template = KeyTemplate(self.key_template, folders=self._roots(host))
        config = S3Config(
            bucket=self.bucket,
            credentials=StaticCredentials(Credentials(DEFAULT_ACCESS_KEY_ID, DEFAULT_SECRET_ACCESS_KEY)),
            endpoint_url="http://s3.world.test",
        )

        def now() -> datetime:
            return self.utc_now() + timedelta(seconds=host.clock_seconds)

        def make_store(retrier: Retrier) -> CheckpointStore:
            store = self.store
            if type(store) is MemoryCheckpointStore:  # tests put a real one in its place
                store = StoreClient(store, retrier, life)
            return cast("CheckpointStore", CrashableStore(store, life, self.journal, acknowledgements))

        def make_s3(retrier: Retrier, rate_limiter: RateLimiter) -> _RecordingS3Client:
            transport = CrashableTransport(
                ProxyTransport(InProcessTransport(self.endpoint), self.proxy, call_name),
                life,
                acknowledgements,
                self.journal,
            )
            return _RecordingS3Client(
                replace(config, options=self.options, checksum=self.checksum),
                retrier=retrier,
                transport=transport,
                now=now,
                rate_limiter=rate_limiter,
            )

        clients = make_clients(self.policy, make_store, make_s3, template, upload_rate=self.upload_rate, random=random)
        store, s3 = clients.store, clients.s3
        s3.acknowledgements = acknowledgements
        bucket = self.bucket
        s3.completed = lambda key: self.completed.append(self.objects(bucket).get(key, b""))
        lease = Lease(instance, f"{random.getrandbits(64):016x}", 30.0, host.system)
        webhook = self._webhook_client(life) if self.webhook else None
        event_webhook = self._webhook_client(life) if self.webhooks_of_events else None
        async with s3, webhook or nullcontext(), event_webhook or nullcontext():
            yield Services(
                store=store,
                s3=s3,
                disk=CrashableDisk(
                    life,
                    partial(self._recording_removals, host),
                    partial(self._intercepting, host),
                    lambda: self.read_seconds,
                    self._measure_disk,
                ),
                probe=partial(self._probe, host),
                has_writer=partial(self._has_writer, host),
                lease=lease,
                shutdown_flush=ShutdownFlush(store, lease, clients.redis_breaker),
                s3_breaker=clients.s3_breaker,
                redis_breaker=clients.redis_breaker,
                stream_slots=trio.CapacityLimiter(self._max_concurrent_streams),
                part_slots=trio.CapacityLimiter(self._max_concurrent_parts),
                rules=StreamRules(
                    bucket=self.bucket,
                    key_template=template,
                    part_size=self.part_size,
                    equal_parts=self.equal_parts,
                    auto_part_size=self.auto_part_size,
                    endpoint=self.s3_name,
                    watch_folder=self._roots(host)[0],
                    more_folders=self._roots(host)[1:],
                    minimum=self.minimum,
                    rescan_seconds=self.rescan_seconds,
                ),
                utc_now=now,
                new_stream_id=lambda: str(UUID(int=self.random.getrandbits(128), version=4)),
                metrics=clients.metrics,
                rate_limiter=clients.rate_limiter,
                webhook=webhook,
                start_webhook=event_webhook,
                failure_webhook=event_webhook,
                owner_name=self.owner.name if self.owner is not None else "",
                owner_claim=self._claim(lease, host, life),
                ownership=Ownership(host.machine),
            )

    def _roots(self, host: Host) -> tuple[str, ...]:
        return tuple(str(host.watch_folder / name) for name in self.watched_below or ("",))

    def _claim(self, lease: Lease, host: Host, life: Life) -> OwnerClaim | None:
        owner = self.owner
        if owner is None or not owner.is_derived:
            return None
        return cast("OwnerClaim", SimulatedClaim(owner.cloud.claims, owner.name, lease, host.name, life))

    def _webhook_client(self, life: Life) -> WebhookClient:
        return WebhookClient(
            receiver.URL,
            secret=WEBHOOK_SECRET,
            timeout_seconds=5.0,
            now=self.utc_now,
            transport=CrashableReceiver(self.receiver, life, self.journal),
        )

    async def _probe(self, host: Host, path: str) -> MediaInfo:
        await trio.lowlevel.checkpoint()
        return MediaInfo(duration_seconds=struct.unpack("<I", os.fsencode(path)[-4:])[0] % 1000)

    async def _has_writer(self, host: Host, path: str) -> bool | None:
        await trio.lowlevel.checkpoint()
        if self._kernel is None:
            return path not in self.closed if self.has_writer is None else self.has_writer
        with self._kernel.intercepting(host):
            return knows_writer(writer_state_now(path))

    @asynccontextmanager
    async def killed_daemon(self) -> AsyncIterator[WorldDaemon]:
        """Run a daemon that crashes at the end of the block."""
        async with self.services() as services, trio.open_nursery() as nursery:
            daemon = WorldDaemon(self, services)
            await nursery.start(daemon.run)
            yield daemon
            self.life.end()
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[WorldDaemon]:
        """Run a daemon; its shutdown is requested at the end of the block."""
        async with self.services() as services, trio.open_nursery() as nursery:
            daemon = WorldDaemon(self, services)
            await nursery.start(daemon.run)
            yield daemon
            if daemon.shutdown.signals == 0:
                daemon.shutdown.request()


class _RecordingS3Client(S3Client):
    """An S3 client that records each object that it completed or put, before the daemon's next step."""

    acknowledgements: Acknowledgements
    completed: Callable[[str], None]

    async def complete_multipart_upload(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[PartToComplete],
        *,
        checksum: ChecksumAlgorithm,
        stream_id: str,
    ) -> S3Object:
        stored = await super().complete_multipart_upload(key, upload_id, parts, checksum=checksum, stream_id=stream_id)
        if not is_probe(key):
            self._record(stored)
        return stored

    async def put_recording(
        self,
        key: str,
        source: ByteSource,
        *,
        crc64nvme: int,
        stream_id: str,
        content_type: str = DEFAULT_CONTENT_TYPE,
        headers: Mapping[str, str] | None = None,
        fence: Callable[[], Awaitable[None]] | None = None,
    ) -> S3Object:
        stored = await super().put_recording(
            key,
            source,
            crc64nvme=crc64nvme,
            stream_id=stream_id,
            content_type=content_type,
            headers=headers,
            fence=fence,
        )
        self._record(stored)
        return stored

    def _record(self, stored: S3Object) -> None:
        self.acknowledgements.objects[stored.key] = stored.etag
        self.completed(stored.key)


class WorldDaemon:
    """The nursery tree of a daemon in a world, and methods that replace its watcher if the files are real."""

    def __init__(self, world: World, services: Services, host: Host | None = None) -> None:
        self.world = world
        self._host = host or world.host
        self.services = services
        self.shutdown = Shutdown(world.grace_seconds, services.rules.save_seconds)
        self.exit_code: ExitCode | None = None
        self.observer: Observer | None = None
        """Takes snapshots of it; ``None`` before it has started."""

    @property
    def at_risk(self) -> tuple[Risk, ...]:
        """The risks that the daemon reports (P10)."""
        return self.observer.risks() if self.observer is not None else ()

    @property
    def accepts_events(self) -> bool:
        """Whether it has started and no shutdown was requested."""
        return self.observer is not None and self.shutdown.signals == 0

    @property
    def supervisor(self) -> StreamSupervisor:
        """The supervisor.

        Raises:
            RuntimeError: the daemon has not started.
        """
        if self.observer is None:
            raise RuntimeError("the daemon has not started")
        return self.observer.supervisor

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the daemon until its shutdown."""

        async def run_intake(tasks: IntakeTasks) -> ExitCode:
            if self.services.owner_claim is not None:
                await self._take_claim(tasks)
            self.observer = tasks.observer
            async with trio.open_nursery() as intake:
                await tasks.start(intake, partial(self._start_watching, tasks, intake))
                task_status.started()
            return ExitCode.DONE

        world = self.world
        rules = IntakeRules(
            timeout_seconds=world.stream_timeout_seconds,
            after_upload=world.after_upload,
            webhook_retry_seconds=world.webhook_retry_seconds,
            random=Random(world.random.getrandbits(64)),  # noqa: S311 - to be repeated, not secret
        )
        await serve(self.services, self.shutdown, _is_recording, rules, run_intake)
        self.exit_code = ExitCode.NOT_SAVED if self.services.shutdown_flush.unsaved else ExitCode.DONE

    async def _take_claim(self, tasks: IntakeTasks) -> None:
        """Wait for the owner's name, as the daemon does before its intake; Redis may be down meanwhile."""
        while True:
            with suppress(CefMp4ProcessorError):
                await tasks.claim.take(lambda _: None)
                return
            await trio.sleep(1)

    async def _start_watching(self, tasks: IntakeTasks, intake: trio.Nursery) -> None:
        """Start the watcher; with real files, report a scan instead."""
        if not self.world.has_kernel:
            tasks.supervisor.handle_event(self.world.scan())

            def scan_soon() -> None:
                if self.accepts_events:
                    intake.start_soon(self._scan_later, tasks.supervisor)

            self.services.scans.request_scan = scan_soon
            return
        kernel, host, rules = self.world.kernel, self._host, self.services.rules
        scope = WatchScope(rules.watch_folders, _is_recording, Exclusion(()))
        watcher = Watcher(
            rules.watch_folder,
            scope,
            tasks.supervisor,
            rescan_seconds=self.world.rescan_seconds,
            reader=InlineReader(scope, partial(kernel.intercepting, host)),
            open_inotify=cast(
                "Callable[[], AbstractContextManager[INotify]]", partial(kernel.queues.open, host.real, host.name)
            ),
        )
        await tasks.watch(intake, watcher)

    async def _scan_later(self, supervisor: StreamSupervisor) -> None:
        """Report a scan, as the watcher does on request; retry until the watch folder exists."""
        while True:
            await trio.sleep(0.5)
            with suppress(FileNotFoundError):
                supervisor.handle_event(self.world.scan())
                return

    def seen(self, name: str = "a.mp4") -> None:
        """Report a created or written file."""
        self.supervisor.handle_event(Seen(self.world.path(name), _stat_of(self.world.path(name))))

    def closed(self, name: str = "a.mp4") -> None:
        """Report that a file was closed."""
        self.world.closed.add(self.world.path(name))
        self.supervisor.handle_event(Closed(self.world.path(name), _stat_of(self.world.path(name))))

    def moved(self, old: str, new: str) -> None:
        """Report that a file was renamed."""
        if self.world.path(old) in self.world.closed:
            self.world.closed.add(self.world.path(new))
        self.supervisor.handle_event(Moved(self.world.path(old), self.world.path(new), _stat_of(self.world.path(new))))

    def gone(self, name: str = "a.mp4") -> None:
        """Report that a file was deleted."""
        self.supervisor.handle_event(Gone(self.world.path(name)))


def _is_recording(path: str) -> bool:
    return path.endswith(".mp4")


def _stat_of(path: str) -> FileStat:
    found = regular_file_stat(Path(path).stat())
    if found is None:
        raise FileNotFoundError(path)
    return replace(found)
