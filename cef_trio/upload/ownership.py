"""The identity of this daemon: its machine, and the current location of its watch folder (``ownership_rules.py``).

Of several folders the first one's location counts, so that a recording may move between them. A folder of the other
kind has an owner of its own: what hosts share is not what one of them has for itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import structlog
import trio

from cef_trio.checkpoint import Owner, StreamMeta, StreamSummary
from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.files import Disk, FolderMount, root_of
from cef_trio.upload.ownership_rules import Claim, claim, cloned, owner_at

log = structlog.get_logger(__name__)

_TIMEOUT_SECONDS: Final = 2.0


class Ownership:
    """This daemon's identity. Until :meth:`determine` has been called, every stream counts as ours."""

    def __init__(self, machine: str | None = None) -> None:
        self.machine = machine
        self.owner: Owner | None = None
        """The owner of the first folder, and of all that are like it: shared by hosts, or local."""
        self._unlike: dict[str, Owner] = {}
        """The owners of the other folders."""
        self._devices: dict[str, int] = {}
        """The device number of each folder that was there at the last :meth:`determine`."""

    def owner_of(self, path: str) -> Owner | None:
        """Return the owner to record for a stream of the file at ``path``; ``None``: not known yet."""
        folder = root_of(path, self._unlike)
        return self.owner if folder is None else self._unlike[folder]

    def name_at(self, path: str) -> str:
        """Return our name in ``streams:by_path`` for a path; empty if there is none."""
        owner = self.owner_of(path)
        return owner.name if owner is not None else ""

    def is_shared_at(self, path: str) -> bool:
        """Return whether daemons on several hosts can see a path."""
        owner = self.owner_of(path)
        return owner is not None and owner.is_shared

    @property
    def is_shared(self) -> bool:
        """Whether daemons on several hosts can see the first folder."""
        return self.owner is not None and self.owner.is_shared

    @property
    def shares_any(self) -> bool:
        """Whether daemons on several hosts can see one of the folders."""
        return self.is_shared or any(owner.is_shared for owner in self._unlike.values())

    def knows_device(self, file_dev: int) -> bool:
        """Return whether a file's device is that of a folder, as they were at the last :meth:`determine`."""
        return file_dev in self._devices.values()

    def mark_cloned(self, system: str) -> None:
        """Note that another running machine has the same identity: add this running system to ours.

        Records with the earlier identity are then not certainly ours any more.
        """
        self.machine = cloned(Owner(self.machine), system).machine
        if self.owner is not None:
            self.owner = replace(self.owner, machine=self.machine)
        self._unlike = {folder: replace(owner, machine=self.machine) for folder, owner in self._unlike.items()}

    def claim(self, meta: StreamMeta) -> Claim:
        """Return whether a stream is ours, another's, or possibly ours."""
        owner = self.owner_of(meta.current_path)
        if owner is None or (owner is not self.owner and self._recorded_for_all(meta)):
            return Claim.OURS
        return claim(meta, owner)

    def _recorded_for_all(self, meta: StreamMeta) -> bool:
        """Whether this host recorded the first folder's location for a stream of another one, as it did before."""
        return self.machine is not None and meta.owner is not None and meta.owner == self.owner

    def is_ours(self, meta: StreamMeta) -> bool:
        """Return whether a stream is certainly ours."""
        return self.claim(meta) is Claim.OURS

    def divide(self, known: Mapping[str, StreamSummary]) -> tuple[dict[str, StreamSummary], dict[str, str]]:
        """Split streams by path into those that are or may be ours, and the ids of others' streams."""
        others = {path: one.meta.stream_id for path, one in known.items() if self.claim(one.meta) is Claim.OTHER_OWNER}
        return {path: one for path, one in known.items() if path not in others}, others

    async def determine(self, disk: Disk, folders: Sequence[str]) -> None:
        """Update the locations of the watch folders, whose mounts may change; keep those that cannot be read now."""
        found: dict[str, FolderMount | None] = {}
        with trio.move_on_after(_TIMEOUT_SECONDS):
            for folder in folders:
                try:
                    found[folder] = await disk.mount_around(f"{folder.rstrip('/')}/-", within=folder)
                except CefMp4ProcessorError as error:
                    log.debug("watch_folder_check_failed", error=str(error))
        for folder, place in found.items():
            if place is None:
                self._devices.pop(folder, None)
            else:
                self._devices[folder] = place.file_dev
            if folder == folders[0]:
                self._update_first(place)
            elif place is not None:
                self._update_other(folder, owner_at(place, self.machine))

    def _update_first(self, place: FolderMount | None) -> None:
        if place is None and self.owner is not None:
            return
        owner = owner_at(place, self.machine)
        if self.owner is not None and owner != self.owner:
            log.warning("watch_folder_changed", was=self.owner.mount, now=owner.mount)
        self.owner = owner

    def _update_other(self, folder: str, owner: Owner) -> None:
        if owner.is_shared is self.is_shared:
            self._unlike.pop(folder, None)
        else:
            self._unlike[folder] = owner
