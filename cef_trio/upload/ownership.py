"""The identity of this daemon: its machine, and the current location of its watch folder (``ownership_rules.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import structlog
import trio

from cef_trio.checkpoint import Owner, StreamMeta, StreamSummary
from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.files import Disk
from cef_trio.upload.ownership_rules import Claim, claim, owner_at

log = structlog.get_logger(__name__)

_TIMEOUT_SECONDS: Final = 2.0


class Ownership:
    """This daemon's identity. Until :meth:`determine` has been called, every stream counts as ours."""

    def __init__(self, machine: str | None = None) -> None:
        self.machine = machine
        self.owner: Owner | None = None

    @property
    def name(self) -> str:
        """Our name in ``streams:by_path``; empty if there is none."""
        return self.owner.name if self.owner is not None else ""

    @property
    def is_shared(self) -> bool:
        """Whether daemons on several hosts can see the watch folder."""
        return self.owner is not None and self.owner.is_shared

    def mark_cloned(self, system: str) -> None:
        """Note that another running machine has the same identity: add this running system to ours.

        Records with the earlier identity are then not certainly ours any more.
        """
        self.machine = f"{self.machine or ''}+{system}"
        if self.owner is not None:
            self.owner = replace(self.owner, machine=self.machine)

    def claim(self, meta: StreamMeta) -> Claim:
        """Return whether a stream is ours, another's, or possibly ours."""
        return claim(meta, self.owner) if self.owner is not None else Claim.OURS

    def is_ours(self, meta: StreamMeta) -> bool:
        """Return whether a stream is certainly ours."""
        return self.claim(meta) is Claim.OURS

    def divide(self, known: Mapping[str, StreamSummary]) -> tuple[dict[str, StreamSummary], dict[str, str]]:
        """Split streams by path into those that are or may be ours, and the ids of others' streams."""
        others = {path: one.meta.stream_id for path, one in known.items() if self.claim(one.meta) is Claim.OTHER_OWNER}
        return {path: one for path, one in known.items() if path not in others}, others

    async def determine(self, disk: Disk, watch_folder: str) -> None:
        """Update the location of the watch folder, whose mount may change; keep the last one if it cannot be read."""
        if not watch_folder:
            return
        place = None
        try:
            with trio.move_on_after(_TIMEOUT_SECONDS) as scope:
                place = await disk.mount_around(f"{watch_folder.rstrip('/')}/-", within=watch_folder)
        except CefMp4ProcessorError as error:
            log.debug("watch_folder_check_failed", error=str(error))
            return
        if not scope.cancelled_caught and (place is not None or self.owner is None):
            owner = owner_at(place, self.machine)
            if self.owner is not None and owner != self.owner:
                log.warning("watch_folder_changed", was=self.owner.mount, now=owner.mount)
            self.owner = owner
