"""ffprobe: asked in a process of its own, for a limited time, and killed when the asker is cancelled.

A file's name is never an option or a protocol to ffprobe: it is given as ``file:<path>`` behind ``-i``, and only the
protocol ``file`` is allowed. Nor may its content lead elsewhere: a playlist (HLS, concat) that is called a recording
would have ffprobe open the files that it names, so only containers that hold their media are taken. What it prints is a
stranger's: it is asked only for what is used (a recording's tags can be of any size), at most ``MAX_OUTPUT_BYTES`` are
taken, and the parser believes nothing.

What it takes has limits, since 600 bytes can claim 60 million samples, whose table is 1.4 GiB: memory, processor time
and how many run at once. The limit of memory is on data (``RLIMIT_DATA``): address space (``RLIMIT_AS``) would count
the 280 MiB of libraries that Debian's ffprobe maps, and what a script around it may reserve. An ordinary recording
needs less than 64 MiB, and one of ten million samples less than the limit. Where a table does not fit ffprobe goes on
without it, or fails.
"""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog
import trio

from cef_trio.exceptions import FFprobeError
from cef_trio.media.metadata import MediaInfo
from cef_trio.resilience import shielded, until_thread

log = structlog.get_logger(__name__)

MAX_OUTPUT_BYTES: Final = 1024 * 1024
_STDERR_BYTES: Final = 500
MAX_DATA_BYTES: Final = 320 * 1024 * 1024
MAX_AT_ONCE: Final = 2
_at_once: Final = trio.CapacityLimiter(MAX_AT_ONCE)
_MAY_PASS: Final = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""No process, descriptor or memory is to be had just now."""
_START_AGAIN_SECONDS: Final = (0.1, 0.5, 1.0, 2.0, 4.0)
_KILL_SECONDS: Final = 0.5
"""How long a killed ffprobe may take to be gone before it is left behind."""
_CONTAINERS: Final = (
    "mov,matroska,mpegts,mpeg,mpegvideo,avi,flv,asf,ogg,mxf,gxf,nut,rm,ivf,dv,wav,caf,mp3,aac,ac3,flac,h264,hevc,av1"
)
"""FFmpeg's names of demuxers; each stands for its family (``mov`` for MP4 too)."""
_ENTRIES: Final = "format=format_name,duration,bit_rate:stream=codec_type,codec_name,width,height,avg_frame_rate"


async def probe(path: str, *, ffprobe_path: str, timeout_seconds: float) -> MediaInfo:
    """Ask ffprobe what a recording is.

    Args:
        path: the recording.
        ffprobe_path: the program; looked up in ``PATH`` if it is a bare name.
        timeout_seconds: how long it may take.

    Raises:
        FFprobeError: it is missing, failed, took too long, or printed something else than its JSON.
        trio.Cancelled: after ffprobe was killed.
    """
    command = [
        ffprobe_path,
        *("-v", "error", "-print_format", "json", "-show_entries", _ENTRIES),
        *("-protocol_whitelist", "file", "-format_whitelist", _CONTAINERS, "-i", f"file:{path}"),
    ]
    try:
        async with _at_once:
            with trio.fail_after(timeout_seconds):
                exit_code, output, said = await _run(command, timeout_seconds)
    except trio.TooSlowError as error:
        raise FFprobeError(f"{ffprobe_path!r} took longer than {timeout_seconds:g} s") from error
    except OSError as error:
        raise FFprobeError(
            f"{ffprobe_path!r} cannot be run: {error.strerror}; set FFPROBE_PATH or install it"
        ) from error
    if exit_code != 0:
        words = said.decode(errors="replace").strip()
        raise FFprobeError(f"{ffprobe_path!r} failed with exit code {exit_code}: {words or 'it said nothing'}")
    return parse(output)


async def version(ffprobe_path: str, timeout_seconds: float) -> str:
    """The first line of ``ffprobe -version``.

    Raises:
        FFprobeError: it is missing, failed, or took longer than ``timeout_seconds``.
    """
    output = b""
    with trio.move_on_after(timeout_seconds) as scope:
        try:
            exit_code, output, _ = await _run([ffprobe_path, "-version"], timeout_seconds)
        except (OSError, ValueError) as error:
            raise FFprobeError(f"{ffprobe_path!r} cannot be run: {error}") from error
        if exit_code != 0:
            raise FFprobeError(f"{ffprobe_path!r} -version failed with exit code {exit_code}")
    if scope.cancelled_caught:
        raise FFprobeError(f"{ffprobe_path!r} -version did not end within {timeout_seconds:g} seconds")
    return (output.decode(errors="replace").splitlines() or ["it says nothing"])[0]


async def _run(command: list[str], cpu_seconds: float) -> tuple[int, bytes, bytes]:
    """Run it to its end: exit code, the beginning of its output, the end of its complaints. Cancelled: it is killed."""
    process = await _start(command)
    _limit(process.pid, cpu_seconds)
    assert process.stdout is not None  # noqa: S101 - both are pipes
    assert process.stderr is not None  # noqa: S101
    output, said = bytearray(), bytearray()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_take_beginning, process.stdout, output)
            nursery.start_soon(_take_end, process.stderr, said)
        # Collected only now: as long as somebody in its group may write, its number is its own, and safe to kill.
        exit_code = await process.wait()
    except BaseException:
        # trio.run_process would wait in a shield without an end, and a process that waits for a hung disk cannot be
        # killed (P4). One that is left is collected by subprocess when it has ended.
        _kill(process.pid)
        with shielded(_KILL_SECONDS, saving="ffprobe's end"):
            await process.wait()
        raise
    return exit_code, bytes(output), bytes(said)


async def _start(command: list[str]) -> trio.Process:
    """Start it; what may pass is waited for a while.

    Raises:
        OSError: it cannot be started.
    """
    start = partial(
        trio.lowlevel.open_process,
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C in the terminal is the daemon's to handle
    )
    for seconds in _START_AGAIN_SECONDS:
        try:
            return await until_thread(start)
        except OSError as error:
            if error.errno not in _MAY_PASS:
                raise
        await trio.sleep(seconds)
    return await until_thread(start)


def _limit(pid: int, cpu_seconds: float) -> None:
    """Limit what it, and whatever it starts, may take. It runs already, but has not yet opened the recording."""
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
    except PermissionError as error:  # another user's (setuid), or a filter of system calls around us
        log.warning("ffprobe_limits_refused", error=str(error))
    with suppress(OSError):  # where memory ends it goes first, and not the daemon
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")


async def _take_beginning(stream: trio.abc.ReceiveStream, into: bytearray) -> None:
    # Closing the pipe at the limit ends whoever would write for ever: the next write is a SIGPIPE.
    async with stream:
        async for block in stream:
            into += block[: MAX_OUTPUT_BYTES - len(into)]
            if len(into) == MAX_OUTPUT_BYTES:
                return


async def _take_end(stream: trio.abc.ReceiveStream, into: bytearray) -> None:
    async with stream:
        async for block in stream:
            into += block
            del into[:-_STDERR_BYTES]


def _kill(group: int) -> None:
    # At once, since ffprobe has nothing to save; and its whole group, since FFPROBE_PATH may be a script around it.
    with suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a process that just ended
        os.killpg(group, signal.SIGKILL)


def parse(output: bytes) -> MediaInfo:
    """Read ffprobe's JSON; what is missing or nonsense in it is ``None``.

    Raises:
        FFprobeError: it is no JSON object.
    """
    try:
        document = json.loads(output)
    except (ValueError, RecursionError) as error:
        raise FFprobeError("ffprobe's answer is no JSON") from error
    if not isinstance(document, dict):
        raise FFprobeError("ffprobe's answer is no JSON object")
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
    # A lone surrogate is legal in JSON's escapes and in no UTF-8.
    return value.encode(errors="replace").decode() or None if isinstance(value, str) else None


def _number(value: object) -> float | None:
    """A finite number, 0 or more; ffprobe writes some as text."""
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
    """``30000/1001`` as a number; ffprobe says ``0/0`` for none."""
    over, _, under = value.partition("/") if isinstance(value, str) else ("", "", "")
    numerator, denominator = _number(over), _number(under)
    if not numerator or not denominator:
        return None
    ratio = numerator / denominator
    return round(ratio, 3) or None if ratio < math.inf else None
