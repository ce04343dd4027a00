"""Say which files a command waits for, before its work begins. Standard library only.

The settings file, a file of a secret or of certificates, or the systemd unit may be on a mount that hangs. The call
that waits cannot be interrupted, so a thread prints the line; trio does not run yet.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

PATIENCE_SECONDS: Final = 5.0


@contextmanager
def notice_if_slow(what: str, *, patience_seconds: float | None = None) -> Iterator[None]:
    """Print one line on standard error if the block has not ended after ``patience_seconds`` (5)."""
    block = threading.Lock()
    seconds = PATIENCE_SECONDS if patience_seconds is None else patience_seconds

    def wait() -> None:
        if not block.acquire(timeout=seconds):  # held until the block ends
            sys.stderr.write(f"cef-trio: still waiting for {what}: a mount may hang\n")
            sys.stderr.flush()

    with block:
        threading.Thread(target=wait, daemon=True).start()
        yield
