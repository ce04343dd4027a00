"""P8: when an uploaded recording may be deleted or moved: the pure rules."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product

import pytest
from checkpoint.examples import meta
from hypothesis import example, given
from hypothesis import strategies as st

from cef_trio.checkpoint.model import Checkpoint, FileIdentity, PartRecord
from cef_trio.checkpoint.states import Status, StreamSet
from cef_trio.files.file_stat import FileStat
from cef_trio.files.nofollow import is_below
from cef_trio.postprocess.after_upload_rules import (
    BACKOFF,
    VerifiedFile,
    copy_name,
    file_mismatch,
    object_mismatch,
    targets,
    verified_file,
)
from cef_trio.s3.checksums import crc64nvme
from cef_trio.s3.model import StoredObject
from cef_trio.settings.after_upload import AfterUploadAction, AfterUploadRule, parse_after_upload

STREAM = "8b8a1c9e-0000-4000-8000-000000000001"
FILE = VerifiedFile(STREAM, "/w/a/b.mp4", FileIdentity(1, 2, generation=3), 25, 1000, crc64nvme(b"x" * 25))
STAT = FileStat(1, 2, 25, 1000)
STORED = StoredObject("key", 25, "etag-3", FILE.crc64nvme, {})


def checkpoint(sizes: tuple[int, ...] = (10, 10, 5), **fields: object) -> Checkpoint:
    given: dict[str, object] = {
        "part_size": 10,
        "status": Status.COMPLETED,
        "object_etag": "etag-3",
        "verified_size_bytes": 25,
        "verified_mtime_ns": 1000,
        "path": FILE.path,
        "identity": FILE.identity,
    }
    now = datetime(2026, 1, 1, tzinfo=UTC)
    parts = {n: PartRecord(n, "e", size, crc64nvme(b"x" * size), now) for n, size in enumerate(sizes, 1)}
    return Checkpoint(meta(STREAM, **(given | fields)), StreamSet.COMPLETED, parts)


def test_the_setting_is_understood() -> None:
    assert parse_after_upload("keep") == AfterUploadRule(AfterUploadAction.KEEP)
    assert parse_after_upload("delete") == AfterUploadRule(AfterUploadAction.DELETE)
    assert parse_after_upload("move:/a:b") == AfterUploadRule(AfterUploadAction.MOVE, "/a:b")


def test_what_was_verified_is_read_from_a_whole_record() -> None:
    assert verified_file(checkpoint()) == FILE
    empty = verified_file(checkpoint((), verified_size_bytes=0))
    assert empty is not None
    assert (empty.size_bytes, empty.crc64nvme) == (0, 0)


def test_a_record_without_parts_has_the_checksum_of_the_whole_object() -> None:
    """Of a completed stream the parts are in S3; a record of an earlier version has them, all or too few."""
    assert verified_file(checkpoint((), object_crc64nvme=FILE.crc64nvme)) == FILE
    assert verified_file(checkpoint((10, 10), object_crc64nvme=FILE.crc64nvme)) is None


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.COMPLETED])
def test_p8_only_a_completed_stream_has_a_verified_file(status: Status) -> None:
    assert verified_file(checkpoint(status=status)) is None


@pytest.mark.parametrize("missing", ["object_etag", "verified_size_bytes", "verified_mtime_ns"])
def test_p8_an_incomplete_record_has_no_verified_file(missing: str) -> None:
    fields: dict[str, object] = {missing: None}
    assert verified_file(checkpoint((10, 10, 5), **fields)) is None
    assert verified_file(None) is None


@pytest.mark.parametrize("sizes", [(), (10, 10), (10, 10, 4), (10, 9, 5)])
def test_p8_parts_that_do_not_add_up_to_the_file_prove_nothing(sizes: tuple[int, ...]) -> None:
    assert verified_file(checkpoint(sizes)) is None


def test_p8_the_file_is_the_verified_one_only_if_everything_agrees() -> None:
    """Each of inode, generation, birth, file system, size and time, the same or not; and the device number too."""
    recorded = FileIdentity(1, 2, generation=3, birth_ns=4, fs_type="ext4", fs_id="uuid:5")
    file = replace(FILE, identity=recorded)
    for same in product([True, False], repeat=7):
        ino, generation, birth, size, mtime, dev, fs = (
            value if is_same else value + 7 for value, is_same in zip((2, 3, 4, 25, 1000, 1, 5), same, strict=True)
        )
        observed = FileIdentity(
            dev, ino, generation=generation, birth_ns=birth, fs_type="ext4", fs_id=f"uuid:{fs}", mount="/w /"
        )
        refused = file_mismatch(file, FileStat(dev, ino, size, mtime), observed)
        assert (refused is None) == all(same[:5] + same[6:])  # device numbers change with each mount


@pytest.mark.parametrize("fs_type", ["ext4", "fuse", None])
@pytest.mark.parametrize(("recorded_fs", "observed_fs"), [(None, None), ("uuid:1", None), ("fsid:1", "uuid:1")])
@pytest.mark.parametrize("same_device", [True, False])
def test_p8_without_a_name_of_its_file_system_the_device_number_decides(
    fs_type: str | None, recorded_fs: str | None, observed_fs: str | None, same_device: bool
) -> None:
    file = replace(FILE, identity=FileIdentity(1, 2, fs_type=fs_type, fs_id=recorded_fs))
    observed = FileIdentity(1 if same_device else 9, 2, fs_type=fs_type, fs_id=observed_fs)
    assert (file_mismatch(file, STAT, observed) is None) == same_device


def test_p8_where_inode_numbers_are_made_up_another_device_number_is_another_file() -> None:
    file = replace(FILE, identity=FileIdentity(1, 2, fs_type="fuse", fs_id="uuid:1"))
    assert file_mismatch(file, STAT, file.identity) is None
    assert file_mismatch(file, STAT, replace(file.identity, file_dev=9)) is not None


@pytest.mark.parametrize("size", [25, 24])
@pytest.mark.parametrize("crc", [FILE.crc64nvme, 5, None])
@pytest.mark.parametrize("etag", ["etag-3", "other"])
def test_p8_the_object_is_the_recording_by_size_and_checksum_or_else_by_size_and_etag(
    size: int, crc: int | None, etag: str
) -> None:
    stored = replace(STORED, size_bytes=size, crc64nvme=crc, etag=etag)
    proved = size == 25 and (crc == FILE.crc64nvme if crc is not None else etag == "etag-3")
    assert (object_mismatch(FILE, "etag-3", stored) is None) == proved


def test_p8_an_object_without_checksum_and_etag_proves_nothing() -> None:
    stored = replace(STORED, crc64nvme=None, etag="")
    assert object_mismatch(FILE, "", stored) == "S3 shows neither a checksum nor an ETag of its object"


def test_p8_an_object_that_is_gone_proves_nothing() -> None:
    assert object_mismatch(FILE, "etag-3", None) == "its object is not in S3 any more"


def test_a_recording_is_moved_to_its_path_below_the_folder_and_else_bears_its_streams_id() -> None:
    assert targets(FILE, "/w", "/done") == ("/done/a/b.mp4", f"/done/a/b.{STREAM}.mp4")
    assert copy_name("/done/a/b.mp4", STREAM) == f"/done/a/.{STREAM}.cef-trio-copy"


@pytest.mark.parametrize("path", ["/elsewhere/a.mp4", "/w", "/w2/a.mp4", "/a.mp4", "/w/../a.mp4", "/", "", "a"])
def test_p8_a_record_that_leads_out_of_the_watch_folder_is_seen(path: str) -> None:
    assert not is_below(path, "/w")
    assert is_below("/w/a", "/w")
    assert is_below("/a", "/")


names = st.binary(min_size=1, max_size=251).filter(lambda raw: not {0, 47} & set(raw)).map(os.fsdecode)


@given(names)
@example(".")
def test_both_targets_of_a_name_of_any_bytes_are_names_that_a_file_system_takes(name: str) -> None:
    first, second = targets(replace(FILE, path=f"/w/{name}.mp4"), "/w", "/done")
    assert first == f"/done/{name}.mp4"
    assert len(os.fsencode(second.rpartition("/")[2])) <= 255
    # A name of dots alone has no suffix (``os.path.splitext``): the id is its end.
    assert second.endswith(f".{STREAM}.mp4" if name.strip(".") else f".{STREAM}")


def test_what_fails_is_tried_again_later_and_later_and_at_least_every_hour() -> None:
    pauses = [BACKOFF.ceiling_seconds(failures) for failures in range(1, 2000)]
    assert pauses[:3] == [30.0, 60.0, 120.0]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 3600.0
