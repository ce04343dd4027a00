"""Real recordings in real time: by ffmpeg, and by a writer that patches bytes it wrote before."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

MIB: Final = 1024 * 1024
MOVFLAGS: Final = {
    "plain": "",
    "faststart": "+faststart",
    "fragmented": "+frag_keyframe+empty_moov",
}
"""ffmpeg's flags for each kind; ``plain`` patches the size of ``mdat`` at its end, ``faststart`` shifts everything."""


class Recording:
    """A recording in progress."""

    def __init__(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        self._process = process
        self.seconds = seconds

    @property
    def running(self) -> bool:
        """Whether its writer still writes."""
        return self._process.poll() is None

    def wait(self) -> float:
        """Wait until the writer has closed its file; returns how long the recording is, in seconds."""
        output, _ = self._process.communicate(timeout=self.seconds + 60)
        assert self._process.returncode == 0, output.decode(errors="replace")
        return self.seconds


@contextmanager
def recording(path: Path, kind: str, *, seconds: float, mib_per_second: float = 3.0) -> Iterator[Recording]:
    """ffmpeg recording into ``path``, in real time, for so long."""
    with subprocess.Popen(
        command(path, kind, seconds=seconds, mib_per_second=mib_per_second, real_time=True),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        try:
            yield Recording(process, seconds)
        finally:
            process.kill()


def make(path: Path, kind: str, *, seconds: float, mib_per_second: float = 3.0) -> None:
    """The same recording as fast as it can be made."""
    subprocess.run(command(path, kind, seconds=seconds, mib_per_second=mib_per_second, real_time=False), check=True)


def command(path: Path, kind: str, *, seconds: float, mib_per_second: float, real_time: bool) -> Sequence[str]:
    bits = str(int(mib_per_second * MIB * 8))
    flags = ["-movflags", MOVFLAGS[kind]] if MOVFLAGS[kind] else []
    return [
        *("ffmpeg", "-nostdin", "-v", "error", "-y", *(["-re"] if real_time else [])),
        *("-f", "lavfi", "-i", "testsrc2=size=640x360:rate=25,noise=alls=40:allf=t:all_seed=7"),
        *("-c:v", "mpeg4", "-b:v", bits, "-minrate", bits, "-maxrate", bits, "-bufsize", bits, "-qmin", "1"),
        *("-g", "12", "-t", f"{seconds:g}", *flags, "-flush_packets", "1", "-f", "mp4", f"file:{path}"),
    ]


class PatchingWriter:
    """Writes a finished MP4 slowly, with holes where its writer goes back at the very end to put the truth.

    That is what hardware recorders do with sizes and indices. The patches lie in parts that were uploaded long before:
    it goes back once it is waited for.
    """

    def __init__(self, content: bytes, path: Path, *, seconds: float, patched_at: Sequence[int]) -> None:
        self._content = content
        self._path = path
        self._seconds = seconds
        self._patched_at = patched_at
        self._stop = threading.Event()
        self._goes_back = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.wait()

    def wait(self) -> None:
        """Let it go back, once it has written all; wait for its end."""
        self._goes_back.set()
        self._thread.join()

    def _write(self) -> None:
        wrong = bytearray(self._content)
        for offset in self._patched_at:
            wrong[offset : offset + 8] = b"\xee" * 8
        step = MIB // 4
        pause = self._seconds / (len(wrong) / step)
        with self._path.open("wb") as file:
            for offset in range(0, len(wrong), step):
                file.write(wrong[offset : offset + step])
                file.flush()
                self._stop.wait(pause)
            self._goes_back.wait()
            for offset in self._patched_at:
                file.seek(offset)
                file.write(self._content[offset : offset + 8])
