"""Where a stream's object goes: the bucket and the store that were recorded, if they are still the settings'.

Settings may change between two lives of a daemon (docs/operations.md has the table). A stream is held to what was
recorded with it: its part size, its checksum, its key. Its bucket and its store it cannot be held to: the daemon has
one client, for one bucket, and the credentials of now need not open the one of then. So:

- An *open* stream whose bucket is not the settings' starts over in the bucket of now, with its record corrected. Parts
  cannot be moved. The old upload is named in the log and left alone: another bucket's is not changed (P9).
- One whose *endpoint* is another may still be in the same store, under another name of it. So the store is asked: if it
  has the upload, the record is corrected; if not, the stream starts over there, and the old upload is named.
- One whose *object* is complete, and whose metadata is still to be written, is not uploaded again. It fails by name:
  with the old settings back, ``cef-trio retry`` writes the metadata beside it.
"""

from __future__ import annotations

import structlog

from cef_trio.checkpoint import FailureReason, StreamMeta
from cef_trio.upload.failures import StreamFailedError
from cef_trio.upload.services import Services
from cef_trio.upload.session import STREAM_ID_METADATA, StreamUpload

log = structlog.get_logger(__name__)


def bucket_changed(services: Services, meta: StreamMeta) -> bool:
    """Whether the stream was recorded in another bucket than the settings name."""
    return meta.s3_bucket != services.rules.bucket


def endpoint_changed(services: Services, meta: StreamMeta) -> bool:
    """Whether the stream was recorded at another endpoint; not known of a record that names none."""
    return bool(services.rules.endpoint) and meta.s3_endpoint not in {None, services.rules.endpoint}


async def reconcile_target(services: Services, upload: StreamUpload) -> None:
    """Make the record and the settings agree on the bucket, before anything is asked of S3.

    Raises:
        StreamFailedError: its object is complete, and not where the settings lead.
        S3OperationError: S3 cannot say whether it is.
    """
    meta = upload.meta
    if meta.object_etag is not None:
        if not await _object_exists(services, meta):
            raise StreamFailedError(
                FailureReason.FINALIZATION,
                f"its object is complete in {_recorded_target(meta)}, and the settings lead to "
                f"{_configured_target(services)}: set them back, and `cef-trio retry` writes its metadata",
            )
        await confirm_endpoint(services, upload)
    elif bucket_changed(services, meta):
        await start_over_at_target(services, upload)


async def confirm_endpoint(services: Services, upload: StreamUpload) -> None:
    """The store of now has it: so it is the store of then, and its name is recorded."""
    endpoint = services.rules.endpoint
    if endpoint and upload.meta.s3_endpoint != endpoint:
        await upload.update(s3_endpoint=endpoint)


async def start_over_at_target(services: Services, upload: StreamUpload) -> None:
    """Start the stream over where the settings lead, under a key of now."""
    meta, rules = upload.meta, services.rules
    log.warning(
        "upload_left_behind",
        bucket=meta.s3_bucket,
        endpoint=meta.s3_endpoint,
        key=meta.s3_key_prefix,
        upload_id=meta.s3_upload_id,
        parts=len(upload.parts),
    )
    await upload.leave_behind(
        s3_bucket=rules.bucket,
        s3_endpoint=rules.endpoint or None,
        s3_key_prefix=rules.key_template.key(meta.stream_id, meta.current_path),
    )


async def _object_exists(services: Services, meta: StreamMeta) -> bool:
    if bucket_changed(services, meta):
        return False
    if not endpoint_changed(services, meta):
        return True
    stored = await services.s3.head_object(meta.s3_key_prefix)
    return stored is not None and stored.metadata.get(STREAM_ID_METADATA) == meta.stream_id


def _recorded_target(meta: StreamMeta) -> str:
    return f"bucket {meta.s3_bucket!r}" + (f" at {meta.s3_endpoint}" if meta.s3_endpoint else "")


def _configured_target(services: Services) -> str:
    rules = services.rules
    return f"bucket {rules.bucket!r}" + (f" at {rules.endpoint}" if rules.endpoint else "")
