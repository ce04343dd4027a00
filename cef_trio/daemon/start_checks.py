"""Checks and warnings at the start: S3 and Redis respond (`watch_folder.py`: the watch folder does)."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import structlog
import trio

from cef_trio.checkpoint import schema
from cef_trio.exceptions import CefMp4ProcessorError, OperationError, S3OperationError
from cef_trio.resilience import CircuitBreaker
from cef_trio.s3 import S3Client
from cef_trio.settings import world_readable_secrets
from cef_trio.upload import Services, names_a_server

log = structlog.get_logger(__name__)

_PROXY_VARIABLES: Final = frozenset({"http_proxy", "https_proxy", "all_proxy"})
_RECONNECT_SECONDS: Final = 1.0
"""Delay between rounds of attempts at the start."""
_SHARED: Final = (
    "each host uploads all recordings of this folder; if several watch it, give their daemons one common OWNER_NAME"
)
_NOT_FOUND = 404
_FORBIDDEN = 403
_SAYS_TOO_LITTLE: Final = frozenset({401, _NOT_FOUND})
_NOT_OFFERED: Final = frozenset({405, 501})


class RefusedAtStartError(CefMp4ProcessorError):
    """S3 or Redis responded and denied access; waiting does not help."""


def warn_of_world_readable_secrets(env_file: Path | None) -> None:
    """Log a warning for each file with secrets that every user of this machine may read."""
    for found in world_readable_secrets(env_file):
        log.warning("secret_exposed", file=found.file, mode=found.mode)


def warn_of_unused_proxy() -> None:
    """Log a warning if the environment names a proxy: only ``S3_PROXY_URL`` and ``WEBHOOK_PROXY_URL`` are used."""
    names = sorted(name for name in os.environ if name.lower() in _PROXY_VARIABLES and os.environ[name])
    if names:
        log.warning("http_proxy_not_used", variables=names, todo="set S3_PROXY_URL if S3 is reached through it only")


async def warn_of_shared_folder(services: Services) -> None:
    """Log a warning if other hosts may see the watch folder and the owner's name was derived from this one."""
    await services.determine_owner()
    owner = services.ownership.owner
    file_system = owner.file_system if owner is not None else None
    is_derived = services.owner_claim is not None and services.owner_claim.exclusive
    if is_derived and file_system is not None and names_a_server(file_system):
        log.warning(
            "shared_folder_without_owner_name", file_system=file_system, owner=services.owner_name, todo=_SHARED
        )


async def check_reachable(services: Services, *, create_bucket: bool) -> None:
    """Wait without a limit until Redis and S3 respond. The tasks of both breakers must run.

    Raises:
        RefusedAtStartError: one of them responds and denies access.
    """
    reach_bucket = partial(_reach_bucket, services, create_bucket=create_bucket)
    await retry_until_reachable("connect_redis", services.store.ping, services.redis_breaker)
    await retry_until_reachable("connect_s3", reach_bucket, services.s3_breaker)


async def raise_schema(services: Services) -> None:
    """Raise the namespace's schema in Redis; log it if a newer version has raised it already.

    Raises:
        RefusedAtStartError: Redis denies it.
    """
    before: int | None = None

    async def attempt() -> None:
        nonlocal before
        before = await services.store.raise_schema()

    await retry_until_reachable("raise_schema", attempt, services.redis_breaker)
    if before is not None and schema.is_newer(before):
        reason = f"{schema.why_newer('the namespace in Redis', before)}; records of a newer schema are left alone"
        log.warning("namespace_newer", reason=reason)


@contextmanager
def _starting(breaker: CircuitBreaker) -> Iterator[None]:
    breaker.starting = True
    try:
        yield
    finally:
        breaker.starting = False


async def retry_until_reachable(operation: str, reach: Callable[[], Awaitable[None]], breaker: CircuitBreaker) -> None:
    """Retry by the service's policy; after the last attempt, wait for the end of the outage and start over.

    Raises:
        RefusedAtStartError: the service responds and denies access.
    """
    attempt = 0
    while True:
        try:
            with _starting(breaker):
                await reach()
        except CefMp4ProcessorError as error:
            if _is_refused(error) or not error.transient:
                raise RefusedAtStartError(str(error)) from error
            attempt += 1
            log.warning("waiting_for_service", operation=operation, attempt=attempt, error=str(error))
            await trio.sleep(_RECONNECT_SECONDS)
            await breaker.wait_up()
        else:
            return


def _is_refused(error: CefMp4ProcessorError) -> bool:
    return isinstance(error, OperationError) and (error.rejected or error.certificate_refused or error.other_topology)


async def _reach_bucket(services: Services, *, create_bucket: bool) -> None:
    s3 = services.s3
    try:
        await s3.head_bucket()
    except S3OperationError as error:
        if error.transient or error.status in _NOT_OFFERED:
            # No upload needs HEAD: what it could not show, a write does. So the write's error is the one to judge.
            await services.s3_breaker.probe_write()
            log.warning("bucket_check_failed", error=str(error))
        elif error.status in _SAYS_TOO_LITTLE:
            why = await _error_of_get(s3, error)
            if why is None:
                log.warning("bucket_check_failed", error=str(error))
            elif create_bucket and why.status == _NOT_FOUND and not why.transient:
                await s3.create_bucket()
                log.info("bucket_created")
            else:
                raise why from error
        elif error.status == _FORBIDDEN:
            await _raise_why_forbidden(s3)
        else:
            raise


async def _error_of_get(s3: S3Client, error: S3OperationError) -> S3OperationError | None:
    """Return what a GET says after such a HEAD, whose response has no body; ``None`` if the bucket is there.

    A proxy without a backend says 404 as well (Envoy's has not even a content type): its body tells.
    """
    try:
        await s3.list_multipart_uploads("")
    except S3OperationError as told:
        return error if told.status in _NOT_OFFERED else told
    return None


async def _raise_why_forbidden(s3: S3Client) -> None:
    """Find out why HEAD was forbidden: its response has no body, so a wrong key looks like a missing permission.

    Raises:
        S3OperationError: the listing was refused as well; the error names the reason. Other failures are logged only.
    """
    try:
        await s3.list_multipart_uploads("")
    except S3OperationError as error:
        if not error.transient or error.status is None:
            raise
        log.warning("bucket_check_failed", error=str(error))
