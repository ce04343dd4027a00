"""``cef-trio demo``: upload a recording while it is made, and compare the object with the file byte by byte.

It runs the real daemon with embedded servers in ``<data>/demo-<n>``. The log goes to a file there, and the terminal
shows the progress.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import trio
from rich.console import Console
from rich.live import Live
from rich.text import Text

from cef_trio.checkpoint import StreamSet, StreamSummary
from cef_trio.daemon import RunningDaemon, run_daemon
from cef_trio.exceptions import CefMp4ProcessorError, leaves
from cef_trio.exit_codes import ExitCode
from cef_trio.local.progress import DemoView, line, mib, render
from cef_trio.local.recorder import RECORDING_BYTES_PER_SECOND, record
from cef_trio.local.run import alone, settings_for
from cef_trio.local.servers import LocalDataError, local_servers
from cef_trio.observability import logs
from cef_trio.resilience import Periodic
from cef_trio.safe_text import printable
from cef_trio.settings import AppEnvironment, Settings
from cef_trio.upload import MIN_PART_BYTES, metadata_key

_FRAME_SECONDS: Final = 0.1
_LINE_SECONDS: Final = 2.0
_FINISH_SECONDS: Final = 120.0
"""How long the upload may take after the recording's end before the demo fails."""
_SPACE_OF_STATE_BYTES: Final = 4 << 20
INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True)
class Comparison:
    """The recording and its object."""

    key: str
    size_bytes: int
    file_sha256: str
    object_sha256: str
    metadata: bytes

    @property
    def identical(self) -> bool:
        """Whether they have the same bytes."""
        return self.file_sha256 == self.object_sha256


class DemoError(CefMp4ProcessorError):
    """The recording was not uploaded."""


def run_demo(duration_seconds: float, data_dir: Path, console: Console, *, keep: bool) -> int:
    """Run the demo, shown on a console without markup.

    Return the exit code: 0 if the object is identical to the file, 1 if not, 130 if interrupted.

    Raises:
        CefMp4ProcessorError: the demo cannot run.
    """
    need = _bytes_needed(duration_seconds)
    try:
        folder = _own_folder(data_dir, need)
    except OSError as error:
        raise LocalDataError(f"--data-dir {str(data_dir)!r} cannot be used: {error.strerror}") from error
    try:
        return trio.run(partial(_Demo(duration_seconds, folder, console).run, keep=keep))
    except BaseExceptionGroup as group:
        first, *others = leaves(group)
        if isinstance(first, BrokenPipeError) and not others:
            raise first from group
        if isinstance(first, OSError) and not others:  # the disk became full, or the folder was removed
            raise LocalDataError(f"{str(folder)!r} cannot be used: {first.strerror}") from group
        raise alone(group) from group
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # not empty: it has other local data, or another demo's
                data_dir.rmdir()


class _Demo:
    def __init__(self, duration_seconds: float, folder: Path, console: Console) -> None:
        self._duration_seconds = duration_seconds
        self._folder = folder
        self._recordings = folder / "recordings"
        self._console = console

    async def run(self, *, keep: bool) -> int:
        self._recordings.mkdir(parents=True, exist_ok=True)
        path = (self._recordings / "demo.mp4").resolve()
        comparison: Comparison | None = None
        async with local_servers(self._folder) as servers:
            settings = settings_for(servers, self._recordings, chunk_size_bytes=MIN_PART_BYTES, prom_port=0)
            with self._logging():
                async with self._daemon(settings) as daemon:
                    comparison = await self._record_and_compare(daemon, path)
            if comparison is None:
                return INTERRUPTED
            self._show(comparison, path, f"{servers.s3_url}/{settings.s3_bucket_name}/{comparison.key}", keep=keep)
        return ExitCode.DONE if comparison.identical else ExitCode.BUG

    @contextmanager
    def _logging(self) -> Iterator[None]:
        with (self._folder / "daemon.log").open("a", encoding="utf-8", errors="backslashreplace") as log:
            logs.configure(AppEnvironment.PRODUCTION, "DEBUG", stream=log)
            try:
                yield
            finally:
                logs.configure(AppEnvironment.DEVELOPMENT, "WARNING")

    @asynccontextmanager
    async def _daemon(self, settings: Settings) -> AsyncIterator[RunningDaemon]:
        """Run the daemon during the block; if a signal ends it earlier, cancel the block."""
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as inside:

                async def run(*, task_status: trio.TaskStatus[RunningDaemon]) -> None:
                    await run_daemon(settings, task_status=task_status)
                    inside.cancel()

                daemon = await nursery.start(run)
                yield daemon
                daemon.shutdown.request()

    async def _record_and_compare(self, daemon: RunningDaemon, path: Path) -> Comparison | None:
        self._print(f"Recording {self._duration_seconds:.0f} s into {path}, uploading while it grows.")
        done: StreamSummary | None = None
        async with trio.open_nursery() as nursery:
            began = trio.current_time()
            nursery.start_soon(self._draw, daemon, path, began)
            maker = await record(path, self._duration_seconds)
            with trio.move_on_after(_FINISH_SECONDS):
                done = await _until_completed(daemon, path)
            nursery.cancel_scope.cancel()
        if done is None or done.stream_set is not StreamSet.COMPLETED:
            reason = (done and done.meta.failure_reason) or f"It took longer than {_FINISH_SECONDS:.0f} s."
            raise DemoError(f"the upload did not finish: {reason} --keep keeps its log")
        self._console.print(f"Recorded by {maker}; reading the object back to compare it.")
        return await _compare(daemon, done, path)

    async def _draw(self, daemon: RunningDaemon, path: Path, began: float) -> None:
        last: DemoView | None = None
        redraws = self._console.is_terminal and not self._console.is_dumb_terminal
        with Live(console=self._console, auto_refresh=False) if redraws else nullcontext() as live:
            async for _ in Periodic(_FRAME_SECONDS if live else _LINE_SECONDS):
                view = self._view(daemon, path, trio.current_time() - began, last)
                if live:
                    live.update(render(view), refresh=True)
                elif last is not None and (view.recorded_bytes, view.uploaded_bytes) != _sizes(last):
                    self._console.print(line(view), soft_wrap=True)
                last = view

    def _view(self, daemon: RunningDaemon, path: Path, elapsed_seconds: float, last: DemoView | None) -> DemoView:
        recorded = path.stat().st_size if path.exists() else 0
        upload = next((live.processor.upload for live in daemon.supervisor.live if live.path == str(path)), None)
        if upload is not None:
            parts, uploaded = len(upload.parts), sum(part.size_bytes for part in upload.parts.values())
        else:
            parts, uploaded = (last.parts_uploaded, last.uploaded_bytes) if last else (0, 0)
        phase = "recording" if elapsed_seconds < self._duration_seconds else "verifying every byte and completing"
        return DemoView(phase, elapsed_seconds, self._duration_seconds, recorded, uploaded, parts)

    def _show(self, comparison: Comparison, path: Path, url: str, *, keep: bool) -> None:
        verdict, style = ("identical", "green") if comparison.identical else ("NOT identical", "bold red")
        self._print("The object and the file", "bold")
        self._print(f"object   {url}")
        self._print(f"size     {mib(comparison.size_bytes)} ({comparison.size_bytes} bytes)")
        self._print(f"file     sha256 {comparison.file_sha256}")
        self._print(f"in S3    sha256 {comparison.object_sha256}")
        self._print(f"verdict  {verdict}", style)
        self._print("The metadata beside it", "bold")
        self._print(f"{url}.metadata.json", "dim")
        self._console.print_json(_without_chunks(comparison.metadata))
        if keep:
            self._print(f"Kept: recording {path}, objects and state in {self._folder}.")
        else:
            self._print("Nothing was kept; --keep keeps the recording, the objects and the state.")

    def _print(self, text: str, style: str = "") -> None:
        self._console.print(Text(printable(text), style=style), soft_wrap=True)


def _sizes(view: DemoView) -> tuple[int, int]:
    return view.recorded_bytes, view.uploaded_bytes


def _bytes_needed(duration_seconds: float) -> int:
    """Return the disk space of a demo: the recording, its object, and the parts that the object is made from."""
    return int(duration_seconds * RECORDING_BYTES_PER_SECOND) * 3 + _SPACE_OF_STATE_BYTES


def _own_folder(data_dir: Path, need_bytes: int) -> Path:
    """Create a folder for this run only, since it is deleted at the end and several demos may run.

    Whatever is in ``data_dir`` stays as it is.

    Raises:
        OSError: the folder cannot be created.
        LocalDataError: its disk has too little space.
    """
    there = next(folder for folder in (data_dir.absolute(), *data_dir.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if free < need_bytes:
        raise LocalDataError(
            f"--data-dir {str(data_dir)!r} has {mib(free)} of free space, and this demo needs {mib(need_bytes)}: "
            "choose another folder, or a shorter --duration"
        )
    data_dir.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = data_dir / f"demo-{number}"
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError("unreachable: the numbers are endless")


def _without_chunks(metadata: bytes) -> str:
    document = json.loads(metadata)
    document["chunks"] = f"{len(document['chunks'])} chunks"
    return json.dumps(document)


async def _until_completed(daemon: RunningDaemon, path: Path) -> StreamSummary:
    """Wait until the file's stream has ended in Redis."""
    while True:
        known = (await daemon.services.store.find_by_path([str(path)])).get(str(path))
        if known is not None and known.stream_set in {StreamSet.COMPLETED, StreamSet.FAILED}:
            return known
        await trio.sleep(_FRAME_SECONDS)


async def _compare(daemon: RunningDaemon, known: StreamSummary, path: Path) -> Comparison:
    key = known.meta.s3_key_prefix
    metadata = b""
    async with daemon.services.s3.get_object(metadata_key(key)) as (_, blocks):
        async for block in blocks:
            metadata += block
    digest = hashlib.sha256()
    async with daemon.services.s3.get_object(key) as (stored, blocks):
        async for block in blocks:
            digest.update(block)
    file_sha256 = await trio.to_thread.run_sync(_sha256, path)
    return Comparison(key, stored.size_bytes, file_sha256, digest.hexdigest(), metadata)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
