"""``cef-trio run``: start the daemon. The daemon itself is imported only once SIGHUP can no longer end the process."""

from __future__ import annotations

import argparse
import contextlib
import signal
from collections.abc import Iterator

from cef_trio.cli.arguments import ALL_EXIT_CODES, add_data_dir, add_env_file, add_epilog, folder
from cef_trio.exit_codes import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``run``."""
    parser.description = (
        f"{parser.description} Settings come from the environment and .env; "
        "example.env lists them all. SIGHUP reads them again and applies those that need no restart."
    )
    examples = ("cef-trio run", "cef-trio run --env-file /etc/cef-trio/cef-trio.env", "cef-trio run --local recordings")
    add_epilog(parser, ALL_EXIT_CODES, examples)
    parser.add_argument(
        "--local",
        type=folder,
        metavar="FOLDER",
        help="watch FOLDER with nothing installed: an embedded Valkey and S3 keep everything under --data-dir",
    )
    add_data_dir(parser)
    add_env_file(parser)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Run the daemon until a signal ends it."""
    with _sighup_blocked():
        return _run_daemon(arguments)


def _run_daemon(arguments: argparse.Namespace) -> ExitCode:
    if arguments.local is not None:
        from cef_trio.local import run_local

        return run_local(arguments.local, arguments.data_dir, arguments.env_file)

    from cef_trio.daemon import SettingsSource, main_daemon, warn_of_world_readable_secrets
    from cef_trio.observability import configure_for
    from cef_trio.settings import read_settings

    settings = read_settings(arguments.env_file)  # the daemon checks the folders, as their mounts may hang
    configure_for(settings)
    warn_of_world_readable_secrets(arguments.env_file)
    return main_daemon(settings, SettingsSource.of_file(arguments.env_file))


@contextlib.contextmanager
def _sighup_blocked() -> Iterator[None]:
    """Keep SIGHUP from ending the process, which is its default action, before the daemon handles it.

    A SIGHUP during the start stays pending in the kernel until the daemon takes it (``daemon/reload.py``): the settings
    may have been read before it. One after the end meets a handler that does nothing and that, unlike SIG_IGN, child
    processes do not inherit.
    """
    signal.signal(signal.SIGHUP, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
