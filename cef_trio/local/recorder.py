"""The recorder of the demo: an MP4 that grows in real time, made by ffmpeg, or by a built-in writer without it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import trio

from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.local.fmp4 import Picture, blocks
from cef_trio.safe_text import one_line

MIB: Final = 1024 * 1024
RECORDING_BYTES_PER_SECOND: Final = 3 * MIB


class RecorderError(CefMp4ProcessorError):
    """The recording failed."""


async def record(
    path: Path,
    seconds: float,
    *,
    bytes_per_second: int = RECORDING_BYTES_PER_SECOND,
    ffmpeg_path: str = "ffmpeg",
) -> str:
    """Record in real time; return the recorder's name: ``ffmpeg`` or ``the built-in writer``.

    The built-in writer is also used if ffmpeg fails before it has created the file, e.g. without a codec. On
    cancellation ffmpeg is killed, and the file stays as it is.

    Args:
        path: the file to create.
        seconds: the duration.
        bytes_per_second: the approximate rate, 100 KiB to 20 MiB.
        ffmpeg_path: path or name of ffmpeg.

    Raises:
        RecorderError: ffmpeg failed after it had created the file, or the file cannot be written.
    """
    found = shutil.which(ffmpeg_path)
    if found is not None:
        try:
            await _record_by_ffmpeg(found, path, seconds, bytes_per_second)
        except RecorderError:
            if await trio.Path(path).exists():
                raise
        else:
            return "ffmpeg"
    await _record_ourselves(path, seconds, bytes_per_second)
    return "the built-in writer"


async def _record_by_ffmpeg(ffmpeg: str, path: Path, seconds: float, bytes_per_second: int) -> None:
    bits = str(bytes_per_second * 8)
    command = [
        *(ffmpeg, "-nostdin", "-v", "error", "-y"),
        *("-re", "-f", "lavfi", "-i", "testsrc2=size=640x360:rate=25,noise=alls=40:allf=t"),
        *("-re", "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"),
        # MPEG-4 part 2 is fast and has a constant rate.
        *("-c:v", "mpeg4", "-b:v", bits, "-minrate", bits, "-maxrate", bits, "-bufsize", bits, "-qmin", "1"),
        *("-g", "12", "-c:a", "aac", "-b:a", "96k", "-t", f"{seconds:g}"),
        *("-movflags", "+frag_keyframe+empty_moov+default_base_moof", "-frag_duration", "250000"),
        *("-flush_packets", "1", "-f", "mp4", f"file:{path}"),
    ]
    try:
        done = await trio.run_process(
            command,
            stdin=subprocess.DEVNULL,
            capture_stderr=True,
            check=False,
            deliver_cancel=_kill,
            start_new_session=True,  # Ctrl-C in the terminal is for the demo only
        )
    except OSError as error:
        raise RecorderError(f"{ffmpeg!r} cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        said = [one_line(line) for line in done.stderr.decode(errors="replace").splitlines()]
        raise RecorderError(f"{ffmpeg!r} failed: {'; '.join(filter(None, said))[-500:]}")


async def _kill(process: trio.Process) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS: PermissionError if the process has just ended
        os.killpg(process.pid, signal.SIGKILL)  # the group, since it may be a script that runs ffmpeg


async def _record_ourselves(path: Path, seconds: float, bytes_per_second: int) -> None:
    began = trio.current_time()
    try:
        async with await trio.open_file(path, "wb") as file:
            with closing(blocks(seconds, Picture.for_rate(bytes_per_second))) as pieces:
                for moment, data in pieces:
                    await trio.sleep_until(began + moment)
                    await file.write(data)
                    await file.flush()
    except OSError as error:
        raise RecorderError(f"cannot write {path}: {error.strerror}") from error
