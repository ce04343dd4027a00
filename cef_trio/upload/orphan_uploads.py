"""Adopt uploads that S3 has and Redis does not know, because Redis lost a record or never got it.

At the start, and whenever Redis turns out to have forgotten a stream, the open uploads under our prefix are listed. A
key *proposes* the files whose key it may be (``object_key.py``); the bytes *decide*: an upload is adopted for a file
only if at least one of its parts equals, byte for byte, a part of that file. An upload that fits no file is left to
``cef-trio gc`` (promise P5).

Several files of one name may fit one upload, and a copy has the same bytes, so one task at a time compares. A claimed
upload, and one of a stream that has a task, is not proposed again, even if Redis has no record of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog
import trio

from cef_trio.checkpoint import PartRecord
from cef_trio.exceptions import S3OperationError
from cef_trio.files import OpenRecording
from cef_trio.s3 import ListedUpload
from cef_trio.upload.object_key import ProposedStream
from cef_trio.upload.part_matching import matching_parts, plan_of, upload_checksum_algorithm
from cef_trio.upload.part_plan import PartPlan
from cef_trio.upload.services import Services

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Proposal:
    """An open upload that Redis does not know."""

    upload: ListedUpload
    proposed: ProposedStream


@dataclass(frozen=True, slots=True)
class AdoptedUpload:
    """An upload whose parts were found to be a file's, and these parts."""

    stream_id: str
    upload: ListedUpload
    plan: PartPlan
    checksum_algorithm: str
    parts: tuple[PartRecord, ...]


class OrphanUploads:
    """The open uploads under our prefix that Redis does not know and no task has claimed."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._proposals: list[Proposal] = []
        self._claimed: set[str] = set()
        """Ids of streams that tasks of this daemon are about to create for a claimed upload."""
        self._comparing = trio.Lock()

    async def list_unknown(self, live_ids: Callable[[], frozenset[str]] = frozenset) -> bool:
        """List the uploads, except those of the streams in ``live_ids``, which have a task.

        Returns:
            Whether that is done. If not, S3 cannot list now (``best_effort.py``): recordings are uploaded from the
            beginning meanwhile, and their earlier uploads are left to ``cef-trio gc``. If S3 refuses to list, that is
            logged and counts as done, and nothing is adopted.

        Raises:
            S3OperationError: S3 is unavailable.
            RedisOperationError: Redis is unavailable.
        """
        template = self._services.rules.key_template
        try:
            uploads = await self._services.attempt(
                "list_multipart_uploads", lambda: self._services.s3.list_multipart_uploads(template.prefix)
            )
        except S3OperationError as error:
            if error.transient:
                raise
            log.warning("orphan_adoption_disabled", error=str(error))
            return True
        if uploads is None:
            return False
        found = [Proposal(upload, proposed) for upload in uploads if (proposed := template.parse(upload.key))]
        known = await self._services.store.load_metas({proposal.proposed.stream_id for proposal in found})
        owned = known.keys() | known.unreadable.keys()  # an unreadable record keeps its upload
        owned |= await self._services.known_elsewhere({one.proposed.stream_id for one in found} - owned)
        # Evaluated after the last await, because a task may have claimed an upload during it.
        owned |= self._claimed | live_ids()
        self._proposals = [proposal for proposal in found if proposal.proposed.stream_id not in owned]
        if self._proposals:
            log.info("unknown_uploads_found", uploads=len(self._proposals))
        return True

    def may_fit(self, path: str) -> bool:
        """Return whether any upload may be of that file, by its key."""
        return any(proposal.proposed.fits(path) for proposal in self._proposals)

    async def claim(self, path: str, recording: OpenRecording) -> AdoptedUpload | None:
        """Claim and return the upload that shares most bytes with the file, or ``None``.

        Call :meth:`release` when its record was written, or when no stream was created for it.
        """
        rules = self._services.rules
        expected = PartPlan.of(rules)
        best: AdoptedUpload | None = None
        async with self._comparing:  # another file of that name waits, and may claim what is left
            for proposal in [proposal for proposal in self._proposals if proposal.proposed.fits(path)]:
                adopted = await self._compare(proposal, recording, expected)
                if adopted is not None and (best is None or _bytes_of(adopted) > _bytes_of(best)):
                    best = adopted
            if best is not None:
                self._claimed.add(best.stream_id)
                self._proposals = [proposal for proposal in self._proposals if proposal.upload != best.upload]
        return best

    def release(self, adopted: AdoptedUpload) -> None:
        """End a claim. Without a record and a task by now, the next :meth:`list_unknown` proposes the upload again."""
        self._claimed.discard(adopted.stream_id)

    async def _compare(self, proposal: Proposal, recording: OpenRecording, expected: PartPlan) -> AdoptedUpload | None:
        upload = proposal.upload
        try:
            listed = await self._services.attempt(
                "list_parts", lambda: self._services.s3.list_parts(upload.key, upload.upload_id)
            )
        except S3OperationError as error:
            if error.transient:
                raise
            return None  # completed or aborted meanwhile, or listing parts is refused
        if listed is None:
            return None  # nothing proves that the upload is this file's
        plan = plan_of(listed, expected)
        if plan is None:
            return None
        matching = await matching_parts(recording, listed, plan, at=self._services.utc_now())
        if not matching:
            return None
        return AdoptedUpload(
            proposal.proposed.stream_id, upload, plan, upload_checksum_algorithm(listed).value, tuple(matching.values())
        )


def _bytes_of(adopted: AdoptedUpload) -> int:
    return sum(part.size_bytes for part in adopted.parts)
