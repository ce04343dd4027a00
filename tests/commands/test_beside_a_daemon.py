"""The commands beside a daemon that runs, as people run them: other processes, another folder, Redis and S3 alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers.command import ROOT, answer, command
from servers.daemon import OWNER, SOON_FINAL, daemon, settings_for
from servers.endpoints import Endpoint
from servers.s3_control import arm, disarm_all, wait_for_fault
from servers.store import Store
from servers.valkey import ValkeyServer
from waiting import wait_until

pytestmark = pytest.mark.real
MIB = 1024 * 1024


@pytest.fixture
def settings(watch_dir: Path, embedded: Store, valkey: ValkeyServer) -> dict[str, str]:
    given = settings_for(watch_dir, embedded.endpoint, valkey.url, close_grace_seconds=0.2, stale_check_seconds=0.5)
    return {**given, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def elsewhere(settings: dict[str, str]) -> dict[str, str]:
    """The settings of another machine: no watch folder, the daemon's own name."""
    return {name: value for name, value in settings.items() if name != "WATCH_DIR"}


@contextmanager
def held_open(path: Path, size_bytes: int) -> Iterator[None]:
    """A recording of that size whose writer has not closed it."""
    with path.open("wb") as file:
        file.write(b"\1" * size_bytes)
        file.flush()
        yield


def wait_for_state(settings: Mapping[str, str], state: str) -> dict[str, str]:
    """Wait until the only stream is in that state; returns what ``list`` says of it."""
    found: list[dict[str, str]] = []

    def is_in_it() -> bool:
        found[:] = answer("list", settings=settings)["streams"]
        return [one["state"] for one in found] == [state]

    wait_until(is_in_it, otherwise=lambda: f"{state}: {found}")
    return found[0]


def test_a_recording_is_seen_growing_and_is_verified_at_its_end(
    settings: dict[str, str], elsewhere: dict[str, str], watch_dir: Path, embedded: Store
) -> None:
    path = watch_dir / "a.mp4"
    with daemon(settings) as process:
        with held_open(path, 12 * MIB):
            process.wait_for("part_uploaded", part_number=2)
            here, there = answer("status", settings=settings), answer("status", settings=elsewhere)
            assert (here["daemons"], here["lag_bytes"]) == ({"under-test": 1}, 2 * MIB)
            [stream] = here["open_streams"]
            assert (stream["acknowledged_bytes"], round(stream["progress"], 2)) == (10 * MIB, 0.83)
            assert there["open_streams"][0]["acknowledged_bytes"] == 10 * MIB
            stream_id = stream["stream_id"]
            # A daemon works on it, under the very name that this machine has: retry does not touch it.
            examined = {one["subject"]: one["says"] for one in answer("doctor", settings=elsewhere)["findings"]}
            assert examined["daemon"] == "under-test works on 1 stream"
            assert answer("retry", stream_id, settings=settings, code=5)["results"][0]["ok"] is False
            unfinished = answer("verify", stream_id, settings=elsewhere, code=5)
            assert (unfinished["identical"], unfinished["results"][0]["agrees"]) == (False, False)
            collected = answer("gc", "--older-than", "0s", settings=elsewhere)
            assert [one["aborted"] for one in collected["results"]] == [False]
        process.wait_for("stream_completed")
        assert process.count("lease_lost") == 0
        for given in (stream_id[:8], str(path)):
            assert command("verify", given, settings=elsewhere).stdout.endswith("\nIdentical.\n")
        document = answer("verify", stream_id, settings=elsewhere)
        assert (document["finished"], document["identical"], document["stream_id"]) == (True, True, stream_id)
        assert process.stop() == 0
    embedded.assert_identical(path)


def test_a_failed_stream_is_retried_beside_its_daemon_without_sending_its_parts_again(
    settings: dict[str, str], elsewhere: dict[str, str], watch_dir: Path, endpoint: Endpoint, embedded: Store
) -> None:
    arm(endpoint, {"kind": "error", "operation": "UploadPart", "part_number": 3, "code": "AccessDenied", "times": None})
    path = watch_dir / "a.mp4"
    path.write_bytes(bytes(range(256)) * (17 * MIB // 256))
    with daemon({**settings, **{name.upper(): value for name, value in SOON_FINAL.items()}}) as process:
        process.wait_for("stream_failed")
        failed = wait_for_state(elsewhere, "failed")
        examined = {one["subject"]: one["says"] for one in answer("doctor", settings=elsewhere)["findings"]}
        assert examined["failed"] == "1 recording failed"
        assert "AccessDenied" in failed["failure_reason"]
        disarm_all(endpoint)
        sent = process.count("part_uploaded")
        assert command("retry", "--all", settings=elsewhere).stdout.startswith(f"{failed['stream_id']}: retried: ")
        process.wait_for("stream_completed", stream_id=failed["stream_id"])
        assert process.count("part_uploaded") == 4
        assert sent >= 2
    embedded.assert_identical(path)


def test_a_stopped_daemons_stream_is_aborted_and_the_next_daemon_leaves_it_alone(
    settings: dict[str, str], elsewhere: dict[str, str], watch_dir: Path, embedded: Store
) -> None:
    path = watch_dir / "a.mp4"
    with held_open(path, 12 * MIB):
        with daemon(settings) as process:
            process.wait_for("part_uploaded", part_number=2)
            assert process.stop() == 0
        [stream] = answer("list", settings=elsewhere)["streams"]
        assert len(embedded.open_uploads()) == 1
        assert "2 parts discarded" in command("abort", stream["stream_id"], settings=elsewhere).stdout
        assert embedded.open_uploads() == []
    with daemon(settings) as process:
        process.wait_for("daemon_started")
        command("status", settings=settings)
        assert answer("list", "--state", "failed", settings=elsewhere)["streams"][0]["status"] == "failed_aborted"
        command("retry", stream["stream_id"], settings=elsewhere)
        process.wait_for("stream_completed", stream_id=stream["stream_id"])
    embedded.assert_identical(path)


def test_a_live_stream_is_aborted_while_its_daemon_goes_on_with_another(
    settings: dict[str, str], elsewhere: dict[str, str], watch_dir: Path, embedded: Store
) -> None:
    path, other = watch_dir / "a.mp4", watch_dir / "b.mp4"
    with daemon(settings) as process:
        with held_open(other, 6 * MIB), held_open(path, 12 * MIB):
            process.wait_for("part_uploaded", file=str(path), part_number=2)
            process.wait_for("part_uploaded", file=str(other))  # its record may be later than that of the other
            streams = {one["path"]: one["stream_id"] for one in answer("list", settings=elsewhere)["streams"]}
            said = answer("abort", streams[str(path)], settings=elsewhere)["results"][0]
            assert (said["ok"], said["says"].startswith("aborted by its daemon: 2 parts discarded")) == (True, True)
            process.wait_for("stream_aborted", stream_id=streams[str(path)])
            with path.open("ab") as more:
                more.write(b"\2" * MIB)
        process.wait_for("stream_completed", stream_id=streams[str(other)])
        assert embedded.open_uploads() == []
        [failed] = answer("list", "--state", "failed", settings=elsewhere)["streams"]
        assert (failed["path"], failed["status"]) == (str(path), "failed_aborted")
        assert process.count("stream_started") == 2
        command("retry", streams[str(path)], settings=elsewhere)
        process.wait_for("stream_completed", stream_id=streams[str(path)])
        assert process.stop() == 0
    embedded.assert_identical(path)
    embedded.assert_identical(other)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_gc_between_two_uploads_and_the_next_gc_does_the_rest(
    elsewhere: dict[str, str], endpoint: Endpoint, embedded: Store, number: signal.Signals
) -> None:
    for n in range(5):
        key = f"streams/{OWNER}/{n:08x}-0000-4000-8000-000000000000/a.mp4"
        embedded.client.create_multipart_upload(Bucket="recordings", Key=key)
    frozen = arm(endpoint, {"kind": "freeze", "operation": "AbortMultipartUpload", "moment": "before", "nth": 3})
    arguments = ["gc", "--older-than", "0s", "--redis-is-empty"]
    with subprocess.Popen(
        [sys.executable, "-m", "cef_trio", *arguments],
        env={"PATH": "/usr/bin:/bin", **elsewhere},
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_for_fault(endpoint, frozen)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + number, "")
    assert out.count(": aborted: ") == 2
    disarm_all(endpoint)
    assert len(embedded.open_uploads()) == 3
    assert "3 aborted" in command(*arguments, settings=elsewhere).stdout
    assert embedded.open_uploads() == []


@pytest.mark.parametrize("arguments", ["list", "list --json", "gc --json", "doctor", "health"])
def test_a_reader_that_has_gone_is_no_traceback(elsewhere: dict[str, str], arguments: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "cef_trio", *arguments.split()],
        env={"PATH": "/usr/bin:/bin", **elsewhere, "PROM_PORT": "9"},
        cwd="/",
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_frozen_redis_is_not_waited_for(elsewhere: dict[str, str], valkey: ValkeyServer) -> None:
    valkey.freeze()
    try:
        done = command("status", settings={**elsewhere, "REDIS_TIMEOUT_SECONDS": "0.2"}, code=4)
    finally:
        valkey.thaw()
    assert done.stderr.startswith("cef-trio: Redis operation ")
    assert done.stderr.endswith(f" [{valkey.url}]\n")
