"""Reconcile the recorded bucket and endpoint of a stream with the settings, which may have changed.

A stream keeps its recorded part size, checksum algorithm and key (table in docs/operations.md). It cannot keep its
bucket and endpoint: the daemon has one S3 client, for one bucket, with the current credentials. So:

- An *open* stream with another bucket starts over in the configured bucket, as parts cannot be moved. The old upload is
  logged and left alone (promise P9).
- An open stream with another *endpoint* may still be in the same store, under a new address. If the store has the
  upload, or the object of an unrecorded PutObject, the record is updated; otherwise the stream starts over, and the old
  upload is logged.
- A stream whose *object* is complete is not uploaded again. It fails with a reason; after the settings are restored,
  ``cef-trio retry`` writes its metadata.
"""

from __future__ import annotations

import structlog

from cef_trio.checkpoint import FailureReason, StreamMeta
from cef_trio.upload.failures import ResumeError
from cef_trio.upload.services import Services
from cef_trio.upload.session import STREAM_ID_METADATA, StreamUpload, object_key

log = structlog.get_logger(__name__)


def bucket_changed(services: Services, meta: StreamMeta) -> bool:
    """Return whether the recorded bucket is not the configured one."""
    return meta.s3_bucket != services.rules.bucket


def endpoint_changed(services: Services, meta: StreamMeta) -> bool:
    """Return whether the recorded endpoint is not the configured one; false for a record without one."""
    return bool(services.rules.endpoint) and meta.s3_endpoint not in {None, services.rules.endpoint}


async def reconcile_target(services: Services, upload: StreamUpload) -> None:
    """Make the record agree with the configured bucket and endpoint, before any other S3 call.

    Raises:
        ResumeError: the object is complete, and not in the configured bucket.
        S3OperationError: S3 could not be asked for the object.
    """
    meta, rules = upload.meta, services.rules
    if meta.object_etag is not None:
        if not await _object_exists(services, meta):
            raise ResumeError(
                FailureReason.FINALIZATION,
                f"its object is complete in {_target(meta.s3_bucket, meta.s3_endpoint)}, and the settings lead to "
                f"{_target(rules.bucket, rules.endpoint)}: set them back, and `cef-trio retry` writes its metadata",
            )
        await confirm_endpoint(services, upload)
    elif bucket_changed(services, meta):
        await start_over_at_target(services, upload)


async def confirm_endpoint(services: Services, upload: StreamUpload) -> None:
    """Record the configured endpoint, once its store was found to have the upload or object."""
    endpoint = services.rules.endpoint
    if endpoint and upload.meta.s3_endpoint != endpoint:
        await upload.update(s3_endpoint=endpoint)


async def start_over_at_target(services: Services, upload: StreamUpload) -> None:
    """Start the stream over in the configured bucket, under a new key."""
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
        s3_key_prefix=object_key(services, meta),
    )


async def _object_exists(services: Services, meta: StreamMeta) -> bool:
    if bucket_changed(services, meta):
        return False
    if not endpoint_changed(services, meta):
        return True
    stored = await services.s3.head_object(meta.s3_key_prefix)
    return stored is not None and stored.metadata.get(STREAM_ID_METADATA) == meta.stream_id


def _target(bucket: str, endpoint: str | None) -> str:
    return f"bucket {bucket!r}" + (f" at {endpoint}" if endpoint else "")
