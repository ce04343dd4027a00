"""Identity of the machine and of its current boot. Blocks, for local files only.

The machine id is hashed, as machine-id(5) requires, so that readers of Redis cannot see it. A container has no
machine id unless the host's is mounted into it, as ``deploy/`` does.
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
    """Return a hash of the machine id; ``None`` if there is none."""
    for path in _MACHINE_IDS:
        found = _read_line(path)
        if _ID.fullmatch(found):
            return hashlib.sha256(f"cef-trio {found}".encode()).hexdigest()[:16]
    return None


def boot_id() -> str:
    """Return the id of the kernel's current boot (``unknown`` if it cannot be read). Containers share their host's."""
    return _read_line(_BOOT_ID).replace("-", "")[:12] or "unknown"


def _read_line(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
