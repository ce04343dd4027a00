"""A host: mount and network namespaces of its own, so that several of them have one path for different disks.

    host = Host("one", settings, ["mount -t tmpfs none /srv/recordings"], has_network=True)
    with host.connected("REDIS_URL", "S3_ENDPOINT_URL"), host.daemon() as process:
        host.cut_link()

What is mounted stays while the host's daemon does not run. Files are written, and looked at, through
``/proc/<pid>/root``. It needs root; a test is skipped where that cannot be.
"""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from servers.daemon import DaemonProcess, daemon
from servers.tcp_proxy import TcpProxy

_NUMBERS = itertools.count()


def require_namespaces(*more: str) -> None:
    """Skip the test where no namespaces can be made; ``more``: further arguments of unshare(1)."""
    unshare = shutil.which("unshare")
    if os.geteuid() != 0 or unshare is None:
        pytest.skip("namespaces need root and unshare(1)")
    command = [unshare, "-m", *more, "mount", "-t", "tmpfs", "none", "/mnt"]
    if subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("this machine permits no mount in an own namespace")


class Host:
    """A host; ``folder`` is its watch folder as this process reaches it."""

    def __init__(
        self, name: str, settings: Mapping[str, str], mounts: Sequence[str], *, has_network: bool = False
    ) -> None:
        self.name = name
        self.settings = dict(settings)
        script = "; ".join(
            ["mount --make-rprivate /", *mounts, "echo mounted", "exec cat"]
        )  # cat ends with this process
        own = ["-m", *(["-n"] if has_network else [])]
        self._holder = subprocess.Popen(
            ["unshare", *own, "sh", "-ec", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "mounted\n"
        self.folder = Path(f"/proc/{self._holder.pid}/root{self.settings['WATCH_DIR']}")
        self._link = f"cef{self._holder.pid}"
        self._enter = ["nsenter", f"--target={self._holder.pid}", "--mount", *(["--net"] if has_network else [])]

    def close(self) -> None:
        # A FUSE server is in the namespace itself, and ends when its file system is unmounted.
        subprocess.run([*self._enter, "umount", "-l", self.settings["WATCH_DIR"]], check=True)
        self._holder.communicate()

    @contextmanager
    def daemon(self, *, wait_started: bool = True) -> Iterator[DaemonProcess]:
        """Its daemon."""
        with daemon(self.settings, under=self._enter, wait_started=wait_started) as process:
            yield process

    @contextmanager
    def connected(self, *variables: str) -> Iterator[None]:
        """Connect it by a link of its own to the servers that these settings lead to, which listen on the loopback."""
        number = (os.getpid() + next(_NUMBERS)) % 60_000
        here, there = (f"10.{200 + number // 250 % 50}.{number % 250}.{end}" for end in (1, 2))
        holder = str(self._holder.pid)
        _ip("link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", holder)
        with ExitStack() as links:
            links.callback(subprocess.run, ["ip", "link", "delete", self._link], check=False, stderr=-3)
            _ip("address", "add", f"{here}/24", "dev", self._link)
            _ip("link", "set", self._link, "up")
            for command in (f"address add {there}/24 dev eth0", "link set eth0 up", "link set lo up"):
                subprocess.run([*self._enter, "ip", *shlex.split(command)], check=True)
            for variable in variables:
                url = urlsplit(self.settings[variable])
                assert url.port is not None
                proxy = links.enter_context(TcpProxy(url.port, address=here).running())
                self.settings[variable] = url._replace(netloc=f"{here}:{proxy.port}").geturl()
            yield

    def cut_link(self) -> None:
        """Cut its link: what it sends, and what is sent to it, is lost without a word."""
        _ip("link", "set", self._link, "down")

    def mend_link(self) -> None:
        """Mend its link; open connections go on, if both sides still wait."""
        _ip("link", "set", self._link, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
