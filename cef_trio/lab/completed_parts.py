"""The parts of a completed stream, as its metadata JSON in the endpoint has them, past all faults."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

from cef_trio.checkpoint.model import Checkpoint
from cef_trio.checkpoint.states import Status
from cef_trio.s3_endpoint.model import S3Model
from cef_trio.upload.object_key import metadata_key
from cef_trio.upload.object_match import parts_of_object, read_metadata


def with_parts(model: S3Model, checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with the parts that Redis no longer has; as it is if the metadata JSON is gone."""
    meta, key = checkpoint.meta, metadata_key(checkpoint.meta.s3_key_prefix)
    if meta.status is not Status.COMPLETED or checkpoint.parts or not model.has_object(meta.s3_bucket, key):
        return checkpoint
    record = model.object(meta.s3_bucket, key)
    with closing(model.storage.open_blob(record.blob)) as blob:
        document = blob.read(0, record.size_bytes)
    return replace(checkpoint, parts=parts_of_object(meta, read_metadata(document, meta.stream_id)))
