"""``cef-trio verify``: read a whole object again, and compare it with everything on record. Read only.

Memory use is one block, however large the recording. ``object_check.py`` has the comparisons.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from cef_trio.checkpoint import Checkpoint, Status
from cef_trio.cli.arguments import NO_FOLDER, STREAM_ID_HELP, add_common, add_owner, age, number
from cef_trio.cli.object_check import (
    NOT_READ,
    Comparison,
    Content,
    compare_checksums,
    is_proven,
    metadata_content,
    recorded_content,
)
from cef_trio.cli.redis_session import command_settings
from cef_trio.cli.result_lines import Report
from cef_trio.cli.retry_plan import Presence, presence_of
from cef_trio.cli.scrub import LEAST_RATE, Bounds, Pace, verify_every
from cef_trio.cli.session import CommandContext, run_command
from cef_trio.cli.stream_selection import NoSuchStreamError, select_all
from cef_trio.exceptions import ChunkProcessingError, RecordingChangedError, RecordUnreadableError, S3OperationError
from cef_trio.exit_codes import ExitCode
from cef_trio.files import FileSlice, IdentityMatch
from cef_trio.s3 import ARCHIVED, Crc64Nvme
from cef_trio.safe_text import printable
from cef_trio.settings import SettingsError, size_in_bytes
from cef_trio.upload import MAX_METADATA_BYTES, identify, metadata_key, recognize

_ANOTHER: Final = "not compared: another file has its name"
_NOT_THERE: Final = frozenset({"NoSuchKey", "NoSuchUpload"})

Progressed = Callable[[int], None]
"""Called with the number of bytes of each block that was read."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``verify``."""
    add_common(
        parser,
        more="Its size and CRC64NVME are compared with the checkpoint, S3's own checksum, the metadata JSON and, where "
        "it exists, the recording.",
        exit_codes="5 something differs, is missing, or is not complete yet; with --all also if no object was proven",
        examples=(
            "cef-trio verify 0b6f0c4e",
            "cef-trio verify /srv/recordings/a.mp4",
            "cef-trio verify --all --rate 10MiB --for 6h",
        ),
    )
    add_owner(parser)
    parser.add_argument("stream", nargs="?", metavar="ID|FILE", help=f"{STREAM_ID_HELP}; or the recording's name")
    parser.add_argument(
        "--all",
        action="store_true",
        help="verify the objects of all completed streams, the one verified the longest ago first; not the recordings",
    )
    parser.add_argument("--rate", type=_rate, metavar="RATE", help="with --all: at most so many bytes a second: 10MiB")
    parser.add_argument("--limit", type=number, metavar="N", help="with --all: at most N objects in this run")
    parser.add_argument(
        "--for",
        type=age,
        dest="time",
        metavar="TIME",
        help="with --all: end after this time: 30m, 6h; the next run goes on",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run ``verify`` and return its exit code."""
    bounds = (arguments.rate, arguments.limit, arguments.time)
    if arguments.all == (arguments.stream is not None):
        raise SettingsError(["verify takes a stream's id or its recording's name, or --all"])
    if not arguments.all and any(bound is not None for bound in bounds):
        raise SettingsError(["--rate, --limit and --for are for `cef-trio verify --all`"])
    settings = command_settings(arguments, NO_FOLDER)
    if not arguments.all:
        return run_command(settings, lambda context: verify_stream(context, arguments.stream, as_json=arguments.json))
    return run_command(
        settings,
        lambda context: verify_every(
            context,
            partial(compare_object, context, quiet=True),
            Bounds(
                bytes_per_second=arguments.rate,
                objects=arguments.limit,
                seconds=arguments.time.total_seconds() if arguments.time is not None else None,
            ),
            as_json=arguments.json,
        ),
    )


def _rate(text: str) -> int:
    try:
        rate = size_in_bytes(text)
    except ValueError:
        rate = None
    if not isinstance(rate, int) or rate < LEAST_RATE:
        raise argparse.ArgumentTypeError(f"takes bytes per second, 64KiB or more, such as 10MiB, not {text!r}")
    return rate


async def verify_stream(context: CommandContext, given: str, *, as_json: bool) -> ExitCode:
    """Verify the object of a stream; ``given`` is its id, the beginning of it, or its recording's path.

    Raises:
        NoSuchStreamError: no stream matches, or several do.
        RecordUnreadableError: its record cannot be read, or is of a newer schema.
        S3OperationError: the object could not be read to its end.
    """
    stream_id = await _find_stream_id(context, given)
    checkpoint = await context.store.load(stream_id)
    if checkpoint is None:
        raise NoSuchStreamError(f"stream {stream_id} has just been deleted")
    with Report(as_json=as_json, stream_id=stream_id, identical=None) as report:
        report.remark(f"stream {stream_id}, {checkpoint.meta.current_path}")
        comparisons = await _compare_all(context, checkpoint, quiet=as_json)
        for comparison in comparisons:
            report.add(comparison.name, comparison.says, ok=comparison.agrees is not False, agrees=comparison.agrees)
        report.about["identical"] = proved = is_proven(comparisons)
        report.remark("Identical." if proved else "NOT identical, or not proven.")
    return ExitCode.DONE if proved else ExitCode.ANSWER_IS_NO


async def _find_stream_id(context: CommandContext, given: str) -> str:
    path = os.path.abspath(given)  # noqa: PTH100, ASYNC240 - Path would change some names; no disk access
    paths = {path, os.path.realpath(path)}  # noqa: ASYNC240 - once
    found = await context.store.find_by_path(paths, owner=context.ownership.name_at)
    for known in found.values():
        return known.meta.stream_id
    for why in found.unreadable.values():
        raise RecordUnreadableError("find_by_path", why)
    try:
        [stream_id] = await select_all(context.store, [given])
    except NoSuchStreamError as error:
        raise NoSuchStreamError(f"{error} (and Redis has no recording {printable(path)!r})") from None
    return stream_id


async def _compare_all(context: CommandContext, checkpoint: Checkpoint, *, quiet: bool) -> list[Comparison]:
    return await compare_object(context, checkpoint, Pace(), quiet=quiet, with_file=True)


async def compare_object(
    context: CommandContext, checkpoint: Checkpoint, pace: Pace, *, quiet: bool, with_file: bool = False
) -> list[Comparison]:
    """Read an object, and compare it with everything on record; with the recording too, if ``with_file``.

    Raises:
        S3OperationError: the object could not be read to its end.
    """
    meta = checkpoint.meta
    if meta.object_etag is None:
        return [Comparison("object", False, f"is not complete yet; the stream is {meta.status.value}")]
    if meta.s3_bucket != context.bucket:
        says = f"it is in bucket {meta.s3_bucket!r}, and S3_BUCKET_NAME is {context.bucket!r}"
        return [Comparison(NOT_READ, False, says)]
    try:
        with _progress(meta.verified_size_bytes, quiet=quiet) as progressed:
            read, stored = await _read_object(context, meta.s3_key_prefix, pace, progressed)
    except S3OperationError as error:
        where = f"{meta.s3_bucket}/{meta.s3_key_prefix}"
        if error.code == ARCHIVED:
            says = f"it is in an archive class and cannot be read: restore {where} first, then verify it"
            return [Comparison(NOT_READ, False, says)]
        if error.code not in _NOT_THERE:
            raise
        return [Comparison("object", False, f"does not exist: {where}")]
    comparisons = [
        Comparison("object", None, f"read whole: {read}"),
        compare_checksums("checkpoint", read, recorded_content(checkpoint)),
        compare_checksums("S3's own checksum", read, Content(None, stored)),
        await _compare_metadata(context, checkpoint, read),
    ]
    return [*comparisons, await _compare_file(context, checkpoint, read, quiet=quiet)] if with_file else comparisons


async def _read_object(
    context: CommandContext, key: str, pace: Pace, progressed: Progressed
) -> tuple[Content, int | None]:
    crc, size = Crc64Nvme(), 0
    async with context.s3.get_object(key) as (stored, chunks):
        async for chunk in chunks:
            crc.update(chunk)
            size += len(chunk)
            progressed(len(chunk))
            await pace.wait_after(len(chunk))
    return Content(size, crc.value), stored.crc64nvme


async def _compare_metadata(context: CommandContext, checkpoint: Checkpoint, read: Content) -> Comparison:
    name, key = "metadata JSON", metadata_key(checkpoint.meta.s3_key_prefix)
    try:
        document = await context.s3.get_small_object(key, max_bytes=MAX_METADATA_BYTES)
    except S3OperationError as error:
        if error.code == ARCHIVED:
            return Comparison(name, None, "not compared: it is in an archive class")
        if error.code not in _NOT_THERE:
            raise
        done = checkpoint.meta.status is Status.COMPLETED
        return Comparison(name, False if done else None, "does not exist" if done else "is not written yet")
    if document is None:
        return Comparison(name, False, f"is larger than {MAX_METADATA_BYTES} bytes")
    content = metadata_content(document, checkpoint.meta.stream_id)
    return Comparison(name, False, content) if isinstance(content, str) else compare_checksums(name, read, content)


async def _compare_file(context: CommandContext, checkpoint: Checkpoint, read: Content, *, quiet: bool) -> Comparison:
    meta = checkpoint.meta
    crc = Crc64Nvme()
    try:
        async with context.disk.open(meta.current_path) as recording:
            stat = await recording.stat()
            observed = await identify(recording, stat, meta.identity.head_size_bytes)
            identity_match = await recognize(meta, checkpoint.parts, recording)
            unknown = identity_match is IdentityMatch.ASK_BYTES and not checkpoint.parts
            if not unknown and presence_of(meta.identity, observed, identity_match) is not Presence.SAME:
                return Comparison("file", None, _ANOTHER)
            with _progress(stat.size_bytes, quiet=quiet) as progressed:
                await FileSlice(recording, 0, stat.size_bytes).feed(crc.update, lambda block: progressed(len(block)))
    except RecordingChangedError:
        return Comparison("file", None, "not compared: it does not exist, or it was truncated while it was read")
    except ChunkProcessingError as error:
        return Comparison("file", None, f"not compared: {error}")
    comparison = compare_checksums("file", read, Content(stat.size_bytes, crc.value))
    unchanged = (stat.size_bytes, stat.mtime_ns) == (meta.verified_size_bytes, meta.verified_mtime_ns)
    if unknown and not comparison.agrees:  # neither its numbers nor its bytes show that it is the recording
        comparison = Comparison("file", None, _ANOTHER)
    if unknown or comparison.agrees or unchanged:
        return comparison
    return Comparison("file", False, f"{comparison.says}; it was changed after it was uploaded, and is uploaded again")


@contextmanager
def _progress(total_bytes: int | None, *, quiet: bool) -> Iterator[Progressed]:
    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    hidden = quiet or not sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=hidden) as progress:
        task = progress.add_task("", total=total_bytes)
        yield lambda size_bytes: progress.advance(task, size_bytes)
