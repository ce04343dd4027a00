"""The Debian package: built, installed, upgraded, removed and purged on a machine with a real systemd.

Only where ``CEF_TRIO_IMAGE`` names an image that podman has here (CONTRIBUTING.md says how to build one): the machine
is made of it, without what it has of cef-trio. Building takes one to two minutes; ``CEF_TRIO_LONG`` builds a second
time, to compare.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.bare_machine import bare_image
from servers.daemon import settings_for
from servers.endpoints import Endpoint
from servers.podman import IMAGE
from servers.systemd_machine import Machine, machine
from servers.valkey import valkey_server
from thoroughness import only_long
from waiting import wait_until

import cef_trio

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "deploy" / "debian" / "build"
SETTINGS = "/etc/cef-trio/cef-trio.env"
pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not IMAGE, reason="CEF_TRIO_IMAGE names no image"),
    pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not here"),
]


def built(folder: Path) -> Path:
    """Build the package into a folder; returns it."""
    done = subprocess.run([BUILD, folder], check=False, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


def with_version(package: Path, version: str) -> Path:
    """Return a copy of the package with another version, as a later build has it."""
    unpacked = package.parent / version
    subprocess.run(["dpkg-deb", "--raw-extract", package, unpacked], check=True)
    control = unpacked / "DEBIAN" / "control"
    control.write_text(control.read_text().replace(f"Version: {cef_trio.__version__}-1", f"Version: {version}"))
    copy = package.with_name(f"cef-trio_{version}.deb")
    command = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(unpacked), str(copy)]
    subprocess.run(command, check=True, capture_output=True)
    return copy


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("package"))


def test_it_has_the_man_page_and_the_completion_of_each_shell(package: Path, tmp_path: Path) -> None:
    subprocess.run(["dpkg-deb", "--extract", package, tmp_path], check=True)
    share = tmp_path / "usr" / "share"
    page = gzip.decompress((share / "man" / "man1" / "cef-trio.1.gz").read_bytes())
    assert page == (ROOT / "docs" / "man" / "cef-trio.1").read_bytes()
    installed = {
        "bash": "bash-completion/completions/cef-trio",
        "zsh": "zsh/vendor-completions/_cef-trio",
        "fish": "fish/vendor_completions.d/cef-trio.fish",
    }
    for shell, file in installed.items():
        script = subprocess.run(
            [sys.executable, "-m", "cef_trio", "completion", shell], check=True, capture_output=True
        )
        assert (share / file).read_bytes() == script.stdout, shell


@pytest.fixture
def bare(tmp_path: Path, package: Path) -> Iterator[Machine]:
    """A machine without cef-trio; the package's folder is /packages."""
    watch_dir = tmp_path / "watch"
    watch_dir.mkdir(mode=0o755)
    with machine(bare_image(tmp_path), watch_dir, f"--volume={package.parent}:/packages:ro") as booted:
        booted.run("apt-get", "update", seconds=300)
        yield booted


def install(on: Machine, package: Path) -> str:
    options = [f"-o=Dpkg::Options::={option}" for option in ("--force-confold", "--force-unsafe-io")]
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *options, f"/packages/{package.name}"]
    return on.run("env", "DEBIAN_FRONTEND=noninteractive", *command, seconds=300)


def test_it_is_installed_upgraded_removed_and_purged_and_never_touches_a_recording(
    bare: Machine, package: Path, endpoint: Endpoint
) -> None:
    # Installed: nothing is started before it is configured, and what to do is printed.
    assert f"cef-trio is not started: write {SETTINGS}" in install(bare, package)
    assert bare.property("ActiveState") == "inactive"
    assert bare.run("stat", "--format=%U:%G %a", SETTINGS).strip() == "root:root 600"
    assert bare.run("id", "--name", "--user", "cef-trio").strip() == "cef-trio"
    assert bare.run("cef-trio", "--version").strip() == f"cef-trio {cef_trio.__version__}"
    changed = bare.run("sh", "-c", "dpkg --verify cef-trio || true")
    assert not [line for line in changed.splitlines() if "/usr/share/" not in line], changed  # a slim base omits these

    with valkey_server(append_only=True, tcp=True) as redis:
        soon = {"stream_timeout_seconds": 1, "stale_check_seconds": 0.2, "close_grace_seconds": 0.2}
        given = settings_for(bare.watch_dir, endpoint, redis.url, **soon) | {"WATCH_DIR": "/srv/recordings"}
        lines = "".join(f"{name}={value}\\n" for name, value in given.items())
        bare.run("sh", "-c", f"printf '{lines}' >{SETTINGS}")
        bare.run("systemctl", "enable", "--now", "cef-trio")
        (bare.watch_dir / "a.mp4").write_bytes(os.urandom(1000))
        bare.wait_for("stream_completed", file="/srv/recordings/a.mp4")

        # Upgraded while it runs: it runs again, with the settings as they were.
        before = bare.property("MainPID")
        install(bare, with_version(package, "9.1"))
        wait_until(lambda: bare.property("ActiveState") == "active")
        assert bare.property("MainPID") != before
        (bare.watch_dir / "b.mp4").write_bytes(os.urandom(1000))
        bare.wait_for("stream_completed", file="/srv/recordings/b.mp4")

        # Upgraded while it is stopped: it stays stopped.
        bare.run("systemctl", "stop", "cef-trio")
        install(bare, with_version(package, "9.2"))
        assert bare.property("ActiveState") == "inactive"
        assert "9.2" in bare.run("dpkg-query", "--show", "cef-trio")

        # Removed while it runs: stopped in good order, and the settings stay.
        bare.run("systemctl", "start", "cef-trio")
        bare.run("apt-get", "remove", "--yes", "cef-trio", seconds=300)
        assert bare.property("ActiveState") == "inactive"
        assert "S3_BUCKET_NAME" in bare.run("cat", SETTINGS)
        assert bare.run("sh", "-c", "ls -d /opt/cef-trio /usr/bin/cef-trio 2>/dev/null || true") == ""

    # Purged: nothing is left but the user, who may own files, and the recordings.
    bare.run("dpkg", "--purge", "cef-trio")
    look = "ls -d /etc/cef-trio /etc/systemd/system/multi-user.target.wants/cef-trio.service 2>/dev/null || true"
    assert bare.run("sh", "-c", look) == ""
    assert sorted(path.name for path in bare.watch_dir.iterdir()) == ["a.mp4", "b.mp4"]


@pytest.mark.skipif(shutil.which("lintian") is None, reason="lintian is not here")
def test_lintian_finds_no_error(package: Path) -> None:
    command = ["lintian", "--fail-on=error", "--allow-root", str(package)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout


@only_long("it builds the package twice")
def test_two_builds_are_byte_identical(package: Path, tmp_path: Path) -> None:
    assert built(tmp_path).read_bytes() == package.read_bytes()
