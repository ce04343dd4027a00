"""ffprobe is asked safely and for a limited time; the metadata says what is true, of files of any name."""

from __future__ import annotations

import base64
import json
import os
import stat
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cef_trio.checkpoint.model import FileIdentity, PartRecord, StreamMeta
from cef_trio.exceptions import FFprobeError
from cef_trio.local.fmp4 import Picture, blocks
from cef_trio.media.ffprobe import parse, probe
from cef_trio.media.metadata import MediaInfo, metadata_json
from cef_trio.s3.checksums import crc64nvme, crc64nvme_to_base64

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
META = StreamMeta(
    stream_id="11111111-2222-3333-4444-555555555555",
    original_path="/w/a.mp4",
    current_path="/w/a.mp4",
    identity=FileIdentity(1, 2),
    s3_bucket="recordings",
    s3_key_prefix="streams/x/a.mp4",
    part_size=5,
    equal_parts=False,
    started_at_utc=NOW,
    last_activity_at_utc=NOW,
    completed_at_utc=NOW,
    object_etag="abc-2",
    parts_rewritten=1,
    bytes_rewritten=5,
)
PARTS = [
    PartRecord(1, "e1", 5, crc64nvme(b"hello"), NOW),
    PartRecord(2, "e2", 6, crc64nvme(b" world"), NOW),
]


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.parametrize(
    "name", [b"-version.mp4", b"a%d.mp4", b"http:x.mp4", b"new\nline.mp4", b"\xff.mp4", b"a'b.mp4"]
)
async def test_a_file_of_any_name_is_probed_as_a_file(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(b"".join(data for _, data in blocks(1.0, Picture(2, 2))))
    media = await probe(str(path), ffprobe_path="ffprobe", timeout_seconds=20)
    assert media.duration_seconds == pytest.approx(1.0, abs=0.1)


async def test_an_ffprobe_that_is_missing_fails_or_talks_nonsense_is_told(tmp_path: Path) -> None:
    with pytest.raises(FFprobeError, match="cannot be run"):
        await probe("x", ffprobe_path=str(tmp_path / "missing"), timeout_seconds=5)
    with pytest.raises(FFprobeError, match="exit code 3: no idea"):
        await probe("x", ffprobe_path=script(tmp_path / "fails", "echo no idea >&2; exit 3"), timeout_seconds=5)
    with pytest.raises(FFprobeError, match="no JSON"):
        await probe("x", ffprobe_path=script(tmp_path / "odd", "echo hello"), timeout_seconds=5)


@pytest.mark.parametrize("by", ["time-out", "cancellation"])
async def test_an_ffprobe_that_hangs_and_heeds_no_signal_is_killed(tmp_path: Path, by: str) -> None:
    pid_file = tmp_path / "pid"
    hung = script(tmp_path / "hung", f"trap '' TERM INT; echo $$ > {pid_file}; while :; do sleep 0.05; done")
    with trio.fail_after(10):
        if by == "time-out":
            with pytest.raises(FFprobeError, match=r"longer than 0\.5 s"):
                await probe("x", ffprobe_path=hung, timeout_seconds=0.5)
        else:
            with trio.move_on_after(0.5) as scope:
                await probe("x", ffprobe_path=hung, timeout_seconds=60)
            assert scope.cancelled_caught
    assert not Path(f"/proc/{pid_file.read_text().strip()}").exists()


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
fields = st.sampled_from(["format", "streams", "duration", "codec_type", "width", "avg_frame_rate", "bit_rate"])


@given(st.dictionaries(fields, json_values | st.lists(st.dictionaries(fields, json_values))))
def test_whatever_ffprobe_says_is_understood_or_left_out(document: dict[str, object]) -> None:
    media = parse(json.dumps(document).encode())
    assert media.duration_seconds is None or media.duration_seconds >= 0


@given(st.binary())
def test_what_is_no_json_object_is_refused(output: bytes) -> None:
    try:
        parse(output)
    except FFprobeError:
        return
    assert isinstance(json.loads(output), dict)


def test_the_metadata_has_every_field_and_adds_up() -> None:
    media = MediaInfo(12.5, "mov,mp4", "h264", "aac", 1920, 1080, 25.0, 4_000_000)
    document = json.loads(metadata_json(META, PARTS, media, processed_at_utc=NOW))
    assert document["original_file_path"] == "/w/a.mp4"
    assert "original_file_path_base64" not in document
    assert document["total_size_bytes"] == 11
    assert document["duration_seconds"] == 12.5
    assert document["checksum"] == {
        "algorithm": "crc64nvme",
        "value": crc64nvme_to_base64(crc64nvme(b"hello world")),
    }
    assert document["chunks"][1] == {
        "part_number": 2,
        "size_bytes": 6,
        "etag": "e2",
        "uploaded_at_utc": "2026-01-31T12:00:00.000000Z",
    }
    assert document["media"]["width"] == 1920
    assert document["writer"] == {"parts_rewritten": 1, "bytes_rewritten": 5}
    assert set(document) == {
        *("stream_id", "original_file_path", "s3_bucket", "s3_key_prefix", "total_size_bytes", "duration_seconds"),
        *("processed_at_utc", "stream_started_at_utc", "stream_completed_at_utc", "chunks"),
        *("etag", "checksum", "media", "writer"),
    }


def test_a_recording_that_could_not_be_probed_has_null_for_its_duration() -> None:
    document = json.loads(metadata_json(META, PARTS, None, processed_at_utc=NOW))
    assert document["duration_seconds"] is None
    assert document["media"] is None


@given(st.binary(min_size=1, max_size=40).filter(lambda raw: b"\0" not in raw))
def test_a_path_of_any_bytes_is_valid_json_and_can_be_read_back(raw: bytes) -> None:
    meta = replace(META, original_path=os.fsdecode(raw))
    text = metadata_json(meta, PARTS, None, processed_at_utc=NOW).decode("utf-8", "strict")
    document = json.loads(text)
    if "original_file_path_base64" in document:
        assert base64.b64decode(document["original_file_path_base64"]) == raw
    else:
        assert document["original_file_path"].encode() == raw
