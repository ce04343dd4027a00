"""Object keys: for any file name and folder, the key is valid in S3 and leads back to that file and its stream."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cef_trio.settings.values import key_template
from cef_trio.upload import object_key
from cef_trio.upload.object_key import KeyTemplate, folder_text, key_text, metadata_key, recording_start, relative_path

CAMERA = "{host}/{relative_dir}/{year}-{month}-{day}/{file_stem}-{stream_id}{file_ext}"
BEGAN = datetime(2026, 3, 29, 0, 30, tzinfo=UTC)

DEFAULT = KeyTemplate("streams/{stream_id}/{file_name}")
file_names = (
    st.binary(min_size=1, max_size=255)
    .map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"_"))
    .filter(lambda raw: raw not in {b".", b".."})
    .map(os.fsdecode)
)
TEMPLATES = [
    "streams/{stream_id}/{file_name}",
    "a.b+(c)/{stream_id}",
    "x/{file_stem}/{stream_id}.mp4",
    "x/{stream_id}/{file_stem}",
    "x/{file_stem}/{stream_id}/{file_name}",
    "x/.{file_stem}./{stream_id}",
    "x{stream_id}",
    CAMERA,
    "x/{relative_dir}/{stream_id}/{file_name}",
    "x/{stream_id}/{relative_dir}/{file_name}",
    "x/{file_name}{stream_id}",
    "x/{year}{stream_id}{file_name}",
    "x/{year}{month}{day}T{hour}/{file_stem}{file_ext}/{stream_id}",
    "x/{file_stem}{stream_id}-{year}{file_ext}",
    "x/{file_stem}-{year}-{file_name}-{hour}/{stream_id}",
    "{owner}/{host}/{relative_dir}/{file_name}/{file_stem}/a{file_ext}/{year}/{month}/{day}/{hour}/{stream_id}",
    "x/{relative_dir}/{file_ext}{file_stem}{file_name}{stream_id}",
    "p" * 640 + "/{stream_id}/{file_name}/{file_stem}",
    "p" * 640 + "/{relative_dir}/{stream_id}/{file_name}/{file_stem}",
]
HOST = "cam/{stream_id}"


def template_of(template: str, zone: str = "UTC") -> KeyTemplate:
    return KeyTemplate.of_owner(
        key_template(template), "node-7", host=HOST, folders=["/watch", "/watch/inner"], zone=ZoneInfo(zone)
    )


templates = st.sampled_from(TEMPLATES).map(template_of)
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


folder_names = hostile_names | st.sampled_from(["cam1", "%41", "A", "%2541", "x~0123456789abcdef", "d" * 255])
hostile_folders = st.lists(folder_names, max_size=20).map("/".join)
times = st.integers(86400, 7_000_000_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


def paths(names: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(hostile_folders, names).map(lambda both: "/watch/" + "/".join(filter(None, both)))


ALIKE = "01234567-0123-4123-8123-0123456789ab"
names_like_ids = st.lists(
    st.sampled_from([ALIKE, "-", ".", ".mp4", "0123", "01234567", "-0123-4123-8123-0123456789ab", "2026", "a"]),
    min_size=1,
    max_size=6,
).map("".join)
hostile_paths = paths(hostile_names) | paths(names_like_ids.filter(lambda name: name not in {".", ".."}))


@given(templates, st.uuids(), hostile_paths, times)
def test_no_path_leads_a_key_out_of_its_prefix_or_beyond_what_s3_takes(
    template: KeyTemplate, stream_id: UUID, path: str, began: datetime
) -> None:
    key = template.key(str(stream_id), path, began)
    assert key.startswith(template.prefix)
    assert len(metadata_key(key).encode()) <= 1024
    segments = key.split("/")
    if "{relative_dir}" not in template.template:
        assert len(segments) == len(template.template.split("/"))
    assert not set(segments) & {"", ".", ".."}
    assert all(legal_in_xml(character) for character in key)


@given(templates, st.uuids(), hostile_paths, times)
def test_p5_a_key_read_back_proposes_its_own_stream_and_file(
    template: KeyTemplate, stream_id: UUID, path: str, began: datetime
) -> None:
    """Whatever the name: also one that holds another id. Otherwise gc would judge an upload by another stream."""
    key = template.key(str(stream_id), path, began)
    proposed = template.parse(key)
    assert proposed is not None
    assert proposed.stream_id == str(stream_id)
    assert proposed.fits(path)


@given(templates, st.uuids(), hostile_paths, st.uuids(), hostile_paths, st.integers(0, 200))
def test_no_key_is_another_streams_or_its_metadatas(  # noqa: PLR0917 - hypothesis gives them
    template: KeyTemplate, first: UUID, path: str, second: UUID, other: str, cut: int
) -> None:
    """Even if the second name was chosen with knowledge of the first key."""
    assume(first != second)
    key = template.key(str(first), path, BEGAN)
    for chosen in (other, "/watch/" + (metadata_key(key)[cut:].replace("/", "_")[:100] or "x")):
        theirs = template.key(str(second), chosen, BEGAN)
        assert len({key, metadata_key(key), theirs, metadata_key(theirs)}) == 4


@given(hostile_folders, hostile_folders)
def test_two_folders_are_never_the_same_in_keys(first: str, second: str) -> None:
    template = template_of("x/{relative_dir}/{stream_id}")
    same = template.key("ID", f"/watch/{first}/a", BEGAN) == template.key("ID", f"/watch/{second}/a", BEGAN)
    assert same == (first == second)


@given(st.sampled_from(TEMPLATES), st.uuids(), hostile_paths, hostile_paths)
def test_a_key_without_a_cut_proposes_only_files_of_that_folder_and_name(
    text: str, stream_id: UUID, path: str, other: str
) -> None:
    template = template_of(text)
    proposed = template.parse(template.key(str(stream_id), path, BEGAN))
    assert proposed is not None
    assume(len(proposed.key.encode()) < 400)
    differ = [
        field
        for field, part in (("{relative_dir}", 0), ("{file_name}", 2))
        if field in text and path.rpartition("/")[part] != other.rpartition("/")[part]
    ]
    if differ and not re.search("%[0-9A-F]{2}", path + other):  # names are encoded one way
        assert proposed.fits(other) is (key_text(path) == key_text(other))


def test_a_name_that_is_cut_proposes_its_own_file_and_only_as_far_as_it_goes() -> None:
    template = KeyTemplate("p" * 740 + "/{stream_id}/{file_name}")
    name = "a" * 251 + ".mp4"
    key = template.key(str(uuid4()), f"/watch/{name}")
    assert len(metadata_key(key)) == 1024
    proposed = template.parse(key)
    assert proposed is not None
    assert proposed.fits(f"/watch/{name}")
    assert not proposed.fits("/watch/b" + name[1:])


def test_the_parts_of_a_path_are_where_the_template_has_them() -> None:
    template = KeyTemplate.of_owner(key_template(CAMERA), "node-7", host="node-7", folders=["/watch"])
    stream_id = str(uuid4())
    began = datetime(2026, 1, 31, 23, 30, tzinfo=UTC)
    assert template.prefix == "node-7/"
    assert template.key(stream_id, "/watch/cam1/front/a.b.mp4", began) == (
        f"node-7/cam1/front/2026-01-31/a.b-{stream_id}.mp4"
    )
    assert template.key(stream_id, "/watch/noext", began) == f"node-7/2026-01-31/noext-{stream_id}"
    assert template.key(stream_id, "/watch/.mp4", began) == f"node-7/2026-01-31/.mp4-{stream_id}"
    assert template.key(stream_id, "/elsewhere/cam1/a.mp4", began) == f"node-7/2026-01-31/a-{stream_id}.mp4"


@pytest.mark.parametrize(
    ("utc", "zone", "written"),
    [
        ("2026-01-31T23:30", "UTC", "2026-01-31T23"),
        ("2026-01-31T23:30", "Europe/Berlin", "2026-02-01T00"),
        ("2026-02-01T00:30", "America/New_York", "2026-01-31T19"),
        ("2026-03-29T00:59", "Europe/Berlin", "2026-03-29T01"),
        ("2026-03-29T01:00", "Europe/Berlin", "2026-03-29T03"),
        ("2026-10-25T00:30", "Europe/Berlin", "2026-10-25T02"),
        ("2026-10-25T01:30", "Europe/Berlin", "2026-10-25T02"),
        ("2026-12-31T23:59", "Pacific/Kiritimati", "2027-01-01T13"),
        ("2026-03-28T15:00", "Asia/Kolkata", "2026-03-28T20"),
    ],
)
def test_the_date_is_that_of_the_time_zone_around_midnight_and_when_clocks_change(
    utc: str, zone: str, written: str
) -> None:
    template = template_of("x/{year}-{month}-{day}T{hour}/{stream_id}", zone)
    key = template.key("ID", "/watch/a.mp4", datetime.fromisoformat(utc).replace(tzinfo=UTC))
    assert key == f"x/{written}/ID"


def test_a_key_with_a_date_is_not_made_without_a_time() -> None:
    with pytest.raises(ValueError, match="needs the time"):
        template_of("x/{year}/{stream_id}").key("ID", "/watch/a.mp4")


def nanoseconds(at: datetime | None) -> int | None:
    return None if at is None else int((at - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1)) * 1000


@pytest.mark.parametrize(
    ("birth", "mtime", "first_seen", "start"),
    [
        pytest.param("2026-05-01", "2026-05-03", "2026-05-02", "2026-05-01", id="written here"),
        pytest.param(None, "2026-05-01", "2026-05-02", "2026-05-01", id="a network file system, seen late"),
        pytest.param(None, "2026-05-03", "2026-05-02", "2026-05-02", id="a network file system, still written"),
        pytest.param("2026-05-02", "2026-05-01", "2026-05-03", "2026-05-01", id="copied with its time stamps"),
        pytest.param(None, None, "2026-05-02", "2026-05-02", id="nothing is known"),
        pytest.param("1970-01-01", "1980-01-01", "2026-05-02", "2026-05-02", id="a clock that was not set"),
        pytest.param("2026-05-02", "2026-05-02", "1970-01-01", "2026-05-02", id="ours was not set"),
        pytest.param("2026-05-02", "2150-05-02", "2026-05-03", "2026-05-02", id="modified in the future"),
        pytest.param("1970-01-01", None, "1970-01-02", "1970-01-02", id="no clock was ever set"),
    ],
)
def test_when_a_recording_began(birth: str | None, mtime: str | None, first_seen: str, start: str) -> None:
    birth_at, mtime_at, seen_at, start_at = (
        None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC)
        for text in (birth, mtime, first_seen, start)
    )
    assert seen_at is not None
    assert recording_start(nanoseconds(birth_at), nanoseconds(mtime_at), seen_at) == start_at


@pytest.mark.parametrize("ns", [-1, 1 << 63, 1 << 80, -(1 << 80)])
def test_a_time_stamp_that_no_calendar_has_is_left_out(ns: int) -> None:
    assert recording_start(ns, ns, BEGAN) == BEGAN


@pytest.mark.parametrize(
    ("path", "relative"),
    [
        ("/watch/a.mp4", "a.mp4"),
        ("/watch/cam1/a.mp4", "cam1/a.mp4"),
        ("/watch/inner/a.mp4", "a.mp4"),
        ("/watch//cam1/a.mp4", "cam1/a.mp4"),
        ("/watching/a.mp4", None),
        ("/a.mp4", None),
    ],
)
def test_a_path_is_relative_to_the_innermost_watch_folder(path: str, relative: str | None) -> None:
    assert relative_path(path, ["/watch/", "/watch/inner"]) == relative
    assert relative_path("/x", ["/"]) == "x"


def test_folders_stay_readable_and_what_looks_encoded_is_encoded() -> None:
    assert folder_text("Tür 1/100% & more/a+b") == "Tür 1/100% & more/a+b"
    assert folder_text("a\nb/%0A/%zz/..") == "a%0Ab/%250A/%zz/%2E%2E"
    assert folder_text(os.fsdecode(b"cam\xff")) == "cam%FF"


def test_a_folder_that_is_cut_keeps_its_beginning_and_ends_with_its_hash() -> None:
    template = template_of(CAMERA)
    key = template.key(str(uuid4()), f"/watch/cam1/{'/'.join(['d' * 255] * 14)}/a.mp4", BEGAN)
    assert len(metadata_key(key)) == 1024
    assert re.search(r"/cam1/d{255}/d{255}/[d/]+~[0-9a-f]{16}/2026-03-29/a-", key)


def test_the_host_is_part_of_the_fixed_prefix_and_one_folder_whatever_it_is_called() -> None:
    template = template_of("{host}/{stream_id}")
    assert template.prefix == "cam%2F%7Bstream_id%7D/"
    assert object_key.host_text("..") == "%2E%2E"
    assert len(object_key.host_text("é" * 200).encode()) <= object_key.MAX_HOST_BYTES


def test_examples_of_keys_show_a_folder_a_file_without_one_and_the_zone() -> None:
    template = KeyTemplate.of_owner(
        key_template(CAMERA), "o", host="node-7", folders=["/watch"], zone=ZoneInfo("Europe/Berlin")
    )
    ids = ("00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002")
    assert template.example_keys == (
        ("/watch/front door.mp4", f"node-7/2026-02-01/front door-{ids[0]}.mp4"),
        ("/watch/cameras/gate/recording.mp4", f"node-7/cameras/gate/2026-02-01/recording-{ids[1]}.mp4"),
    )


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
