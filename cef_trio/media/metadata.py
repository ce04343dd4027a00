"""The metadata JSON beside each object. Pure.

``upload/finalize.py`` runs ffprobe and writes the document. What ffprobe does not report is ``null``; if it fails
(``ffprobe.py``), ``duration_seconds`` and ``media`` are ``null``.

============================  ==========================================================================================
``stream_id``                 the stream's UUID
``original_file_path``        the file's path when the stream began; bytes that are not UTF-8 are ``\\ufffd``
``original_file_path_base64``  only then: the path's bytes
``s3_bucket``                 the bucket
``s3_key_prefix``             the object's key
``total_size_bytes``          the object's size
``duration_seconds``          from ffprobe, or ``null``
``processed_at_utc``          when this document was written
``stream_started_at_utc``     when the stream began
``stream_completed_at_utc``   when the object was complete
``chunks``                    ``[{part_number, size_bytes, etag, uploaded_at_utc, crc64nvme}]``, in order, adding up to
                              the object; the checksum is base64; with ``checksum``, if S3 keeps another one of parts;
                              empty if Redis lost the record of a part
``etag``                      the object's ETag
``checksum``                  ``{algorithm: "crc64nvme", value: base64}`` of the whole object, or ``null`` if Redis lost
                              the record of a part, and S3 keeps no such checksum
``media``                     ``{container, video_codec, audio_codec, width, height, frame_rate, bit_rate}`` or ``null``
``broken``                    why the recording cannot be played, or not to its end: no index, no duration, cut off; or
                              ``null``, also if ffprobe could not tell
``writer``                    ``{parts_rewritten, bytes_rewritten}``: what the writer changed after its upload
``supersedes``                only if the file changed after its completion: ``{stream_id, s3_key_prefix}`` of the
                              object of its earlier version, which stays
============================  ==========================================================================================

Then, where they are known: ``relative_path``, which is ``original_file_path`` below its watch folder (with
``relative_path_base64``, as above), and ``recording_began_at_utc``, when the recording began by its file's time stamps,
which is the date in its key.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from cef_trio.checkpoint import PartRecord, StreamMeta
from cef_trio.checkpoint.redis import encode_time
from cef_trio.s3 import combine_crc64nvme, crc64nvme_to_base64


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """Media properties of a recording; ``None``: not reported by ffprobe."""

    duration_seconds: float | None = None
    container: str | None = None
    video_codec: str | None = None
    audio_codec: str | None = None
    width: int | None = None
    height: int | None = None
    frame_rate: float | None = None
    """Frames per second."""
    bit_rate: int | None = None
    """Bits per second."""
    broken: str | None = None
    """Why the recording cannot be played, or not to its end; ``None``: nothing of the kind was found."""


_OWN_FIELDS: Final = frozenset({"duration_seconds", "broken"})
"""Fields of :class:`MediaInfo` that have a place of their own in the document."""


def metadata_json(
    meta: StreamMeta,
    parts: Sequence[PartRecord],
    media: MediaInfo | None,
    *,
    processed_at_utc: datetime,
    relative_path: str | None = None,
) -> bytes:
    """Return the document in UTF-8, with its keys in a fixed order.

    ``parts`` are those of the object; they are left out if they do not add up to its verified size. ``relative_path``
    is the original path below its watch folder.
    """
    parts = sorted(parts, key=lambda part: part.part_number)
    size_bytes = sum(part.size_bytes for part in parts)
    crc: int | None = combine_crc64nvme((part.crc64nvme, part.size_bytes) for part in parts)
    if meta.verified_size_bytes not in {None, size_bytes}:
        parts, size_bytes, crc = [], meta.verified_size_bytes or 0, object_crc64nvme(meta)
    document: dict[str, Any] = {"stream_id": meta.stream_id}
    document |= path_fields("original_file_path", meta.original_path)
    document |= {
        "s3_bucket": meta.s3_bucket,
        "s3_key_prefix": meta.s3_key_prefix,
        "total_size_bytes": size_bytes,
        "duration_seconds": media.duration_seconds if media else None,
        "processed_at_utc": encode_time(processed_at_utc),
        "stream_started_at_utc": encode_time(meta.started_at_utc),
        "stream_completed_at_utc": encode_time(meta.completed_at_utc) if meta.completed_at_utc else None,
        "chunks": [
            {
                "part_number": part.part_number,
                "size_bytes": part.size_bytes,
                "etag": part.etag,
                "uploaded_at_utc": encode_time(part.uploaded_at_utc),
                "crc64nvme": crc64nvme_to_base64(part.crc64nvme),
                **({} if part.checksum is None else {"checksum": part.checksum}),
            }
            for part in parts
        ],
        "etag": meta.object_etag,
        "checksum": {"algorithm": "crc64nvme", "value": crc64nvme_to_base64(crc)} if crc is not None else None,
        "media": {name: value for name, value in asdict(media).items() if name not in _OWN_FIELDS} if media else None,
        "broken": meta.broken,
        "writer": {"parts_rewritten": meta.parts_rewritten, "bytes_rewritten": meta.bytes_rewritten},
    }
    if meta.supersedes_stream_id is not None:
        document["supersedes"] = {"stream_id": meta.supersedes_stream_id, "s3_key_prefix": meta.supersedes_key}
    if relative_path is not None:
        document |= path_fields("relative_path", relative_path)
    if meta.recording_began_at_utc is not None:
        document["recording_began_at_utc"] = encode_time(meta.recording_began_at_utc)
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"


def object_crc64nvme(meta: StreamMeta) -> int | None:
    """Return the object's CRC64NVME as recorded without its parts: from S3, or of a file that was sent whole."""
    return meta.object_crc64nvme if meta.object_crc64nvme is not None else meta.verified_crc64nvme


def path_fields(name: str, path: str) -> dict[str, str]:
    """Return a path as the field ``name``; if it is not UTF-8, also its bytes as ``<name>_base64``."""
    raw = os.fsencode(path)
    shown = raw.decode("utf-8", "replace")
    if os.fsencode(shown) == raw:
        return {name: shown}
    return {name: shown, f"{name}_base64": base64.b64encode(raw).decode("ascii")}
