"""Images of Debian with systemd and nothing of cef-trio: machines of the newcomer, and of the Debian package."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from servers.podman import IMAGE, podman

DEBIAN_13 = "localhost/python-base:trixie-slim"
"""Debian 13, as ``.ci/base-image trixie`` makes it."""
VALKEY = "docker.io/valkey/valkey:8"
"""The image that ``deploy/quadlet`` names."""
_NAME = "localhost/cef-trio-bare-systemd"
_CONTAINERFILE = f"""
FROM {IMAGE}
USER 0
RUN apt-get update \\
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends systemd python3 init-system-helpers \\
 && rm -rf /opt/cef-trio /etc/cef-trio /var/lib/cef-trio /usr/local/bin/ffprobe \\
 && sed -i /^cef-trio:/d /etc/passwd /etc/group
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
WORKDIR /
CMD []
"""
_NAME_13 = "localhost/cef-trio-bare-systemd-13"
_CONTAINERFILE_13 = f"""
FROM {DEBIAN_13}
RUN apt-get update \\
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends systemd dbus \\
 && systemctl mask systemd-modules-load.service  # the host's kernel is not this machine's
CMD []
"""
_NAME_VALKEY = "localhost/cef-trio-valkey-stand-in"
_CONTAINERFILE_VALKEY = f"""
FROM {DEBIAN_13}
RUN apt-get update \\
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends valkey-server \\
 && install -d -o 999 -g 999 /data \\
 && printf '#!/bin/sh\\nexec /usr/bin/valkey-server --protected-mode no "$@"\\n' >/usr/local/bin/valkey-server \\
 && chmod 0755 /usr/local/bin/valkey-server
WORKDIR /data
VOLUME /data
"""


def bare_image(folder: Path) -> str:
    """Build one of the image under test, with ``folder`` for the build's context; returns its name."""
    context = folder / "bare"
    context.mkdir()
    (context / "Containerfile").write_text(_CONTAINERFILE)
    # The authorities by which this host reaches the package registries, as in .ci/base-image.
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", context)
    podman("build", "--network=host", "--tag", _NAME, str(context), seconds=300)
    return _NAME


def bare_image_13(folder: Path) -> str:
    """Build one of Debian 13, whose podman has quadlets, in the same way."""
    return _build(folder / "bare-13", _NAME_13, _CONTAINERFILE_13)


def images_of_a_registry(folder: Path) -> Path:
    """Make an archive of what a machine would pull: a base for the Containerfile, and one like Valkey's own image.

    The second has Debian's Valkey, the user and folder of Valkey's image, and no protected mode, as that.
    """
    _build(folder / "valkey", _NAME_VALKEY, _CONTAINERFILE_VALKEY)
    archive = folder / "registry.tar"
    podman("save", "--multi-image-archive", "--output", str(archive), DEBIAN_13, _NAME_VALKEY, seconds=300)
    return archive


LOAD = f"podman load --quiet --input /registry.tar\npodman tag {_NAME_VALKEY} {VALKEY}\n"
"""Shell that gives these images to podman on a machine where the archive is mounted."""


def is_here(image: str) -> bool:
    """Whether podman has an image here."""
    return shutil.which("podman") is not None and not subprocess.call(["podman", "image", "exists", image])


def _build(context: Path, name: str, containerfile: str) -> str:
    context.mkdir()
    (context / "Containerfile").write_text(containerfile)
    podman("build", "--network=host", "--tag", name, str(context), seconds=600)
    return name
