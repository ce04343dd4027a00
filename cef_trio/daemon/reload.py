"""SIGHUP: the settings are read once more; ``MAX_UPLOAD_RATE``, ``LOG_LEVEL`` and the credentials hold from then on.

The signal listener only asks (:meth:`SettingsReloader.request`); a task of its own reads, in a worker thread, since a
file may lie on a disk that hangs. So neither a slow read nor a hundred SIGHUPs hold a SIGTERM back (promise P4), and
whoever asks while a read goes on gets another one after it. Settings that cannot be read change nothing.

Only these change at run time: each is one value that everybody asks for anew. Credentials are S3's keys (those of AWS's
own chain, too) and the user and password in ``REDIS_URL``; a URL that leads elsewhere waits for a restart. All others
are built into connections, limits and records; which of them the file now says differently is told, by name, never by
value.

The environment of a process does not change, and it wins over the file, here as at the start. A setting of the file
that cannot take effect for that reason is named too.
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
from cef_trio.observability import set_level
from cef_trio.resilience import run_in_thread
from cef_trio.s3 import RateLimiter
from cef_trio.settings import Settings, SettingsError, load_settings, unfit_rate

log = structlog.get_logger(__name__)

LIVE: Final = ("max_upload_rate", "log_level")
"""The settings that change at run time, and are shown."""
KEYS: Final = ("s3_access_key_id", "s3_secret_access_key", "s3_session_token")
"""S3's credentials, which do so too, as long as there are any both times."""


# ---- what a reading means: pure --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsChange:
    """Settings that were read once more, beside those that hold."""

    applied: Mapping[str, str | int]
    """Of the live ones, those that are to be other than they are, by variable, with their new values."""
    renewed: tuple[str, ...] = ()
    """Variables that hold credentials, and others now; their values are told nobody."""
    needs_restart: tuple[str, ...]
    """Variables that are other than at the start, and stay as they were until the next one."""


def compare(held: Settings, read: Settings) -> SettingsChange:
    """What a reading changes. Names in the order of the documentation."""
    changed = [name for name in Settings.model_fields if getattr(held, name) != getattr(read, name)]
    renewed = _renewed(held, read)
    return SettingsChange(
        applied={name.upper(): getattr(read, name) for name in LIVE if name in changed},
        renewed=tuple(name.upper() for name in changed if name in renewed),
        needs_restart=tuple(name.upper() for name in changed if name not in LIVE and name not in renewed),
    )


def _renewed(held: Settings, read: Settings) -> frozenset[str]:
    """Which settings are credentials that may change at run time: those of the servers that are used already."""
    names = set(KEYS) if (held.s3_access_key_id is None) == (read.s3_access_key_id is None) else set()
    before, after = (parse_address(one.redis_url.get_secret_value()) for one in (held, read))
    return frozenset(names | ({"redis_url"} if after.differs_in_login_only(before) else set()))


def overridden(environment: Mapping[str, str], file: Mapping[str, str | None]) -> list[str]:
    """Live settings of the file that have no effect: the environment says something else, and wins."""
    said, written = ({name.lower(): value for name, value in values.items() if value} for values in (environment, file))
    return [name.upper() for name in LIVE if name in said and name in written and said[name] != written[name]]


# ---- reading ---------------------------------------------------------------------------------------------------------


class SettingsSource:
    """Where a daemon's settings came from, to be read once more. ``load`` is how the daemon itself reads them."""

    def __init__(self, env_file: Path | None, load: Callable[[], Settings]) -> None:
        self._env_file = env_file
        self._load = load
        self._was_there = env_file is not None and env_file.exists()

    @classmethod
    def of_file(cls, env_file: Path) -> SettingsSource:
        """The environment and a file. The watch folder need not be there: it was, and it is another's to look after."""
        return cls(env_file, partial(load_settings, env_file, unneeded={"watch_dir"}))

    def read(self) -> tuple[Settings, list[str]]:
        """The settings now, and those of the file that the environment overrides. Blocks; changes nothing.

        Raises:
            SettingsError: one is missing or wrong, or the file is gone. Without it all its settings would be unset.
        """
        if self._env_file is None:
            return self._load(), []
        if self._was_there and not self._env_file.exists():
            raise SettingsError([f"{self._env_file} is not there any more"])
        return self._load(), overridden(os.environ, dotenv_values(self._env_file))


class SettingsReloader:
    """Reads the settings when asked, and lets the live ones take effect."""

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
        """Read them soon. Asking again before that has begun changes nothing."""
        try:
            self._ask.send_nowait(None)
        except trio.WouldBlock:
            log.debug("reload_already_pending")

    async def run(self) -> None:
        """Serve requests for ever."""
        async for _ in self._asked:
            await self.reload()

    async def reload(self) -> None:
        """Read once more, and let what changed take effect. Cancelled: nothing has."""
        try:
            # Abandoned by a cancellation: it only reads, and the disk may hang.
            read, without_effect = await run_in_thread(self._source.read, abandon_on_cancel=True)
        except (SettingsError, OSError, UnicodeDecodeError) as error:
            log.warning("settings_not_reloaded", error="; ".join(str(error).splitlines()))
            return
        # By the parts that there are now: what the file says of them waits for a restart.
        if why := unfit_rate(read.max_upload_rate, self._held.max_concurrent_parts):
            log.warning("settings_not_reloaded", error=why)
            return
        reading = compare(self._held, read)
        # Said at the more talkative of both levels: a change to WARNING is told, and so is one from it.
        set_level(min(self._held.log_level, read.log_level, key=logging.getLevelName))
        log.info(
            "settings_reloaded",
            applied=dict(reading.applied),
            renewed=list(reading.renewed),
            needs_restart=list(reading.needs_restart),
            overridden_by_environment=without_effect,
        )
        set_level(read.log_level)
        self._rate_limiter.change(read.max_upload_rate)
        self._renew_credentials(read)
        taken = [*LIVE, *(name.lower() for name in reading.renewed)]
        self._held = self._held.model_copy(update={name: getattr(read, name) for name in taken})


# ---- the signal ------------------------------------------------------------------------------------------------------


class Terminal:
    """The terminal that the daemon was started in, if any: once it is closed, SIGHUP means the end."""

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        self._was_one = os.isatty(descriptor)

    def is_closed(self) -> bool:
        """Whether there was one, and it is gone. The kernel answers for a hung-up terminal as for none."""
        return self._was_one and not os.isatty(self._descriptor)


def take_hangups() -> None:
    """Let SIGHUP come from now on: one that was held (``main.py``) comes at once. Call it with a receiver open."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
