"""Running ffprobe with limits on time, memory, output and file access.

The path is passed as ``-i file:<path>``, and only the protocol ``file`` is allowed, so a file name cannot be an option
or a URL. Playlists (HLS, concat) would make ffprobe open the files that they name, so only containers that hold their
own media are allowed. The output is untrusted: ffprobe prints only the needed entries (tags have any size), at most
``MAX_OUTPUT_BYTES`` are read, and every value is checked.

Memory, processor time and concurrency are limited, because a file of 600 bytes can claim 60 million samples, a table of
1.4 GiB. The memory limit is ``RLIMIT_DATA``; ``RLIMIT_AS`` would include the 280 MiB of libraries that Debian's
ffprobe maps. An ordinary recording needs less than 64 MiB, one of ten million samples less than the limit. If a table
does not fit, ffprobe continues without it, or fails.
"""

from __future__ import annotations

import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog
import trio

from cef_trio.exceptions import BrokenRecordingError, FFprobeError, is_shortage
from cef_trio.media.boxes import why_truncated
from cef_trio.media.metadata import MediaInfo
from cef_trio.resilience import run_in_thread, shielded, until_thread

log = structlog.get_logger(__name__)

MAX_OUTPUT_BYTES: Final = 1024 * 1024
_STDERR_BYTES: Final = 500
MAX_DATA_BYTES: Final = 320 * 1024 * 1024
MAX_AT_ONCE: Final = 2
_programs: Final = trio.lowlevel.RunVar[trio.CapacityLimiter]("ffprobes that run")
_readers: Final = trio.lowlevel.RunVar[trio.CapacityLimiter]("threads that read recordings")
"""Threads of their own, so a hung disk leaves threads for other work, such as looking up host names."""
_START_RETRY_SECONDS: Final = (0.1, 0.5, 1.0, 2.0, 4.0)
_KILL_SECONDS: Final = 0.5
"""How long to wait for a killed ffprobe before it is abandoned."""
_CONTAINERS: Final = (
    "mov,matroska,mpegts,mpeg,mpegvideo,avi,flv,asf,ogg,mxf,gxf,nut,rm,ivf,dv,wav,caf,mp3,aac,ac3,flac,h264,hevc,av1"
)
"""FFmpeg demuxers; each covers its family (``mov`` includes MP4)."""
_MP4: Final = "mp4"
"""In the name that ffprobe gives to the MP4 family."""
_IS_BROKEN: Final = re.compile(r"moov atom not found|Invalid data found when processing input")
"""What ffprobe says of a file that it cannot read as a recording. Other failures, as of memory, say nothing of it."""
_ENTRIES: Final = "format=format_name,duration,bit_rate:stream=codec_type,codec_name,width,height,avg_frame_rate"


async def probe(path: str, *, ffprobe_path: str, timeout_seconds: float) -> MediaInfo:
    """Return the media properties of the recording at ``path``.

    ``ffprobe_path`` is looked up in ``PATH`` if it is a bare name; ``timeout_seconds`` is positive and finite.

    Raises:
        BrokenRecordingError: the file is no recording.
        FFprobeError: ffprobe is missing, failed, took too long, or printed invalid output.
        trio.Cancelled: after ffprobe was killed.
    """
    command = [
        ffprobe_path,
        *("-v", "error", "-print_format", "json", "-show_entries", _ENTRIES),
        *("-protocol_whitelist", "file", "-format_whitelist", _CONTAINERS, "-i", f"file:{path}"),
    ]
    try:
        async with _limiter(_programs):
            with trio.fail_after(timeout_seconds):
                exit_code, output, stderr = await _run(command, timeout_seconds)
    except trio.TooSlowError as error:
        raise FFprobeError(f"{ffprobe_path!r} took longer than {timeout_seconds:g} s") from error
    except OSError as error:
        raise FFprobeError(
            f"{ffprobe_path!r} cannot be run: {error.strerror}; set FFPROBE_PATH or install it"
        ) from error
    if exit_code != 0:
        reason = stderr.decode(errors="replace").strip()
        says = f"{ffprobe_path!r} failed with exit code {exit_code}: {reason or 'no error output'}"
        raise BrokenRecordingError(says) if exit_code == 1 and _IS_BROKEN.search(reason) else FFprobeError(says)
    media = parse(output)
    return replace(media, broken=await _why_broken(media, path, timeout_seconds))


async def _why_broken(media: MediaInfo, path: str, timeout_seconds: float) -> str | None:
    """Return why a file that ffprobe describes is broken all the same; ``None``: it is not, as far as is known."""
    if _MP4 not in (media.container or "").split(","):
        return None  # Matroska and others need no duration while they are written
    cut_off = None
    with trio.move_on_after(timeout_seconds), suppress(OSError):
        read = partial(why_truncated, path)
        cut_off = await run_in_thread(read, abandon_on_cancel=True, limiter=_limiter(_readers))
    if cut_off is None and not media.duration_seconds:
        return "its duration is zero, or unknown: it has an index and no media"
    return cut_off


def _limiter(of_run: trio.lowlevel.RunVar[trio.CapacityLimiter]) -> trio.CapacityLimiter:
    """Return this run's limiter of ``MAX_AT_ONCE``.

    One per trio run: a thread that is abandoned when its run ends never gives its place back.
    """
    try:
        return of_run.get()
    except LookupError:
        of_run.set(limiter := trio.CapacityLimiter(MAX_AT_ONCE))
        return limiter


async def version(ffprobe_path: str, timeout_seconds: float) -> str:
    """Return the first line of ``ffprobe -version``.

    Raises:
        FFprobeError: ffprobe is missing, failed, or took longer than ``timeout_seconds``.
    """
    try:
        with trio.fail_after(timeout_seconds):
            exit_code, output, _ = await _run([ffprobe_path, "-version"], timeout_seconds)
    except trio.TooSlowError as error:
        raise FFprobeError(f"{ffprobe_path!r} -version did not end within {timeout_seconds:g} seconds") from error
    except (OSError, ValueError) as error:
        raise FFprobeError(f"{ffprobe_path!r} cannot be run: {error}") from error
    if exit_code != 0:
        raise FFprobeError(f"{ffprobe_path!r} -version failed with exit code {exit_code}")
    return (output.decode(errors="replace").splitlines() or ["no output"])[0]


async def _run(command: list[str], cpu_seconds: float) -> tuple[int, bytes, bytes]:
    """Run a command; return exit code, beginning of stdout, end of stderr. On cancellation it is killed."""
    process = await _start(command)
    _set_limits(process.pid, cpu_seconds)
    assert process.stdout is not None  # noqa: S101 - both are pipes
    assert process.stderr is not None  # noqa: S101
    output, stderr = bytearray(), bytearray()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_read_beginning, process.stdout, output)
            nursery.start_soon(_read_end, process.stderr, stderr)
        # Reap it only now: before that its process id cannot be reused, so killing the group is safe.
        exit_code = await process.wait()
    except BaseException:
        # trio.run_process would wait in a shield without a limit, and a process blocked by a hung disk cannot be killed
        # (P4). An abandoned one is reaped by subprocess after its end.
        _kill(process.pid)
        with shielded(_KILL_SECONDS, saving="ffprobe's end"):
            await process.wait()
        raise
    return exit_code, bytes(output), bytes(stderr)


async def _start(command: list[str]) -> trio.Process:
    """Start a process; retry on a temporary shortage.

    Raises:
        OSError: it could not be started.
    """
    start = partial(
        trio.lowlevel.open_process,
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C in the terminal must reach the daemon only
    )
    for seconds in _START_RETRY_SECONDS:
        try:
            return await until_thread(start)
        except OSError as error:
            if not is_shortage(error):
                raise
        await trio.sleep(seconds)
    return await until_thread(start)


def _set_limits(pid: int, cpu_seconds: float) -> None:
    """Set resource limits for a process that was just started, and its children."""
    if sys.platform != "linux":
        return
    seconds = math.ceil(cpu_seconds) + 1
    limits = {resource.RLIMIT_DATA: MAX_DATA_BYTES, resource.RLIMIT_CPU: seconds, resource.RLIMIT_CORE: 0}
    try:
        for limit, most in limits.items():
            hard = resource.prlimit(pid, limit)[1]
            lowest = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.prlimit(pid, limit, (lowest, lowest))
    except ProcessLookupError:
        return  # it has ended
    except PermissionError as error:  # a setuid program, or a system call filter
        log.warning("ffprobe_limits_refused", error=str(error))
    with suppress(OSError):  # if memory runs out, the kernel kills it before the daemon
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")


async def _read_beginning(stream: trio.abc.ReceiveStream, into: bytearray) -> None:
    # Closing the pipe at the limit ends an endless writer with SIGPIPE.
    async with stream:
        async for block in stream:
            into += block[: MAX_OUTPUT_BYTES - len(into)]
            if len(into) == MAX_OUTPUT_BYTES:
                return


async def _read_end(stream: trio.abc.ReceiveStream, into: bytearray) -> None:
    async with stream:
        async for block in stream:
            into += block
            del into[:-_STDERR_BYTES]


def _kill(group: int) -> None:
    # SIGKILL, since ffprobe has nothing to save; the whole group, since FFPROBE_PATH may be a wrapper script.
    with suppress(ProcessLookupError, PermissionError):  # macOS: PermissionError for a process that just ended
        os.killpg(group, signal.SIGKILL)


def parse(output: bytes) -> MediaInfo:
    """Parse ffprobe's JSON; missing or invalid values are ``None``.

    Raises:
        FFprobeError: it is not a JSON object.
    """
    try:
        document = json.loads(output)
    except (ValueError, RecursionError) as error:
        raise FFprobeError("ffprobe's output is not JSON") from error
    if not isinstance(document, dict):
        raise FFprobeError("ffprobe's output is not a JSON object")
    container = _mapping(document.get("format"))
    listed = document.get("streams")
    streams = [_mapping(stream) for stream in listed] if isinstance(listed, list) else []
    video = next((stream for stream in streams if stream.get("codec_type") == "video"), {})
    audio = next((stream for stream in streams if stream.get("codec_type") == "audio"), {})
    return MediaInfo(
        duration_seconds=_number(container.get("duration")),
        container=_text(container.get("format_name")),
        video_codec=_text(video.get("codec_name")),
        audio_codec=_text(audio.get("codec_name")),
        width=_positive_int(video.get("width")),
        height=_positive_int(video.get("height")),
        frame_rate=_ratio(video.get("avg_frame_rate")),
        bit_rate=_positive_int(container.get("bit_rate")),
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    # JSON escapes may hold a lone surrogate, which UTF-8 cannot encode.
    return value.encode(errors="replace").decode() or None if isinstance(value, str) else None


def _number(value: object) -> float | None:
    """Return a finite number, 0 or more, else ``None``; ffprobe prints some as text."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if 0 <= number < math.inf else None


def _positive_int(value: object) -> int | None:
    return int(_number(value) or 0) or None


def _ratio(value: object) -> float | None:
    """Return ``30000/1001`` as a number; ``None`` for ``0/0``."""
    over, _, under = value.partition("/") if isinstance(value, str) else ("", "", "")
    numerator, denominator = _number(over), _number(under)
    if not numerator or not denominator:
        return None
    ratio = numerator / denominator
    return round(ratio, 3) or None if ratio < math.inf else None
