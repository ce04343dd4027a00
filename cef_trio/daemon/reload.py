"""SIGHUP: read the settings again and apply ``MAX_UPLOAD_RATE``, ``LOG_LEVEL`` and the credentials.

The signal listener only sends a request (:meth:`SettingsReloader.request`). A task of its own reads in a worker thread,
since a file may lie on a hung disk. So neither a slow read nor many SIGHUPs delay a SIGTERM (promise P4). A request
during a read causes one more read. Settings that cannot be read change nothing.

Credentials are the S3 keys (also those of AWS's own chain) and the user and password in ``REDIS_URL``; a URL of another
server needs a restart. All other settings are built into connections, limits and records; changed ones are logged by
name, never by value, as needing a restart.

The environment of a process does not change, and it overrides the file. Live settings of the file that have no effect
for this reason are logged by name.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import structlog
import trio
from dotenv import dotenv_values

from cef_trio.checkpoint.redis import parse_address
from cef_trio.daemon.redis_store import as_settings_error
from cef_trio.daemon.wiring import rate_in_force
from cef_trio.observability import set_level
from cef_trio.resilience import run_in_thread
from cef_trio.s3 import RateLimiter
from cef_trio.settings import Settings, SettingsError, read_settings, unfit_rate

log = structlog.get_logger(__name__)

LIVE: Final = ("max_upload_rate", "log_level")
"""Settings that change at run time and whose values are logged."""
KEYS: Final = ("s3_access_key_id", "s3_secret_access_key", "s3_session_token")
"""S3 credentials; they change at run time if they are set both before and after."""


# ---- comparing settings: pure --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsChange:
    """Difference between the settings in force and those read again."""

    applied: Mapping[str, str | int]
    """Changed live settings: variable → new value."""
    renewed: tuple[str, ...] = ()
    """Variables with changed credentials."""
    needs_restart: tuple[str, ...]
    """Changed variables that take effect at the next start."""


def compare_settings(held: Settings, read: Settings) -> SettingsChange:
    """Compare two settings. Names are in the order of ``docs/settings.md``.

    Raises:
        ValueError: ``REDIS_URL`` is invalid.
    """
    changed = [name for name in Settings.model_fields if getattr(held, name) != getattr(read, name)]
    renewed = _renewed(held, read)
    return SettingsChange(
        applied={name.upper(): _shown(getattr(read, name)) for name in LIVE if name in changed},
        renewed=tuple(name.upper() for name in changed if name in renewed),
        needs_restart=tuple(name.upper() for name in changed if name not in LIVE and name not in renewed),
    )


def _shown(value: object) -> str | int:
    return value if isinstance(value, int | str) else str(value)


def _renewed(held: Settings, read: Settings) -> frozenset[str]:
    """Return the settings that hold credentials of the servers in use."""
    names = set(KEYS) if (held.s3_access_key_id is None) == (read.s3_access_key_id is None) else set()
    before, after = (parse_address(one.redis_url.get_secret_value()) for one in (held, read))
    return frozenset(names | ({"redis_url"} if after.differs_in_login_only(before) else set()))


def overridden(environment: Mapping[str, str], file: Mapping[str, str | None]) -> list[str]:
    """Return the live settings of the file that the environment overrides with another value."""
    given, written = (
        {name.lower(): value for name, value in values.items() if value} for values in (environment, file)
    )
    return [name.upper() for name in LIVE if name in given and name in written and given[name] != written[name]]


# ---- reading ---------------------------------------------------------------------------------------------------------


class SettingsSource:
    """Where a daemon's settings came from. ``load`` reads and validates them."""

    def __init__(self, env_file: Path | None, load: Callable[[], Settings]) -> None:
        self._env_file = env_file
        self._load = load
        self._was_there = env_file is not None and _exists(env_file)

    @classmethod
    def of_file(cls, env_file: Path) -> SettingsSource:
        """Read the environment and a file. The watch folder is not asked: it may be missing, or its mount may hang."""
        return cls(env_file, partial(read_settings, env_file, unneeded={"watch_dir"}))

    def read(self) -> tuple[Settings, list[str]]:
        """Return the current settings, and the settings of the file that the environment overrides. Blocks.

        Raises:
            SettingsError: a setting is missing or wrong, or the file is gone (all of its settings would be unset).
        """
        if self._env_file is None:
            return self._load(), []
        if self._was_there and not _exists(self._env_file):
            raise SettingsError([f"{self._env_file} no longer exists"])
        return self._load(), overridden(os.environ, dotenv_values(self._env_file))


def _exists(file: Path) -> bool:
    return os.path.exists(file)  # noqa: PTH110 - Path's raises in a folder that this user may not enter


class SettingsReloader:
    """Reads the settings on request and applies the live ones."""

    def __init__(
        self,
        settings: Settings,
        source: SettingsSource,
        rate_limiter: RateLimiter,
        renew_credentials: Callable[[Settings], None] = lambda _settings: None,
    ) -> None:
        self._held = settings
        self._source = source
        self._rate_limiter = rate_limiter
        self._renew_credentials = renew_credentials
        self._ask, self._asked = trio.open_memory_channel[None](1)

    def request(self) -> None:
        """Request a read. Requests before it begins are merged."""
        try:
            self._ask.send_nowait(None)
        except trio.WouldBlock:
            log.debug("reload_already_pending")

    async def run(self) -> None:
        """Serve requests for ever."""
        async for _ in self._asked:
            await self.reload()

    async def reload(self) -> None:
        """Read the settings and apply the changes. If cancelled, nothing is applied."""
        try:
            # May be abandoned: it only reads, and the disk may hang.
            read, without_effect = await run_in_thread(self._source.read, abandon_on_cancel=True)
            with as_settings_error():
                reading = compare_settings(self._held, read)
        except (SettingsError, OSError, UnicodeDecodeError) as error:
            log.warning("settings_not_reloaded", error="; ".join(str(error).splitlines()))
            return
        # Checked with the current number of parts, since a change of that needs a restart.
        if why := unfit_rate(read.max_upload_rate, self._held.max_concurrent_parts):
            log.warning("settings_not_reloaded", error=why)
            return
        # Log at the more verbose of both levels, so that a change to WARNING and one from it are logged.
        set_level(min(self._held.log_level, read.log_level, key=logging.getLevelName))
        log.info(
            "settings_reloaded",
            applied=dict(reading.applied),
            renewed=list(reading.renewed),
            needs_restart=list(reading.needs_restart),
            overridden_by_environment=without_effect,
        )
        set_level(read.log_level)
        self._rate_limiter.change(rate_in_force(read.max_upload_rate))
        self._renew_credentials(read)
        taken = [*LIVE, *(name.lower() for name in reading.renewed)]
        self._held = self._held.model_copy(update={name: getattr(read, name) for name in taken})


# ---- the signal ------------------------------------------------------------------------------------------------------


class Terminal:
    """The terminal that the daemon was started in, if any. Once it is closed, SIGHUP means shutdown."""

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        self._was_one = os.isatty(descriptor)

    def is_closed(self) -> bool:
        """Return whether there was a terminal and it was closed; ``isatty`` is false for a hung-up terminal."""
        return self._was_one and not os.isatty(self._descriptor)


def unblock_sighup() -> None:
    """Unblock SIGHUP; a pending one is delivered at once. Call it with a signal receiver open."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
