"""A recording that grows on the real clock: random blocks, and sometimes a patch of earlier bytes.

It records its patches, so that the oracle knows which parts had to be sent again. Its writes are in worker threads.
"""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from cef_trio.lab.kill_oracle import Patch

_PATCHED: Final = 0.1
"""Probability that a block is followed by a patch of earlier bytes."""


@dataclass(slots=True)
class GrowingRecording:
    """A file of ``target_bytes`` or a little more; ``size_bytes`` and ``patches``: what is written so far."""

    path: Path
    target_bytes: int
    size_bytes: int = 0
    ended: bool = False
    patches: list[Patch] = field(default_factory=list)

    async def write(self, dice: random.Random) -> None:
        """Write the file. On cancellation it is closed as it is.

        Raises:
            OSError: the file exists, or cannot be written.
        """
        with self.path.open("xb", buffering=0) as file:
            while self.size_bytes < self.target_bytes:
                block = dice.randbytes(dice.randrange(64 << 10, 512 << 10))
                self.size_bytes += await trio.to_thread.run_sync(os.pwrite, file.fileno(), block, self.size_bytes)
                if dice.random() < _PATCHED:
                    patch, offset = dice.randbytes(dice.randrange(1, 4096)), dice.randrange(self.size_bytes)
                    patch = patch[: self.size_bytes - offset]
                    await trio.to_thread.run_sync(os.pwrite, file.fileno(), patch, offset)
                    self.patches.append(Patch(time.time(), offset, offset + len(patch)))
                await trio.sleep(dice.uniform(0.02, 0.12))
        self.ended = True
