"""Any JSON gives either a MediaInfo that can be written as JSON, or an FFprobeError."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cef_trio.exceptions import FFprobeError
from cef_trio.media.ffprobe import parse
from cef_trio.media.metadata import MediaInfo

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NUMBERISH = (
    JSON | st.from_regex(r"\A-?[0-9]{1,400}(/[0-9]{0,400})?\Z") | st.sampled_from(["N/A", "nan", "inf", "1e999"])
)
STREAM = st.fixed_dictionaries(
    {},
    optional={
        "codec_type": st.sampled_from(["video", "audio", "data"]) | JSON,
        "codec_name": JSON,
        "width": NUMBERISH,
        "height": NUMBERISH,
        "avg_frame_rate": NUMBERISH,
    },
)
FORMAT = st.fixed_dictionaries({}, optional={"duration": NUMBERISH, "format_name": JSON, "bit_rate": NUMBERISH})
DOCUMENT = st.fixed_dictionaries({}, optional={"format": FORMAT | JSON, "streams": st.lists(STREAM | JSON) | JSON})


def assert_sound(media: MediaInfo) -> None:
    for name in ("duration_seconds", "frame_rate"):
        value = getattr(media, name)
        assert value is None or (isinstance(value, float) and 0 <= value < math.inf)
    for name in ("width", "height", "bit_rate"):
        value = getattr(media, name)
        assert value is None or (type(value) is int and value > 0)
    for name in ("container", "video_codec", "audio_codec"):
        value = getattr(media, name)
        assert value is None or value.encode()
    json.dumps(asdict(media), allow_nan=False)


@given(DOCUMENT)
@example({"streams": [{"codec_type": "video", "avg_frame_rate": "1e-300/1e300"}]})
@example({"streams": [{"codec_type": "video", "avg_frame_rate": "1e300/1e-300"}]})
@example({"streams": [{"codec_type": "video", "avg_frame_rate": "1e999999999"}]})
@example({"format": {"format_name": "\ud800", "bit_rate": True, "duration": 10**400}})
def test_any_document_of_ffprobes_shape_is_a_sound_description(document: object) -> None:
    assert_sound(parse(json.dumps(document).encode()))


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 100_000)
@example(b'{"format": {"duration": ' + b"9" * 5000 + b"}}")
@example(b"\xff{}")
def test_any_bytes_are_a_sound_description_or_an_ffprobe_error(output: bytes) -> None:
    try:
        media = parse(output)
    except FFprobeError as error:
        assert error.__cause__ is not None or "object" in str(error)
    else:
        assert_sound(media)


@pytest.mark.parametrize(
    ("rate", "expected"),
    [("25/1", 25.0), ("30000/1001", 29.97), ("0/0", None), ("1/0", None), ("", None), ("25", None), ("-25/1", None)],
)
def test_a_frame_rate_is_a_fraction(rate: str, expected: float | None) -> None:
    media = parse(json.dumps({"streams": [{"codec_type": "video", "avg_frame_rate": rate}]}).encode())
    assert media.frame_rate == expected


def test_the_first_stream_of_each_kind_is_the_one_described() -> None:
    streams = [
        {"codec_type": "data", "codec_name": "bin_data"},
        {"codec_type": "audio", "codec_name": "aac"},
        {"codec_type": "video", "codec_name": "h264", "width": 1920, "height": 1080},
        {"codec_type": "video", "codec_name": "mjpeg", "width": 160, "height": 90},
    ]
    media = parse(json.dumps({"streams": streams}).encode())
    assert (media.video_codec, media.audio_codec, media.width, media.height) == ("h264", "aac", 1920, 1080)


def test_an_empty_report_gives_no_values() -> None:
    assert parse(b"{}") == MediaInfo()
