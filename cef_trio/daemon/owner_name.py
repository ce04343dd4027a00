"""The name of the owner, in whose namespace in Redis and below whose prefix in S3 this daemon works (``OWNER_NAME``).

An owner is a machine, or all daemons with one explicit ``OWNER_NAME``, which share a folder. The name must last: under
another name a daemon does not find its streams. So it comes from what outlives processes, restarts and containers, and
is never guessed:

1. ``OWNER_NAME``;
2. a hash of the machine id (``machine.py``), which a container has only if it is mounted;
3. a hash of the id of the watch folder's file system, if it is a lasting one;
4. an ``INSTANCE_ID`` that was set; its default, the host name, is made anew with each container.

An id that kernels before Linux 6.9 do not report comes after ``INSTANCE_ID``: an upgrade of the kernel must not change
the name.

Without any of these the start is refused.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Final

import trio

from cef_trio.daemon.machine import machine_id
from cef_trio.exceptions import is_shortage
from cef_trio.files import RECENT, lasting_id
from cef_trio.resilience import run_in_thread
from cef_trio.settings import STAND_INS, Settings, SettingsError, is_owner_name, split_watch_dir

_HEX_DIGITS: Final = 12
_UNKNOWN: Final = (
    "OWNER_NAME cannot be derived: this machine has no /etc/machine-id that lasts, and WATCH_DIR is on no file system "
    "with a lasting id; set OWNER_NAME to a permanent name, or mount the host's /etc/machine-id"
)

_FIRST_IS_MISSING: Final = (
    "OWNER_NAME cannot be derived: the first folder of WATCH_DIR, {!r}, cannot be opened; set OWNER_NAME, or mount it"
)
_NO_RESPONSE: Final = (
    "OWNER_NAME cannot be derived: the mount of WATCH_DIR {!r} does not respond; set OWNER_NAME, or repair the mount"
)


class OwnerSource(Enum):
    """Where an owner's name comes from."""

    SETTING = "OWNER_NAME"
    MACHINE = "machine id"
    FILE_SYSTEM = "file system of WATCH_DIR"
    INSTANCE = "INSTANCE_ID"


@dataclass(frozen=True, slots=True)
class OwnerName:
    """The name of an owner."""

    name: str
    source: OwnerSource

    @property
    def is_derived(self) -> bool:
        """Whether it was derived: then only one running system may have it."""
        return self.source is not OwnerSource.SETTING


def derive(explicit: str, machine: str | None, file_system: str | None, instance: str | None) -> OwnerName | None:
    """Return the owner's name; ``None`` if there is no lasting identity. Pure.

    ``instance``: ``INSTANCE_ID``, if it was set.
    """
    if explicit:
        return OwnerName(explicit, OwnerSource.SETTING)
    if machine is not None:
        return OwnerName(owner_of_machine(machine), OwnerSource.MACHINE)
    if file_system is not None and (instance is None or not file_system.startswith(RECENT)):
        return OwnerName(_hashed(f"file system {file_system}"), OwnerSource.FILE_SYSTEM)
    if instance is not None:
        lower = instance.lower()
        return OwnerName(lower if is_owner_name(lower) else _hashed(f"instance {instance}"), OwnerSource.INSTANCE)
    return None


def owner_of_machine(machine: str | None) -> str:
    """Return the name that is derived from a hashed machine id, as records have it; empty without one."""
    return (machine or "")[:_HEX_DIGITS]


async def find_owner(settings: Settings) -> OwnerName:
    """Return the name of the owner.

    Raises:
        SettingsError: there is no lasting identity to derive it from, or the watch folder that has it is missing, or
            its mount does not respond.
    """
    with trio.move_on_after(settings.file_system_timeout_seconds):
        # May be abandoned: it only reads, and the watch folder may hang.
        return await run_in_thread(partial(owner_of, settings), abandon_on_cancel=True)
    raise SettingsError([_NO_RESPONSE.format(os.fspath(settings.watch_dir))])


def owner_of(settings: Settings) -> OwnerName:
    """See :func:`find_owner`. Blocks."""
    machine = None if settings.owner_name else machine_id()
    needs_folder = not settings.owner_name and machine is None and settings.watch_dir != STAND_INS["watch_dir"]
    instance = settings.instance_id if "instance_id" in settings.model_fields_set else None
    owner = derive(settings.owner_name, machine, _file_system(settings) if needs_folder else None, instance)
    if owner is None:
        raise SettingsError([_UNKNOWN])
    return owner


def _file_system(settings: Settings) -> str | None:
    # Of several folders the first one's: the name must not depend on which of them are mounted.
    first, *others = (*split_watch_dir(settings.watch_dir), *settings.watch_dirs[1:])
    try:
        return lasting_id(first)
    except OSError as error:
        if is_shortage(error):  # it passes, and another name than before would be an owner without streams
            raise
        if others:
            raise SettingsError([_FIRST_IS_MISSING.format(os.fspath(first))]) from error
        return None


def _hashed(text: str) -> str:
    return hashlib.sha256(f"cef-trio {text}".encode("utf-8", "surrogateescape")).hexdigest()[:_HEX_DIGITS]
