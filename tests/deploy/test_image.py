"""The built image, run as it is meant to be run: read-only, without rights, stopped by SIGTERM to process 1.

Only where ``CEF_TRIO_IMAGE`` names an image that podman has here (CONTRIBUTING.md says how to build one)::

    CEF_TRIO_IMAGE=localhost/cef-trio .ci/test tests/deploy/test_image.py
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.daemon import settings_for
from servers.endpoints import Endpoint
from servers.podman import IMAGE, RESTRICTED, Container, container, podman
from servers.store import look_into
from servers.valkey import ValkeyServer

import cef_trio
from cef_trio.media import probe

pytestmark = [pytest.mark.real, pytest.mark.skipif(not IMAGE, reason="CEF_TRIO_IMAGE names no image")]
P4_SECONDS = 6 + 2 + 1
MIB = 1024 * 1024
MAX_IMAGE_BYTES = 250_000_000
_X264, _X265, _MPEG2 = "-c:v libx264 -preset ultrafast", "-c:v libx265 -x265-params log-level=none", "-c:v mpeg2video"
FORMATS = {
    "h264.mp4": f"{_X264} -c:a aac",
    "fragmented.mp4": f"{_X264} -c:a aac -movflags +frag_keyframe+empty_moov",
    "hevc.mp4": f"{_X265} -c:a aac",
    "av1.mp4": "-c:v libaom-av1 -cpu-used 8 -c:a aac",
    "prores.mov": "-c:v prores_ks -c:a pcm_s24le",
    "h264.mkv": f"{_X264} -c:a libopus",
    "hevc.mkv": f"{_X265} -c:a flac",
    "vp9.webm": "-c:v libvpx-vp9 -c:a libvorbis",
    "h264.ts": f"{_X264} -c:a aac",
    "hevc.ts": f"{_X265} -c:a ac3",
    "mpeg2.ts": f"{_MPEG2} -c:a mp2",
    "mpeg2.mpg": f"{_MPEG2} -c:a mp2",
    "mpeg2.mxf": f"{_MPEG2} -c:a pcm_s16le -ar 48000",
    "h264.flv": f"{_X264} -c:a aac",
    "mjpeg.avi": "-c:v mjpeg -c:a pcm_s16le",
    "h264.h264": f"{_X264} -an",
}
"""A recording of each kind that ffprobe is asked about: what ffmpeg makes it by."""


@contextlib.contextmanager
def running(watch_dir: Path, settings: dict[str, str]) -> Iterator[Container]:
    variables = [f"--env={name}={value}" for name, value in settings.items() if name != "WATCH_DIR"]
    with container(*RESTRICTED, f"--volume={watch_dir}:/recordings:ro", *variables, IMAGE) as name:
        yield Container(name)


@pytest.fixture
def watch_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "watch"
    folder.mkdir()
    for parent in (folder, *folder.parents[:3]):
        parent.chmod(0o755)  # user 1001 reads it
    return folder


def test_a_recording_is_uploaded_without_rights_and_with_a_read_only_root(
    watch_dir: Path, endpoint: Endpoint, valkey: ValkeyServer
) -> None:
    recording = os.urandom(12 * MIB)
    with running(watch_dir, settings_for(watch_dir, endpoint, valkey.url, stream_timeout_seconds=1)) as daemon:
        daemon.wait_for("daemon_started")
        look = "id -u; touch /x 2>/dev/null || echo read-only; cat /proc/1/comm"
        status = podman("exec", daemon.name, "sh", "-c", look)
        assert status.split() == ["1001", "read-only", "cef-trio"]
        (watch_dir / "a.mp4").write_bytes(recording)
        daemon.wait_for("stream_completed")
        code, seconds = daemon.stop()
        assert code == 0
        assert seconds <= P4_SECONDS
    looking = look_into(endpoint)
    (key,) = [
        item["Key"]
        for item in looking.client.list_objects_v2(Bucket=endpoint.bucket)["Contents"]
        if item["Key"].endswith("a.mp4")
    ]
    assert looking.client.get_object(Bucket=endpoint.bucket, Key=key)["Body"].read() == recording
    looking.client.close()


def test_p4_sigterm_ends_process_1_in_time_while_redis_is_frozen(
    watch_dir: Path, endpoint: Endpoint, valkey: ValkeyServer
) -> None:
    path = watch_dir / "a.mp4"
    path.write_bytes(os.urandom(6 * MIB))
    with path.open("ab"), running(watch_dir, settings_for(watch_dir, endpoint, valkey.url)) as daemon:
        daemon.wait_for("part_uploaded")
        valkey.freeze()
        code, seconds = daemon.stop()
        assert code == 3  # not saved, and said
        assert seconds <= P4_SECONDS


def test_sigterm_ends_process_1_while_it_waits_for_redis(
    watch_dir: Path, endpoint: Endpoint, valkey: ValkeyServer
) -> None:
    valkey.freeze()
    with running(watch_dir, settings_for(watch_dir, endpoint, valkey.url)) as daemon:
        daemon.wait_for("waiting_for_service")
        code, seconds = daemon.stop()
        assert code == 0
        assert seconds <= P4_SECONDS


def test_the_image_has_labels_and_runs_as_documented() -> None:
    (image,) = json.loads(podman("image", "inspect", IMAGE))
    config = image["Config"]
    assert config["User"] == "1001:1001"
    assert config["StopSignal"] in {"SIGTERM", "15"}
    assert config["Entrypoint"] == ["cef-trio"]
    assert image["Healthcheck"]["Test"] == ["CMD", "cef-trio", "health"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"] == cef_trio.__version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert podman("run", "--rm", *RESTRICTED, IMAGE, "--version").strip() == f"cef-trio {cef_trio.__version__}"
    assert "ffprobe version" in podman("run", "--rm", *RESTRICTED, "--entrypoint=ffprobe", IMAGE, "-version")


def test_the_image_is_small_enough_to_be_pulled_over_a_camera_sites_line() -> None:
    (image,) = json.loads(podman("image", "inspect", IMAGE))
    assert image["Size"] < MAX_IMAGE_BYTES


@pytest.fixture
def recordings(watch_dir: Path) -> Path:
    """A folder with a recording of each of ``FORMATS``."""
    source = "-f lavfi -i testsrc2=s=320x180:r=25:d=1 -f lavfi -i sine=d=1"
    for name, options in FORMATS.items():
        command = f"ffmpeg -v error -nostdin {source} {options} {watch_dir / name}"
        subprocess.run(command.split(), check=True)
    return watch_dir


async def test_the_images_ffprobe_answers_as_debians_does(recordings: Path, tmp_path: Path) -> None:
    """Its own build knows a few formats of many, so each kind of recording is compared."""
    wrapper = tmp_path / "ffprobe"
    mount = f"--volume={recordings}:{recordings}:ro"
    with container(*RESTRICTED, mount, "--entrypoint=sleep", IMAGE, "600") as name:
        wrapper.write_text(f'#!/bin/sh\nexec podman exec {name} ffprobe "$@"\n')
        wrapper.chmod(0o755)
        for file in FORMATS:
            given = {"path": str(recordings / file), "timeout_seconds": 30.0}
            expected = await probe(ffprobe_path=shutil.which("ffprobe") or "ffprobe", **given)  # type: ignore[arg-type]
            assert expected.container, file
            assert expected.video_codec, file
            assert await probe(ffprobe_path=str(wrapper), **given) == expected, file  # type: ignore[arg-type]


def test_the_bill_of_materials_names_what_is_in_the_image() -> None:
    printed = podman("run", "--rm", *RESTRICTED, "--entrypoint=cat", IMAGE, "/usr/share/sbom/cef-trio.cdx.json")
    bill = json.loads(printed)
    assert (bill["metadata"]["component"]["name"], bill["metadata"]["component"]["version"]) == (
        "cef-trio",
        cef_trio.__version__,
    )
    named = {(part["name"], part["version"]) for part in bill["components"]}
    look = "dpkg-query -W -f='${Package} ${Version}\\n'; echo ffmpeg $(cat /usr/share/doc/ffprobe/version)"
    installed = podman("run", "--rm", *RESTRICTED, "--entrypoint=sh", IMAGE, "-c", look).splitlines()
    listing = "import importlib.metadata as m\nfor d in m.distributions(): print(d.name.lower(), d.version)"
    python = podman("run", "--rm", *RESTRICTED, "--entrypoint=/opt/cef-trio/bin/python", IMAGE, "-c", listing)
    found = {tuple(line.split()) for line in installed + python.replace("_", "-").splitlines()}
    assert named == found - {("cef-trio", cef_trio.__version__)}


def test_the_images_botocore_has_what_the_credentials_chain_asks() -> None:
    """Its descriptions of other services are left out."""
    make = (
        "import botocore.session\n"
        "session = botocore.session.Session()\n"
        "print(session.get_component('credential_provider') is not None)\n"
        "for name in ('sts', 'sso', 'sso-oidc', 'signin'):\n"
        "    client = session.create_client(name, region_name='eu-central-1', aws_access_key_id='a',\n"
        "                                   aws_secret_access_key='b')\n"
        "    print(client.meta.endpoint_url)\n"
    )
    printed = podman("run", "--rm", *RESTRICTED, "--entrypoint=/opt/cef-trio/bin/python", IMAGE, "-c", make)
    assert printed.split()[0] == "True"
    assert len(printed.split()) == 5
