"""Object keys: for any file name, the key is valid in S3 and leads back to that file name."""

from __future__ import annotations

import os
from uuid import UUID, uuid4

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cef_trio.upload.object_key import KeyTemplate, key_text, metadata_key

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
        "x/{file_stem}/{stream_id}/{file_name}",
        "x/{file_name}{stream_id}{file_stem}.mp4",
        "x/.{file_stem}./{stream_id}",
        "p" * 740 + "/{stream_id}/{file_name}/{file_stem}",
    ]
).map(KeyTemplate)
hostile_names = file_names | st.sampled_from(
    [
        *("..mp4", "...mp4", "....", " ", "a ", "?x=1", "#x", "%2e%2e%2fx", "\\..\\x", "a.mp4.metadata.json"),
        *("\u00e9".ljust(127, "\u00e9"), "e\u0301.mp4", "\ufffe\uffff", "\u2028\u202e.mp4", "\U0001fffe"),
        os.fsdecode(b"\xff" * 255),
        "\x01" * 251 + ".mp4",
        "{stream_id}{file_name}",
    ]
)


def legal_in_xml(character: str) -> bool:
    """https://www.w3.org/TR/xml/#charsets, without the three control characters that it allows."""
    code = ord(character)
    return 0x20 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or code >= 0x10000


@given(templates, st.uuids(), hostile_names)
def test_no_name_leads_a_key_out_of_its_prefix_or_beyond_what_s3_takes(
    template: KeyTemplate, stream_id: UUID, name: str
) -> None:
    key = template.key(str(stream_id), f"/watch/{name}")
    assert key.startswith(template.prefix)
    assert len(metadata_key(key).encode()) <= 1024
    segments = key.split("/")
    assert len(segments) == len(template.template.split("/"))
    assert not set(segments) & {"", ".", ".."}
    assert all(legal_in_xml(character) for character in key)
    proposed = template.parse(key)
    if template.prefix == "x/" and "}{" in template.template:
        return  # a name that holds an id can be read in two ways there; the bytes decide
    assert proposed is not None
    assert proposed.stream_id == str(stream_id)
    assert proposed.fits(f"/elsewhere/{name}")


@given(templates, st.uuids(), hostile_names, st.uuids(), hostile_names, st.integers(0, 200))
def test_no_key_is_another_streams_or_its_metadatas(  # noqa: PLR0917 - hypothesis gives them
    template: KeyTemplate, first: UUID, name: str, second: UUID, other: str, cut: int
) -> None:
    """Even if the second name was chosen with knowledge of the first key."""
    assume(first != second)
    key = template.key(str(first), f"/watch/{name}")
    for chosen in (other, metadata_key(key)[cut:].replace("/", "_")[:100] or "x"):
        theirs = template.key(str(second), f"/watch/{chosen}")
        assert len({key, metadata_key(key), theirs, metadata_key(theirs)}) == 4


def test_a_name_that_is_cut_proposes_its_own_file_and_only_as_far_as_it_goes() -> None:
    template = KeyTemplate("p" * 740 + "/{stream_id}/{file_name}")
    name = "a" * 251 + ".mp4"
    key = template.key(str(uuid4()), f"/watch/{name}")
    assert len(metadata_key(key)) == 1024
    proposed = template.parse(key)
    assert proposed is not None
    assert proposed.fits(f"/watch/{name}")
    assert not proposed.fits("/watch/b" + name[1:])


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
def test_a_key_of_another_program_has_no_stream_id(key: str) -> None:
    assert DEFAULT.parse(key) is None


def test_odd_names_stay_readable_and_bytes_that_are_no_text_are_escaped() -> None:
    assert key_text("100% fertig & schön+=.mp4") == "100% fertig & schön+=.mp4"
    assert key_text("a\nb.mp4") == "a%0Ab.mp4"
    assert key_text(os.fsdecode(b"\xff\xfe.mp4")) == "%FF%FE.mp4"


def test_a_file_name_that_looks_like_a_template_is_not_expanded() -> None:
    key = KeyTemplate("p/{file_stem}/{stream_id}").key("ID", "/w/{stream_id}{file_name}.mp4")
    assert key == "p/{stream_id}{file_name}/ID"


def test_metadata_is_stored_beside_its_object() -> None:
    assert metadata_key("streams/x/y.mp4") == "streams/x/y.mp4.metadata.json"
