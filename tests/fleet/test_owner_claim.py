"""Clones: one running system at a time works under an owner's name that was derived."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from servers.command import answer
from servers.daemon import DaemonProcess, daemon, settings_for
from servers.endpoints import Endpoint
from servers.valkey import ValkeyServer
from waiting import wait_until

from cef_trio.checkpoint import Claimant, Lease
from cef_trio.checkpoint.redis.keys import Keys
from cef_trio.checkpoint.redis.owner_claim import OwnerClaim
from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.cli.checks import Severity, judge_claimant
from cef_trio.daemon import LET_READ_BOOT_ID

pytestmark = pytest.mark.real

OWNER = "0123456789ab"
ONE = Lease("cam", "process-1", 30.0, host="boot-1")
ONE_TOO = Lease("cam", "process-2", 30.0, host="boot-1")
CLONE = Lease("cam", "process-3", 30.0, host="boot-2")
SINCE = "2026-11-29T12:00:00.000000Z"


async def test_one_running_system_has_the_name_and_all_its_daemons_share_it(valkey: ValkeyServer) -> None:
    async with RedisCheckpointStore(valkey.url, owner=OWNER) as store:
        one, too, clone = (OwnerClaim(store._redis, store.keys, lease, lease.host) for lease in (ONE, ONE_TOO, CLONE))
        assert await one.take(SINCE) is None
        assert await too.take("later") is None
        assert await clone.take(SINCE) == Claimant("boot-1", "boot-1", SINCE)
        await clone.release()
        await one.release()
        assert await clone.take(SINCE) == Claimant("boot-1", "boot-1", SINCE), "the other daemon has it still"
        await too.release()
        assert await clone.take(SINCE) is None
        assert await one.take(SINCE) == Claimant("boot-2", "boot-2", SINCE)


async def test_the_claim_ends_with_the_lease_of_a_system_that_is_gone(valkey: ValkeyServer) -> None:
    async with RedisCheckpointStore(valkey.url, owner=OWNER) as store:
        gone = OwnerClaim(store._redis, store.keys, Lease("cam", "p", 0.05, host="boot-1"), "one")
        clone = OwnerClaim(store._redis, store.keys, CLONE, "two")
        assert await gone.take(SINCE) is None
        wait_until(lambda: valkey.command("EXISTS", store.keys.claim) == b":0\r\n")
        assert await clone.take(SINCE) is None


async def test_a_claim_of_a_wrong_type_is_replaced(valkey: ValkeyServer) -> None:
    async with RedisCheckpointStore(valkey.url, owner=OWNER) as store:
        valkey.command("SET", store.keys.claim, "garbage")
        assert await OwnerClaim(store._redis, store.keys, ONE, "one").take(SINCE) is None
        assert await OwnerClaim(store._redis, store.keys, CLONE, "two").take(SINCE) is not None


async def test_an_explicit_name_claims_nothing_and_waits_for_the_system_that_derived_it(valkey: ValkeyServer) -> None:
    async with RedisCheckpointStore(valkey.url, owner=OWNER) as store:
        shared = store.owner_claim(CLONE, "two", exclusive=False)
        assert await shared.take(SINCE) is None
        assert valkey.command("EXISTS", store.keys.claim) == b":0\r\n"
        derived = store.owner_claim(ONE, "one", exclusive=True)
        assert await derived.take(SINCE) is None
        assert await shared.take(SINCE) == Claimant("boot-1", "one", SINCE)
        assert await store.owner_claim(ONE_TOO, "one", exclusive=False).take(SINCE) is None, "of the same system"
        await derived.release()
        assert await shared.take(SINCE) is None


def test_doctor_names_the_other_system() -> None:
    for is_derived, says in ((True, "the running host one has the name"), (False, "a daemon here waits for it")):
        found = judge_claimant(OWNER, "one", SINCE, is_derived=is_derived)
        assert (found.severity, found.subject) == (Severity.PROBLEM, "owner")
        assert says in found.says


def test_doctor_takes_a_system_that_could_not_read_its_boot_id_for_no_clone() -> None:
    found = judge_claimant(OWNER, "one", SINCE, is_derived=True, is_known=False)
    assert (found.severity, found.todo) == (Severity.WARNING, LET_READ_BOOT_ID)


class Machine:
    """A mount namespace with a machine-id and a boot id of its own; the clone has the same machine-id.

    Without ``boot`` its boot id cannot be read.
    """

    def __init__(self, folder: Path, boot: str, settings: dict[str, str]) -> None:
        folder.mkdir()
        self.watched = folder / "recordings"
        self.watched.mkdir()
        self.settings = {**settings, "WATCH_DIR": str(self.watched)}
        mounts = []
        for target, text in (
            ("/etc/machine-id", f"{7:032x}"),
            ("/proc/sys/kernel/random/boot_id", f"{boot}-0000-4000-8000-000000000000" if boot else ""),
        ):
            file = folder / target.rpartition("/")[2]
            file.write_text(f"{text}\n")
            mounts.append(f"mount --bind {file} {target}")
        script = " && ".join(["mount --make-rprivate /", *mounts, "echo mounted", "exec cat"])
        self._holder = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._holder.stdout is not None
        self.is_mounted = self._holder.stdout.readline() == "mounted\n"

    def close(self) -> None:
        self._holder.communicate()

    @contextmanager
    def daemon(self, *, wait_started: bool = True) -> Iterator[DaemonProcess]:
        under = ["nsenter", f"--target={self._holder.pid}", "--mount"]
        with daemon(self.settings, under=under, wait_started=wait_started) as process:
            yield process


@pytest.fixture
def machines(tmp_path: Path, endpoint: Endpoint, valkey: ValkeyServer) -> Iterator[tuple[Machine, Machine]]:
    if os.geteuid() != 0 or shutil.which("unshare") is None or not Path("/etc/machine-id").exists():
        pytest.skip("mount namespaces need root and unshare(1), and this machine a machine-id to replace")
    # A claim that a busy machine renews in time, and whose end can be waited for.
    settings = settings_for(tmp_path, endpoint, valkey.url, owner_name="", lease_seconds=6, close_grace_seconds=0.2)
    one, clone = (Machine(tmp_path / name, f"{name:0>8}", settings) for name in ("11", "22"))
    try:
        if not (one.is_mounted and clone.is_mounted):
            pytest.skip("this machine permits no such mount in an own namespace")
        yield one, clone
    finally:
        one.close()
        clone.close()


def test_a_daemon_that_cannot_read_its_boot_id_says_so_and_doctor_names_no_clone(
    tmp_path: Path, endpoint: Endpoint, valkey: ValkeyServer
) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None or not Path("/etc/machine-id").exists():
        pytest.skip("mount namespaces need root and unshare(1), and this machine a machine-id to replace")
    machine = Machine(tmp_path / "m", "", settings_for(tmp_path, endpoint, valkey.url, owner_name=""))
    try:
        if not machine.is_mounted:
            pytest.skip("this machine permits no such mount in an own namespace")
        with machine.daemon() as process:
            name = process.wait_for("boot_id_not_readable")["owner"]
            found = answer("doctor", settings={**machine.settings, "OWNER_NAME": name})["findings"]
            [says] = [one["says"] for one in found if one["subject"] == "owner" and one["severity"] == "warning"]
            assert "could not read its boot id" in says
    finally:
        machine.close()


def waiting_reports(valkey: ValkeyServer) -> list[str]:
    found = valkey.command("HKEYS", Keys().daemons).decode()
    return [line for line in found.splitlines() if line.startswith("waiting ")]


def assert_named_by_the_fleet(name: str, valkey: ValkeyServer) -> None:
    """The clone waits for longer than the claim of an ended system would last; then an operator is told of both."""
    wait_until(lambda: waiting_reports(valkey))
    found = answer("fleet", settings={"REDIS_URL": valkey.url, "OWNER_NAME": "desk"}, code=5)
    assert sorted(one["state"] for one in found["daemons"] if one["owner"] == name) == ["ready", "waits"]
    [problem] = [one for one in found["problems"] if one["problem"] == "same_owner"]
    assert problem["urgent"]
    assert "machine-id" in problem["todo"]


def test_a_clone_does_not_work_while_its_original_does(machines: tuple[Machine, Machine], valkey: ValkeyServer) -> None:
    original, clone = machines
    (clone.watched / "a.mp4").write_bytes(b"\1" * (1 << 20))
    with original.daemon() as first:
        name = first.wait_for("owner_determined", source="machine id")["owner"]
        desk = {"REDIS_URL": valkey.url, "OWNER_NAME": name}
        first.wait_for("daemon_started")
        found = answer("doctor", settings={**original.settings, "OWNER_NAME": name}, code=5)["findings"]
        [waits] = [one["says"] for one in found if one["subject"] == "owner" and one["severity"] == "problem"]
        assert "a daemon here waits for it" in waits
        with clone.daemon(wait_started=False) as waiting:
            waiting.wait_for("owner_claimed_elsewhere", owner=name)
            assert waiting.stop() == 0
        with clone.daemon(wait_started=False) as second:
            refused = second.wait_for("owner_claimed_elsewhere", owner=name)
            assert refused["system"].startswith("00000011")
            assert "OWNER_NAME" in refused["todo"]
            port = second.wait_for("admin_server_started")["port"]
            ready = httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=60, trust_env=False)
            assert ready.status_code == 503
            assert f"starting: waiting for the owner's name {name}" in ready.text
            wait_until(lambda: valkey.command("SISMEMBER", "{fleet}:owners", name) == b":1\r\n")
            assert second.count("stream_started") == 0
            assert_named_by_the_fleet(name, valkey)
            first.signal(signal.SIGSTOP)  # for longer than its claim lasts
            second.wait_for("owner_claimed")
            second.wait_for("stream_completed")
            second.signal(signal.SIGSTOP)  # its next report would replace the last one of its twin
            first.signal(signal.SIGCONT)
            assert first.wait() == 4
            states = {one["state"]: one["says"] for one in answer("fleet", settings=desk, code=5)["daemons"]}
            second.signal(signal.SIGCONT)
            assert "took its owner's name" in states["lost its name"][0]
            lost = first.wait_for("owner_claim_lost", owner=name)
            assert lost["system"].startswith("00000022")
            assert second.count("owner_claimed_elsewhere") == 1
            assert not waiting_reports(valkey), "it waits no more"
            with original.daemon(wait_started=False) as third:
                third.wait_for("owner_claimed_elsewhere", owner=name)
                assert second.stop() == 0
                third.wait_for("daemon_started")
                assert third.stop() == 0


@pytest.mark.parametrize(("arguments", "transient"), [(["run"], False), (["status"], False), (["run"], True)])
def test_without_any_identity_the_start_is_refused_with_one_line(
    tmp_path: Path, arguments: list[str], transient: bool
) -> None:
    """``transient``: there is a machine-id of this boot only, mounted as systemd does."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mount namespaces need root and unshare(1)")
    watched = tmp_path / "recordings"
    watched.mkdir()
    ids = [file for file in ("/etc/machine-id", "/var/lib/dbus/machine-id") if Path(file).exists()]
    mounts = [f"mount --bind /dev/null {file}" for file in ids] + [f"mount -t tmpfs none {watched}"]
    if transient:
        run = tmp_path / "run"
        run.mkdir()
        made = f"{run}/machine-id"
        mounts += [f"mount -t tmpfs none {run}", f"echo {'ab' * 16} > {made}", f"mount --bind {made} /etc/machine-id"]
    nobodys = Endpoint("http://127.0.0.1:9", "key", "secret", "us-east-1", "recordings")
    settings = settings_for(watched, nobodys, "redis://127.0.0.1:9/0", owner_name="", instance_id="")
    script = " && ".join(["mount --make-rprivate /", *mounts, "echo mounted >&2", 'exec "$@"'])
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "-", sys.executable, "-m", "cef_trio", *arguments],
        env={"PATH": os.environ["PATH"], **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    if not done.stderr.startswith("mounted\n"):
        pytest.skip("this machine permits no such mount in an own namespace")
    assert done.returncode == 2
    (line,) = [one for one in done.stderr.splitlines() if one.startswith("cef-trio: ")]
    assert "OWNER_NAME cannot be derived" in line
    assert "set OWNER_NAME to a permanent name" in line
