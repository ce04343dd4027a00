"""Identity of the machine and of its current boot. Blocks, for local files only.

The machine id is hashed, as machine-id(5) requires, so that readers of Redis cannot see it. A container has no
machine id unless the host's is mounted into it, as ``deploy/`` does.

An id of zeros is none (sd_id128_is_null(3)): images are made with it, and every copy would be one machine.

If ``/etc`` cannot be written, systemd makes a machine id for each boot, in ``/run/machine-id``, and mounts it over
``/etc/machine-id`` (machine-id(5)). That one does not last, so it counts as none, also in a container.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Final

from cef_trio.exceptions import is_shortage

_MACHINE_IDS: Final = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_MOUNTS: Final = Path("/proc/self/mountinfo")
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
UNKNOWN_BOOT: Final = "unknown"
"""What ``boot_id`` returns if the id cannot be read: two such systems cannot be told apart."""
LET_READ_BOOT_ID: Final = f"let the daemon read {_BOOT_ID}: no ProcSubset=pid in its unit"
"""The remedy."""
_ID: Final = re.compile(r"(?!0{32})[0-9a-f]{32}")


def machine_id() -> str | None:
    """Return a hash of the machine id; ``None`` if there is none that lasts."""
    mountinfo = _read_line(_MOUNTS)
    for path in _MACHINE_IDS:
        found = _read_line(path)
        if _ID.fullmatch(found) and not is_of_this_boot(mountinfo, os.path.realpath(path)):
            return hashlib.sha256(f"cef-trio {found}".encode()).hexdigest()[:16]
    return None


def is_of_this_boot(mountinfo: str, path: str) -> bool:
    """Return whether systemd's machine id for one boot is mounted at ``path``. Pure.

    ``mountinfo``: the text of ``/proc/self/mountinfo`` (proc(5)).
    """
    found = False
    for line in mountinfo.splitlines():
        place, _, source = line.partition(" - ")
        fields = place.split(" ")
        if fields[4:5] == [path]:  # of several mounts on one point the last is the topmost
            found = fields[3] == "/machine-id" and source.startswith("tmpfs ")
    return found


def boot_id() -> str:
    """Return the id of the kernel's current boot, or ``UNKNOWN_BOOT``. Containers share their host's."""
    return _read_line(_BOOT_ID).replace("-", "")[:12] or UNKNOWN_BOOT


def _read_line(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        if is_shortage(error):  # another machine than it is would be an owner without streams
            raise
        return ""
