"""The arguments of the commands that look and mend, and which function each of them is.

Nothing heavy is imported before a command is chosen: ``cef-trio health`` runs every few seconds in a container.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

_STATES: Final = ("active", "pending_completion", "completed", "failed", "retrying", "interrupted", "deleted")
_EXIT_CODES: Final = "Exit codes: 0 done, 2 wrong settings or arguments, 4 Redis or S3 refused us or cannot be reached"
_ID: Final = "a stream's id, or its beginning if no other begins alike"

Subparsers = Any
"""What ``add_subparsers`` returns; argparse has no public name for it."""


def add_commands(commands: Subparsers) -> None:
    """Add the commands to the parser's."""
    listing = _add(
        commands,
        "list",
        _list,
        "list the streams that Redis knows, the latest activity last",
        more="A stream is active, pending_completion, completed, failed, or its recording was deleted; of the open "
        "ones some are retrying (they wait for an outage to end) or interrupted (their daemon was stopped).",
    )
    listing.add_argument(
        "--state", choices=_STATES, metavar="STATE", help=f"only those in this state: {', '.join(_STATES)}"
    )

    show = _add(commands, "show", _show, "show all that is known of one stream")
    show.add_argument("stream", metavar="ID", help=_ID)

    status = _add(
        commands,
        "status",
        _status,
        "say how things stand: totals, throughput, lag, every open stream",
        more="Throughput is what S3 acknowledged in the last minute. Lag is what is on disk and not yet acknowledged; "
        "it and the progress are known only where the recordings can be seen. On a stream in red nobody works.",
    )
    status.add_argument("--watch", action="store_true", help="keep it on the screen until Ctrl-C (not with --json)")

    retry = _add(
        commands,
        "retry",
        _retry,
        "bring failed streams back",
        more="A stream whose upload was kept goes on from it, one whose upload was given up starts over; a recording "
        "that is gone or replaced is told so. A running daemon takes them up within STALE_CHECK_SECONDS. "
        "--all leaves alone what a person aborted.",
        exit_codes="5 a stream was not retried, and it is said why",
    )
    which = retry.add_mutually_exclusive_group(required=True)
    which.add_argument("streams", nargs="*", default=[], metavar="ID", help=_ID)
    which.add_argument("--all", action="store_true", help="every failed stream")

    abort = _add(
        commands,
        "abort",
        _abort,
        "give a stream's upload up, in S3 and in Redis",
        more="The recording is left alone, and is not uploaded again until `cef-trio retry ID` says so. A stream that "
        "a daemon works on is refused: stop it first, or delete the recording: then the daemon aborts it itself.",
        exit_codes="5 it was not aborted, and it is said why",
    )
    abort.add_argument("stream", metavar="ID", help=_ID)

    verify = _add(
        commands,
        "verify",
        _verify,
        "read an object again, all of it, and compare it with everything on record",
        more="Its size and CRC64NVME are held against the checkpoint, S3's own checksum, the metadata JSON and, where "
        "it is there, the recording.",
        exit_codes="5 something differs, is missing, or is not complete yet",
    )
    verify.add_argument("stream", metavar="ID|FILE", help=f"{_ID}; or the recording's name")

    gc = _add(
        commands,
        "gc",
        _gc,
        "abort the uploads under our prefix that no stream owns",
        more="Those are uploads of streams that Redis does not know, or that have ended without keeping their upload "
        "for `cef-trio retry`. An upload of a live stream is never aborted. Every daemon that shares the bucket and "
        "the fixed part of S3_KEY_TEMPLATE must share this Redis and REDIS_KEY_PREFIX, or it looks like nobody.",
        exit_codes="5 an upload was not aborted that should have been, or Redis is empty",
    )
    gc.add_argument(
        "--older-than",
        type=_age,
        default="24h",
        metavar="AGE",
        help="leave younger ones alone: 90s, 30m, 24h, 7d (24h)",
    )
    gc.add_argument("--dry-run", action="store_true", help="only say what would be aborted")
    gc.add_argument(
        "--redis-is-empty",
        action="store_true",
        help="go on although Redis knows no stream at all, as it does with a wrong REDIS_URL or REDIS_KEY_PREFIX",
    )

    doctor = _add(
        commands,
        "doctor",
        _doctor,
        "check everything that a daemon needs, and say what to do",
        more="Settings, the watch folder, Redis and what a crash of it would lose, S3 by a small upload that is "
        "aborted, clock, lifecycle rules, ffprobe.",
    )
    doctor.epilog = "Exit codes: 0 no problem (warnings there may be), 5 a problem."

    health = _add(
        commands,
        "health",
        _health,
        "ask the daemon on this machine whether it is healthy; for a container's HEALTHCHECK",
        more="Asks http://PROM_HOST:PROM_PORT/healthz and says the answer in one line.",
    )
    health.epilog = "Exit codes: 0 healthy, 1 not, or no answer within 5 seconds, 2 wrong settings or arguments."


def add_env_file(parser: argparse.ArgumentParser) -> None:
    """Let the parser take ``--env-file``."""
    parser.add_argument(
        "--env-file", type=_file, default=Path(".env"), metavar="FILE", help="where to read settings from (.env)"
    )


def _add(
    commands: Subparsers,
    name: str,
    command: Callable[[argparse.Namespace], int],
    what: str,
    *,
    more: str = "",
    exit_codes: str = "",
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=what,
        description=f"{what[0].upper()}{what[1:]}. {more}".strip(),
        epilog=f"{_EXIT_CODES}{', ' + exit_codes if exit_codes else ''}.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    add_env_file(parser)
    parser.set_defaults(command=command)
    return parser


def _file(text: str) -> Path:
    # The default may be missing; a file that somebody names may not.
    if not os.path.exists(text) or os.path.isdir(text):  # noqa: PTH110, PTH112 - Path's raise for a name too long
        raise argparse.ArgumentTypeError(f"takes a file that exists, not {text!r}")
    return Path(text)


def _age(text: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"takes an age such as 90s, 30m, 24h or 7d, not {text!r}")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_REDIS_ONLY: Final = frozenset({"watch_dir", "s3_bucket_name"})
_NO_FOLDER: Final = frozenset({"watch_dir"})


def _list(arguments: argparse.Namespace) -> int:
    from cef_trio.cli.listing import State, list_streams
    from cef_trio.cli.session import run_command
    from cef_trio.settings import load_settings

    settings = load_settings(arguments.env_file, unneeded=_REDIS_ONLY)
    state = State(arguments.state) if arguments.state else None
    return run_command(settings, lambda desk: list_streams(desk, state, as_json=arguments.json))


def _show(arguments: argparse.Namespace) -> int:
    from cef_trio.cli.listing import show_stream
    from cef_trio.cli.session import run_command
    from cef_trio.settings import load_settings

    settings = load_settings(arguments.env_file, unneeded=_REDIS_ONLY)
    return run_command(settings, lambda desk: show_stream(desk, arguments.stream, as_json=arguments.json))


def _status(arguments: argparse.Namespace) -> int:
    from cef_trio.cli.session import run_command
    from cef_trio.cli.status import show_status
    from cef_trio.settings import SettingsError, load_settings

    if arguments.watch and arguments.json:
        raise SettingsError(["--watch is for a person's eyes: it does not go with --json"])
    settings = load_settings(arguments.env_file, unneeded=_REDIS_ONLY)
    return run_command(settings, lambda desk: show_status(desk, watch=arguments.watch, as_json=arguments.json))


def _retry(arguments: argparse.Namespace) -> int:
    from cef_trio.cli.retry import retry_streams
    from cef_trio.cli.session import run_command
    from cef_trio.settings import load_settings

    settings = load_settings(arguments.env_file, unneeded=_REDIS_ONLY)
    return run_command(
        settings, lambda desk: retry_streams(desk, arguments.streams, every=arguments.all, as_json=arguments.json)
    )


def _abort(arguments: argparse.Namespace) -> int:
    from cef_trio.cli.abort import abort_stream
    from cef_trio.cli.session import run_command
    from cef_trio.settings import load_settings

    settings = load_settings(arguments.env_file, unneeded=_NO_FOLDER)
    return run_command(settings, lambda desk: abort_stream(desk, arguments.stream, as_json=arguments.json))


def _verify(arguments: argparse.Namespace) -> int:
    from cef_trio.cli.session import run_command
    from cef_trio.cli.verify import verify_stream
    from cef_trio.settings import load_settings

    settings = load_settings(arguments.env_file, unneeded=_NO_FOLDER)
    return run_command(settings, lambda desk: verify_stream(desk, arguments.stream, as_json=arguments.json))


def _gc(arguments: argparse.Namespace) -> int:
    from cef_trio.cli.gc import collect
    from cef_trio.cli.session import run_command
    from cef_trio.settings import load_settings

    settings = load_settings(arguments.env_file, unneeded=_NO_FOLDER)
    return run_command(
        settings,
        lambda desk: collect(
            desk,
            arguments.older_than,
            dry_run=arguments.dry_run,
            redis_is_empty=arguments.redis_is_empty,
            as_json=arguments.json,
        ),
    )


def _health(arguments: argparse.Namespace) -> int:
    from cef_trio.cli.health import ask_health

    return ask_health(arguments.env_file, as_json=arguments.json)


def _doctor(arguments: argparse.Namespace) -> int:
    from cef_trio.cli.doctor import examine

    return examine(arguments.env_file, as_json=arguments.json)
