"""The entry point: choose a command, run it, turn errors into exit codes.

Only the chosen command's module is imported: ``cef-trio health`` runs every few seconds in a container, and must not
load trio, Redis and S3 for that.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from io import TextIOWrapper
from types import ModuleType
from typing import Any, Final, NoReturn, TextIO

from cef_trio import __version__
from cef_trio.cli import json_document
from cef_trio.cli.arguments import ALL_EXIT_CODES, HelpFormatter, add_epilog
from cef_trio.cli.installed_service import use_installed_service
from cef_trio.cli.slow_files import notice_if_slow
from cef_trio.exceptions import CefMp4ProcessorError, leaves
from cef_trio.exit_codes import ExitCode
from cef_trio.safe_text import printable

COMMANDS: Final[Mapping[str, str]] = {
    "run": "watch a folder and upload, until a signal ends it",
    "demo": "record for some seconds and show the upload's progress",
    "check": "check the settings without starting: each with its source, and what is wrong",
    "list": "list the streams recorded in Redis, by last activity",
    "show": "show everything recorded of one stream",
    "status": "show totals, throughput, lag and the most urgent open streams",
    "fleet": "show the daemons of all hosts, and what is wrong with them; retire one",
    "retry": "retry failed streams",
    "abort": "abort a stream's upload, in S3 and in Redis",
    "forget": "let failed streams go: abort their uploads, and count them no more",
    "verify": "read a whole object and compare it with everything on record",
    "gc": "abort the uploads under our prefix that no stream owns",
    "doctor": "check everything that a daemon needs, and show remedies",
    "completion": "print the completion script of a shell: bash, zsh or fish",
    "health": "check whether the daemon on this machine is healthy; for a container's HEALTHCHECK",
}
"""Each command and its line in ``--help``. ``cef_trio.cli.<command>`` has its ``add_arguments(parser)`` and its
``run(arguments)``, which returns the exit code."""
_OWN_SETTINGS: Final = frozenset({"run", "demo"})
"""Commands that do not look after a service, so that they do not use its settings."""
_LAB: Final = "lab"
ALL_COMMANDS: Final[Mapping[str, str]] = {
    **COMMANDS,
    _LAB: "the laboratory: cancel, crash and simulate the daemon, and check its promises",
}
"""``lab`` too, which has a parser of its own."""
_EXAMPLES: Final = (
    "cef-trio demo",
    "cef-trio check",
    "cef-trio run",
    "cef-trio status --watch",
    "cef-trio list --failed",
)
_BROKEN_PIPE: Final = 141
"""A shell's exit code of a program that SIGPIPE ended. Python ignores that signal."""
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""The disk of standard output is full."""
_INTERRUPTED: Final = 130
_SIGNALLED: Final = 128
_JSON: Final = "--json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    _handle_sigterm_as_pid_1()
    _open_standard_streams()
    json_document.begin()
    as_json = _JSON in given and given[:1] != [_LAB]
    try:
        code = _run(given)
        if as_json and code != 0:
            json_document.print_failure(code, instead="interrupted" if code > _SIGNALLED else "not done")
        sys.stdout.flush()
    except KeyboardInterrupt:  # before the daemon handles signals, or after it restored them
        return _INTERRUPTED
    except Exception as error:
        # `run`, `demo` and `lab` write to other disks too.
        unwritable = _unwritable_output(error, is_other_disk=bool({*given[:1]} & {*_OWN_SETTINGS, _LAB}))
        if unwritable is not None:
            _discard(sys.stdout)
            return unwritable
        # A bug: its traceback follows.
        if as_json:
            with contextlib.suppress(OSError):
                json_document.print_failure(ExitCode.BUG, instead=f"a bug: {type(error).__name__}")
        raise
    else:
        return code
    finally:
        _flush_standard_error()


def _unwritable_output(error: Exception, *, is_other_disk: bool = False) -> int | None:
    """Return the exit code if standard output cannot be written, ``None`` if the error is another one.

    ``is_other_disk``: a full disk may be another one than that of standard output.
    """
    errors = list(leaves(error))  # of a nursery: a group
    if all(isinstance(one, BrokenPipeError) for one in errors):  # its reader (head, less) has ended
        return _BROKEN_PIPE
    full = [one for one in errors if isinstance(one, OSError) and one.errno in _FULL]
    if not full or is_other_disk:
        return None
    with contextlib.suppress(OSError):
        sys.stderr.write(f"cef-trio: standard output cannot be written: {full[0].strerror}\n")
    return ExitCode.NOT_SAVED


def _run(arguments: Sequence[str]) -> int:
    """Run the chosen command; an operator's error is printed, without a traceback."""
    try:
        return int(_parse(arguments)())
    except _WrongArgumentsError:
        return ExitCode.BAD_SETTINGS
    except CefMp4ProcessorError as error:
        with contextlib.suppress(OSError):  # standard error is closed: the exit code is enough
            for line in str(error).splitlines():
                json_document.note_error(line)
                sys.stderr.write(f"cef-trio: {line}\n")
        return ExitCode.BAD_SETTINGS


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, noted for ``--json``, and end with the exit code of a wrong argument."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**{"formatter_class": HelpFormatter, **given})

    def _print_message(self, message: str, _file: object = None) -> None:
        """Print the help or the version now: argparse ignores an error here, and nobody sees one at the exit."""
        try:
            sys.stdout.write(message)
            sys.stdout.flush()
        except OSError as error:
            code = _unwritable_output(error)
            if code is None:
                raise
            _discard(sys.stdout)
            self.exit(code)

    def error(self, message: str) -> NoReturn:
        line = printable(message)
        json_document.note_error(line)
        with contextlib.suppress(OSError):
            sys.stderr.write(f"{self.prog}: {line} (see `{self.prog} --help`)\n")
        raise _WrongArgumentsError

    def check_command(self, arguments: Sequence[str]) -> None:
        """Refuse a first argument that is neither a command nor an option of all commands; else argparse lists all."""
        first = next(iter(arguments), "--help")
        if first.startswith("-"):
            if not any(option.startswith(first) for option in ("-h", "--help", "--version")):
                self.error(f"the command comes first, as in `cef-trio list {first}`")
        elif first not in COMMANDS:
            close = difflib.get_close_matches(first.lower(), ALL_COMMANDS, n=1) if first != "help" else ()
            self.error(f"{first!r} is not a command{f'; did you mean {close[0]!r}?' if close else ''}")


class _WrongArgumentsError(Exception):
    """The command line cannot be parsed; the error was printed."""


def make_parser(modules: Iterable[str]) -> _Parser:
    """Return the parser of all commands; those of ``modules`` have their arguments."""
    parser = _Parser(
        prog="cef-trio",
        description="Uploads growing video recordings to S3-compatible storage while they are being written.",
    )
    add_epilog(parser, ALL_EXIT_CODES, _EXAMPLES)
    parser.add_argument("--version", action="version", version=f"cef-trio {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, help_line in COMMANDS.items():
        command = commands.add_parser(name, help=help_line, description=f"{help_line[0].upper()}{help_line[1:]}.")
        if name in modules:
            module = _import_without_collecting(f"cef_trio.cli.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run, parser=command)
    lab = ALL_COMMANDS[_LAB]
    commands.add_parser(
        _LAB,
        help=lab,
        description=f"{lab[0].upper()}{lab[1:]}. `cef-trio lab --help` shows its own commands.",
        usage="cef-trio lab [-h] COMMAND ...",
    )
    return parser


def _import_without_collecting(name: str) -> ModuleType:
    """Import a module. What that makes stays, so that looking for garbage meanwhile is a twentieth of the start."""
    gc.disable()
    try:
        return import_module(name)
    finally:
        gc.freeze()
        gc.enable()


def _parse(arguments: Sequence[str]) -> Callable[[], int]:
    """Return the chosen command, ready to run."""
    if arguments[:1] == [_LAB]:  # it has a large parser of its own
        from cef_trio.lab import run_lab

        return lambda: run_lab(arguments[1:], _Parser)
    chosen = next(iter(arguments), "")
    parser = make_parser([chosen])
    parser.check_command(arguments)
    with notice_if_slow("the file of --env-file"):
        parsed, rest = parser.parse_known_args(arguments)
    if rest:
        parsed.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if chosen not in _OWN_SETTINGS:
        with notice_if_slow("the installed systemd unit and its settings"):
            use_installed_service(parsed)
    return lambda: parsed.run(parsed)


def _open_standard_streams() -> None:
    """Open descriptors 0 to 2 if they are closed: else a file or socket gets number 2, and log lines go into it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    if isinstance(sys.stdout, TextIOWrapper):  # LANG=C: a name that the encoding lacks is escaped, as on standard error
        sys.stdout.reconfigure(errors="backslashreplace")


def _flush_standard_error() -> None:
    """Flush the log or discard it: if Python's own last flush fails, the exit code is 120."""
    try:
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)


def _discard(stream: TextIO) -> None:
    """Direct a stream, and what is left in its buffer, to the null device."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, stream.fileno())
    os.close(devnull)


def _handle_sigterm_as_pid_1() -> None:
    """As process 1 of a container, end on SIGTERM from the first moment on.

    The kernel drops a signal for process 1 that has no handler, so a container that is stopped while it starts would
    have to be killed. There is no work yet that could be lost. The daemon replaces this handler while it runs.
    """
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
