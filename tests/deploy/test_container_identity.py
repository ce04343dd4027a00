"""The owner's name in containers: one that is made anew continues its predecessor's streams (P2, P9).

Containers are made as ``deploy/`` makes them: with its variables and mounts. Only where ``CEF_TRIO_IMAGE`` names an
image that podman has here (CONTRIBUTING.md says how to build one).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from servers.daemon import settings_for
from servers.deployment import DEPLOY, documents, environment, of_kubernetes, unit, values
from servers.endpoints import Endpoint
from servers.podman import IMAGE, RESTRICTED, Container, container, podman
from servers.recordings import MIB
from servers.s3_control import calls
from servers.store import look_into
from servers.valkey import ValkeyServer

from cef_trio.files import lasting_id

pytestmark = [pytest.mark.real, pytest.mark.skipif(not IMAGE, reason="CEF_TRIO_IMAGE names no image")]
PART = 5 * MIB
HOST = "recorder-7"
POD_NAME = "site-0"
"""Not the StatefulSet's: the log replaces the tests' access key, ``cef-trio``, in it."""
MACHINE_ID = "0123456789abcdef0123456789abcdef"
IN_CONTAINER = "/recordings"
GIVEN = ("INSTANCE_ID", "OWNER_NAME", "WATCH_DIR", "APP_ENV")
"""The variables of ``deploy/`` that the tests keep; addresses, ports and secrets are the test's own."""


@dataclass(frozen=True)
class Deployment:
    """What a way to deploy gives to its container."""

    variables: Mapping[str, str]
    volumes: tuple[str, ...]


def _quadlet() -> Deployment:
    lines = unit(DEPLOY / "quadlet" / "cef-trio.container")
    variables = {name: text.replace("%H", HOST) for name, text in environment(lines, "Container").items()}
    return Deployment(variables, tuple(values(lines, "Container", "Volume")))


def _compose() -> Deployment:
    service = documents(DEPLOY / "compose.yaml")[0]["services"]["cef-trio"]
    variables = {
        name: HOST if text.startswith("${INSTANCE_ID:") else text for name, text in service["environment"].items()
    }
    return Deployment(variables, tuple(service["volumes"]))


def _pod() -> Deployment:
    (given,) = of_kubernetes("StatefulSet")["spec"]["template"]["spec"]["containers"]
    by_field = {item["name"]: item["valueFrom"]["fieldRef"]["fieldPath"] for item in given["env"]}
    variables = {name: {"metadata.name": POD_NAME}[path] for name, path in by_field.items()}
    paths = [mount["mountPath"] for mount in given["volumeMounts"] if mount["name"] == "recordings"]
    return Deployment(of_kubernetes("ConfigMap")["data"] | variables, tuple(f"recordings:{path}:ro" for path in paths))


DEPLOYMENTS = {"quadlet": _quadlet(), "compose": _compose(), "pod": _pod()}
BY_HAND = Deployment({"WATCH_DIR": IN_CONTAINER, "APP_ENV": "production"}, (f"/srv/recordings:{IN_CONTAINER}:ro",))
"""Neither a name nor a machine-id: what ``podman run`` with a folder gives."""


@dataclass(frozen=True)
class Host:
    """Makes containers on one host: its machine-id and services."""

    folder: Path
    endpoint: Endpoint
    redis_url: str

    @contextmanager
    def running(self, deployment: Deployment, watched: Path, **more: object) -> Iterator[Container]:
        """Run a new container on a folder."""
        quick = {"lease_seconds": 3, "stale_check_seconds": 0.2, "stream_timeout_seconds": 600, "rescan_seconds": 1}
        given = settings_for(watched, self.endpoint, self.redis_url, **(quick | more))
        kept = {name: text for name, text in deployment.variables.items() if name in GIVEN}
        given = {name: text for name, text in given.items() if name not in GIVEN} | kept
        variables = [f"--env={name}={text}" for name, text in given.items()]
        volumes = [f"--volume={self._volume(text, watched)}" for text in deployment.volumes]
        with container(*RESTRICTED, *volumes, *variables, IMAGE) as name:
            yield Container(name)

    def _volume(self, text: str, watched: Path) -> str:
        """Return a volume of ``deploy/`` with this host's files in place of the real ones."""
        source, _, inside = text.rpartition(f":{IN_CONTAINER}")
        if inside == ":ro" and source:
            return f"{watched}:{IN_CONTAINER}:ro"
        assert text == "/etc/machine-id:/etc/machine-id:ro"
        file = self.folder / "machine-id"
        file.write_text(f"{MACHINE_ID}\n")
        file.chmod(0o444)
        return f"{file}:/etc/machine-id:ro"


@pytest.fixture
def host(tmp_path: Path, endpoint: Endpoint, valkey: ValkeyServer) -> Host:
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)  # user 1001 reads it
    return Host(tmp_path, endpoint, valkey.url)


def folder_of(host: Host, name: str) -> Path:
    folder = host.folder / name
    folder.mkdir(mode=0o755)
    return folder


def test_the_image_has_no_identity_of_its_own() -> None:
    """A machine-id in the image would be that of every host, so all would have one owner's name."""
    found = podman("run", "--rm", *RESTRICTED, "--entrypoint=cat", IMAGE, "/proc/mounts")
    assert "machine-id" not in found
    look = "cat /etc/machine-id /var/lib/dbus/machine-id 2>/dev/null || true"
    assert podman("run", "--rm", *RESTRICTED, "--entrypoint=sh", IMAGE, "-c", look).strip() == ""


@pytest.mark.parametrize("name", [*DEPLOYMENTS, "by hand"])
def test_p2_a_container_made_anew_has_the_same_owner_and_sends_no_part_again(host: Host, name: str) -> None:
    """Its predecessor was removed by force, so its leases and its claim are still alive."""
    deployment = DEPLOYMENTS.get(name, BY_HAND)
    watched = folder_of(host, "recordings")
    if deployment is BY_HAND and lasting_id(watched) is None:
        pytest.skip("the tests' folder is on a file system without a lasting id")
    path = watched / "a.mp4"
    with path.open("wb") as writer:
        with host.running(deployment, watched) as first:
            owner = first.wait_for("owner_determined")
            writer.write(os.urandom(2 * PART))
            writer.flush()
            first.wait_for("part_uploaded", count=2)
        sent = calls(host.endpoint)["UploadPart"]
        with host.running(deployment, watched, stream_timeout_seconds=1) as second:
            found = second.wait_for("owner_determined")
            assert (found["owner"], found["source"]) == (owner["owner"], owner["source"])
            second.wait_for("stream_resumed")
            writer.write(os.urandom(MIB))
            writer.flush()
            second.wait_for("stream_completed")
            assert second.count("stream_started") == second.count("owner_claimed_elsewhere") == 0
            assert second.stop()[0] == 0
    assert calls(host.endpoint)["UploadPart"] == sent + 1
    store = look_into(host.endpoint)
    store.assert_identical(path)
    assert store.open_uploads() == []
    assert [key.split("/")[1] for key in store.recordings()] == [owner["owner"]]
    store.client.close()


@pytest.mark.parametrize("name", ["quadlet", "by hand"])
def test_p9_two_containers_of_one_host_with_one_name_keep_to_their_own_folders(host: Host, name: str) -> None:
    """The same owner, INSTANCE_ID, paths and file names: only where their folders are tells them apart."""
    deployment = DEPLOYMENTS.get(name, BY_HAND)
    one, two = (folder_of(host, name) for name in ("one", "two"))
    if deployment is BY_HAND and lasting_id(one) is None:
        pytest.skip("the tests' folder is on a file system without a lasting id")
    paths = [folder / "a.mp4" for folder in (one, two)]
    with paths[0].open("wb") as first_writer, paths[1].open("wb") as second_writer:
        writers = (first_writer, second_writer)
        with host.running(deployment, one) as first, host.running(deployment, two) as second:
            owners = [daemon.wait_for("owner_determined")["owner"] for daemon in (first, second)]
            assert owners[0] == owners[1]
            for daemon, writer in zip((first, second), writers, strict=True):
                daemon.wait_for("daemon_started")
                writer.write(os.urandom(PART))
                writer.flush()
                daemon.wait_for("part_uploaded")
        sent = calls(host.endpoint)["UploadPart"]
        soon = {"stream_timeout_seconds": 1}
        with host.running(deployment, one, **soon) as first, host.running(deployment, two, **soon) as second:
            for daemon in (first, second):
                daemon.wait_for("stream_completed")
                assert daemon.count("stream_started") == daemon.count("lease_lost") == 0
                assert daemon.stop()[0] == 0
    assert calls(host.endpoint)["UploadPart"] == sent
    store = look_into(host.endpoint)
    stored = {
        store.client.get_object(Bucket=host.endpoint.bucket, Key=key)["Body"].read() for key in store.recordings()
    }
    assert len(store.recordings()) == 2
    assert stored == {path.read_bytes() for path in paths}
    assert store.open_uploads() == []
    store.client.close()


def test_a_container_without_any_identity_is_refused_with_one_line(host: Host) -> None:
    given = settings_for(host.folder, host.endpoint, host.redis_url)
    variables = [f"--env={name}={text}" for name, text in given.items() if name not in {"INSTANCE_ID", "OWNER_NAME"}]
    where = ["--env=WATCH_DIR=/recordings", "--tmpfs=/recordings:mode=0755"]
    command = ["podman", "run", "--rm", *RESTRICTED, *variables, *where, IMAGE]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    (line,) = [one for one in done.stderr.splitlines() if one.startswith("cef-trio: ")]
    assert "set OWNER_NAME to a permanent name, or mount the host's /etc/machine-id" in line
