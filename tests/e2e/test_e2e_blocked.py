"""P4 and P7 where the loop cannot help: a log without a reader, a loop that hangs, a machine without threads or files.

Each is one outage of its own: said, waited for, and over when it is over.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from servers.daemon import daemon, settings_for
from servers.embedded_s3 import embedded_s3_server
from servers.endpoints import Endpoint, free_port
from servers.store import look_into
from servers.valkey import ValkeyServer
from thoroughness import LONG
from waiting import wait_until

pytestmark = pytest.mark.real
MIB = 1024 * 1024
GRACE, SAVE = 0.4, 0.8
EXIT_SECONDS = GRACE + SAVE + 1
_MAX_WATCHES = "/proc/sys/user/max_inotify_watches"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with embedded_s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def bucket(endpoint: Endpoint, request: pytest.FixtureRequest) -> Endpoint:
    name = f"test-{abs(hash(request.node.name)):x}"
    return replace(endpoint, bucket=name)


@pytest.fixture
def given(watch_dir: Path, bucket: Endpoint, valkey: ValkeyServer) -> dict[str, str]:
    return settings_for(
        watch_dir,
        bucket,
        valkey.url,
        redis_key_prefix=f"{bucket.bucket}:",
        shutdown_grace_seconds=GRACE,
        shutdown_save_seconds=SAVE,
        redis_timeout_seconds=0.4,
        close_grace_seconds=0.1,
        rescan_seconds=0.5,
        stale_check_seconds=0.5,
    )


# -- the log -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def unread(given: dict[str, str], tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A daemon whose standard error is a pipe that is full and has no reader, and the pipe's reading end."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    process = subprocess.Popen(
        [sys.executable, "-m", "cef_trio", "run"],
        env={"PATH": os.environ["PATH"], **given},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=writing,
    )
    os.close(writing)
    yield process, reading
    process.kill()
    process.wait()
    os.close(reading)


def wait_uploaded(bucket: Endpoint, count: int) -> None:
    looking = look_into(bucket)

    def uploaded() -> bool:
        with contextlib.suppress(looking.client.exceptions.NoSuchBucket):
            return sum(key.endswith(".json") for key in list(looking.keys())) >= count
        return False

    with contextlib.closing(looking.client):
        wait_until(uploaded)


def test_p4_a_log_without_a_reader_stops_no_upload_and_no_exit(
    watch_dir: Path, bucket: Endpoint, unread: tuple[subprocess.Popen[bytes], int]
) -> None:
    process, _ = unread
    for number in range(3):
        (watch_dir / f"{number}.mp4").write_bytes(os.urandom(MIB))
    wait_uploaded(bucket, 3)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(EXIT_SECONDS + 5) == 0
    assert time.monotonic() - began <= EXIT_SECONDS


def test_lines_that_waited_are_whole_when_reading_resumes(
    watch_dir: Path, bucket: Endpoint, unread: tuple[subprocess.Popen[bytes], int]
) -> None:
    process, reading = unread
    (watch_dir / "a.mp4").write_bytes(os.urandom(MIB))
    wait_uploaded(bucket, 1)
    seen = b""
    with open(reading, "rb", buffering=0, closefd=False) as pipe:
        while b'"daemon_started"' not in seen:
            seen += pipe.read(65536) or pytest.fail("the daemon ended")
        process.send_signal(signal.SIGTERM)  # when there is a reader: the exit waits for one only for a moment
        while more := pipe.read(65536):
            seen += more
    assert process.wait(5) == 0
    assert b'"daemon_started"' in seen, "what waited comes late, and whole"
    assert b'"daemon_stopped"' in seen


# -- the loop ----------------------------------------------------------------------------------------------------------

_HANGS = {
    "computes for ever": "while True: pass",
    "waits in a call": "time.sleep(1000)",
    "waits in a call that no signal ends": "[ctypes.CDLL(None).pthread_mutex_lock(mutex) for _ in '12']",
}


def pending(pid: int) -> int:
    """The signals to a process that no thread of it has taken yet, as a mask."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("ShdPnd:")), 16)


@pytest.mark.parametrize("how", _HANGS)
def test_p4_a_loop_that_hangs_holds_no_exit_and_a_third_signal_ends_it_at_once(
    given: dict[str, str], tmp_path: Path, meddle: Callable[[str], dict[str, str]], how: str
) -> None:
    hang, hangs = tmp_path / "hang", tmp_path / "hangs"
    environment = meddle(f"""
        import ctypes, pathlib, time
        mutex = ctypes.create_string_buffer(64)
        import cef_trio.upload.idle_checker as room
        async def run(self):
            import trio
            while not pathlib.Path({str(hang)!r}).exists():
                await trio.sleep(0.01)
            pathlib.Path({str(hangs)!r}).touch()
            {_HANGS[how]}
        room.IdleChecker.run = run
    """)
    if how == "waits in a call" and not LONG:
        pytest.skip("set CEF_TRIO_LONG=1: the other two are stricter")
    for signals in (1, 3):
        hang.unlink(missing_ok=True)
        hangs.unlink(missing_ok=True)
        with daemon({**given, **environment}) as process:
            hang.touch()
            wait_until(hangs.exists)
            for number in range(signals):
                began = time.monotonic()
                process.signal(signal.SIGTERM if number != 1 else signal.SIGINT)
                if number + 1 < signals:  # one that is not yet taken and a second one are one to the kernel
                    wait_until(lambda: not pending(process.pid))
            assert process.wait(EXIT_SECONDS + 5) == 3
            took = time.monotonic() - began
            assert took <= (EXIT_SECONDS if signals == 1 else EXIT_SECONDS / 2)  # at once, on a busy machine too
            assert process.count("shutdown_timeout" if signals == 1 else "shutdown_forced") == 1


def test_p4_a_call_that_keeps_the_interpreters_lock_holds_no_exit(
    given: dict[str, str], meddle: Callable[[str], dict[str, str]]
) -> None:
    environment = meddle("""
        import re
        import cef_trio.upload.supervisor as room
        room.StreamSupervisor.drain = lambda self: re.match("(a|a)+$", "a" * 60 + "b")
    """)
    with daemon({**given, **environment}) as process:
        began = time.monotonic()
        process.signal(signal.SIGTERM)
        assert process.wait(EXIT_SECONDS + 5) in {1, 3}
        assert time.monotonic() - began <= EXIT_SECONDS + 1  # the end of a process on a busy machine


# -- the machine's limits ----------------------------------------------------------------------------------------------


def test_p7_a_machine_without_threads_for_a_while_ends_nothing(
    watch_dir: Path, given: dict[str, str], tmp_path: Path, meddle: Callable[[str], dict[str, str]]
) -> None:
    none = tmp_path / "none"
    environment = meddle(f"""
        import pathlib, threading
        import trio._core._thread_cache as cache
        cache.IDLE_TIMEOUT = 0  # an idle one that is used again would be one that is available, for that moment
        real = threading.Thread.start
        def start(self):
            if pathlib.Path({str(none)!r}).exists():
                raise RuntimeError("can't start new thread")
            real(self)
        threading.Thread.start = start
    """)
    with daemon({**given, **environment}) as process:
        none.touch()
        (watch_dir / "a.mp4").write_bytes(os.urandom(MIB))
        process.wait_for("thread_unavailable")
        time.sleep(1.5)  # several rounds of everything that turns
        assert process.running
        assert process.count("thread_unavailable") == 1, "said once"
        none.unlink()
        process.wait_for("thread_available")
        process.wait_for("stream_completed")
        assert process.stop() == 0


def test_p7_a_process_without_descriptors_for_a_while_ends_nothing(watch_dir: Path, given: dict[str, str]) -> None:
    port = free_port()
    with daemon({**given, "PROM_PORT": str(port)}) as process:
        (watch_dir / "first.mp4").write_bytes(os.urandom(MIB))
        process.wait_for("stream_completed")
        soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (3, hard))
        (watch_dir / "second.mp4").write_bytes(os.urandom(MIB))
        with contextlib.suppress(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False, timeout=1)
        time.sleep(1.5)
        assert process.running, process.tail()
        assert len(process.events) < 400, "said, and not said without end"
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (soft, hard))
        process.wait_for("stream_completed", count=2)
        assert process.count("uncaught_exception") == 0
        assert process.stop() == 0


def test_p7_a_user_without_watches_is_polled_for_and_ends_nothing(watch_dir: Path, given: dict[str, str]) -> None:
    """The kernel's real limit, lowered in a user namespace of the daemon's own; it is reached while it runs."""
    limited = ["unshare", "--user", "--map-root-user", "sh", "-c", 'echo 3 >"$LIMIT" && exec "$@"', "sh"]
    if subprocess.run([*limited, "true"], env={**os.environ, "LIMIT": _MAX_WATCHES}, check=False).returncode != 0:
        pytest.skip("this machine permits no user namespace, or has no such limit in it")
    with daemon({**given, "LIMIT": _MAX_WATCHES}, under=limited) as process:
        (watch_dir / "before.mp4").write_bytes(os.urandom(MIB))
        process.wait_for("stream_completed")
        assert process.count("watch_limited") == 0
        for number in range(5):
            (watch_dir / str(number)).mkdir()
            (watch_dir / str(number) / "a.mp4").write_bytes(os.urandom(MIB))
        said = process.wait_for("watch_limited")
        assert "fs.inotify.max_user_watches" in said["hint"]
        process.wait_for("stream_completed", count=6)
        (watch_dir / "after.mp4").write_bytes(os.urandom(MIB))
        process.wait_for("stream_completed", count=7)
        assert process.count("watch_limited") == 1, "said once"
        assert process.stop() == 0
