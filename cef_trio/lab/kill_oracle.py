"""Checks after a ``kill -9``: objects, parts that were sent again, and open uploads.

They use the model and journal of the embedded endpoint, and nothing that the daemon reports. Each check returns its
violations as sentences.
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
"""A part is read before its call begins; a patch up to this much earlier may be missing in it."""


@dataclass(frozen=True, slots=True)
class Patch:
    """Bytes ``offset`` to ``end`` (exclusive) were overwritten, finished at ``at`` (Unix seconds)."""

    at: float
    offset: int
    end: int


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """The checkpoint of one stream right after a kill."""

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
    """Yield the recorded parts that the next daemon sent again although their bytes were unchanged.

    Args:
        before: the checkpoints right after the kill.
        journal: all calls of the endpoint, in order.
        since: index in ``journal`` of the first call after the kill.
        patches: the overwritten bytes, by file.
        sizes: the current size of each file in bytes; a short last part may have grown.
    """
    streams = {stream.key: stream for stream in before}
    for entry in journal[since:]:
        stream = streams.get(entry.key or "")
        number = entry.part_number
        if entry.operation != "UploadPart" or stream is None or number is None or number not in stream.parts:
            continue
        record = stream.parts[number]
        now = stream.plan.split_part(number, sizes[stream.path])
        if now is None or now.size_bytes != record.size_bytes:
            continue
        anchor = _began(journal[:since], stream.key, record) - _READ_AHEAD_SECONDS
        if not any(
            patch.at >= anchor and patch.offset < now.end and now.offset < patch.end
            for patch in patches.get(stream.path, ())
        ):
            yield f"part {number} of {stream.path.name} was recorded, unchanged, and sent again"


def _began(calls: Sequence[LoggedCall], key: str, record: PartRecord) -> float:
    """Return when the call began that the record acknowledges."""
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
    """Return objects that differ from their file, belong to no completed stream, or are missing.

    Args:
        model: the model of the endpoint.
        paths: the file of each completed stream, by the key of its object.

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
            found.append(f"{path.name} is completed and has no object")
        elif not await trio.to_thread.run_sync(_same, model, stored[key].blob, path):
            found.append(f"the object of {path.name} differs from its file")
        if key + METADATA_SUFFIX not in stored:
            found.append(f"{path.name} is completed and has no metadata")
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
    """Return the open uploads that are not in ``known``, the upload ids of open streams in Redis."""
    page = model.list_uploads(BUCKET, prefix="", delimiter="", key_marker="", upload_id_marker="", limit=_ALL)
    return [f"upload of {each.key} is open and not in Redis" for each in page.uploads if each.upload_id not in known]
