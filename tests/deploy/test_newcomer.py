"""The newcomer's protocol: each command of README.md and docs/operations.md, in order, on a fresh machine.

A machine is a container of Debian with systemd as process 1 and a clone, nothing else. Only where ``CEF_TRIO_IMAGE``
names an image (its base is what the machines are made of) and ``CEF_TRIO_LONG`` is set: each takes some minutes. The
one with podman is Debian 13, and needs what ``.ci/base-image trixie`` makes. The output is kept in the folder that
``CEF_TRIO_NEWCOMER`` names, a file for each machine::

    CEF_TRIO_NEWCOMER=/tmp/protocol CEF_TRIO_LONG=1 CEF_TRIO_IMAGE=… .ci/test tests/deploy/test_newcomer.py

Only what a person would fill in is replaced: addresses, credentials, an id; on Debian 12 Valkey is Redis, as the page
says; images are loaded from an archive instead of a registry. ``NESTED`` are files that a machine needs because it is
a container itself.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from servers.bare_machine import DEBIAN_13, LOAD, bare_image, bare_image_13, images_of_a_registry, is_here
from servers.endpoints import Endpoint
from servers.page_commands import MACHINES, ROOT, Block, blocks, blocks_of
from servers.podman import IMAGE, podman
from servers.recordings import make
from servers.systemd_machine import LOG_IN, Machine, machine
from servers.tcp_proxy import TcpProxy
from servers.valkey import ValkeyServer
from thoroughness import LONG
from waiting import wait_until

SECONDS = 1800.0
"""How long a block may take: installations, a build of the image."""
WATCH_SECONDS = 5
READY = re.compile(r"daemon_started|status page", re.IGNORECASE)
"""What a daemon in the background prints when it works, in the log or for people."""
SHELL = """set -eo pipefail
[ ! -e /tmp/environment ] || . /tmp/environment
cd "$(cat /tmp/folder 2>/dev/null || echo /clone)"
{commands}
[ $? = 0 ] || exit 1
declare -px >/tmp/environment
pwd >/tmp/folder
"""
NESTED = {
    # Debian's Redis wants a user namespace of its own, which a nested container does not give (217/USER).
    "/etc/systemd/system/redis-server.service.d/nested.conf": "[Service]\nPrivateUsers=no\n",
    # This container's limits are lower than podman's defaults.
    "/etc/containers/containers.conf.d/nested.conf": (
        '[containers]\ndefault_ulimits = ["nofile=20000:20000", "nproc=16384:16384"]\n'
    ),
    # podman cannot split the unit's control group where it is a nested one of version 1.
    "/etc/containers/systemd/cef-trio.container.d/nested.conf": "[Container]\nPodmanArgs=--cgroups=enabled\n",
    "/etc/containers/systemd/cef-trio-valkey.container.d/nested.conf": "[Container]\nPodmanArgs=--cgroups=enabled\n",
    # Without a person at the terminal.
    "/etc/apt/apt.conf.d/yes": 'APT::Get::Assume-Yes "true";\n',
    "/etc/dpkg/dpkg.cfg.d/quick": "force-unsafe-io\n",
}
ASK_PASSWORD = """#!/bin/sh
case "$*" in
    *REDIS*) printf redis://localhost:6379/0 ;;
    *[Ss]ecret*) printf {secret} ;;
    *) printf {access} ;;
esac
"""


# -- the pages ---------------------------------------------------------------------------------------------------------


def test_each_block_of_commands_is_run_by_the_protocol_or_says_why_not() -> None:
    for block in blocks():
        assert block.machine in MACHINES or block.reason, f"{block.place}: no comment before it: {block.text}"
    assert {block.machine for block in blocks()} == {*MACHINES, ""}


def test_the_reader_of_pages_sees_marks_and_their_lack() -> None:
    fence = "```"
    text = f"x\n\n<!-- run: clone -->\n{fence}sh\na\n{fence}\n\n  <!-- not run: why -->\n  {fence}sh\n  b\n  {fence}\n"
    first, second, third = blocks_of("page", f"{text}\n{fence}sh\nc\n{fence}\n")
    assert (first.machine, first.text, first.line) == ("clone", "a\n", 4)
    assert (second.machine, second.reason, second.text) == ("", "why", "b\n")
    assert (third.machine, third.reason) == ("", "")


# -- the machines ------------------------------------------------------------------------------------------------------


class Newcomer:
    """A person at a fresh machine, who types what the pages say; ``protocol`` is the output.

    ``here``: texts of the pages, and what they are on this machine.
    """

    def __init__(
        self, at: Machine, here: Mapping[str, str], endpoint: Endpoint, redis_url: str, protocol: Path
    ) -> None:
        self._at = at
        self._here = dict(here)
        self._endpoint = endpoint
        self._redis_url = redis_url
        self._protocol = protocol

    def types(self, block: Block) -> None:
        """Execute a block, and wait for its end; its last command may go on in the background."""
        commands = self._filled_in(block.text)
        if not block.in_background:
            self._shell(block, commands)
            return
        *before, last = commands.splitlines()
        self._shell(block, "\n".join(before))
        self._stop_background()
        self._shell(block, f"nohup {last} >/tmp/background 2>&1 & echo $! >/tmp/background.pid")
        wait_until(lambda: READY.search(self._background()), otherwise=lambda: f"{last}: {self._background()}")
        self._write(f"# in the background:\n{self._background()}\n")

    def _filled_in(self, text: str) -> str:
        given = {
            "https://s3.example.com": self._endpoint.url,
            "SECRET_ACCESS_KEY=…": f"SECRET_ACCESS_KEY={self._endpoint.secret_key}",
            "ACCESS_KEY_ID=…": f"ACCESS_KEY_ID={self._endpoint.access_key}",
            "export REDIS_URL=redis://localhost:6379/0": f"export REDIS_URL={self._redis_url}",
            "/path/to/recordings": "/srv/recordings",
            "cef-trio status --watch ": f"(timeout {WATCH_SECONDS} cef-trio status --watch || test $? = 124) ",
            "verify ID": "verify $(cef-trio list --state completed --json | grep -oE '[0-9a-f-]{36}' | head -1)",
        }
        for old, new in (given | self._here).items():
            text = text.replace(old, new)
        return text

    def _shell(self, block: Block, commands: str) -> None:
        script = SHELL.format(commands=commands)
        command = ["podman", "exec", self._at.name, *LOG_IN, "bash", "-c", script]
        done = subprocess.run(
            command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS
        )
        self._write(f"## {block.place}\n{commands}\n# exit code {done.returncode}\n{done.stdout}\n")
        if done.returncode != 0:
            log = self._at.run("sh", "-c", "journalctl --no-pager --unit=cef-trio | tail -n 40")
            self._write(f"# the journal\n{log}\n")
            pytest.fail(f"{block.place}: {done.stdout[-3000:]}{log}")

    def _background(self) -> str:
        return self._at.run("sh", "-c", "cat /tmp/background 2>/dev/null || true")

    def _stop_background(self) -> None:
        stop = "[ ! -e /tmp/background.pid ] || { kill $(cat /tmp/background.pid); sleep 10; rm /tmp/background*; }"
        self._at.run("sh", "-c", stop)

    def _write(self, text: str) -> None:
        with self._protocol.open("a") as file:
            file.write(text)


@pytest.fixture
def fresh(name: str, endpoint: Endpoint, tmp_path: Path) -> Iterator[tuple[Machine, Mapping[str, str]]]:
    """A machine with a clone in /clone and a recording in /srv/recordings; what it needs other texts for."""
    watch_dir = tmp_path / "watch"
    watch_dir.mkdir(mode=0o755)
    make(watch_dir / "a.mp4", "plain", seconds=1)
    archive = tmp_path / "clone.tar"
    subprocess.run(["git", "-C", str(ROOT), "archive", f"--output={archive}", "HEAD"], check=True)
    clone = f"--volume={archive}:/clone.tar:ro"
    with ExitStack() as opened:
        if name == "podman":
            if not is_here(DEBIAN_13):
                pytest.skip(f"{DEBIAN_13} is not here (.ci/base-image trixie)")
            # Containers reach this host by the address of their bridge, not by the loopback.
            s3 = opened.enter_context(TcpProxy(int(endpoint.url.rpartition(":")[2]), "0.0.0.0").running())
            build = f"podman build --network=host --build-arg BASE={DEBIAN_13} --format docker"
            here = {
                endpoint.url: f"http://host.containers.internal:{s3.port}",
                "podman build --format docker": f"{LOAD}{build}",
            }
            images = f"--volume={images_of_a_registry(tmp_path)}:/registry.tar:ro"
            options = ("--privileged", "--cgroupns=private", "--volume=/var/lib/containers", images, clone)
            booted = opened.enter_context(machine(bare_image_13(tmp_path), watch_dir, *options, writable=True))
            # The machine's network is this host's.
            leave = (
                "systemctl stop cef-trio cef-trio-valkey; podman network rm -f cef-trio; nft delete table inet netavark"
            )
            opened.callback(booted.run, "sh", "-c", f"{{ {leave}; }} >/dev/null 2>&1 || true")
        else:
            here = {"valkey-server": "redis-server", "valkey-cli": "redis-cli"}
            booted = opened.enter_context(machine(bare_image(tmp_path), watch_dir, clone))
        booted.run("sh", "-c", "mkdir /clone && tar -C /clone -xf /clone.tar")
        for path, text in NESTED.items():
            booted.run("sh", "-c", f"mkdir -p $(dirname {path}) && printf '%s' '{text}' >{path}")
        booted.run("apt-get", "update", seconds=300)
        yield booted, here


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not (IMAGE and LONG), reason="only with CEF_TRIO_IMAGE and CEF_TRIO_LONG")
@pytest.mark.parametrize("name", MACHINES)
def test_a_newcomer_types_what_the_pages_say_and_all_of_it_works(
    name: str, fresh: tuple[Machine, Mapping[str, str]], endpoint: Endpoint, valkey: ValkeyServer, tmp_path: Path
) -> None:
    at, here = fresh
    client = endpoint.client()
    if "recordings" not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket="recordings")  # as the pages call it
    client.close()
    (tmp_path / "ask").write_text(ASK_PASSWORD.format(access=endpoint.access_key, secret=endpoint.secret_key))
    podman("cp", str(tmp_path / "ask"), f"{at.name}:/usr/local/sbin/systemd-ask-password")
    at.run("chmod", "+x", "/usr/local/sbin/systemd-ask-password")
    protocol = Path(os.environ.get("CEF_TRIO_NEWCOMER", tmp_path)) / f"{name}.txt"
    protocol.parent.mkdir(parents=True, exist_ok=True)
    protocol.write_text("")
    newcomer = Newcomer(at, here, endpoint, valkey.url, protocol)
    for block in blocks():
        if block.machine == name:
            newcomer.types(block)
