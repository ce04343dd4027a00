"""What must be true after a ``kill -9``: of the objects, of the parts sent again, and of the uploads left open.

It looks at the store's own truth (the embedded endpoint's model and journal, in this process) and never asks the
daemon. Each check gives violations as sentences; none is what everybody hopes for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from cef_trio.checkpoint.model import PartRecord
from cef_trio.local.servers import BUCKET
from cef_trio.s3_endpoint.calls import LoggedCall
from cef_trio.s3_endpoint.model import S3Model
from cef_trio.upload.object_key import METADATA_SUFFIX
from cef_trio.upload.part_plan import PartPlan

_BLOCK_BYTES: Final = 1 << 20
_ALL: Final = 1 << 30
_READ_AHEAD_SECONDS: Final = 2.0
"""A part's checksum is taken before its call begins; a patch this much earlier may still have been missed by it."""


@dataclass(frozen=True, slots=True)
class Patch:
    """Bytes ``offset`` to ``end`` (exclusive) were written anew, done at ``at`` (Unix seconds)."""

    at: float
    offset: int
    end: int


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """What Redis knew of one stream right after a kill."""

    key: str
    path: Path
    plan: PartPlan
    parts: Mapping[int, PartRecord] = field(default_factory=dict)


def parts_sent_again(
    before: Iterable[Checkpointed],
    journal: Sequence[LoggedCall],
    since: int,
    patches: Mapping[Path, Sequence[Patch]],
    sizes: Mapping[Path, int],
) -> Iterator[str]:
    """Recorded parts that the next life sent again although their bytes were the same.

    Args:
        before: Redis right after the kill.
        journal: every call the endpoint was asked, in order.
        since: index into ``journal`` of the first call after the kill.
        patches: what was written anew, by file.
        sizes: how long each file is now, in bytes: a short last part may have grown.
    """
    streams = {stream.key: stream for stream in before}
    for entry in journal[since:]:
        stream = streams.get(entry.key or "")
        number = entry.part_number
        if entry.operation != "UploadPart" or stream is None or number is None or number not in stream.parts:
            continue
        record = stream.parts[number]
        now = stream.plan.cut_part(number, sizes[stream.path])
        if now is None or now.size_bytes != record.size_bytes:
            continue
        anchor = _began(journal[:since], stream.key, record) - _READ_AHEAD_SECONDS
        if not any(
            patch.at >= anchor and patch.offset < now.end and now.offset < patch.end
            for patch in patches.get(stream.path, ())
        ):
            yield f"part {number} of {stream.path.name} was recorded, unchanged, and sent again"


def _began(calls: Sequence[LoggedCall], key: str, record: PartRecord) -> float:
    """When the call began whose acknowledgement the record is."""
    recorded_at = record.uploaded_at_utc.timestamp()
    sent = (
        entry.at
        for entry in reversed(calls)
        if entry.operation == "UploadPart"
        and (entry.key, entry.part_number) == (key, record.part_number)
        and entry.at <= recorded_at
    )
    return next(sent, recorded_at)


async def object_violations(model: S3Model, paths: Mapping[str, Path]) -> list[str]:
    """Objects that are not byte for byte their file, that nobody knows, or that are missing.

    Args:
        model: the store.
        paths: the file of every completed stream, by its object's key.

    Raises:
        OSError: a file or a blob cannot be read.
    """
    stored = {
        each.key: each for each in model.list_objects(BUCKET, prefix="", delimiter="", after="", limit=_ALL).objects
    }
    recordings = {key for key in stored if not key.endswith(METADATA_SUFFIX)}
    found = [f"object {key} belongs to no completed stream" for key in sorted(recordings - paths.keys())]
    for key, path in paths.items():
        if key not in recordings:
            found.append(f"{path.name} is completed, and has no object")
        elif not await trio.to_thread.run_sync(_same, model, stored[key].blob, path):
            found.append(f"the object of {path.name} is not byte for byte its file")
        if key + METADATA_SUFFIX not in stored:
            found.append(f"{path.name} is completed, and has no metadata")
    return found


def _same(model: S3Model, blob: str, path: Path) -> bool:
    reader = model.storage.open_blob(blob)
    try:
        with path.open("rb") as file:
            offset = 0
            while True:
                block = file.read(_BLOCK_BYTES)
                if block != reader.read(offset, _BLOCK_BYTES):
                    return False
                if not block:
                    return True
                offset += len(block)
    finally:
        reader.close()


def uploads_unknown(model: S3Model, known: Collection[str]) -> list[str]:
    """Open uploads whose ids are not among ``known``, the uploads of open streams in Redis."""
    page = model.list_uploads(BUCKET, prefix="", delimiter="", key_marker="", upload_id_marker="", limit=_ALL)
    return [
        f"upload of {each.key} is open, and Redis does not know it"
        for each in page.uploads
        if each.upload_id not in known
    ]
