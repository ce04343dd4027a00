"""P3 and P4 on the real process: whatever is frozen, slow, hung or under way, it leaves in time, and goes on later.

Grace and save are short here, so that a test takes a second or two; the bound is theirs, and a second (P4).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
import redis as redis_library
from servers.daemon import NAMESPACE, DaemonProcess, daemon, settings_for
from servers.embedded_s3 import embedded_s3_server
from servers.endpoints import Endpoint
from servers.hung_disk import NoFuseError, Operation, hung_disk
from servers.s3_control import arm, disarm_all, wait_for_fault
from servers.trickle import trickling
from servers.valkey import ValkeyServer, valkey_server
from thoroughness import only_long
from waiting import wait_until

pytestmark = pytest.mark.real
MIB = 1024 * 1024
GRACE, SAVE = 0.4, 1.0
EXIT_SECONDS = GRACE + SAVE + 1
INTERRUPTED = {"interrupted_shutdown", "interrupted_cancelled"}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with embedded_s3_server(tmp_path_factory.mktemp("s3"), arguments=["--control"]) as running:
        yield running


@pytest.fixture
def faulty(endpoint: Endpoint) -> Iterator[Endpoint]:
    yield endpoint
    disarm_all(endpoint)


@pytest.fixture
def bucket(faulty: Endpoint) -> Endpoint:
    name = f"test-{uuid4().hex[:12]}"
    return replace(faulty, bucket=name)


def settings(watch_dir: Path, bucket: Endpoint, valkey: ValkeyServer, **more: object) -> dict[str, str]:
    short = {
        "shutdown_grace_seconds": GRACE,
        "shutdown_save_seconds": SAVE,
        "redis_timeout_seconds": 0.5,
        "close_grace_seconds": 0.1,
        "stale_check_seconds": 0.5,
    }
    return settings_for(watch_dir, bucket, valkey.url, **{**short, **more})


def leaves_in_time(
    process: DaemonProcess, *, code: int = 0, number: signal.Signals = signal.SIGTERM, within: float = EXIT_SECONDS
) -> None:
    began = time.monotonic()
    process.signal(number)
    assert process.wait(within + 5) == code, process.tail()
    assert time.monotonic() - began <= within, process.tail()


def statuses(server: ValkeyServer) -> list[str]:
    with redis_library.Redis.from_url(server.url, decode_responses=True) as client:
        return [client.hget(key, "status") for key in client.keys(f"{NAMESPACE}stream:*:meta")]


def goes_on(given: Mapping[str, str], count: int = 1) -> None:
    with daemon(given) as process:
        process.wait_for("stream_completed", count=count)
        assert process.stop() == 0


# -- S3 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_p4_an_s3_that_trickles_holds_no_exit(
    watch_dir: Path, bucket: Endpoint, valkey: ValkeyServer, number: signal.Signals
) -> None:
    """Each drop is in time for every time-out, and the part would take an hour."""
    with trickling(bucket.url) as proxy:
        slow = replace(bucket, url=proxy.url)
        with daemon(settings(watch_dir, slow, valkey)) as process:
            proxy.begin()
            (watch_dir / "a.mp4").write_bytes(os.urandom(6 * MIB))
            process.wait_for("stream_started")
            leaves_in_time(process, number=number)
    assert set(statuses(valkey)) <= INTERRUPTED


def test_p4_two_hundred_streams_and_a_frozen_s3_hold_no_exit(
    watch_dir: Path, faulty: Endpoint, bucket: Endpoint, valkey: ValkeyServer
) -> None:
    for number in range(200):
        (watch_dir / f"{number:03}.mp4").write_bytes(b"x" * 1000)
    given = settings(watch_dir, bucket, valkey)
    frozen = arm(faulty, {"kind": "freeze", "operation": "PutObject", "times": None})
    with daemon(given) as process:
        process.wait_for("stream_started", count=200)
        wait_for_fault(faulty, frozen)
        leaves_in_time(process)
    found = statuses(valkey)
    assert len(found) == 200
    assert set(found) <= INTERRUPTED


def test_p4_a_signal_before_s3_answers_ends_the_start(
    watch_dir: Path, faulty: Endpoint, bucket: Endpoint, valkey: ValkeyServer
) -> None:
    frozen = arm(faulty, {"kind": "freeze", "operation": "HeadBucket", "times": None})
    with daemon(settings(watch_dir, bucket, valkey), wait_started=False) as process:
        process.wait_for("admin_server_started")
        wait_for_fault(faulty, frozen)
        leaves_in_time(process)


def test_p4_a_signal_before_redis_answers_ends_the_start(
    watch_dir: Path, bucket: Endpoint, valkey: ValkeyServer
) -> None:
    valkey.freeze()
    with daemon(settings(watch_dir, bucket, valkey), wait_started=False) as process:
        tried = process.wait_for("retry", service="redis")
        assert (tried["operation"], tried["attempt"]) == ("ping", 1), "the connect is under the one retry policy"
        leaves_in_time(process)


def test_p4_a_signal_during_the_resume_holds_no_exit(
    watch_dir: Path, faulty: Endpoint, bucket: Endpoint, valkey: ValkeyServer
) -> None:
    path, given = watch_dir / "a.mp4", settings(watch_dir, bucket, valkey)
    with path.open("wb") as file:
        file.write(os.urandom(6 * MIB))
        file.flush()
        with daemon(given) as process:
            process.wait_for("part_uploaded")
            leaves_in_time(process)
        assert statuses(valkey) == ["interrupted_shutdown"]
        frozen = arm(faulty, {"kind": "freeze", "operation": "ListParts", "times": None})
        with daemon(given) as process:
            wait_for_fault(faulty, frozen)
            leaves_in_time(process)
    assert statuses(valkey) == ["interrupted_cancelled"]
    disarm_all(faulty)
    goes_on(given)


def test_p4_a_signal_while_verified_parts_are_sent_again_holds_no_exit(
    watch_dir: Path, faulty: Endpoint, bucket: Endpoint, valkey: ValkeyServer
) -> None:
    path, given = watch_dir / "a.mp4", settings(watch_dir, bucket, valkey)
    with daemon(given) as process:
        with path.open("wb") as file:
            file.write(os.urandom(6 * MIB))
            file.flush()
            process.wait_for("part_uploaded")
            arm(faulty, {"kind": "freeze", "operation": "UploadPart", "times": None})
            file.seek(0)
            file.write(b"patched")
        process.wait_for("recording_ended")
        leaves_in_time(process)
    assert set(statuses(valkey)) <= INTERRUPTED
    disarm_all(faulty)
    goes_on(given)


def test_p4_signals_of_either_kind_add_up(
    watch_dir: Path, faulty: Endpoint, bucket: Endpoint, valkey: ValkeyServer
) -> None:
    """Ctrl-C, then a service manager's SIGTERM: the second skips the grace, whichever it is."""
    frozen = arm(faulty, {"kind": "freeze", "operation": "UploadPart", "times": None})
    with daemon(settings(watch_dir, bucket, valkey, shutdown_grace_seconds=120)) as process:
        (watch_dir / "a.mp4").write_bytes(os.urandom(6 * MIB))
        wait_for_fault(faulty, frozen)  # before a part is under way, the first signal ends the stream at once
        process.signal(signal.SIGINT)
        process.wait_for("shutdown_started")
        leaves_in_time(process, within=SAVE + 1)
    assert statuses(valkey) == ["interrupted_cancelled"]


# -- ffprobe -----------------------------------------------------------------------------------------------------------


def test_p4_a_hung_ffprobe_holds_no_exit_and_is_killed(
    watch_dir: Path, bucket: Endpoint, valkey: ValkeyServer, tmp_path: Path
) -> None:
    hung, began = tmp_path / "hung-ffprobe", tmp_path / "began"
    hung.write_text(f"#!/bin/sh\ntrap '' TERM\necho $$ > {began}\nwhile :; do sleep 1000; done\n")
    hung.chmod(0o755)
    with daemon(settings(watch_dir, bucket, valkey, ffprobe_path=hung)) as process:
        (watch_dir / "a.mp4").write_bytes(os.urandom(MIB))
        wait_until(lambda: began.exists() and began.read_text().endswith("\n"))
        leaves_in_time(process)
    killed = Path(f"/proc/{began.read_text().strip()}")
    wait_until(lambda: not killed.exists())  # it may be init that takes note of its end
    assert statuses(valkey) == ["s3_completed"], "where to go on: the object is there, its metadata are not"
    goes_on(settings(watch_dir, bucket, valkey))


# -- the disk ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "from_byte"),
    [
        pytest.param(Operation.READ, 0, id="in its first bytes"),
        pytest.param(Operation.READ, 6 * MIB, id="in a part"),
        pytest.param(Operation.GETATTR, 0, id="in a look", marks=only_long("it waits for half a minute")),
    ],
)
def test_p4_a_hung_disk_holds_no_exit_nor_do_the_threads_that_wait_for_it(
    watch_dir: Path, bucket: Endpoint, valkey: ValkeyServer, operation: Operation, from_byte: int
) -> None:
    content = os.urandom(12 * MIB)
    given = settings(watch_dir, bucket, valkey, rescan_seconds=1)
    try:
        with hung_disk(watch_dir, {"a.mp4": content}) as disk:
            if operation is Operation.READ:
                disk.hang(operation, from_byte=from_byte)
            with daemon(given) as process:
                if operation is not Operation.READ:
                    process.wait_for("stream_completed")
                    disk.hang(operation)
                disk.wait_until_hung()
                leaves_in_time(process)
            if operation is Operation.READ:
                assert set(statuses(valkey)) <= INTERRUPTED
    except NoFuseError as error:
        pytest.skip(f"no file system that could hang: {error}")
    if from_byte:
        (watch_dir / "a.mp4").write_bytes(content)
        goes_on(given)


# -- what no time-out reaches ------------------------------------------------------------------------------------------


def test_p4_a_dead_name_service_holds_no_exit(
    watch_dir: Path, bucket: Endpoint, tmp_path: Path, meddle: Callable[[str], dict[str, str]]
) -> None:
    dead = tmp_path / "dead"
    environment = meddle(f"""
        import pathlib, socket, time
        real = socket.getaddrinfo
        def getaddrinfo(host, *rest, **named):
            flags = named.get("flags", rest[4] if len(rest) > 4 else 0)
            while host in ("localhost", b"localhost") and pathlib.Path({str(dead)!r}).exists():
                if flags & socket.AI_NUMERICHOST:
                    raise socket.gaierror(socket.EAI_NONAME, "a name")
                time.sleep(0.1)
            return real(host, *rest, **named)
        socket.getaddrinfo = getaddrinfo
    """)
    with valkey_server(tcp=True) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        given = {**settings(watch_dir, bucket, server), "REDIS_URL": url, **environment}
        path = watch_dir / "a.mp4"
        path.write_bytes(os.urandom(6 * MIB))
        with path.open("ab"), daemon(given) as process:
            process.wait_for("part_uploaded")
            dead.touch()
            assert server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").startswith(b":")
            process.wait_for("retry", service="redis")
            leaves_in_time(process, code=3)
            assert process.count("shutdown_timeout") == 0


def test_p4_a_call_that_no_time_out_ends_is_left_behind_when_the_time_is_over(
    watch_dir: Path, bucket: Endpoint, valkey: ValkeyServer, tmp_path: Path, meddle: Callable[[str], dict[str, str]]
) -> None:
    """The last resort: an unforeseen bug. Checkpoints are true, so the stream goes on at the next start."""
    hang = tmp_path / "hang"
    environment = meddle(f"""
        import pathlib, time
        import cef_trio.checkpoint.redis.store as room
        real = room.run_script
        def run_script(*given):
            while pathlib.Path({str(hang)!r}).exists():
                time.sleep(0.1)
            return real(*given)
        room.run_script = run_script
    """)
    path, given = watch_dir / "a.mp4", settings(watch_dir, bucket, valkey)
    path.write_bytes(os.urandom(6 * MIB))
    with path.open("ab"), daemon({**given, **environment}) as process:
        process.wait_for("part_uploaded")
        hang.touch()
        leaves_in_time(process, code=3)
        (overdue,) = [event for event in process.events if event["event"] == "shutdown_timeout"]
        assert len(overdue["streams"]) == 1
    goes_on(given)
