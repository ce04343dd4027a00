"""Which machine this is: what is told of it, in a container too. Blocks for local files only.

The machine's id is hashed, as machine-id(5) asks, so that it is not told to whoever reads Redis. A container has none
of its own; where its host's is mounted into it (``deploy/`` does), it has the host's.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Final

_MACHINE_IDS: Final = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_ID: Final = re.compile(r"[0-9a-f]{32}")


def machine_id() -> str | None:
    """A hash of the machine's lasting id; ``None`` where none is told."""
    for path in _MACHINE_IDS:
        found = _read_line(path)
        if _ID.fullmatch(found):
            return hashlib.sha256(f"cef-trio {found}".encode()).hexdigest()[:16]
    return None


def boot_id() -> str:
    """What no other kernel that runs has, nor this machine's after its next start: a container has its host's."""
    return _read_line(_BOOT_ID).replace("-", "")[:12] or "unknown"


def _read_line(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
