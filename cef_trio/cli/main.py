"""The commands. Thin: arguments in, one function called, its exit code out; wrong input is one clear line."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from cef_trio import __version__
from cef_trio.cli.parser import add_commands, add_env_file
from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.exit_codes import ExitCode

_EXIT_CODES = (
    "Exit codes: 0 done, 1 a bug, 2 wrong settings or arguments, 3 something could not be saved, "
    "4 S3 or Redis refused us, 5 a command's answer is no (see its help)."
)
_BROKEN_PIPE = 141
"""What a shell says of a program that SIGPIPE ended, which Python ignores."""
_DATA_DIR = Path("cef-data")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    _end_as_others_do()
    _open_standard_streams()
    words = sys.argv[1:] if arguments is None else arguments
    command = _chosen(words)
    try:
        code = int(command())
        sys.stdout.flush()
    except CefMp4ProcessorError as error:
        with contextlib.suppress(OSError):  # nobody reads it: the exit code says it too
            for line in str(error).splitlines():
                sys.stderr.write(f"cef-trio: {line}\n")
        return ExitCode.BAD_SETTINGS
    except BrokenPipeError:  # whoever read standard output (head, less) has seen enough
        _give_up(sys.stdout)
        return _BROKEN_PIPE
    except KeyboardInterrupt:  # before the daemon takes the signals, or after it gave them back
        return 130
    else:
        return code
    finally:
        _flush_standard_error()


def _chosen(words: Sequence[str]) -> Callable[[], int]:
    """The command that these words choose."""
    if words[:1] == ["lab"]:  # it has a parser of its own, which is heavy, and not for who runs a daemon
        from cef_trio.lab import run_lab

        return lambda: run_lab(words[1:])
    parsed = _parser().parse_args(words)
    return lambda: parsed.command(parsed)


def _open_standard_streams() -> None:
    """Let descriptors 0 to 2 be open: else a file or socket of ours gets number 2, and a library's words go into it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _flush_standard_error() -> None:
    """Flush the log, or give it up: if Python's own last flush fails, the exit code is 120, whatever was done."""
    try:
        sys.stderr.flush()
    except OSError:
        _give_up(sys.stderr)


def _give_up(stream: TextIO) -> None:
    """Let what is left in a stream's buffer go nowhere."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, stream.fileno())
    os.close(devnull)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cef-trio",
        description="Uploads growing MP4 recordings to S3-compatible storage while they are being written.",
        epilog=_EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"cef-trio {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="watch a folder and upload, until a signal ends it",
        description="Watch a folder and upload, until a signal ends it. Settings come from the environment and .env; "
        "example.env names them all. SIGHUP reads MAX_UPLOAD_RATE and LOG_LEVEL once more.",
        epilog=_EXIT_CODES,
    )
    run.add_argument(
        "--local",
        type=Path,
        metavar="FOLDER",
        help="watch FOLDER with nothing installed: an embedded Valkey and S3 keep everything under --data-dir",
    )
    _add_data_dir(run)
    add_env_file(run)
    run.set_defaults(command=_run)

    demo = commands.add_parser(
        "demo",
        help="record for some seconds, and see the upload keep up",
        description="Make a real recording for some seconds, upload it while it grows, and compare the object with it. "
        "Exit code 0 only if they are identical.",
    )
    demo.add_argument("--duration", type=_seconds, default=15.0, metavar="SECONDS", help="how long to record (15)")
    demo.add_argument("--keep", action="store_true", help="keep the recording, the objects and the state")
    _add_data_dir(demo)
    demo.set_defaults(command=_demo)
    add_commands(commands)
    commands.add_parser(
        "lab", help="the laboratory: cancel, crash and simulate the daemon, and hold it against its promises"
    )
    return parser


def _add_data_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-dir", type=Path, default=_DATA_DIR, metavar="DIR", help="where local state and objects are (./cef-data)"
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 3600:  # noqa: PLR2004 - said in the message
        raise argparse.ArgumentTypeError(f"takes seconds from 1 to 3600, not {text!r}")
    return seconds


def _run(arguments: argparse.Namespace) -> ExitCode:
    with _hangups_held():
        return _run_daemon(arguments)


def _run_daemon(arguments: argparse.Namespace) -> ExitCode:
    if arguments.local is not None:
        from cef_trio.local import run_local

        return run_local(arguments.local, arguments.data_dir, arguments.env_file)

    from cef_trio.daemon import SettingsSource, main_daemon, warn_of_exposed_secrets
    from cef_trio.observability import configure_for
    from cef_trio.settings import load_settings

    settings = load_settings(arguments.env_file)
    configure_for(settings)
    warn_of_exposed_secrets(arguments.env_file)
    return main_daemon(settings, SettingsSource.of_file(arguments.env_file))


@contextlib.contextmanager
def _hangups_held() -> Iterator[None]:
    """From the first moment on, SIGHUP asks for the settings and ends nothing.

    Its default is to end the process. One that comes while the daemon starts waits in the kernel until the daemon takes
    it (``reload.py``): the settings may have been read before it. One that comes when all is done meets a handler that
    does nothing, and which, unlike SIG_IGN, no child inherits.
    """
    signal.signal(signal.SIGHUP, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


def _end_as_others_do() -> None:
    """As process 1 of a container: end by SIGTERM from the first moment on, as any other process does.

    The kernel drops a signal for process 1 that has no handler, and until the daemon takes its signals there is none: a
    container stopped while it starts would have to be killed. Nothing has begun by then that could be lost. Once the
    daemon takes them this handler rests; it is back for the moment after that.
    """
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))


def _demo(arguments: argparse.Namespace) -> int:
    from cef_trio.local import run_demo

    return run_demo(arguments.duration, arguments.data_dir, keep=arguments.keep)
