"""A whole world in one process: a folder, an S3 endpoint, a checkpoint store and a daemon's tree on a virtual clock.

Everything a daemon touches is here and can be broken by a switch: the endpoint's ``faults``, the store's ``fault``.
Everything it promises can be looked at: what S3 holds, what the store holds, what was asked how often. The tree is the
real one (``daemon.serve``). In a world with a kernel of its own (``kernel.py``) the watcher is the real one too; in one
whose files are real, it is a script.

Seeds make a run repeatable: ids, jitter and the order of things come from ``seed``.
"""

from __future__ import annotations

import base64
import os
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Final, cast
from uuid import UUID

import trio
from inotify_simple import INotify

from cef_trio.checkpoint.memory import MemoryCheckpointStore, Snapshot
from cef_trio.checkpoint.model import Checkpoint, Lease
from cef_trio.checkpoint.protocols import CheckpointStore
from cef_trio.checkpoint.shutdown_flush import ShutdownFlush
from cef_trio.checkpoint.states import ENDED, INTERRUPTED, StreamSet
from cef_trio.daemon.intake_tasks import IntakeRules, IntakeTasks
from cef_trio.daemon.main import Shutdown, serve
from cef_trio.daemon.wiring import REDIS_ONCE, S3_ONCE, knows_writer
from cef_trio.exit_codes import ExitCode
from cef_trio.files.file_stat import FileStat
from cef_trio.files.reader import regular_file_stat
from cef_trio.files.writers import writer_state_now
from cef_trio.lab import receiver
from cef_trio.lab.crash_simulation import Acknowledgements, CrashableStore, CrashableTransport, Life, call_name
from cef_trio.lab.disk import CrashableDisk, InlineReader
from cef_trio.lab.filesystem import FileSystem, Leases
from cef_trio.lab.journal import Journal, Lane
from cef_trio.lab.kernel import Host, Kernel
from cef_trio.lab.proxy import Proxy, ProxyTransport
from cef_trio.lab.receiver import CrashableReceiver, Receiver
from cef_trio.media.metadata import MediaInfo
from cef_trio.observability.at_risk import Risk
from cef_trio.observability.metrics import Metrics
from cef_trio.resilience.retry import CircuitBreaker, RetryPolicy, ServiceRetrier
from cef_trio.s3.client import S3Client
from cef_trio.s3.config import ChecksumMode, S3Config
from cef_trio.s3.credentials import StaticCredentials
from cef_trio.s3.model import ChecksumAlgorithm, PartToComplete
from cef_trio.s3.model import StoredObject as S3Object
from cef_trio.s3.rate_limiter import RateLimiter
from cef_trio.s3.signing import Credentials
from cef_trio.s3.store_probe import StoreProbe
from cef_trio.s3_endpoint import DEFAULT_ACCESS_KEY_ID, DEFAULT_SECRET_ACCESS_KEY, InProcessTransport, S3Endpoint
from cef_trio.settings.after_upload import KEEP
from cef_trio.settings.object_options import ObjectOptions
from cef_trio.upload.object_key import KeyTemplate, metadata_key
from cef_trio.upload.ownership import Ownership
from cef_trio.upload.risks import RiskObserver
from cef_trio.upload.services import Services, StreamRules
from cef_trio.upload.supervisor import StreamSupervisor
from cef_trio.watch.events import Closed, Gone, Moved, Scanned, Seen
from cef_trio.watch.watcher import Watcher
from cef_trio.webhook.client import WebhookClient

BUCKET: Final = "recordings"
OTHER_BUCKET: Final = "elsewhere"
PART: Final = 1000
"""A part's size in this world, bytes."""
WEBHOOK_SECRET: Final = "whsec_" + base64.b64encode(b"a world's secret, 24 bytes").decode()
NOBODY_WORKS: Final = INTERRUPTED | ENDED
"""Statuses that say of a stream that no task works on it."""
EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)


class World:
    """The outside of a daemon. It outlives daemons, as the real one does."""

    def __init__(  # noqa: PLR0915 - a list of all that can be turned
        self,
        folder: Path,
        *,
        seed: int = 0,
        max_concurrent_streams: int = 10,
        max_concurrent_parts: int = 4,
        policy: RetryPolicy | None = None,
        base: Path | None = None,
    ) -> None:
        self.folder = folder
        self._kernel: Kernel | None = None
        if base is not None:
            self._kernel = Kernel(base, lambda: int(self.utc_now().timestamp() * 1e9))
            self._kernel.make_folder(folder, FileSystem())
        self.host = Host("world", folder, folder)
        """The machine of this world's daemons, but for those that are started elsewhere."""
        self.bucket = BUCKET
        """The bucket of the next daemon."""
        self.buckets_used: set[str] = set()
        """The buckets of all daemons so far."""
        self.s3_name = ""
        """How the next daemon calls the store's endpoint; empty: it does not record it."""
        self.key_template = "streams/{stream_id}/{file_name}"
        self.part_size = PART
        self.equal_parts = False
        self.random = Random(seed)  # noqa: S311 - a world is to be repeatable, not secret
        self.endpoint = S3Endpoint(
            buckets=[BUCKET, OTHER_BUCKET],
            clock=lambda: self.utc_now().timestamp(),
            minimum_part_size_bytes=1,
            new_request_id=lambda: f"{self.random.getrandbits(64):016X}",
        )
        self.store = MemoryCheckpointStore()
        self.policy = policy or RetryPolicy(attempts=3, initial_seconds=0.2, max_seconds=2.0)
        self.grace_seconds = 6.0
        self.stream_timeout_seconds = 30.0
        self.has_writer: bool | None = None
        """What is said of every file's writers; ``None``: it has one until its close was told.

        Of the world's own kernel the daemon asks itself.
        """
        self.closed: set[str] = set()
        """Paths of files whose close was told since they were last written."""
        self.rescan_seconds = 20.0
        self.read_seconds = 0.0
        """How long each read of a file takes."""
        self.options = ObjectOptions()
        """How the next daemon puts objects."""
        self.checksum = ChecksumMode.AUTO
        self.upload_rate = 0
        """Bytes a second of the next daemon; 0 is no limit."""
        self.after_upload = KEEP
        """What the daemons of this world are to do with uploaded recordings."""
        self.webhook = False
        """Whether they are to tell :attr:`receiver` of them."""
        self.webhook_retry_seconds = 86_400.0
        self.receiver = Receiver()
        self.proxy = Proxy()
        """What stands between the daemons and S3."""
        self.gone_unsaved: list[str] = []
        """Names of recordings that a daemon took away while S3 had no object with their bytes."""
        self.completed: list[bytes] = []
        """Every object as it was when a daemon was told that it is complete."""
        self.gone_written: list[str] = []
        """Names of recordings that a daemon took away while somebody wrote them."""
        self.redis_losses = 0
        """How often Redis lost something that it had acknowledged."""
        self.set_back: dict[str, Checkpoint] = {}
        """Streams of which Redis lost that they had ended, or were left, and what it then said of them."""
        self.daemons_started = 0
        self.life = Life()
        self.journal = Journal()
        """What happened, by this world's clock."""
        self.acknowledgements = Acknowledgements()
        """What S3 has acknowledged to this world's daemons."""
        self._max_concurrent_streams = max_concurrent_streams
        self._max_concurrent_parts = max_concurrent_parts

    def utc_now(self) -> datetime:
        """The time of day in this world; it runs with trio's clock."""
        return EPOCH + timedelta(seconds=trio.current_time())

    @property
    def has_kernel(self) -> bool:
        """Whether its file systems are its own."""
        return self._kernel is not None

    @property
    def kernel(self) -> Kernel:
        """The world's own kernel, if it has one (``base``)."""
        if self._kernel is None:
            raise RuntimeError("this world's files are real")
        return self._kernel

    def add_host(self, name: str, *, machine: str | None = "another", file_system: FileSystem | None = None) -> Host:
        """Another machine, whose daemon calls its own folder as this one's daemons call theirs.

        With the same ``machine`` it is another container there, with a disk of its own.
        """
        host = Host(name, self.folder.parent / f"{self.folder.name}-{name}", self.folder, machine)
        self.kernel.make_folder(host.folder, file_system or FileSystem())
        return host

    def _answering(self, host: Host) -> AbstractContextManager[None]:
        return self._kernel.answering(host) if self._kernel is not None else nullcontext()

    @contextmanager
    def _watching_the_files(self, host: Host) -> Iterator[None]:
        """See what a daemon takes away: whether S3 has it at that moment, and nobody writes it (promise P8)."""
        before = {entry: entry.read_bytes() for entry in host.folder.rglob("*.mp4")}
        written = {entry for entry in before if self._is_written(entry)}
        yield
        saved = self.recordings()
        for entry, content in before.items():
            if not entry.exists():
                self.journal.note(Lane.FILE, f"{entry.name} is taken away by the daemon")
                if content not in saved:
                    self.gone_unsaved.append(entry.name)
                if entry in written:
                    self.gone_written.append(entry.name)
        if self._kernel is not None:
            self._kernel.sweep()

    def _is_written(self, path: Path) -> bool:
        """Whether somebody writes a file; where nobody can know, ``STREAM_TIMEOUT_SECONDS`` of silence is an end."""
        if self._kernel is None:
            return False
        inode = self._kernel.inode(path)
        silent = trio.current_time() - inode.written_at >= self.stream_timeout_seconds
        return inode.writers > 0 and (inode.file_system.leases is Leases.TRUE or not silent)

    # -- files --------------------------------------------------------------------------------------------------------

    def path(self, name: str = "a.mp4") -> str:
        """Where a file of that name is."""
        return str(self.folder / name)

    def append(self, size_bytes: int, name: str = "a.mp4") -> FileStat:
        """Append bytes that nobody else has."""
        self.journal.note(Lane.FILE, f"append {size_bytes} to {name}")
        self.closed.discard(self.path(name))
        with Path(self.path(name)).open("ab") as file:
            file.write(self.random.randbytes(size_bytes))
        return self.stat(name)

    def patch(self, offset: int, data: bytes, name: str = "a.mp4") -> FileStat:
        """Write over bytes that were there before."""
        self.journal.note(Lane.FILE, f"patch {name} at {offset}, {len(data)} bytes")
        self.closed.discard(self.path(name))
        with Path(self.path(name)).open("r+b") as file:
            file.seek(offset)
            file.write(data)
        return self.stat(name)

    def stat(self, name: str = "a.mp4") -> FileStat:
        """What the file is, with a modification time on this world's clock."""
        path = self.path(name)
        now = int(self.utc_now().timestamp() * 1e9)
        os.utime(path, ns=(now, now))
        found = regular_file_stat(Path(path).stat())
        if found is None:
            raise FileNotFoundError(path)
        return found

    def scan(self) -> Scanned:
        """What a scan of the folder would tell."""
        found = {}
        for entry in sorted(self.folder.iterdir()):
            stat = regular_file_stat(entry.lstat())
            if stat is not None and entry.suffix == ".mp4":
                found[str(entry)] = stat
        return Scanned(found, began_at=trio.current_time())

    def content(self, name: str = "a.mp4") -> bytes:
        """The file's bytes."""
        return Path(self.path(name)).read_bytes()

    # -- what S3 and the store hold -----------------------------------------------------------------------------------

    def objects(self, bucket: str = BUCKET) -> dict[str, bytes]:
        """Every object of a bucket, by key."""
        model = self.endpoint.model
        listed = model.list_objects(bucket, prefix="", delimiter="", after="", limit=1000)
        found = {}
        for record in listed.objects:
            with closing(model.storage.open_blob(record.blob)) as blob:
                found[record.key] = blob.read(0, record.size_bytes)
        return found

    def recordings(self) -> list[bytes]:
        """The recordings in S3."""
        objects = [*self.objects().items(), *self.objects(OTHER_BUCKET).items()]
        return [body for key, body in objects if not key.endswith(metadata_key(""))]

    def open_uploads(self) -> list[str]:
        """Keys of uploads that are neither completed nor aborted."""
        page = self.endpoint.model.list_uploads(
            BUCKET, prefix="", delimiter="", key_marker="", upload_id_marker="", limit=1000
        )
        return [upload.key for upload in page.uploads]

    def received_bytes(self) -> int:
        """How many bytes of parts came in, repetitions counted."""
        return sum(self.endpoint.log.received_bytes.values())

    def known(self) -> list[Checkpoint]:
        """Every stream that the store knows, whether it can be asked now or not."""
        streams = self.store.snapshot().streams
        return [Checkpoint(stream.meta, stream.stream_set, dict(stream.parts)) for _, stream in sorted(streams.items())]

    async def checkpoints(self) -> list[Checkpoint]:
        """Every stream that the store knows, asked as a daemon would."""
        ids = [stream_id for stream_set in StreamSet for stream_id in await self.store.members(stream_set)]
        found = [await self.store.load(stream_id) for stream_id in sorted(ids)]
        return [checkpoint for checkpoint in found if checkpoint is not None]

    @property
    def pending_webhooks(self) -> frozenset[str]:
        """The streams whose webhook is owed, whether the store can be asked now or not."""
        return self.store.snapshot().pending_webhooks

    @property
    def redis_lost(self) -> bool:
        """Whether Redis ever lost something that it had acknowledged."""
        return self.redis_losses > 0

    def lose_redis(self, *, down_to: Snapshot | None = None) -> None:
        """Redis loses what is not in that snapshot, or everything; what was acknowledged is no longer its to know."""
        self.journal.note(Lane.LAB, "Redis loses everything" if down_to is None else "Redis loses its last second")
        self.redis_losses += 1
        left = {one.meta.stream_id for one in self.known() if one.meta.status in NOBODY_WORKS}
        if down_to is None:
            self.store.clear()
        else:
            self.store.restore(down_to)
        self.set_back = {one.meta.stream_id: one for one in self.known() if one.meta.stream_id in left}
        self.acknowledgements.forget()
        self.acknowledgements.redis_lost = True

    async def abort_open_uploads(self) -> list[str]:
        """A lifecycle rule aborts every open upload; returns their keys."""
        self.journal.note(Lane.LAB, "a lifecycle rule aborts all uploads")
        model = self.endpoint.model
        page = model.list_uploads(BUCKET, prefix="", delimiter="", key_marker="", upload_id_marker="", limit=1000)
        for upload in page.uploads:
            await model.abort(BUCKET, upload.key, upload.upload_id)
        return [upload.key for upload in page.uploads]

    async def put_foreign(self, key: str) -> None:
        """Somebody else puts an object under a key of ours."""
        self.journal.note(Lane.LAB, "somebody puts an object under our key")
        async with self.foreign_client() as s3:
            await s3.put_object(key, b"not ours", content_type="text/plain", metadata={})

    def foreign_client(self) -> S3Client:
        """A client of the same bucket that is nobody's daemon."""
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
        """Open a daemon's services; ``instance``: its INSTANCE_ID, ``acknowledgements``: the record of those of S3."""
        host = host or self.host
        self.daemons_started += 1
        self.buckets_used.add(self.bucket)
        acknowledgements = acknowledgements or self.acknowledgements
        self.life = life = life or Life()
        store = cast("CheckpointStore", CrashableStore(self.store, life, self.journal, acknowledgements))
        random = Random(self.random.getrandbits(64))  # noqa: S311 - as above
        metrics = Metrics()
        template = KeyTemplate(self.key_template)
        redis_breaker = CircuitBreaker("redis", lambda _need: store.prove(), self.policy, random)
        s3_breaker = CircuitBreaker("s3", lambda need: s3_probe(need), self.policy, random)  # noqa: PLW0108 - made below
        self.store._retrier = ServiceRetrier(  # noqa: SLF001
            redis_breaker, self.policy, once=REDIS_ONCE, random=random, observer=metrics.attempt_failed
        )
        config = S3Config(
            bucket=self.bucket,
            credentials=StaticCredentials(Credentials(DEFAULT_ACCESS_KEY_ID, DEFAULT_SECRET_ACCESS_KEY)),
            endpoint_url="http://s3.world.test",
        )
        rate_limiter = RateLimiter(self.upload_rate, waited=metrics.upload_waited)
        s3 = _RecordingS3Client(
            replace(config, options=self.options, checksum=self.checksum),
            retrier=ServiceRetrier(
                s3_breaker, self.policy, once=S3_ONCE, random=random, observer=metrics.attempt_failed
            ),
            transport=CrashableTransport(
                ProxyTransport(InProcessTransport(self.endpoint), self.proxy, call_name),
                life,
                acknowledgements,
                self.journal,
            ),
            now=self.utc_now,
            rate_limiter=rate_limiter,
        )
        s3_probe = StoreProbe(s3, template.probe_key, template.probe_recording_key)
        s3.acknowledgements = acknowledgements
        bucket = self.bucket
        s3.completed = lambda key: self.completed.append(self.objects(bucket).get(key, b""))
        lease = Lease(instance, f"{random.getrandbits(64):016x}", 30.0, host.name)
        webhook = self._webhook_client(life) if self.webhook else None
        async with s3, webhook or nullcontext():
            yield Services(
                store=store,
                s3=s3,
                disk=CrashableDisk(
                    life,
                    partial(self._watching_the_files, host),
                    partial(self._answering, host),
                    lambda: self.read_seconds,
                ),
                probe=partial(self._probe, host),
                has_writer=partial(self._has_writer, host),
                lease=lease,
                exit_saves=ShutdownFlush(store, lease, redis_breaker),
                s3_breaker=s3_breaker,
                redis_breaker=redis_breaker,
                stream_slots=trio.CapacityLimiter(self._max_concurrent_streams),
                part_slots=trio.CapacityLimiter(self._max_concurrent_parts),
                rules=StreamRules(
                    bucket=self.bucket,
                    key_template=template,
                    part_size=self.part_size,
                    equal_parts=self.equal_parts,
                    endpoint=self.s3_name,
                    watch_folder=str(self.folder),
                ),
                utc_now=self.utc_now,
                new_stream_id=lambda: str(UUID(int=self.random.getrandbits(128), version=4)),
                metrics=metrics,
                rate_limiter=rate_limiter,
                webhook=webhook,
                ownership=Ownership(host.machine),
            )

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
        with self._kernel.answering(host):
            return knows_writer(writer_state_now(path))

    @asynccontextmanager
    async def killed_daemon(self) -> AsyncIterator[WorldDaemon]:
        """A daemon that is killed at the block's end: from then on nothing it does has any effect."""
        async with self.services() as services, trio.open_nursery() as nursery:
            daemon = WorldDaemon(self, services)
            await nursery.start(daemon.run)
            yield daemon
            self.life.end()
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[WorldDaemon]:
        """A running daemon; leaving the block shuts it down in good order."""
        async with self.services() as services, trio.open_nursery() as nursery:
            daemon = WorldDaemon(self, services)
            await nursery.start(daemon.run)
            yield daemon
            if daemon.shutdown.signals == 0:
                daemon.shutdown.request()


class _RecordingS3Client(S3Client):
    """The client itself; what it says of a completed object is noted the moment it says so."""

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
        self.acknowledgements.objects[key] = stored.etag
        self.completed(key)
        return stored


class WorldDaemon:
    """The daemon's tree in a world, and the script that stands for its watcher."""

    def __init__(self, world: World, services: Services, host: Host | None = None) -> None:
        self.world = world
        self._host = host or world.host
        self.services = services
        self.shutdown = Shutdown(world.grace_seconds, services.rules.save_seconds)
        self.exit_code: ExitCode | None = None
        self._supervisor: StreamSupervisor | None = None
        self._risks: RiskObserver | None = None

    @property
    def at_risk(self) -> tuple[Risk, ...]:
        """What it says should be in S3 and is not getting there (promise P10)."""
        return self._risks() if self._risks is not None else ()

    @property
    def listens(self) -> bool:
        """Whether it can be told news: it has started, and is not on its way out."""
        return self._supervisor is not None and self.shutdown.signals == 0

    @property
    def supervisor(self) -> StreamSupervisor:
        """Who starts the streams."""
        if self._supervisor is None:
            raise RuntimeError("the daemon has not started")
        return self._supervisor

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the tree to its end."""

        async def run_intake(supervisor: StreamSupervisor) -> ExitCode:
            self._supervisor = supervisor
            world, services = self.world, self.services
            self._risks = RiskObserver(services, supervisor, lambda: self.shutdown.signals > 0)
            services.metrics.at_risk_by(self._risks)
            tasks = IntakeTasks(
                services,
                supervisor,
                self._risks,
                IntakeRules(
                    folder=str(world.folder),
                    timeout_seconds=world.stream_timeout_seconds,
                    after_upload=world.after_upload,
                    webhook_retry_seconds=world.webhook_retry_seconds,
                    random=Random(world.random.getrandbits(64)),  # noqa: S311 - to be repeated, not secret
                ),
            )
            async with trio.open_nursery() as intake:
                await tasks.start(intake, partial(self._start_watching, supervisor, intake))
                task_status.started()
            return ExitCode.DONE

        await serve(self.services, self.shutdown, _is_recording, run_intake)
        self.exit_code = ExitCode.NOT_SAVED if self.services.exit_saves.unsaved else ExitCode.DONE

    async def _start_watching(self, supervisor: StreamSupervisor, intake: trio.Nursery) -> None:
        """Watch the world's own file system as the daemon does; real files are told of by whoever writes them."""
        if not self.world.has_kernel:
            supervisor.handle_event(self.world.scan())

            def scan_soon() -> None:
                if self.listens:
                    intake.start_soon(self._tell_scan, supervisor)

            self.services.scans.request_scan = scan_soon
            return
        kernel, host = self.world.kernel, self._host
        watcher = Watcher(
            self.services.rules.watch_folder,
            _is_recording,
            supervisor,
            rescan_seconds=self.world.rescan_seconds,
            reader=InlineReader(_is_recording, partial(kernel.answering, host)),
            open_inotify=cast("Callable[[], AbstractContextManager[INotify]]", partial(kernel.queues.open, host.real)),
        )
        self.services.scans.request_scan = watcher.rescan
        if self._risks is not None:
            self._risks.watcher = watcher
        await intake.start(watcher.run)

    async def _tell_scan(self, supervisor: StreamSupervisor) -> None:
        """Scan, as the watcher does when it is asked to; a folder that is lost tells nothing until it is back."""
        while True:
            await trio.sleep(0.5)
            with suppress(FileNotFoundError):
                supervisor.handle_event(self.world.scan())
                return

    def saw(self, name: str = "a.mp4") -> None:
        """The watcher sees the file as it is."""
        self.supervisor.handle_event(Seen(self.world.path(name), _as_it_is(self.world.path(name))))

    def closed(self, name: str = "a.mp4") -> None:
        """The watcher sees its writer close it."""
        self.world.closed.add(self.world.path(name))
        self.supervisor.handle_event(Closed(self.world.path(name), _as_it_is(self.world.path(name))))

    def moved(self, old: str, new: str) -> None:
        """The watcher sees it renamed."""
        if self.world.path(old) in self.world.closed:
            self.world.closed.add(self.world.path(new))
        self.supervisor.handle_event(Moved(self.world.path(old), self.world.path(new), _as_it_is(self.world.path(new))))

    def gone(self, name: str = "a.mp4") -> None:
        """The watcher sees it go."""
        self.supervisor.handle_event(Gone(self.world.path(name)))


def _is_recording(path: str) -> bool:
    return path.endswith(".mp4")


def _as_it_is(path: str) -> FileStat:
    found = regular_file_stat(Path(path).stat())
    if found is None:
        raise FileNotFoundError(path)
    return replace(found)
