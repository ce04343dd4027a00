"""Owners whose templates lead below one prefix: each is named, and neither loses an upload to the other's ``gc``."""

from __future__ import annotations

from pathlib import Path

import pytest
from servers.command import answer
from servers.daemon import daemon, settings_for
from servers.endpoints import Endpoint
from servers.recordings import MIB
from servers.store import Store
from servers.valkey import ValkeyServer

pytestmark = pytest.mark.real
PART = 5 * MIB
BY_DEFAULT = "streams/{owner}/{stream_id}/{file_name}"


@pytest.mark.parametrize(
    "templates",
    [
        (BY_DEFAULT, "streams/node-7/{stream_id}/{file_name}"),  # copied from the host that went back (operations.md)
        ("rec/{owner}/{relative_dir}/{stream_id}/{file_name}", "rec/node-7/{owner}/{stream_id}/{file_name}"),
    ],
)
def test_p9_gc_aborts_no_upload_of_another_owner_below_our_prefix_and_the_fleet_names_both(
    tmp_path: Path, endpoint: Endpoint, valkey: ValkeyServer, embedded: Store, templates: tuple[str, str]
) -> None:
    hosts = []
    for name, keys in zip(("node-7", "node-8"), templates, strict=True):
        (folder := tmp_path / name).mkdir()
        more = {"instance_id": name, "stream_timeout_seconds": 600}  # both are open while the commands run
        given = settings_for(folder, endpoint, valkey.url, owner_name=name, s3_key_template=keys, **more)
        hosts.append((folder / "a.mp4", given))
    (file, ours), (their_file, theirs) = hosts
    with (
        file.open("wb") as writer,
        their_file.open("wb") as their_writer,
        daemon(ours) as process,
        daemon(theirs) as their_process,
    ):
        for one, its_process in ((writer, process), (their_writer, their_process)):
            one.write(b"\1" * PART)
            one.flush()
            its_process.wait_for("part_uploaded")
        before = embedded.open_uploads()
        assert len(before) == 2
        for settings in (ours, theirs):
            done = answer("gc", "--older-than", "0s", settings=settings)
            assert not any(one["aborted"] for one in done["results"])
        assert embedded.open_uploads() == before
        found = answer("fleet", settings={"REDIS_URL": valkey.url}, code=5)["problems"]
        assert [(one["problem"], one["urgent"]) for one in found] == [("shared_prefix", True)]
        assert "'node-7'" in found[0]["says"]
        assert "'node-8'" in found[0]["says"]
        says = [one for one in answer("doctor", settings=ours, code=5)["findings"] if one["severity"] == "problem"]
        assert [one["says"] for one in says] == [found[0]["says"]]


def test_p9_an_open_upload_of_another_owner_is_not_adopted_even_for_a_file_of_the_same_name_and_bytes(
    tmp_path: Path, endpoint: Endpoint, valkey: ValkeyServer, embedded: Store
) -> None:
    """The other owner has gone back to an earlier version, and spells this owner's name out in its template."""
    hosts = []
    for name, keys in (("node-7", BY_DEFAULT), ("node-8", "streams/node-7/{stream_id}/{file_name}")):
        (folder := tmp_path / name).mkdir()
        (folder / "a.mp4").write_bytes(b"\1" * (PART + MIB))
        more = {"stream_timeout_seconds": 600, "close_grace_seconds": 600}
        given = settings_for(folder, endpoint, valkey.url, owner_name=name, s3_key_template=keys, **more)
        hosts.append(given)
    ours, theirs = hosts
    with daemon(theirs) as their_process:
        their_process.wait_for("part_uploaded")
        [before] = embedded.open_uploads()
        with daemon(ours) as process:
            process.wait_for("part_uploaded")
            assert process.count("upload_adopted") == 0
        assert their_process.count("lease_lost") == 0
    assert before in embedded.open_uploads()
    assert len(embedded.open_uploads()) == 2


def test_p8_an_object_of_another_owner_is_not_taken_for_an_upload_of_a_file_of_the_same_name_and_bytes(
    tmp_path: Path, endpoint: Endpoint, valkey: ValkeyServer, embedded: Store
) -> None:
    """That owner may delete it (`gc --superseded`); then this one, which may have deleted its recording, has none."""
    for name in ("node-7", "node-8"):
        (folder := tmp_path / name).mkdir()
        (folder / "a.mp4").write_bytes(b"\1" * MIB)
        template = "streams/node-7/{stream_id}/{file_name}"
        given = settings_for(folder, endpoint, valkey.url, owner_name=name, s3_key_template=template)
        with daemon(given) as process:
            process.wait_for("stream_completed")
            assert process.count("object_adopted") == 0
    assert len(embedded.recordings()) == 2
