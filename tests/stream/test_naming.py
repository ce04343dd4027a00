"""Object keys: whatever a file is called, its key is fit for S3 and proposes that file again."""

from __future__ import annotations

import os
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cef_trio.stream.naming import KeyTemplate, key_text, metadata_key

DEFAULT = KeyTemplate("streams/{stream_id}/{file_name}")
file_names = (
    st.binary(min_size=1, max_size=255)
    .map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"_"))
    .filter(lambda raw: raw not in {b".", b".."})
    .map(os.fsdecode)
)
templates = st.sampled_from(
    [
        "streams/{stream_id}/{file_name}",
        "a.b+(c)/{stream_id}",
        "x/{file_stem}/{stream_id}.mp4",
        "{stream_id}/{file_stem}",
    ]
).map(KeyTemplate)


@given(templates, st.uuids(), file_names)
def test_a_key_read_back_proposes_its_own_file_and_stream(template: KeyTemplate, stream_id: UUID, name: str) -> None:
    key = template.key(str(stream_id), f"/watch/{name}")
    assert key.startswith(template.prefix)
    proposed = template.parse(key)
    assert proposed is not None
    assert proposed.stream_id == str(stream_id)
    assert proposed.fits(f"/elsewhere/{name}")


@given(file_names)
def test_a_key_is_utf8_without_control_characters(name: str) -> None:
    text = key_text(name)
    text.encode("utf-8")
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in text)


def test_another_file_is_not_proposed() -> None:
    proposed = DEFAULT.parse(DEFAULT.key(str(uuid4()), "/watch/one.mp4"))
    assert proposed is not None
    assert not proposed.fits("/watch/two.mp4")


@pytest.mark.parametrize(
    "key",
    ["streams/not-a-uuid/x.mp4", "other/key", "streams//x.mp4", f"streams/{uuid4()}/x/y.mp4", f"streams/{uuid4()}"],
)
def test_a_key_of_somebody_else_is_none_of_ours(key: str) -> None:
    assert DEFAULT.parse(key) is None


def test_odd_names_stay_readable_and_bytes_that_are_no_text_are_escaped() -> None:
    assert key_text("100% fertig & schön+=.mp4") == "100% fertig & schön+=.mp4"
    assert key_text("a\nb.mp4") == "a%0Ab.mp4"
    assert key_text(os.fsdecode(b"\xff\xfe.mp4")) == "%FF%FE.mp4"


def test_a_file_name_that_looks_like_a_template_is_not_expanded() -> None:
    key = KeyTemplate("p/{file_stem}/{stream_id}").key("ID", "/w/{stream_id}{file_name}.mp4")
    assert key == "p/{stream_id}{file_name}/ID"


def test_metadata_lies_beside_its_object() -> None:
    assert metadata_key("streams/x/y.mp4") == "streams/x/y.mp4.metadata.json"
