"""A recorder for the demo: a real MP4 that grows in real time, by ffmpeg if there is one, else by ourselves."""

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

MIB: Final = 1024 * 1024


class RecorderError(CefMp4ProcessorError):
    """The recording could not be made."""


async def record(path: Path, seconds: float, *, bytes_per_second: int = 3 * MIB, ffmpeg_path: str = "ffmpeg") -> str:
    """Record for so long, in real time; returns who recorded: ``ffmpeg`` or ``the built-in writer``.

    An ffmpeg that fails before there is a file (one built without a codec, say) is as good as none. Cancelled: the file
    is left as it is, and no process is left behind.

    Args:
        path: the file to make.
        seconds: how long it is to be.
        bytes_per_second: what its size divided by its length shall be, about; from 100 KiB to 20 MiB it is.
        ffmpeg_path: the program; looked up in ``PATH`` if it is a bare name.

    Raises:
        RecorderError: ffmpeg failed in the middle, or the file cannot be written.
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
        # MPEG-4 part 2 costs next to no time and keeps to a constant rate, which is what the picture needs.
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
            start_new_session=True,  # a Ctrl-C in the terminal is ours to handle
        )
    except OSError as error:
        raise RecorderError(f"{ffmpeg!r} cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        raise RecorderError(f"{ffmpeg!r} failed: {done.stderr.decode(errors='replace').strip()[-500:]}")


async def _kill(process: trio.Process) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a process that just ended
        os.killpg(process.pid, signal.SIGKILL)  # its whole group, since it may be a script around ffmpeg


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
