"""``cef-trio run --local FOLDER``: the daemon with embedded servers, without any configuration."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from cef_trio.daemon import ExitWatchdog, SettingsSource, run_daemon, warn_of_world_readable_secrets
from cef_trio.exceptions import CefMp4ProcessorError, leaves
from cef_trio.exit_codes import ExitCode
from cef_trio.local.servers import BUCKET, LocalServers, local_servers
from cef_trio.observability import configure_for
from cef_trio.settings import Settings, SettingsError, load_settings


def run_local(folder: Path, data_dir: Path, env_file: Path | None = None) -> ExitCode:
    """Run the daemon until a signal ends it.

    Args:
        folder: the watch folder.
        data_dir: where checkpoints and objects are kept.
        env_file: further settings.

    Raises:
        SettingsError: ``folder`` does not exist or contains ``data_dir``, or a setting is invalid.
        EmbeddedValkeyError: Valkey is not installed or does not start.
        LocalDataError: ``data_dir`` cannot be used.
    """
    if not folder.is_dir():
        raise SettingsError([f"--local takes a folder that exists; {str(folder)!r} is not one"])
    if data_dir.resolve().is_relative_to(folder.resolve()):
        raise SettingsError([f"--data-dir {str(data_dir)!r} lies in the watched folder, whose files would be uploaded"])
    try:
        return trio.run(_run, folder, data_dir, env_file)
    except BaseExceptionGroup as group:
        raise alone(group) from group


async def _run(folder: Path, data_dir: Path, env_file: Path | None) -> ExitCode:
    async with local_servers(data_dir) as servers:
        settings = settings_for(servers, folder, env_file)
        configure_for(settings)
        warn_of_world_readable_secrets(env_file)
        with settings_for_commands(data_dir, folder, servers.settings) as for_commands:
            sys.stderr.write(
                f"Watching {folder}. Objects: bucket {BUCKET!r} at {servers.s3_url}, kept in {data_dir}.\n"
            )
            if for_commands is not None:
                status = f"cef-trio status --env-file {shlex.quote(os.fspath(for_commands))}"
                sys.stderr.write(f"In another terminal: {status}\n")
            source = SettingsSource(env_file, lambda: settings_for(servers, folder, env_file))
            watchdog = ExitWatchdog(settings.shutdown_grace_seconds, settings.shutdown_save_seconds)
            with watchdog.running(block_signals=True):
                return await run_daemon(settings, source=source, watchdog=watchdog)


@contextmanager
def settings_for_commands(data_dir: Path, folder: Path, settings: Mapping[str, Any]) -> Iterator[Path | None]:
    """Write an ``--env-file`` for commands, as long as the block runs; the servers' addresses change at each start.

    Only its owner may read it. A value that the syntax of the file cannot express (``$`` would be expanded) is left
    out; commands work without the watch folder. If the file cannot be written (e.g. the disk is full), ``None`` is
    yielded, and the daemon runs without it.
    """
    file = data_dir / "local.env"
    lines = [
        f"{name.upper()}='{value}'\n"
        for name, value in {"watch_dir": folder.resolve(), **settings}.items()
        if value and str(value).isprintable() and not set("'\\$") & set(str(value))
    ]
    file.unlink(missing_ok=True)
    try:
        try:
            with open(file, "x", encoding="utf-8", opener=_for_its_owner) as written:
                written.writelines(lines)
        except OSError as error:
            sys.stderr.write(f"Commands cannot find these servers: {str(file)!r} cannot be written: {error.strerror}\n")
            written_to = None
        else:
            written_to = file
        yield written_to
    finally:
        file.unlink(missing_ok=True)


def _for_its_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def settings_for(servers: LocalServers, folder: Path, env_file: Path | None = None, **more: Any) -> Settings:
    """Return the settings of a daemon that uses these servers.

    ``more`` has further settings; the others are read from the environment and from ``env_file``.

    Raises:
        SettingsError: a setting is invalid.
    """
    return load_settings(env_file, watch_dir=folder, **servers.settings, **more)


def alone(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the only error in nested groups if it is one of ours; the group otherwise."""
    first, *others = leaves(group)
    return first if isinstance(first, CefMp4ProcessorError) and not others else group
