"""The checkpoint store of the settings; a file of its own, since commands that only read Redis need no other client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cef_trio.checkpoint.redis import RedisCheckpointStore
from cef_trio.resilience import Retrier, run_in_thread
from cef_trio.settings import Settings, SettingsError


def checkpoint_store(
    settings: Settings, owner: str, retrier: Retrier, *, reread_settings: Callable[[], Settings | None] | None = None
) -> RedisCheckpointStore:
    """Return the checkpoint store of an owner; it connects at the first call.

    Raises:
        SettingsError: the URL is invalid, or the key prefix has an empty hash tag with a cluster.
    """

    async def read_url() -> str | None:
        if reread_settings is None:
            return None
        # May be abandoned: it only reads, and the disk may hang.
        found = await run_in_thread(reread_settings, abandon_on_cancel=True)
        return found.redis_url.get_secret_value() if found is not None else None

    with as_settings_error():
        return RedisCheckpointStore(
            settings.redis_url.get_secret_value(),
            key_prefix=settings.redis_key_prefix,
            owner=owner,
            ca_file=settings.redis_ca_file,
            socket_timeout_seconds=settings.redis_timeout_seconds,
            retrier=retrier,
            read_url=read_url if reread_settings is not None else None,
        )


@contextmanager
def as_settings_error() -> Iterator[None]:
    """Convert ``ValueError`` from the packages that parse a setting; their messages name the variable."""
    try:
        yield
    except ValueError as error:
        raise SettingsError([str(error)]) from error
