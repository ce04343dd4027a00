"""The checkpoint store of the settings; a file of its own, since commands that only read Redis need no other client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import trio

from cef_trio.checkpoint.redis import RedisCheckpointStore
from cef_trio.resilience import Retrier, read_in_time
from cef_trio.settings import Settings, SettingsError


def checkpoint_store(
    settings: Settings, owner: str, retrier: Retrier, *, reread_settings: Callable[[], Settings | None] | None = None
) -> RedisCheckpointStore:
    """Return the checkpoint store of an owner; it connects at the first call.

    Raises:
        SettingsError: the URL is invalid, or the key prefix has an empty hash tag with a cluster.
    """
    with as_settings_error():
        return RedisCheckpointStore(
            settings.redis_url.get_secret_value(),
            key_prefix=settings.redis_key_prefix,
            owner=owner,
            ca_file=settings.redis_ca_file,
            socket_timeout_seconds=settings.redis_timeout_seconds,
            retrier=retrier,
            read_url=url_reader(reread_settings) if reread_settings is not None else None,
        )


def url_reader(reread_settings: Callable[[], Settings | None]) -> Callable[[], Awaitable[str | None]]:
    """Return what reads ``REDIS_URL`` again; ``None`` if it cannot be read, as while the disk of its file hangs."""
    limiter = trio.CapacityLimiter(1)

    async def read_url() -> str | None:
        try:
            found = await read_in_time(reread_settings, limiter)
        except trio.TooSlowError:
            return None
        return found.redis_url.get_secret_value() if found is not None else None

    return read_url


@contextmanager
def as_settings_error() -> Iterator[None]:
    """Convert ``ValueError`` from the packages that parse a setting; their messages name the variable."""
    try:
        yield
    except ValueError as error:
        raise SettingsError([str(error)]) from error
