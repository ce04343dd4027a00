"""The metadata JSON: its exact keys and types, for any bytes in the path and any text of ffprobe."""

from __future__ import annotations

import base64
import json
import os
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import awscrt.checksums
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cef_trio.checkpoint.model import FileIdentity, PartRecord, StreamMeta
from cef_trio.media import metadata
from cef_trio.media.ffprobe import parse
from cef_trio.media.metadata import MediaInfo, metadata_json

BEGAN = datetime(2026, 1, 31, 12, 0, 0, 5, tzinfo=UTC)
MEDIA = MediaInfo(15.04, "mov,mp4", "h264", "aac", 640, 360, 25.0, 25_000_000)
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")

NUMBER, OBJECT = (int, float), dict
SCHEMA: dict[str, Any] = {
    "stream_id": str,
    "original_file_path": str,
    "s3_bucket": str,
    "s3_key_prefix": str,
    "total_size_bytes": int,
    "duration_seconds": (*NUMBER, type(None)),
    "processed_at_utc": TIME,
    "stream_started_at_utc": TIME,
    "stream_completed_at_utc": TIME,
    "chunks": [{"part_number": int, "size_bytes": int, "etag": str, "uploaded_at_utc": TIME, "crc64nvme": str}],
    "etag": str,
    "checksum": {"algorithm": str, "value": str},
    "media": {
        "container": (str, type(None)),
        "video_codec": (str, type(None)),
        "audio_codec": (str, type(None)),
        "width": (int, type(None)),
        "height": (int, type(None)),
        "frame_rate": (*NUMBER, type(None)),
        "bit_rate": (int, type(None)),
    },
    "broken": (str, type(None)),
    "writer": {"parts_rewritten": int, "bytes_rewritten": int},
}


def assert_fits(value: Any, schema: Any, where: str = "$") -> None:
    """Every key of the schema and no other, in its order; every value of its type."""
    match schema:
        case dict():
            assert list(value) == list(schema), where
            for name, inner in schema.items():
                assert_fits(value[name], inner, f"{where}.{name}")
        case [inner]:
            assert isinstance(value, list), where
            for number, item in enumerate(value):
                assert_fits(item, inner, f"{where}[{number}]")
        case re.Pattern():
            assert schema.fullmatch(value), f"{where}: {value!r}"
        case _:
            assert isinstance(value, schema), f"{where}: {value!r}"


def meta(**fields: Any) -> StreamMeta:
    values: dict[str, Any] = {
        "stream_id": "0b4c",
        "original_path": "/rec/a.mp4",
        "current_path": "/rec/b.mp4",
        "identity": FileIdentity(1, 2),
        "s3_bucket": "recordings",
        "s3_key_prefix": "streams/0b4c/a.mp4",
        "part_size": 5,
        "equal_parts": False,
        "started_at_utc": BEGAN,
        "last_activity_at_utc": BEGAN,
        "completed_at_utc": BEGAN + timedelta(minutes=5),
        "object_etag": "abc-2",
        "parts_rewritten": 1,
        "bytes_rewritten": 5,
    }
    return StreamMeta(**(values | fields))


def part(number: int, content: bytes) -> PartRecord:
    crc = awscrt.checksums.crc64nvme(content)
    return PartRecord(number, f"etag-{number}", len(content), crc, BEGAN + timedelta(seconds=number))


def strictly_read(written: bytes) -> dict[str, Any]:
    """Parse strictly by RFC 8259: UTF-8, no NaN, no repeated key."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in pairs}) == len(pairs), "a key stands there twice"
        return dict(pairs)

    def refuse(word: str) -> None:
        pytest.fail(f"{word} is no JSON")

    read: dict[str, Any] = json.loads(written.decode("utf-8"), object_pairs_hook=once, parse_constant=refuse)
    return read


def document(stream: StreamMeta, parts: list[PartRecord], media: MediaInfo | None) -> dict[str, Any]:
    written = metadata_json(stream, parts, media, processed_at_utc=BEGAN + timedelta(hours=1))
    return strictly_read(written)


def test_it_has_the_documented_keys_in_the_documented_order() -> None:
    read = document(meta(), [part(1, b"01234"), part(2, b"567")], MEDIA)
    assert_fits(read, SCHEMA)
    assert metadata.__doc__ is not None
    documented = re.findall(r"^``(\w+)``  ", metadata.__doc__, re.MULTILINE)
    later = list(document(meta(supersedes_stream_id="0a1b", supersedes_key="streams/0a1b/a.mp4"), [], MEDIA))
    assert documented == [*later[:2], "original_file_path_base64", *later[2:]]
    assert [key for key in later if key != "supersedes"] == list(read)


def test_it_names_the_path_below_the_watch_folder_and_the_start_of_the_recording() -> None:
    began = meta(recording_began_at_utc=BEGAN)
    for raw in (b"cam1/a b.mp4", b"cam\xff/a.mp4"):
        read = strictly_read(
            metadata_json(began, [], None, processed_at_utc=BEGAN, relative_path=raw.decode("utf-8", "surrogateescape"))
        )
        assert read["recording_began_at_utc"] == "2026-01-31T12:00:00.000005Z"
        assert read["relative_path"] == raw.decode("utf-8", "replace")
        assert base64.b64decode(read.get("relative_path_base64", "")) in {b"", raw}
        assert ("relative_path_base64" in read) is (b"\xff" in raw)
    assert not {"relative_path", "recording_began_at_utc"} & document(meta(), [], None).keys()


def test_it_describes_the_recording() -> None:
    read = document(meta(), [part(1, b"01234"), part(2, b"567")], MEDIA)
    assert read["original_file_path"] == "/rec/a.mp4"
    assert read["total_size_bytes"] == 8
    assert read["duration_seconds"] == 15.04
    assert read["stream_started_at_utc"] == "2026-01-31T12:00:00.000005Z"
    assert read["stream_completed_at_utc"] == "2026-01-31T12:05:00.000005Z"
    assert read["processed_at_utc"] == "2026-01-31T13:00:00.000005Z"
    assert read["chunks"][1] == {
        "part_number": 2,
        "size_bytes": 3,
        "etag": "etag-2",
        "uploaded_at_utc": "2026-01-31T12:00:02.000005Z",
        "crc64nvme": base64.b64encode(awscrt.checksums.crc64nvme(b"567").to_bytes(8, "big")).decode(),
    }
    assert read["writer"] == {"parts_rewritten": 1, "bytes_rewritten": 5}
    assert "duration_seconds" not in read["media"]


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.randoms())
def test_chunks_are_in_order_and_add_up_to_the_object_and_its_checksum(contents: list[bytes], chance: Any) -> None:
    parts = [part(number, content) for number, content in enumerate(contents, start=1)]
    chance.shuffle(parts)
    read = document(meta(), parts, None)
    whole = b"".join(contents)
    assert [chunk["part_number"] for chunk in read["chunks"]] == list(range(1, len(contents) + 1))
    assert sum(chunk["size_bytes"] for chunk in read["chunks"]) == read["total_size_bytes"] == len(whole)
    value = base64.b64encode(awscrt.checksums.crc64nvme(whole).to_bytes(8, "big")).decode()
    assert read["checksum"] == {"algorithm": "crc64nvme", "value": value}


def test_a_recording_that_could_not_be_probed_has_no_duration_and_no_media() -> None:
    read = document(meta(), [part(1, b"x")], None)
    assert (read["duration_seconds"], read["media"]) == (None, None)


WORDS = st.text() | st.floats() | st.integers() | st.none() | st.sampled_from(["nan", "1e400", "\ud800", "1/3"])


@given(
    st.fixed_dictionaries({}, optional={"duration": WORDS, "format_name": WORDS, "bit_rate": WORDS}),
    st.fixed_dictionaries(
        {"codec_type": st.sampled_from(["video", "audio"])},
        optional={"codec_name": WORDS, "width": WORDS, "height": WORDS, "avg_frame_rate": WORDS},
    ),
)
def test_whatever_ffprobe_prints_the_document_is_strict_json_that_fits(
    container: dict[str, Any], stream: dict[str, Any]
) -> None:
    media = parse(json.dumps({"format": container, "streams": [stream]}).encode())
    assert_fits(document(meta(), [part(1, b"x")], media), SCHEMA)


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name))
def test_a_path_of_any_bytes_is_valid_json_and_loses_nothing(name: bytes) -> None:
    raw = b"/rec/" + name
    read = document(meta(original_path=os.fsdecode(raw)), [], None)
    try:
        shown = raw.decode("utf-8")
    except UnicodeDecodeError:
        assert base64.b64decode(read["original_file_path_base64"]) == raw
        assert read["original_file_path"] == raw.decode("utf-8", "replace")
        assert "\ufffd" in read["original_file_path"]
    else:
        assert read["original_file_path"] == shown
        assert "original_file_path_base64" not in read


@pytest.mark.parametrize("name", ["\ufffd.mp4", "録画.mp4", 'quo"te\\\n.mp4'])
def test_a_path_that_is_text_is_shown_as_it_is_and_not_twice(name: str) -> None:
    read = document(meta(original_path=f"/rec/{name}"), [], None)
    assert read["original_file_path"] == f"/rec/{name}"
    assert "original_file_path_base64" not in read


def test_the_same_stream_gives_the_same_bytes() -> None:
    arguments = (meta(), [part(1, b"x")], MEDIA)
    assert metadata_json(*arguments, processed_at_utc=BEGAN) == metadata_json(*arguments, processed_at_utc=BEGAN)
