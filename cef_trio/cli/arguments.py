"""Arguments that several commands share. Standard library only: `cef-trio health` needs nothing else."""

from __future__ import annotations

import argparse
import os
import re
import stat
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

DEFAULT_ENV_FILE: Final = Path(".env")
STREAM_ID_HELP: Final = "a stream's id, or its beginning if no other begins alike"
REDIS_ONLY: Final = frozenset({"watch_dir", "s3_bucket_name"})
"""Settings that a command does not need which reads only Redis."""
NO_FOLDER: Final = frozenset({"watch_dir"})
_UNITS: Final[Mapping[str, str]] = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_MOST_DAYS: Final = 36_500
"""The highest age; a date before the year 1 does not exist."""
ALL_EXIT_CODES: Final = (
    "Exit codes: 0 done, 1 a bug, 2 wrong settings or arguments, 3 something could not be saved, "
    "4 S3 or Redis refused access, 5 a negative result (see the command's help)."
)
_EXIT_CODES: Final = (
    "Exit codes: 0 done, 2 wrong settings or arguments, 4 Redis or S3 refused access or cannot be reached"
)


class HelpFormatter(argparse.HelpFormatter):
    """Wraps each paragraph of a description or epilog; keeps the lines that begin with blanks."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        filled = []
        for paragraph in text.split("\n\n"):
            lines = paragraph.split("\n")
            first = super()._fill_text(lines[0], width, indent)
            filled.append("\n".join([first, *(f"{indent}{line}" for line in lines[1:])]))
        return "\n\n".join(filled)


def add_common(
    parser: argparse.ArgumentParser,
    *,
    more: str = "",
    exit_codes: str = "",
    all_exit_codes: str = "",
    examples: Sequence[str],
) -> None:
    """Add ``--json`` and ``--env-file``; ``more`` follows the description, ``exit_codes`` the usual ones.

    ``all_exit_codes`` replaces the usual ones. ``examples`` are command lines.
    """
    parser.description = f"{parser.description} {more}".strip()
    codes = all_exit_codes or f"{_EXIT_CODES}{', ' + exit_codes if exit_codes else ''}."
    add_epilog(parser, codes, examples)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    add_env_file(parser)


def add_epilog(parser: argparse.ArgumentParser, exit_codes: str, examples: Sequence[str]) -> None:
    """Set what follows the arguments in the help: the exit codes, and the examples."""
    parser.epilog = "\n\n".join([exit_codes, "Examples:\n" + "\n".join(f"  {line}" for line in examples)])


def add_owner(parser: argparse.ArgumentParser) -> None:
    """Add ``--owner``, for the commands that work on streams."""
    parser.add_argument(
        "--owner",
        type=named,
        metavar="NAME",
        help="work on the streams of that owner; by default on those of this machine (OWNER_NAME)",
    )


def owner_override(arguments: argparse.Namespace) -> dict[str, str]:
    """Return ``--owner`` as an override for ``load_settings``."""
    return {} if arguments.owner is None else {"owner_name": arguments.owner}


def add_env_file(parser: argparse.ArgumentParser) -> None:
    """Add ``--env-file``."""
    parser.add_argument(
        "--env-file",
        type=_file,
        default=DEFAULT_ENV_FILE,
        metavar="FILE",
        help="where to read settings from (.env; commands also read those of the installed systemd service)",
    )


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """Add ``--data-dir``, for the commands that run with the embedded servers."""
    parser.add_argument(
        "--data-dir",
        type=folder,
        default=Path("cef-data"),
        metavar="DIR",
        help="where local state and objects are (./cef-data)",
    )


def age(text: str) -> timedelta:
    """Parse an age such as ``90s``, ``30m``, ``24h`` or ``7d``, 100 years at most; for ``type=``."""
    match = re.fullmatch(r"(\d{1,6})([smhd])", text.strip(), re.ASCII)
    found = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match is not None else None
    if found is None or found.days > _MOST_DAYS:
        raise argparse.ArgumentTypeError(
            f"takes an age such as 90s, 30m, 24h or 7d, {_MOST_DAYS}d at most, not {text!r}"
        )
    return found


def moment(text: str) -> datetime:
    """Parse a moment in the past: an age, or a date or time in ISO 8601, in UTC unless it has an offset."""
    try:
        return datetime.now(UTC) - age(text)
    except argparse.ArgumentTypeError:
        pass
    try:
        found = datetime.fromisoformat(text.strip())
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):  # OverflowError: before the year 1 or after 9999, in UTC
        raise argparse.ArgumentTypeError(
            f"takes an age such as 90s, 30m, 24h or 7d, or a time in UTC such as 2026-07-01T12:30, not {text!r}"
        ) from None


def pattern(text: str) -> str:
    """Parse a pattern of names, which an empty one is not: it would match none."""
    if not text.strip():
        raise argparse.ArgumentTypeError("takes a pattern with * and ?, such as 'gate*.mp4'")
    return text


def number(text: str) -> int:
    """Parse a number of streams, at least 1."""
    if not text.isascii() or not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"takes a number of streams, 1 or more, not {text!r}")
    return int(text)


def named(text: str) -> str:
    """Refuse an empty text: a variable of a script that is not set must not choose the default; for ``type=``."""
    if not text.strip():
        raise argparse.ArgumentTypeError("takes a name, and it is empty")
    return text


def folder(text: str) -> Path:
    """Parse a folder's name, which is not empty: that would be the working directory; for ``type=``."""
    return Path(named(text))


def _file(text: str) -> Path:
    # The default may be missing; a file that is named on the command line may not.
    try:
        mode = os.stat(text).st_mode  # noqa: PTH116 - an empty text is no path
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "that is no path"
        raise argparse.ArgumentTypeError(f"takes a file that exists, not {text!r} ({why})") from None
    if stat.S_ISDIR(mode):
        raise argparse.ArgumentTypeError(f"takes a file, not the folder {text!r}")
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        raise argparse.ArgumentTypeError(
            f"takes a file that can be read again, not the pipe {text!r}: write the settings into a file, mode 0600"
        )
    return Path(text)
