"""The webhooks of a stream's start (``ON_START_WEBHOOK``) and failure (``ON_FAILURE_WEBHOOK``). Pure.

Each is a JSON document as Standard Webhooks recommends: ``type``, ``timestamp`` and ``data``. It is recorded in the
step that creates the stream, or lets it fail, and ``postprocess/webhooks.py`` delivers it.

The id of a start is ``started_<stream id>``, that of a failure ``failed_<stream id>_<milliseconds>``: a stream that is
retried and fails again has two. The time of the record follows the id, so that a delivery can be given up without it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from cef_trio.checkpoint import SENTENCES, FailureReason, StreamMeta, WebhookEvent, rules
from cef_trio.checkpoint.redis import encode_time
from cef_trio.media import path_fields

STARTED_EVENT: Final = "started"
FAILED_EVENT: Final = "failed"
_MAX_TEXT: Final = 2000
_RETRY: Final = "then `cef-trio retry ID`"

HINTS: Final[Mapping[FailureReason, str]] = {
    FailureReason.S3_UPLOAD: f"find out why S3 refused this recording only (`cef-trio show ID`), {_RETRY}",
    FailureReason.S3_REFUSED: f"find out why S3 refused this recording only (`cef-trio show ID`), {_RETRY}",
    FailureReason.ACCESS_DENIED: f"give the credentials the missing permission, {_RETRY}",
    FailureReason.NO_SUCH_BUCKET: f"create the bucket, or correct S3_BUCKET_NAME, {_RETRY}",
    FailureReason.REDIS_UPDATE: f"check Redis' memory, disk and ACL, {_RETRY}",
    FailureReason.FILE_MISSING_ON_RESUME: f"put the file back, or mount its disk, {_RETRY}",
    FailureReason.FILE_REPLACED: "nothing: the file that replaced it is a recording of its own",
    FailureReason.FILE_UNREADABLE: "correct the file's permissions, or its disk; the daemon tries again by itself",
    FailureReason.FILE_TOO_LARGE: f"set a larger CHUNK_SIZE_BYTES, {_RETRY}",
    FailureReason.UPLOAD_LOST: f"look for a lifecycle rule or a user that aborts uploads, {_RETRY}",
    FailureReason.FINALIZATION: f"read the error; a store of equal parts needs S3_EQUAL_PARTS=true, {_RETRY}",
    FailureReason.UNEXPECTED: "report it, with the traceback in the log",
    FailureReason.ABORTED: "nothing: an operator aborted it; `cef-trio retry ID` takes it up again",
}
"""What to do about each failure."""


def started(meta: StreamMeta) -> WebhookEvent:
    """Return the event of a new stream. Its key may still change, until its upload is created."""
    data = {"started_at_utc": encode_time(meta.started_at_utc), "supersedes_stream_id": meta.supersedes_stream_id}
    return _event(f"{STARTED_EVENT}_{meta.stream_id}", "stream.started", meta.started_at_utc, meta, data)


def failed(meta: StreamMeta, reason: FailureReason, error: BaseException, at_utc: datetime) -> WebhookEvent:
    """Return the event of a stream's failure at that time."""
    data = {
        "reason": reason.value,
        "sentence": SENTENCES[reason],
        "error": str(error)[:_MAX_TEXT],
        "hint": HINTS[reason].replace(" ID`", f" {meta.stream_id}`"),
        "failed_at_utc": encode_time(at_utc),
    }
    return _event(f"{FAILED_EVENT}_{meta.stream_id}_{rules.unix_ms(at_utc)}", "stream.failed", at_utc, meta, data)


def stream_of(event_id: str) -> tuple[str, str]:
    """Return which event an id is of, and its stream's id; ids of streams have no underscore."""
    kind, _, rest = event_id.partition("_")
    return kind, rest.partition("_")[0]


def _event(event_id: str, kind: str, at_utc: datetime, meta: StreamMeta, data: Mapping[str, Any]) -> WebhookEvent:
    document = {
        "type": kind,
        "timestamp": encode_time(at_utc),
        "data": {
            "stream_id": meta.stream_id,
            **path_fields("file_path", meta.current_path),
            "s3_bucket": meta.s3_bucket,
            "s3_key": meta.s3_key_prefix,
            **data,
        },
    }
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return WebhookEvent(event_id, text.encode("utf-8", "replace"))
