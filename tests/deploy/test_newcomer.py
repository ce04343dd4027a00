"""The newcomer's protocol: each command of README.md and docs/operations.md, in order, on a fresh machine.

A machine is a container of Debian with systemd as process 1 and a clone, nothing else. Only where ``CEF_TRIO_IMAGE``
names an image (its base is what the machines are made of) and ``CEF_TRIO_LONG`` is set: each takes some minutes. The
output is kept in the folder that ``CEF_TRIO_NEWCOMER`` names, a file for each machine::

    CEF_TRIO_NEWCOMER=/tmp/protocol CEF_TRIO_LONG=1 CEF_TRIO_IMAGE=… .ci/test tests/deploy/test_newcomer.py

Only what a person would fill in is replaced: addresses, credentials, an id; Valkey is Debian 12's Redis, as the page
says.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.bare_machine import bare_image
from servers.endpoints import Endpoint
from servers.page_commands import MACHINES, ROOT, Block, blocks, blocks_of
from servers.podman import IMAGE, podman
from servers.recordings import make
from servers.systemd_machine import LOG_IN, Machine, machine
from servers.valkey import ValkeyServer
from waiting import wait_until

LONG = os.environ.get("CEF_TRIO_LONG")
SECONDS = 900.0
"""How long a block may take: installations."""
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
    """A person at a fresh machine, who types what the pages say; ``protocol`` is the output."""

    def __init__(self, at: Machine, endpoint: Endpoint, redis_url: str, protocol: Path) -> None:
        self._at = at
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
            "valkey-server": "redis-server",
            "valkey-cli": "redis-cli",
            "cef-trio status --watch ": f"(timeout {WATCH_SECONDS} cef-trio status --watch || test $? = 124) ",
            "verify ID": "verify $(cef-trio list --state completed --json | grep -oE '[0-9a-f-]{36}' | head -1)",
        }
        for old, new in given.items():
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
def fresh(tmp_path: Path) -> Iterator[Machine]:
    """A machine with a clone in /clone and a recording in /srv/recordings."""
    watch_dir = tmp_path / "watch"
    watch_dir.mkdir(mode=0o755)
    make(watch_dir / "a.mp4", "plain", seconds=1)
    archive = tmp_path / "clone.tar"
    subprocess.run(["git", "-C", str(ROOT), "archive", f"--output={archive}", "HEAD"], check=True)
    with machine(bare_image(tmp_path), watch_dir, f"--volume={archive}:/clone.tar:ro") as booted:
        booted.run("sh", "-c", "mkdir /clone && tar -C /clone -xf /clone.tar")
        booted.run("sh", "-c", "echo 'APT::Get::Assume-Yes \"true\";' >/etc/apt/apt.conf.d/yes")
        booted.run("sh", "-c", "echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/quick")
        # Debian's Redis wants a user namespace of its own, which a nested container does not give (217/USER).
        redis = "/etc/systemd/system/redis-server.service.d"
        booted.run("sh", "-c", f"mkdir {redis} && printf '[Service]\\nPrivateUsers=no\\n' >{redis}/nested.conf")
        booted.run("apt-get", "update", seconds=300)
        yield booted


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not (IMAGE and LONG), reason="only with CEF_TRIO_IMAGE and CEF_TRIO_LONG")
@pytest.mark.parametrize("name", MACHINES)
def test_a_newcomer_types_what_the_pages_say_and_all_of_it_works(
    name: str, fresh: Machine, endpoint: Endpoint, valkey: ValkeyServer, tmp_path: Path
) -> None:
    client = endpoint.client()
    if "recordings" not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket="recordings")  # as the pages call it
    client.close()
    (tmp_path / "ask").write_text(ASK_PASSWORD.format(access=endpoint.access_key, secret=endpoint.secret_key))
    podman("cp", str(tmp_path / "ask"), f"{fresh.name}:/usr/local/sbin/systemd-ask-password")
    fresh.run("chmod", "+x", "/usr/local/sbin/systemd-ask-password")
    protocol = Path(os.environ.get("CEF_TRIO_NEWCOMER", tmp_path)) / f"{name}.txt"
    protocol.parent.mkdir(parents=True, exist_ok=True)
    protocol.write_text("")
    newcomer = Newcomer(fresh, endpoint, valkey.url, protocol)
    for block in blocks():
        if block.machine == name:
            newcomer.types(block)
