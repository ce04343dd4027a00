"""Build the services from the settings: the one place that chooses implementations."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from random import Random
from typing import Final, Generic, TypeVar
from uuid import uuid4
from zoneinfo import ZoneInfo

import structlog
import trio
from pydantic import SecretStr

from cef_trio.checkpoint import CheckpointStore, Lease, ShutdownFlush
from cef_trio.checkpoint.redis import RedisCheckpointStore
from cef_trio.daemon.machine import LET_READ_BOOT_ID, UNKNOWN_BOOT, boot_id, machine_id
from cef_trio.daemon.owner_name import find_owner
from cef_trio.daemon.redis_store import as_settings_error, checkpoint_store
from cef_trio.files import KernelDisk, Mounts, WriterState, writer_state
from cef_trio.http import HttpProxy
from cef_trio.media import probe
from cef_trio.observability import Metrics
from cef_trio.resilience import IDLE_SECONDS, CircuitBreaker, Retrier, RetryPolicy, ServiceRetrier
from cef_trio.s3 import (
    Addressing,
    ChainCredentials,
    ChecksumMode,
    Credentials,
    CredentialsProvider,
    PayloadSigning,
    Rate,
    RateLimiter,
    S3Client,
    S3Config,
    StaticCredentials,
    StoreProbe,
)
from cef_trio.settings import RateTimetable, Settings, SettingsError, UploadRate
from cef_trio.upload import AutoPartSize, KeyTemplate, Ownership, Services, StartMinimum, StreamRules, known_part_size
from cef_trio.webhook import WebhookClient

log = structlog.get_logger(__name__)

StoreT = TypeVar("StoreT", bound=CheckpointStore)
S3T = TypeVar("S3T", bound=S3Client)

REDIS_NOT_RETRIED: Final = frozenset(
    {
        "beat",
        "count",
        "forget_reports",
        "is_persistent",
        "known_elsewhere",
        "register_owner",
        "report",
        "reports",
        "save_interrupted",
        "verification",
    }
)
"""Redis operations that are not retried: surveys, heartbeats and reports (repeated by their caller; a report that
waited would have an old time; in a cluster the registry, or another owner, may be on a node that does not work, without
which uploads go on) and the save at shutdown (no time left)."""
S3_NOT_RETRIED: Final = frozenset({"upload_part_copy"})
"""S3 operations that are not retried: a copy falls back to sending the bytes."""


@dataclass(frozen=True, slots=True)
class Clients(Generic[StoreT, S3T]):
    """The clients of Redis and S3, with what decides on their retries and counts them."""

    store: StoreT
    s3: S3T
    redis_breaker: CircuitBreaker
    s3_breaker: CircuitBreaker
    rate_limiter: RateLimiter
    metrics: Metrics


def make_clients(
    policy: RetryPolicy,
    make_store: Callable[[Retrier], StoreT],
    make_s3: Callable[[Retrier, RateLimiter], S3T],
    template: KeyTemplate,
    *,
    upload_rate: Rate,
    idle_seconds: float | None = None,
    random: Random | None = None,
) -> Clients[StoreT, S3T]:
    """Make the clients of the daemon, or of the laboratory; ``make_store`` and ``make_s3`` make the clients themselves.

    ``idle_seconds``: when an idle service is probed (:class:`CircuitBreaker`); ``random``: source of jitter.
    """
    store: StoreT
    metrics = Metrics()
    rate_limiter = RateLimiter(upload_rate, waited=metrics.upload_waited)
    retrier = partial(ServiceRetrier, policy=policy, random=random, observer=metrics.attempt_failed)
    redis_breaker = CircuitBreaker(
        "redis", lambda _kind: store.check_writable(), policy, random, idle_seconds=idle_seconds
    )
    store = make_store(retrier(redis_breaker, not_retried=REDIS_NOT_RETRIED))
    s3_probe: StoreProbe
    s3_breaker = CircuitBreaker("s3", lambda need: s3_probe(need), policy, random, idle_seconds=idle_seconds)  # noqa: PLW0108 - made below
    s3 = make_s3(retrier(s3_breaker, not_retried=S3_NOT_RETRIED), rate_limiter)
    s3_probe = StoreProbe(s3, template.probe_key, template.probe_recording_key)
    return Clients(store, s3, redis_breaker, s3_breaker, rate_limiter, metrics)


def rate_in_force(rate: UploadRate) -> Rate:
    """Return the rate of the setting; of a timetable, a function that returns the one of the local time (``TZ``)."""
    return (lambda: rate.rate_at(datetime.now(UTC).astimezone())) if isinstance(rate, RateTimetable) else rate


@asynccontextmanager
async def open_services(
    settings: Settings, *, read_again: Callable[[], Settings] | None = None
) -> AsyncIterator[Services]:
    """Open the services of the settings; they connect at the first call and are closed on exit.

    ``read_again`` reads the settings again. It is called when S3 or Redis refuses the credentials, since rotation
    replaces the files that hold them.

    Raises:
        SettingsError: a URL is invalid, a bucket name is no host name, or no owner's name can be derived.
    """
    owner = await find_owner(settings)
    log.info("owner_determined", owner=owner.name, source=owner.source.value)
    system = boot_id()
    if owner.is_derived and system == UNKNOWN_BOOT:
        log.warning("boot_id_not_readable", owner=owner.name, todo=LET_READ_BOOT_ID)
    template = key_template(settings, owner.name)
    reread_settings = partial(_reread_settings, read_again) if read_again is not None else None
    config = s3_config(settings, reread_settings)
    clients = make_clients(
        RetryPolicy(settings.retry_attempts, settings.retry_initial_seconds, settings.retry_max_seconds),
        partial(checkpoint_store, settings, owner.name, reread_settings=reread_settings),
        lambda retrier, rate_limiter: s3_client(settings, retrier, rate_limiter, config),
        template,
        upload_rate=rate_in_force(settings.max_upload_rate),
        idle_seconds=IDLE_SECONDS,
    )
    store, s3 = clients.store, clients.s3
    lease = Lease(settings.instance_id, uuid4().hex, settings.lease_seconds, system)
    webhooks = webhook_clients(settings)
    mounts = Mounts(timeout_seconds=settings.file_system_timeout_seconds)
    async with AsyncExitStack() as opened:
        await opened.enter_async_context(store)
        await opened.enter_async_context(s3)
        for webhook in webhooks.values():
            await opened.enter_async_context(webhook)
        yield Services(
            store=store,
            s3=s3,
            disk=KernelDisk(mounts),
            mounts=mounts,
            probe=partial(probe, ffprobe_path=settings.ffprobe_path, timeout_seconds=settings.ffprobe_timeout_seconds),
            has_writer=partial(_has_writer, mounts),
            lease=lease,
            shutdown_flush=ShutdownFlush(store, lease, clients.redis_breaker),
            s3_breaker=clients.s3_breaker,
            redis_breaker=clients.redis_breaker,
            stream_slots=trio.CapacityLimiter(settings.max_concurrent_streams),
            part_slots=trio.CapacityLimiter(settings.max_concurrent_parts),
            rules=_rules(settings, template),
            utc_now=lambda: datetime.now(UTC),
            new_stream_id=lambda: str(uuid4()),
            metrics=clients.metrics,
            rate_limiter=clients.rate_limiter,
            webhook=webhooks.get("ON_COMPLETE_WEBHOOK"),
            start_webhook=webhooks.get("ON_START_WEBHOOK"),
            failure_webhook=webhooks.get("ON_FAILURE_WEBHOOK"),
            owner_name=owner.name,
            owner_claim=store.owner_claim(lease, socket.gethostname(), exclusive=owner.is_derived),
            owners=store.owners,
            verification_totals=store.verifications.totals,
            legacy=store.legacy,
            ownership=Ownership(machine_id()),
            renew_credentials=partial(_renew, store, s3, tuple(webhooks.values()), config.credentials),
        )


def _reread_settings(read_again: Callable[[], Settings]) -> Settings | None:
    """Return the current settings; ``None`` if they cannot be read, as while a file is replaced. Blocks."""
    try:
        return read_again()
    except (SettingsError, OSError, ValueError) as error:
        log.warning("credentials_not_read", error="; ".join(str(error).splitlines()))
        return None


def _renew(
    store: RedisCheckpointStore,
    s3: S3Client,
    webhooks: Sequence[WebhookClient],
    credentials: CredentialsProvider,
    settings: Settings,
) -> None:
    """Apply the credentials of these settings, and restart AWS's own chain.

    Connections are reopened too, since certificates are read when a connection is opened and may have changed.
    """
    store.renew_login(settings.redis_url.get_secret_value())
    store.renew_connections()
    s3.renew_connections()
    for webhook in webhooks:
        webhook.renew_connections()
    keys = _keys(settings)
    if isinstance(credentials, StaticCredentials) and keys is not None:
        credentials.renew(keys)
    elif isinstance(credentials, ChainCredentials):
        credentials.rejected()


def key_template(settings: Settings, owner: str) -> KeyTemplate:
    """Return the key template of an owner."""
    return KeyTemplate.of_owner(
        settings.s3_key_template,
        owner,
        host=settings.instance_id,
        folders=tuple(map(str, (*settings.watch_dirs, *settings.watch_link_roots))),
        zone=ZoneInfo(settings.key_time_zone),
    )


def webhook_clients(settings: Settings) -> dict[str, WebhookClient]:
    """Return the webhook clients of the settings, by the setting that has their URL.

    Raises:
        SettingsError: the CA file holds no certificates.
    """
    urls = {
        "ON_COMPLETE_WEBHOOK": settings.on_complete_webhook,
        "ON_START_WEBHOOK": settings.on_start_webhook,
        "ON_FAILURE_WEBHOOK": settings.on_failure_webhook,
    }
    with as_settings_error():
        return {
            name: WebhookClient(
                url.get_secret_value(),
                secret=_text(settings.webhook_secret),
                timeout_seconds=settings.webhook_timeout_seconds,
                now=lambda: datetime.now(UTC),
                ca_file=settings.webhook_ca_file,
                setting=name,
                proxy=HttpProxy.of_url(
                    _text(settings.webhook_proxy_url),
                    setting="WEBHOOK_PROXY_URL",
                    tls=url.get_secret_value().lower().startswith("https:"),
                ),
            )
            for name, url in urls.items()
            if url is not None
        }


def s3_client(
    settings: Settings, retrier: Retrier, rate_limiter: RateLimiter | None = None, config: S3Config | None = None
) -> S3Client:
    """Return the S3 client of the settings, or of ``config`` made from them; it connects at the first call.

    Raises:
        SettingsError: the bucket's name or the endpoint cannot be addressed.
    """
    with as_settings_error():
        return S3Client(config or s3_config(settings), retrier=retrier, rate_limiter=rate_limiter)


def _rules(settings: Settings, template: KeyTemplate) -> StreamRules:
    return StreamRules(
        bucket=settings.s3_bucket_name,
        key_template=template,
        part_size=known_part_size(settings.chunk_size_bytes),
        equal_parts=settings.s3_equal_parts,
        auto_part_size=AutoPartSize() if settings.chunk_size_bytes == "auto" else None,
        endpoint=settings.s3_endpoint_url or f"AWS in {settings.s3_region_name}",
        watch_folder=str(settings.watch_dir),
        more_folders=tuple(map(str, settings.watch_dirs[1:])),
        watch_patterns=tuple(settings.watch_patterns),
        link_roots=tuple(str(root) for root in settings.watch_link_roots),
        minimum=StartMinimum(age_seconds=settings.watch_min_age_seconds, size_bytes=settings.watch_min_size_bytes),
        rescan_seconds=settings.rescan_seconds,
        close_grace_seconds=settings.close_grace_seconds,
        stream_timeout_seconds=settings.stream_timeout_seconds,
        save_seconds=settings.shutdown_save_seconds,
        # A Redis call in flight when the task is cancelled may add one Redis timeout; both must fit into the save.
        record_seconds=max(settings.shutdown_save_seconds - settings.redis_timeout_seconds, 0.1),
        retry=RetryPolicy(
            initial_seconds=min(1.0, settings.retry_stream_max_seconds), max_seconds=settings.retry_stream_max_seconds
        ),
    )


def s3_config(settings: Settings, reread_settings: Callable[[], Settings | None] | None = None) -> S3Config:
    """Return how to reach the bucket; refused keys are read again by ``reread_settings``."""
    return S3Config(
        bucket=settings.s3_bucket_name,
        credentials=_credentials(settings, reread_settings),
        region=settings.s3_region_name,
        endpoint_url=settings.s3_endpoint_url,
        addressing=Addressing(settings.s3_addressing),
        checksum=ChecksumMode(settings.s3_checksum),
        payload_signing=PayloadSigning(settings.s3_payload_signing),
        ca_file=settings.s3_ca_file,
        proxy=s3_proxy(settings),
        connect_timeout_seconds=settings.s3_connect_timeout_seconds,
        read_timeout_seconds=settings.s3_read_timeout_seconds,
        write_timeout_seconds=settings.s3_write_timeout_seconds,
        complete_timeout_seconds=settings.s3_complete_timeout_seconds,
        max_connections=settings.max_concurrent_parts + 8,
        options=settings.object_options,
    )


def s3_proxy(settings: Settings) -> HttpProxy | None:
    """Return the proxy to S3; ``None`` if there is none."""
    endpoint = settings.s3_endpoint_url
    uses_tls = endpoint is None or endpoint.lower().startswith("https:")
    return HttpProxy.of_url(_text(settings.s3_proxy_url), setting="S3_PROXY_URL", tls=uses_tls)


def _credentials(
    settings: Settings, reread_settings: Callable[[], Settings | None] | None = None
) -> CredentialsProvider:
    keys = _keys(settings)
    if keys is None:
        return ChainCredentials()
    if reread_settings is None:
        return StaticCredentials(keys)

    def read() -> Credentials | None:
        found = reread_settings()
        return _keys(found) if found is not None else None

    return StaticCredentials(keys, read)


def _keys(settings: Settings) -> Credentials | None:
    """Return the access key of the settings; ``None`` if AWS's credential chain is used."""
    key_id, secret = settings.s3_access_key_id, settings.s3_secret_access_key
    if key_id is None or secret is None:
        return None
    return Credentials(key_id.get_secret_value(), secret.get_secret_value(), _text(settings.s3_session_token))


def _text(value: SecretStr | None) -> str | None:
    return None if value is None else value.get_secret_value()


async def _has_writer(mounts: Mounts, path: str) -> bool | None:
    return knows_writer(await writer_state(path, mounts))


def knows_writer(state: WriterState) -> bool | None:
    """Convert a writer state for :class:`cef_trio.upload.services.WriterCheck`; ``None`` if unknown."""
    match state:
        case WriterState.PRESENT:
            return True
        case WriterState.NONE:
            return False
        case WriterState.UNKNOWN:
            return None
