"""An image of Debian with systemd and nothing of cef-trio, made of the image under test."""

from __future__ import annotations

import shutil
from pathlib import Path

from servers.podman import IMAGE, podman

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


def bare_image(folder: Path) -> str:
    """Build it, with ``folder`` for the build's context; returns its name."""
    context = folder / "bare"
    context.mkdir()
    (context / "Containerfile").write_text(_CONTAINERFILE)
    # The authorities by which this host reaches the package registries, as in .ci/base-image.
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", context)
    podman("build", "--network=host", "--tag", _NAME, str(context), seconds=300)
    return _NAME
