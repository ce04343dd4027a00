"""``cef-trio demo``: record for some seconds, upload meanwhile, compare. The work is in ``local/``."""

from __future__ import annotations

import argparse

from cef_trio.cli.arguments import add_data_dir, add_epilog


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``demo``."""
    parser.description = (
        "Make a real recording for some seconds, upload it while it grows, and compare the object with it."
    )
    codes = "Exit codes: 0 they are identical, 1 they are not, 2 it cannot run, or the upload failed."
    add_epilog(parser, codes, ("cef-trio demo", "cef-trio demo --duration 60 --keep --data-dir /tmp/cef-data"))
    parser.add_argument("--duration", type=_seconds, default=15.0, metavar="SECONDS", help="how long to record (15)")
    parser.add_argument("--keep", action="store_true", help="keep the recording, the objects and the state")
    add_data_dir(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the demonstration."""
    from cef_trio.cli import output
    from cef_trio.local import run_demo

    return run_demo(arguments.duration, arguments.data_dir, output.console(), keep=arguments.keep)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 3600:  # noqa: PLR2004 - named in the message
        raise argparse.ArgumentTypeError(f"takes seconds from 1 to 3600, not {text!r}")
    return seconds
