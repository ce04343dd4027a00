"""Hosts with addresses of their own, whose link is cut for longer than a lease while they upload.

On storage that hosts share, another one takes over (P3); the one that was cut off stops when its link is back, and
nothing of what the other did is changed (P1, P5). A host with a disk of its own goes on where it was (P2).
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Final

import pytest
from servers.command import ROOT, answer
from servers.daemon import DaemonProcess, settings_for
from servers.endpoints import Endpoint
from servers.host import Host, require_namespaces
from servers.store import Store
from servers.valkey import ValkeyServer
from thoroughness import only_long
from waiting import wait_until

pytestmark = pytest.mark.real
MIB: Final = 1 << 20
PART: Final = 5 * MIB
LEASE_SECONDS: Final = 5.0
TAKEOVER_SECONDS: Final = LEASE_SECONDS + 20.0
"""From the last renewal of a lease to another daemon's work on the stream, on a slow machine.

Long before a minute: until then a file of a stream that another daemon works on is not asked for again.
"""


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    require_namespaces("-n")


@pytest.fixture
def watched(tmp_path: Path) -> Path:
    path = tmp_path / "recordings"
    path.mkdir()
    return path


@pytest.fixture
def settings(watched: Path, endpoint: Endpoint, valkey: ValkeyServer) -> dict[str, str]:
    return settings_for(
        watched,
        endpoint,
        valkey.url,
        lease_seconds=LEASE_SECONDS,
        rescan_seconds=1,
        stale_check_seconds=1,
        close_grace_seconds=0.2,
        stream_timeout_seconds=5,
        s3_connect_timeout_seconds=2,
        s3_read_timeout_seconds=2,
        s3_write_timeout_seconds=2,
        retry_max_seconds=1,
        retry_stream_max_seconds=1,
    )


def shared(settings: dict[str, str], name: str, watched: Path, behind: Path) -> Host:
    """Return a host that has the folder ``behind`` as a network file system: what others write causes no events."""
    return Host(name, {**settings, "INSTANCE_ID": name}, [f"bindfs {behind} {watched}"], has_network=True)


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[IO[bytes]]:
    behind = tmp_path / "behind"
    behind.mkdir()
    with (behind / "0.mp4").open("wb") as file:
        yield file


def write(file: IO[bytes], size_bytes: int) -> None:
    file.write(os.urandom(size_bytes))
    file.flush()


def record_until(true: Callable[[], object], *files: IO[bytes]) -> None:
    """Let recorders write on until something is so: where nobody sees the close, some seconds of silence are an end."""

    def is_so() -> object:
        for file in files:
            write(file, 100)
        return true()

    wait_until(is_so)


def parts(process: DaemonProcess) -> set[int]:
    return {entry["part_number"] for entry in process.events if entry["event"] == "part_uploaded"}


def test_p3_on_shared_storage_another_host_takes_over_from_one_that_is_cut_off_which_stops_when_its_link_is_back(
    settings: dict[str, str], watched: Path, recording: IO[bytes], embedded: Store
) -> None:
    behind = Path(recording.name).parent
    with ExitStack() as hosts:
        one, two = (shared(settings, name, watched, behind) for name in ("one", "two"))
        for host in (one, two):
            hosts.callback(host.close)
            hosts.enter_context(host.connected("REDIS_URL", "S3_ENDPOINT_URL"))
        daemons = {host: hosts.enter_context(host.daemon()) for host in (one, two)}
        write(recording, 2 * PART)
        record_until(lambda: sum(len(parts(process)) for process in daemons.values()) == 2, recording)
        holder, other = (one, two) if parts(daemons[one]) else (two, one)
        first, second = daemons[holder], daemons[other]
        assert not parts(second)
        stream_id = first.wait_for("stream_started")["stream_id"]
        holder.cut_link()
        cut = time.monotonic()
        write(recording, PART + MIB)
        record_until(lambda: second.count("stream_resumed", stream_id=stream_id), recording)
        assert time.monotonic() - cut < TAKEOVER_SECONDS
        record_until(lambda: 3 in parts(second), recording)
        holder.mend_link()
        record_until(lambda: first.count("lease_lost", stream_id=stream_id), recording)
        write(recording, PART)
        recording.close()
        second.wait_for("stream_completed", stream_id=stream_id)
        assert first.count("stream_completed") == 0, first.tail()
        assert first.count("stream_started") + second.count("stream_started") == 1
        assert not parts(first) & parts(second), "a recorded part was sent again"
    assert embedded.contents() == Counter([Path(recording.name).read_bytes()])
    assert not embedded.open_uploads()


def test_p2_a_host_whose_link_was_cut_for_longer_than_its_lease_goes_on_where_it_was_beside_another_with_the_same_paths(
    settings: dict[str, str], watched: Path, embedded: Store
) -> None:
    given = {**settings, "STREAM_TIMEOUT_SECONDS": "60"}  # of files on its own disk a daemon sees the close
    with ExitStack() as hosts:
        one, two = (
            Host(name, {**given, "OWNER_NAME": name}, [f"mount -t tmpfs none {watched}"], has_network=True)
            for name in ("one", "two")
        )
        for host in (one, two):
            hosts.callback(host.close)
            hosts.enter_context(host.connected("REDIS_URL", "S3_ENDPOINT_URL"))
        contents = []
        with one.daemon() as first, two.daemon() as second, ExitStack() as files:
            of_one, of_two = (files.enter_context((host.folder / "0.mp4").open("wb")) for host in (one, two))
            for file, process in ((of_one, first), (of_two, second)):
                write(file, 2 * PART)
                process.wait_for("part_uploaded", count=2)
            one.cut_link()
            for file in (of_one, of_two):
                write(file, PART)
            second.wait_for("part_uploaded", part_number=3)
            first.wait_for("outage_started", service="redis")
            cut = time.monotonic()
            wait_until(lambda: time.monotonic() - cut > LEASE_SECONDS)
            one.mend_link()
            files.close()
            for host, process in ((one, first), (two, second)):
                process.wait_for("stream_completed")
                assert process.count("stream_started") == 1
                assert process.count("part_uploaded") == 3
                contents.append((host.folder / "0.mp4").read_bytes())
                process.signal(signal.SIGTERM)
                assert process.wait() == 0
    assert embedded.contents() == Counter(contents)
    assert not embedded.open_uploads()


def test_p2_hosts_of_a_shared_folder_that_start_together_upload_each_recording_once_and_leave_each_other_alone(
    settings: dict[str, str], watched: Path, tmp_path: Path, embedded: Store
) -> None:
    settings["LEASE_SECONDS"] = "30"  # nobody dies
    behind = tmp_path / "behind"
    behind.mkdir()
    contents = [os.urandom(PART + MIB) for _ in range(6)]
    for number, content in enumerate(contents):
        (behind / f"{number}.mp4").write_bytes(content)
    with ExitStack() as hosts:
        processes = []
        for name in ("one", "two"):
            host = shared(settings, name, watched, behind)
            hosts.callback(host.close)
            hosts.enter_context(host.connected("REDIS_URL", "S3_ENDPOINT_URL"))
            processes.append(hosts.enter_context(host.daemon(wait_started=False)))
        wait_until(lambda: sum(process.count("stream_completed") for process in processes) == len(contents))
        for process in processes:
            assert process.count("lease_lost") == process.count("stream_failed") == 0, process.tail()
    assert embedded.contents() == Counter(contents)
    assert not embedded.open_uploads()


@pytest.mark.parametrize("rescan_seconds", [0.5, 60])
def test_p2_p6_recordings_that_are_renamed_while_their_daemon_is_dead_are_taken_over_under_their_new_names(
    settings: dict[str, str], watched: Path, tmp_path: Path, embedded: Store, rescan_seconds: float
) -> None:
    """Their inode numbers are those of the dead host, which prove nothing on another one: only their bytes do.

    The other hosts see the new names before the leases end, or not until they look for the missing files.
    """
    behind = tmp_path / "behind"
    behind.mkdir()
    given = {**settings, "RESCAN_SECONDS": str(rescan_seconds), "STREAM_TIMEOUT_SECONDS": "60"}
    with ExitStack() as hosts, ExitStack() as open_files:
        files = [open_files.enter_context((behind / f"{number}.mp4").open("wb")) for number in range(6)]
        for file in files:
            write(file, PART + MIB)
        processes = hosts.enter_context(sharing(given, watched, behind, "one", "two", "three"))
        wait_until(lambda: sum(process.count("part_uploaded") for process in processes) == len(files))
        dead = max(processes, key=lambda process: process.count("stream_started"))
        living = [process for process in processes if process is not dead]
        moved = [entry for entry in dead.events if entry["event"] == "stream_started"]
        dead.kill()
        killed = time.monotonic()
        for entry in moved:
            name = Path(entry["file"]).name
            (behind / name).rename(behind / f"renamed-{name}")
        ids_of_dead = {entry["stream_id"] for entry in moved}
        wait_until(lambda: resumed(living) >= ids_of_dead)
        assert time.monotonic() - killed < TAKEOVER_SECONDS
        for file in files:
            write(file, PART)
        wait_until(lambda: sum(process.count("part_uploaded", part_number=2) for process in living) == len(files))
        open_files.close()
        stopped = [process.stop() for process in living]
        assert stopped == [0, 0]
        for process in living:
            assert process.count("lease_lost") <= len(moved), process.tail()  # both living ones may try at once
            assert process.count("stream_failed") == 0, process.tail()
            assert process.count("part_uploaded", part_number=1) == process.count("stream_started")
        ids = {entry["stream_id"] for process in living for entry in process.events if "stream_id" in entry}
        assert ids_of_dead <= ids
        assert len(ids) == len(files)


def resumed(processes: list[DaemonProcess]) -> set[str]:
    """Return the streams that one of these daemons has taken up."""
    events = (entry for process in processes for entry in process.events)
    return {entry["stream_id"] for entry in events if entry["event"] == "stream_resumed"}


def started_on(processes: list[DaemonProcess]) -> list[int]:
    return [process.count("stream_started") for process in processes]


@contextmanager
def sharing(settings: dict[str, str], watched: Path, behind: Path, *names: str) -> Iterator[list[DaemonProcess]]:
    """The daemons of hosts that share a folder, all started at once."""
    with ExitStack() as stack:
        hosts = [shared(settings, name, watched, behind) for name in names]
        for host in hosts:
            stack.callback(host.close)
            stack.enter_context(host.connected("REDIS_URL", "S3_ENDPOINT_URL"))
        yield [stack.enter_context(host.daemon(wait_started=False)) for host in hosts]


def patient_start(folder: Path) -> dict[str, str]:
    """Return settings of daemons that wait longer for each other: a slow machine does not start three at one time.

    Nobody dies, so their leases are long.
    """
    meddling = folder / "meddling"
    meddling.mkdir()
    code = "from cef_trio.upload import supervisor\nsupervisor._JOIN_SECONDS = 10.0\n"
    (meddling / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": f"{meddling}:{ROOT}", "LEASE_SECONDS": "30"}


def test_hosts_of_a_shared_folder_that_start_together_divide_its_recordings(
    settings: dict[str, str], watched: Path, tmp_path: Path, embedded: Store
) -> None:
    settings |= patient_start(tmp_path)
    behind = tmp_path / "behind"
    behind.mkdir()
    contents = [os.urandom(PART + MIB) for _ in range(12)]
    for number, content in enumerate(contents):
        (behind / f"{number}.mp4").write_bytes(content)
    with sharing(settings, watched, behind, "one", "two", "three") as processes:
        wait_until(lambda: sum(process.count("stream_completed") for process in processes) == len(contents))
        for process in processes:
            assert process.count("lease_lost") == process.count("stream_failed") == 0, process.tail()
            assert process.count("stream_started") >= 2, started_on(processes)
    assert embedded.contents() == Counter(contents)
    assert not embedded.open_uploads()


def test_hosts_of_a_shared_folder_divide_the_recordings_that_begin_one_after_the_other(
    settings: dict[str, str], watched: Path, tmp_path: Path, embedded: Store
) -> None:
    settings["LEASE_SECONDS"] = "30"  # nobody dies
    behind = tmp_path / "behind"
    behind.mkdir()
    with sharing(settings, watched, behind, "one", "two", "three") as processes, ExitStack() as open_files:
        for process in processes:
            process.wait_for("daemon_started")
        files: list[IO[bytes]] = []
        for number in range(12):
            files.append(open_files.enter_context((behind / f"{number}.mp4").open("wb")))
            write(files[-1], PART + MIB)
            # None ends meanwhile: a daemon without open streams would be as good as any other.
            record_until(lambda: sum(started_on(processes)) == len(files), *files)
        assert max(started_on(processes)) - min(started_on(processes)) <= 2, started_on(processes)
        open_files.close()
        wait_until(lambda: sum(process.count("stream_completed") for process in processes) == len(files))
        for process in processes:
            assert process.count("lease_lost") == process.count("stream_failed") == 0, process.tail()
    assert embedded.contents() == Counter(Path(file.name).read_bytes() for file in files)
    assert not embedded.open_uploads()


@only_long("daemons notice each other by two reports")
def test_p6_two_daemons_of_one_instance_id_and_system_on_a_shared_folder_are_named_and_let_each_other_work(
    settings: dict[str, str], watched: Path, tmp_path: Path, embedded: Store
) -> None:
    """As containers of one machine with one INSTANCE_ID: a lease of the other looks like one of an earlier process."""
    behind = tmp_path / "behind"
    behind.mkdir()
    with ExitStack() as stack:
        processes = []
        for _ in range(2):
            host = Host("one", {**settings, "INSTANCE_ID": "one"}, [f"bindfs {behind} {watched}"], has_network=True)
            stack.callback(host.close)
            stack.enter_context(host.connected("REDIS_URL", "S3_ENDPOINT_URL"))
            processes.append(stack.enter_context(host.daemon()))
        with ExitStack() as open_files:
            files = [open_files.enter_context((behind / f"{number}.mp4").open("wb")) for number in range(4)]
            for file in files:
                write(file, PART + MIB)
            for process in processes:
                process.wait_for("instance_id_shared", instance="one")
            for file in files:
                write(file, PART)
        wait_until(lambda: sum(process.count("stream_completed") for process in processes) == len(files))

        def named() -> bool:  # once both have reported, each under a name of its own
            found = answer("fleet", settings={"REDIS_URL": settings["REDIS_URL"]}, code=None)["problems"]
            return any(one["problem"] == "same_instance" and one["urgent"] for one in found)

        wait_until(named)
    assert embedded.contents() == Counter(Path(file.name).read_bytes() for file in files)
    assert not embedded.open_uploads()
