"""``cef-trio verify``: read the object again, all of it, and hold it against everything on record. Changes nothing.

Memory is one block, however large the recording. What each witness says is judged in ``object_check.py``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from cef_trio.checkpoint import Checkpoint, Status
from cef_trio.cli.arguments import NO_FOLDER, STREAM_ID_HELP, add_common
from cef_trio.cli.object_check import Content, Witness, compare, is_proved, metadata_content, recorded_content
from cef_trio.cli.output import printable
from cef_trio.cli.result_lines import Report
from cef_trio.cli.retry_plan import Presence, presence_of
from cef_trio.cli.session import CommandContext, run_command
from cef_trio.cli.stream_selection import NoSuchStreamError, select_all
from cef_trio.exceptions import ChunkProcessingError, RecordingChangedError, S3OperationError
from cef_trio.exit_codes import ExitCode
from cef_trio.files import FileSlice
from cef_trio.s3 import ARCHIVED, Crc64Nvme
from cef_trio.settings import load_settings
from cef_trio.upload import bulk_load, identify, metadata_key, recognize

_MAX_METADATA_BYTES: Final = 64 * 1024 * 1024
_NOT_THERE: Final = frozenset({"NoSuchKey", "NoSuchUpload"})

Progressed = Callable[[int], None]
"""Told each number of bytes that was read."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``verify``."""
    add_common(
        parser,
        more="Its size and CRC64NVME are compared with the checkpoint, S3's own checksum, the metadata JSON and, where "
        "it exists, the recording.",
        exit_codes="5 something differs, is missing, or is not complete yet",
    )
    parser.add_argument("stream", metavar="ID|FILE", help=f"{STREAM_ID_HELP}; or the recording's name")


def run(arguments: argparse.Namespace) -> int:
    """Run ``verify`` and return its exit code."""
    settings = load_settings(arguments.env_file, unneeded=NO_FOLDER)
    return run_command(settings, lambda context: verify_stream(context, arguments.stream, as_json=arguments.json))


async def verify_stream(context: CommandContext, given: str, *, as_json: bool) -> ExitCode:
    """Verify the object of the stream, or of the recording, that ``given`` means.

    Raises:
        NoSuchStreamError: it means none, or several.
        S3OperationError: the object could not be read to its end.
    """
    stream_id = await _meant(context, given)
    checkpoint = await context.store.load(stream_id)
    if checkpoint is None:
        raise NoSuchStreamError(f"stream {stream_id} was forgotten just now")
    with Report(as_json=as_json, stream_id=stream_id, identical=None) as report:
        report.remark(f"stream {stream_id}, {checkpoint.meta.current_path}")
        witnesses = await _witnesses(context, checkpoint, quiet=as_json)
        for witness in witnesses:
            report.add(witness.name, witness.says, ok=witness.agrees is not False, agrees=witness.agrees)
        report.about["identical"] = proved = is_proved(witnesses)
        report.remark("Identical." if proved else "NOT identical, or not proved.")
    return ExitCode.DONE if proved else ExitCode.ANSWER_IS_NO


async def _meant(context: CommandContext, given: str) -> str:
    path = os.path.abspath(given)  # noqa: PTH100, ASYNC240 - Path would not keep every name; asks no disk
    paths = {path, os.path.realpath(path)}  # noqa: ASYNC240 - once
    found, _ = await bulk_load.find_by_path(context.store, paths, context.ownership.name)
    for known in found.values():
        return known.meta.stream_id
    try:
        [stream_id] = await select_all(context.store, [given])
    except NoSuchStreamError as error:
        raise NoSuchStreamError(f"{error} (and Redis knows no recording {printable(path)!r})") from None
    return stream_id


async def _witnesses(context: CommandContext, checkpoint: Checkpoint, *, quiet: bool) -> list[Witness]:
    meta = checkpoint.meta
    if meta.object_etag is None:
        return [Witness("object", False, f"is not complete yet; the stream is {meta.status.value}")]
    if meta.s3_bucket != context.bucket:
        return [Witness("object", False, f"is in bucket {meta.s3_bucket!r}, and S3_BUCKET_NAME is {context.bucket!r}")]
    try:
        with _progress(meta.verified_size_bytes, quiet=quiet) as progressed:
            read, stored = await _read_object(context, meta.s3_key_prefix, progressed)
    except S3OperationError as error:
        where = f"{meta.s3_bucket}/{meta.s3_key_prefix}"
        if error.code == ARCHIVED:
            says = f"is in an archive class and cannot be read: restore {where} first, then verify it"
            return [Witness("object", False, says)]
        if error.code not in _NOT_THERE:
            raise
        return [Witness("object", False, f"is not there: {where}")]
    return [
        Witness("object", None, f"read whole: {read}"),
        compare("checkpoint", read, recorded_content(checkpoint)),
        compare("S3's own checksum", read, Content(None, stored)),
        await _ask_metadata(context, checkpoint, read),
        await _ask_file(context, checkpoint, read, quiet=quiet),
    ]


async def _read_object(context: CommandContext, key: str, progressed: Progressed) -> tuple[Content, int | None]:
    crc, size = Crc64Nvme(), 0
    async with context.s3.get_object(key) as (stored, chunks):
        async for chunk in chunks:
            crc.update(chunk)
            size += len(chunk)
            progressed(len(chunk))
    return Content(size, crc.value), stored.crc64nvme


async def _ask_metadata(context: CommandContext, checkpoint: Checkpoint, read: Content) -> Witness:
    name, key = "metadata JSON", metadata_key(checkpoint.meta.s3_key_prefix)
    document = bytearray()
    try:
        async with context.s3.get_object(key) as (_, chunks):
            async for chunk in chunks:
                document += chunk
                if len(document) > _MAX_METADATA_BYTES:
                    return Witness(name, False, "is larger than any of ours")
    except S3OperationError as error:
        if error.code == ARCHIVED:
            return Witness(name, None, "not compared: it is in an archive class")
        if error.code not in _NOT_THERE:
            raise
        done = checkpoint.meta.status is Status.COMPLETED
        return Witness(name, False if done else None, "is not there" if done else "is not written yet")
    content = metadata_content(bytes(document), checkpoint.meta.stream_id)
    return Witness(name, False, content) if isinstance(content, str) else compare(name, read, content)


async def _ask_file(context: CommandContext, checkpoint: Checkpoint, read: Content, *, quiet: bool) -> Witness:
    meta = checkpoint.meta
    crc = Crc64Nvme()
    try:
        async with context.disk.open(meta.current_path) as recording:
            stat = await recording.stat()
            observed = await identify(recording, stat, meta.identity.head_size_bytes)
            sameness = await recognize(meta, checkpoint.parts, recording)
            if presence_of(meta.identity, observed, sameness) is not Presence.SAME:
                return Witness("file", None, "not compared: another file has its name")
            reading = FileSlice(recording, 0, stat.size_bytes).blocks()
            with _progress(stat.size_bytes, quiet=quiet) as progressed:
                async with aclosing(reading) as blocks:
                    async for block in blocks:
                        crc.update(block)
                        progressed(len(block))
    except RecordingChangedError:
        return Witness("file", None, "not compared: it is not there, or it shrank while it was read")
    except ChunkProcessingError as error:
        return Witness("file", None, f"not compared: {error}")
    witness = compare("file", read, Content(stat.size_bytes, crc.value))
    unchanged = (stat.size_bytes, stat.mtime_ns) == (meta.verified_size_bytes, meta.verified_mtime_ns)
    if witness.agrees or unchanged:
        return witness
    return Witness("file", False, f"{witness.says}; it was changed after it was uploaded, and is uploaded anew")


@contextmanager
def _progress(total_bytes: int | None, *, quiet: bool) -> Iterator[Progressed]:
    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    hidden = quiet or not sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=hidden) as progress:
        task = progress.add_task("", total=total_bytes)
        yield lambda size_bytes: progress.advance(task, size_bytes)
