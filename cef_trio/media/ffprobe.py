"""ffprobe: asked in a process of its own, for a limited time, and killed when the asker is cancelled.

A file's name is never an option or a protocol to ffprobe: it is given as ``file:<path>`` behind ``-i``, and only the
protocol ``file`` is allowed. What it prints is a stranger's, and parsed as such.
"""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

import trio

from cef_trio.exceptions import FFprobeError
from cef_trio.media.metadata import MediaInfo

_STDERR_CHARACTERS: Final = 500


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
        *("-v", "error", "-print_format", "json", "-show_format", "-show_streams"),
        *("-protocol_whitelist", "file", "-i", f"file:{path}"),
    ]
    try:
        with trio.fail_after(timeout_seconds):
            done = await trio.run_process(
                command,
                stdin=subprocess.DEVNULL,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                deliver_cancel=_kill,
                start_new_session=True,  # a Ctrl-C in the terminal is the daemon's to handle
            )
    except trio.TooSlowError as error:
        raise FFprobeError(f"{ffprobe_path!r} took longer than {timeout_seconds:g} s") from error
    except OSError as error:
        raise FFprobeError(
            f"{ffprobe_path!r} cannot be run: {error.strerror}; set FFPROBE_PATH or install it"
        ) from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()[-_STDERR_CHARACTERS:]
        raise FFprobeError(f"{ffprobe_path!r} failed with exit code {done.returncode}: {said or 'it said nothing'}")
    return parse(done.stdout)


async def _kill(process: trio.Process) -> None:
    # ffprobe has nothing to save; asking it first would only cost time that the exit does not have (P4).
    process.kill()


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
        duration_seconds=_positive_float(container.get("duration")),
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
    return value if isinstance(value, str) and value else None


def _positive_float(value: object) -> float | None:
    try:
        number = float(value) if isinstance(value, str | int | float) else -1.0
    except (ValueError, OverflowError):
        return None
    return number if 0 <= number < math.inf else None


def _positive_int(value: object) -> int | None:
    number = _positive_float(value)
    return int(number) if number else None


def _ratio(value: object) -> float | None:
    try:
        ratio = Fraction(value) if isinstance(value, str) else Fraction(0)
        return round(float(ratio), 3) if ratio > 0 else None
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
