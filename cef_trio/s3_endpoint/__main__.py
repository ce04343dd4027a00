"""``python -m cef_trio.s3_endpoint``: the embedded S3 endpoint in its own process.

Prints its URL on one line when it is ready (``http://127.0.0.1:9000``), serves until SIGTERM or SIGINT, exits 0. Exits
2 on bad arguments, 1 if the address or the folder cannot be used.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from cef_trio.exceptions import leaves
from cef_trio.s3_endpoint.auth import Account
from cef_trio.s3_endpoint.disk import DiskStorage
from cef_trio.s3_endpoint.endpoint import (
    DEFAULT_ACCESS_KEY_ID,
    DEFAULT_DOMAINS,
    DEFAULT_REGION,
    DEFAULT_SECRET_ACCESS_KEY,
    S3Endpoint,
)
from cef_trio.s3_endpoint.errors import S3Error
from cef_trio.s3_endpoint.multipart import MIN_PART_BYTES
from cef_trio.s3_endpoint.server import serve
from cef_trio.s3_endpoint.storage import MemoryStorage

_MAX_PORT = 65535


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the endpoint; return the exit code."""
    options = _parser().parse_args(arguments)
    failures: list[str] = []
    try:
        endpoint = _endpoint(options)
        trio.run(_run, endpoint, options.host, options.port)
    except* (OSError, ValueError, S3Error) as group:
        failures = [str(error) for error in leaves(group)]
    for failure in failures:
        sys.stderr.write(f"cef-trio s3: {failure}\n")
    return 1 if failures else 0


async def _run(endpoint: S3Endpoint, host: str, port: int) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            url = await nursery.start(serve, endpoint, host, port)
            sys.stdout.write(f"{url}\n")
            sys.stdout.flush()
            async for _ in signals:
                nursery.cancel_scope.cancel()
                break


def _endpoint(options: argparse.Namespace) -> S3Endpoint:
    storage = MemoryStorage() if options.data is None else DiskStorage(options.data, fsync=options.fsync)
    return S3Endpoint(
        storage,
        buckets=options.bucket,
        accounts={options.access_key: Account(options.secret_key, options.session_token)},
        region=options.region,
        domains=[*DEFAULT_DOMAINS, *options.domain],
        minimum_part_size_bytes=options.minimum_part_size,
        complete_again=not options.complete_once,
        control=options.control,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cef_trio.s3_endpoint", description="An S3 endpoint for one machine."
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="the data folder (default: in memory)")
    parser.add_argument("--fsync", action="store_true", help="force every write to the disk, against power cuts")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=9000, help="0 for any free port (default: %(default)s)")
    parser.add_argument("--bucket", action="append", default=[], help="create this bucket; may be repeated")
    parser.add_argument("--access-key", default=DEFAULT_ACCESS_KEY_ID, help="access key id (default: %(default)s)")
    parser.add_argument("--secret-key", default=DEFAULT_SECRET_ACCESS_KEY, help="secret (default: %(default)s)")
    parser.add_argument("--session-token", help="the session token of the key (default: none)")
    parser.add_argument("--region", default=DEFAULT_REGION, help="the region of signatures (default: %(default)s)")
    parser.add_argument("--domain", action="append", default=[], help="its sub-domains are buckets; may be repeated")
    parser.add_argument(
        "--minimum-part-size",
        type=_positive,
        default=MIN_PART_BYTES,
        metavar="BYTES",
        help="of every part but the last (default: %(default)s)",
    )
    parser.add_argument("--complete-once", action="store_true", help="a repeated Complete gets NoSuchUpload")
    parser.add_argument("--control", action="store_true", help="serve /_control/ (faults and counters, unsigned)")
    return parser


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > _MAX_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port number from 0 to {_MAX_PORT}")
    return int(text)


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of bytes")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
