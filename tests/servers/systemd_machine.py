"""A machine with a real systemd: a container whose process 1 it is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from servers.podman import container, podman
from waiting import wait_until

_BOOT = ["sh", "-c", "mount --make-rshared / && exec /lib/systemd/systemd"]
"""systemd shares mounts at its start, but in a container it leaves that to the manager; podman does not. Without it the
folder of LoadCredential=, which a helper mounts in a namespace of its own, is empty and closed to the service."""
LOG_IN = (
    "env",
    "--ignore-environment",
    "HOME=/root",
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
)
"""What gives a command the environment in which a person starts, without that of the machine's image."""


class Machine:
    """A container whose process 1 is systemd; ``watch_dir`` is the folder that its service cef-trio watches."""

    def __init__(self, name: str, watch_dir: Path) -> None:
        self.name = name
        self.watch_dir = watch_dir

    def run(self, *command: str, seconds: float = 60.0) -> str:
        return podman("exec", self.name, *command, seconds=seconds)

    def events(self) -> list[Mapping[str, Any]]:
        lines = self.run("journalctl", "--unit=cef-trio", "--output=cat", "--no-pager", "--all").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def wait_for(self, event: str, **fields: object) -> Mapping[str, Any]:
        def found() -> list[Mapping[str, Any]]:
            return [entry for entry in self.events() if {"event": event, **fields}.items() <= entry.items()]

        wait_until(found, otherwise=lambda: f"no {event!r} with {fields} in {self.events()}")
        return found()[0]

    def property(self, name: str) -> str:
        return self.run("systemctl", "show", "--value", f"--property={name}", "cef-trio").strip()


@contextmanager
def machine(image: str, watch_dir: Path, *options: str, writable: bool = False) -> Iterator[Machine]:
    """Boot a container of an image that has systemd, in the host's network.

    ``watch_dir`` is mounted at /srv/recordings, read-only unless ``writable``; ``options`` are those of ``podman run``.
    """
    mount = f"--volume={watch_dir}:/srv/recordings:{'rw' if writable else 'ro'}"
    boot = ("--systemd=always", "--cap-add=SYS_ADMIN", f"--entrypoint={json.dumps(_BOOT)}")
    with container(*boot, "--network=host", mount, *options, image) as name:
        wait_until(
            lambda: "running" in podman("exec", name, "sh", "-c", "systemctl is-system-running 2>/dev/null || true")
        )
        yield Machine(name, watch_dir)
