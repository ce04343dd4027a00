"""What was encoded is decoded to an equal value; what cannot be read is refused by name."""

from __future__ import annotations

import json
import os
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from checkpoint.examples import START, meta, part
from hypothesis import given
from hypothesis import strategies as st

from cef_trio.checkpoint.model import FileIdentity, Owner, PartRecord, StreamMeta
from cef_trio.checkpoint.redis import codec
from cef_trio.checkpoint.states import Status
from cef_trio.files.identity import HEAD_BYTES
from cef_trio.upload.part_plan import MAX_PART_BYTES, MAX_PARTS

times = st.datetimes(
    min_value=datetime(1901, 1, 1),  # noqa: DTZ001 - hypothesis wants bounds without a zone
    max_value=datetime(9000, 1, 1),  # noqa: DTZ001
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))]),
)
whole = st.integers(min_value=0, max_value=1 << 63)
positive = st.integers(1, (1 << 63) - 1)
stamps = st.integers(-(10**30) + 1, 10**30 - 1)
crcs = st.integers(min_value=0, max_value=(1 << 64) - 1)
texts = st.text()
paths = st.binary().map(lambda raw: os.fsdecode(b"/" + raw.replace(b"\0", b"\n")))
names = st.none() | st.text(min_size=1)
floats = st.floats(allow_nan=False, allow_infinity=False)

metas = st.builds(
    StreamMeta,
    stream_id=texts,
    original_path=paths,
    current_path=paths,
    identity=st.builds(
        FileIdentity, file_dev=whole, file_ino=whole, head_size_bytes=st.integers(0, HEAD_BYTES), head_crc64nvme=crcs
    ),
    s3_bucket=texts,
    s3_key_prefix=texts | paths,
    part_size=st.integers(1, MAX_PART_BYTES),
    equal_parts=st.booleans(),
    started_at_utc=times,
    last_activity_at_utc=times,
    status=st.sampled_from(Status),
    owner=st.none() | st.builds(Owner, machine=names, file_system=names, mount=st.none() | paths),
    failure_reason=st.none() | texts | paths,
    s3_upload_id=st.none() | texts,
    checksum_algorithm=st.none() | texts,
    total_bytes_sent=whole,
    next_part_to_upload=positive,
    parts_rewritten=whole,
    bytes_rewritten=whole,
    uploads_restarted=whole,
    retry_at_utc=st.none() | times,
    retry_attempts=whole,
    object_etag=st.none() | texts,
    object_crc64nvme=st.none() | crcs,
    verified_size_bytes=st.none() | whole,
    verified_mtime_ns=st.none() | stamps,
    verified_crc64nvme=st.none() | crcs,
    completed_at_utc=st.none() | times,
    duration_seconds=st.none() | floats,
    broken=st.none() | texts,
    let_go_at_utc=st.none() | times,
    let_go_size_bytes=st.none() | whole,
    let_go_mtime_ns=st.none() | stamps,
)
parts = st.builds(
    PartRecord,
    part_number=st.integers(1, MAX_PARTS),
    etag=texts,
    size_bytes=st.integers(0, MAX_PART_BYTES),
    crc64nvme=crcs,
    uploaded_at_utc=times,
    checksum=st.none() | texts,
)


def as_read(value: StreamMeta) -> dict[bytes, bytes]:
    return {name.encode(): raw for name, raw in codec.encode_meta(value).items()}


@given(metas)
def test_every_record_survives_the_round_trip(value: StreamMeta) -> None:
    assert codec.decode_meta(as_read(value)) == value


@given(parts)
def test_every_part_survives_the_round_trip(value: PartRecord) -> None:
    assert codec.decode_part(b"%d" % value.part_number, codec.encode_part(value)) == value


@given(paths)
def test_a_path_is_kept_as_the_bytes_of_the_file_system(path: str) -> None:
    assert codec.encode_path(path) == os.fsencode(path)


@given(times, times)
def test_times_sort_as_text_as_they_sort_in_time(one: object, other: object) -> None:
    assert (codec.encode_time(one) < codec.encode_time(other)) == (one < other)  # type: ignore[arg-type, operator]


def test_a_record_is_encoded_as_documented() -> None:
    value = meta(status=Status.S3_COMPLETED, object_crc64nvme=0xAB, original_path="/rec/\udcff.mp4")
    assert codec.encode_meta(value) == {
        "stream_id": b"s1",
        "original_path": b"/rec/\xff.mp4",
        "current_path": b"/rec/s1.mp4",
        "file_dev": b"64769",
        "file_ino": b"1234",
        "file_birth_ns": b"",
        "file_fs_type": b"",
        "file_fs_id": b"",
        "file_mount": b"",
        "head_size_bytes": b"4096",
        "head_crc64nvme": b"00000000deadbeef",
        "s3_bucket": b"recordings",
        "s3_key_prefix": b"streams/s1/file.mp4",
        "part_size": b"10485760",
        "equal_parts": b"false",
        "started_at_utc": b"2026-01-31T12:00:00.123456Z",
        "last_activity_at_utc": b"2026-01-31T12:00:00.123456Z",
        "status": b"s3_completed",
        "total_bytes_sent": b"0",
        "next_part_to_upload": b"1",
        "parts_rewritten": b"0",
        "bytes_rewritten": b"0",
        "uploads_restarted": b"0",
        "retry_attempts": b"0",
        "object_crc64nvme": b"00000000000000ab",
        "schema": b"2",
    }


def test_a_part_is_encoded_as_documented() -> None:
    assert json.loads(codec.encode_part(part(3, 100))) == {
        "etag": "etag-3",
        "size": 100,
        "crc64nvme": "0000000000005ccd",
        "uploaded_at_utc": "2026-01-31T12:00:01.123456Z",
    }
    assert json.loads(codec.encode_part(replace(part(), checksum="x==")))["checksum"] == "x=="


def test_fields_and_keys_of_a_newer_version_are_ignored() -> None:
    assert codec.decode_meta({**as_read(meta()), b"from_the_future": b"\xff"}) == meta()
    raw = json.loads(codec.encode_part(part())) | {"from_the_future": [1]}
    assert codec.decode_part(b"1", json.dumps(raw).encode()) == part()


REQUIRED = [
    "stream_id", "original_path", "current_path", "s3_bucket", "s3_key_prefix", "part_size", "equal_parts",
    "started_at_utc", "last_activity_at_utc", "status", "file_dev", "file_ino", "head_size_bytes", "head_crc64nvme",
]  # fmt: skip


@pytest.mark.parametrize("name", REQUIRED)
def test_a_required_field_that_is_missing_is_named(name: str) -> None:
    raw = as_read(meta())
    del raw[name.encode()]
    with pytest.raises(codec.CorruptFieldError, match=f"'{name}' is missing"):
        codec.decode_meta(raw)


def test_every_other_field_may_be_missing_and_reads_as_its_default_and_the_schema_as_the_first() -> None:
    raw = {name: value for name, value in as_read(meta()).items() if name.decode() in REQUIRED}
    assert codec.decode_meta(raw) == meta(schema=1)


NUMBERS_AND_SUCH = sorted(
    {field.name for field in fields(StreamMeta)} - {"identity", "stream_id", "original_path", "current_path"}
    - {"s3_bucket", "s3_key_prefix", "failure_reason", "broken", "s3_upload_id", "checksum_algorithm", "object_etag"}
    - {"s3_endpoint", "supersedes_stream_id", "supersedes_key", "owner"}
    | {"file_dev", "file_ino", "head_size_bytes", "head_crc64nvme"}
)  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS_AND_SUCH)
@pytest.mark.parametrize("junk", [b"", b"junk", b"\xff\xfe", b"2026-01-31T12:00:00", b"9" * 5000])
def test_a_field_that_cannot_be_read_is_named_and_never_guessed_at(name: str, junk: bytes) -> None:
    with pytest.raises(codec.CorruptFieldError, match=f"'{name}' cannot be read"):
        codec.decode_meta({**as_read(meta()), name.encode(): junk})


COUNTS = ["total_bytes_sent", "parts_rewritten", "bytes_rewritten", "uploads_restarted", "retry_attempts"]
TIMES = ["started_at_utc", "last_activity_at_utc", "retry_at_utc", "completed_at_utc"]


@pytest.mark.parametrize(
    ("names", "junk"),
    [
        (
            [*COUNTS, "verified_size_bytes", "file_dev", "head_size_bytes", "part_size"],
            [b"-1", b"18446744073709551616"],
        ),
        (["part_size", "next_part_to_upload"], [b"0", b"-5"]),
        (["part_size"], [b"%d" % (MAX_PART_BYTES + 1)]),
        (["head_size_bytes"], [b"%d" % (HEAD_BYTES + 1)]),
        (["verified_mtime_ns", "let_go_mtime_ns"], [b"1" + b"0" * 30, b"-1" + b"0" * 400]),
        (["duration_seconds"], [b"nan", b"inf", b"-inf", b"1e999"]),
        (TIMES, [b"9999-12-31T23:59:59.000000Z", b"0001-01-01T00:00:00.000000Z", b"0001-01-01T00:00:00+14:00"]),
    ],
)
def test_p6_a_number_or_time_that_arithmetic_could_not_use_is_named(names: list[str], junk: list[bytes]) -> None:
    """The kind: not finite, negative, zero where one divides by it, or so far off that a sum overflows."""
    for name in names:
        for one in junk:
            with pytest.raises(codec.CorruptFieldError, match=f"'{name}' cannot be read"):
                codec.decode_meta({**as_read(meta()), name.encode(): one})


@pytest.mark.parametrize(
    "raw",
    [b"", b"{}", b"[]", b"null", b"1", b"\xff", b"[" * 100_000, b'{"etag":1}']
    + [
        json.dumps(json.loads(codec.encode_part(part())) | junk).encode()
        for junk in (
            {"etag": None},
            {"size": "1"},
            {"size": -1},
            {"size": MAX_PART_BYTES + 1},
            {"uploaded_at_utc": "9999-12-31T23:59:59.000000Z"},
            {"size": True},
            {"size": 1.5},
            {"crc64nvme": 7},
            {"crc64nvme": "xyz"},
            {"crc64nvme": "0" * 15},
            {"uploaded_at_utc": "yesterday"},
            {"uploaded_at_utc": 5},
            {"checksum": 5},
        )
    ],
    ids=lambda raw: repr(raw[:40]),
)
def test_a_part_that_cannot_be_read_is_named(raw: bytes) -> None:
    with pytest.raises(codec.CorruptFieldError, match="'17' cannot be read"):
        codec.decode_part(b"17", raw)


@pytest.mark.parametrize("number", ["seven", "0", "-1", str(MAX_PARTS + 1), "20000"])
def test_p6_a_part_number_that_is_none_is_named(number: str) -> None:
    with pytest.raises(codec.CorruptFieldError, match=f"'{number}'"):
        codec.decode_part(number.encode(), codec.encode_part(part()))


@given(st.dictionaries(st.sampled_from(list(as_read(meta()))), st.binary()))
def test_whatever_a_hash_holds_it_is_read_or_refused(junk: dict[bytes, bytes]) -> None:
    refused = None
    try:
        value = codec.decode_meta({**as_read(meta()), **junk})
    except codec.CorruptFieldError as error:
        refused = error.field.encode()
    except codec.NewerSchemaError:
        refused = b"schema"
    assert codec.decode_meta(as_read(value)) == value if refused is None else refused in junk


@given(st.binary(), st.binary())
def test_whatever_a_part_holds_it_is_read_or_refused(number: bytes, raw: bytes) -> None:
    with pytest.raises(codec.CorruptFieldError):
        codec.decode_part(number, raw)


def test_a_time_that_is_naive_or_not_in_utc_is_refused() -> None:
    with pytest.raises(ValueError, match="aware"):
        codec.encode_time(START.replace(tzinfo=None))
    with pytest.raises(ValueError, match="no time in UTC"):
        codec.encode_time(datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5))))
