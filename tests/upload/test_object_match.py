"""Whether an object has a file's bytes: every kind of evidence that agrees, disagrees or is missing."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from cef_trio.checkpoint.model import FileIdentity, PartRecord, StreamMeta
from cef_trio.media.metadata import metadata_json
from cef_trio.s3.checksums import crc64nvme
from cef_trio.s3.etags import multipart_etag
from cef_trio.s3.model import StoredObject
from cef_trio.upload.object_match import (
    FileDigest,
    ObjectMetadata,
    PartDigest,
    is_same,
    object_checksum_algorithm,
    part_records,
    read_metadata,
)
from cef_trio.upload.part_plan import PartPlan

AT = datetime(2026, 1, 1, tzinfo=UTC)
BODY = b"0123456789abcde"
PIECES = [BODY[:10], BODY[10:]]
DIGEST = FileDigest(
    PartPlan(10),
    tuple(
        PartDigest(len(piece), crc64nvme(piece), hashlib.md5(piece, usedforsecurity=False).hexdigest())
        for piece in PIECES
    ),
)
(ETAG,) = DIGEST.etags
OBJECT = StoredObject("k", len(BODY), ETAG, DIGEST.crc64nvme, {})
OTHER = "0" * 32 + "-2"
"""An ETag of other bytes, or of these with KMS."""


def document(etag: str | None = ETAG, **changed: Any) -> bytes:
    """The metadata JSON as ``media/metadata.py`` writes it, with some of its fields changed."""
    meta = StreamMeta(
        stream_id="s",
        original_path="/w/a.mp4",
        current_path="/w/a.mp4",
        identity=FileIdentity(1, 2),
        s3_bucket="b",
        s3_key_prefix="k",
        part_size=10,
        equal_parts=False,
        started_at_utc=AT,
        last_activity_at_utc=AT,
        object_etag=etag,
        completed_at_utc=AT,
    )
    parts = [
        PartRecord(number, part.md5, part.size_bytes, part.crc64nvme, AT)
        for number, part in enumerate(DIGEST.parts, start=1)
    ]
    written = json.loads(metadata_json(meta, parts, None, processed_at_utc=AT))
    return json.dumps({**written, **changed}).encode()


def read(etag: str | None = ETAG, **changed: Any) -> ObjectMetadata | None:
    return read_metadata(document(etag, **changed), "s")


def test_what_was_written_is_read_back() -> None:
    found = read()
    assert found is not None
    assert [part.size_bytes for part in found.parts] == [10, 5]
    assert (found.etag, found.crc64nvme, found.started_at_utc) == (ETAG, crc64nvme(BODY), AT)
    assert (found.completed_at_utc, found.duration_seconds) == (AT, None)


CHUNK = {"part_number": 1, "size_bytes": 15, "etag": "e", "uploaded_at_utc": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    "changed",
    [
        {"stream_id": "another"},
        {"checksum": None},
        {"checksum": {"algorithm": "sha256", "value": "x"}},
        {"checksum": {"algorithm": "crc64nvme", "value": "x"}},
        {"chunks": None},
        {"chunks": [1]},
        {"chunks": [{**CHUNK, "part_number": 2}]},
        {"chunks": [{**CHUNK, "size_bytes": 0}]},
        {"chunks": [{**CHUNK, "size_bytes": "15"}]},
        {"chunks": [{"part_number": 1}]},
        {"stream_started_at_utc": "yesterday"},
        {"stream_started_at_utc": None},
        {"duration_seconds": "long"},
    ],
    ids=str,
)
def test_a_metadata_json_that_no_daemon_wrote_is_none(changed: dict[str, Any]) -> None:
    assert read(**changed) is None


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"[" * 100_000, b"\xff"])
def test_what_is_no_json_is_none(body: bytes) -> None:
    assert read_metadata(body, "s") is None


@pytest.mark.parametrize(
    ("stored", "metadata", "same"),
    [
        pytest.param(OBJECT, read(), True, id="all agree"),
        pytest.param(replace(OBJECT, etag=OTHER), read(OTHER), True, id="KMS, and S3's own checksum"),
        pytest.param(replace(OBJECT, etag=""), read(), True, id="no ETag, and S3's own checksum"),
        pytest.param(replace(OBJECT, crc64nvme=None), read(None), True, id="the ETag alone"),
        pytest.param(replace(OBJECT, crc64nvme=None, etag=OTHER), read(OTHER), True, id="the JSON of that ETag"),
        pytest.param(replace(OBJECT, crc64nvme=None, etag=OTHER), read(), False, id="the JSON of another ETag"),
        pytest.param(replace(OBJECT, crc64nvme=None, etag=""), read(None), False, id="nothing binds the JSON to it"),
        pytest.param(replace(OBJECT, crc64nvme=1), read(), False, id="S3's own checksum disagrees"),
        pytest.param(replace(OBJECT, size_bytes=16), read(), False, id="another size"),
        pytest.param(
            OBJECT,
            read(checksum={"algorithm": "crc64nvme", "value": "AAAAAAAAAAE="}),
            False,
            id="the JSON's checksum disagrees",
        ),
        pytest.param(OBJECT, read(chunks=[CHUNK]), False, id="the JSON cuts it otherwise"),
        pytest.param(OBJECT, None, True, id="no JSON, and the ETag agrees"),
        pytest.param(replace(OBJECT, crc64nvme=None), None, True, id="no JSON, and the ETag alone"),
        pytest.param(replace(OBJECT, etag=OTHER), None, False, id="no JSON, and the parts' ETags are not known"),
    ],
)
def test_p1_an_object_is_a_files_if_something_proves_it_and_nothing_disagrees(
    stored: StoredObject, metadata: ObjectMetadata | None, same: bool
) -> None:
    assert is_same(DIGEST, stored, metadata) is same


def test_an_empty_file_has_the_etag_of_nothing() -> None:
    empty = FileDigest(PartPlan(10), ())
    assert (empty.size_bytes, empty.crc64nvme) == (0, 0)
    assert is_same(empty, StoredObject("k", 0, hashlib.md5(b"", usedforsecurity=False).hexdigest(), None, {}), None)
    assert not is_same(empty, StoredObject("k", 0, OTHER, None, {}), None)


def test_a_file_of_one_part_has_the_etag_of_an_upload_or_of_one_put_object() -> None:
    md5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()
    one = FileDigest(PartPlan(100), (PartDigest(len(BODY), crc64nvme(BODY), md5),))
    put = StoredObject("k", len(BODY), md5, None, {})
    assert is_same(one, put, None)
    assert is_same(one, replace(put, etag=multipart_etag([md5]) or ""), None)
    assert not is_same(one, replace(put, etag=OTHER), None)
    assert object_checksum_algorithm(one, put, part_records(one, None, at=AT)) == "md5"


def test_parts_have_the_etags_that_are_known_of_them() -> None:
    assert [part.etag for part in part_records(DIGEST, None, at=AT)] == [part.md5 for part in DIGEST.parts]
    metadata = read(chunks=[{**CHUNK, "size_bytes": 10}, {**CHUNK, "part_number": 2, "size_bytes": 5, "etag": "f"}])
    records = part_records(DIGEST, metadata, at=AT)
    assert [(part.part_number, part.etag, part.size_bytes) for part in records] == [(1, "e", 10), (2, "f", 5)]
    assert object_checksum_algorithm(DIGEST, OBJECT, records) == "crc64nvme"
    assert object_checksum_algorithm(DIGEST, replace(OBJECT, crc64nvme=None), records) is None
    assert (
        object_checksum_algorithm(DIGEST, replace(OBJECT, crc64nvme=None), part_records(DIGEST, None, at=AT)) == "md5"
    )
