"""P1, P2, P3: paths that are not UTF-8, or hold newlines: begin, rename, crash, resume, fail, retry, show.

Folders and files, the watch folder itself too.
"""

from __future__ import annotations

import base64
import json
import os
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers.command import answer, run
from servers.daemon import DaemonProcess, daemon, settings_for
from servers.store import Store
from servers.valkey import ValkeyServer
from waiting import wait_until

pytestmark = pytest.mark.real
MIB = 1024 * 1024
WATCHED = os.fsdecode(b"watch \xe9t\xe9")
"""Latin-1."""
NAMES = (
    (b"caf\xe9\nold", b"cam\xe8ra \xff.mp4", b"caf\xe9\nnew", b"sp\xe4ter\nREADY=1.mp4"),
    ("größe".encode(), "mañana.mp4".encode(), b"gr\xf6\xdfe", b"ma\xf1ana.mp4"),  # UTF-8, then Latin-1
    (b"\xed\xa0\x80", b"\xed\xb3\xbf.mp4", b"\xc3\x28", b"\xf0\x28\x8c\x28.mp4"),  # surrogates, and broken sequences
)


@pytest.fixture
def watched(tmp_path: Path) -> Path:
    folder = tmp_path / WATCHED
    folder.mkdir()
    return folder


@pytest.fixture
def settings(watched: Path, embedded: Store, valkey: ValkeyServer) -> Mapping[str, str]:
    return settings_for(
        watched,
        embedded.endpoint,
        valkey.url,
        close_grace_seconds=0.2,
        rescan_seconds=0.3,
        stale_check_seconds=0.3,
        lease_seconds=3,
    )


def below(folder: Path, *names: bytes) -> Path:
    return folder.joinpath(*map(os.fsdecode, names))


def snapshot(process: DaemonProcess) -> Any:
    port = process.wait_for("admin_server_started")["port"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/events", timeout=60) as lines:
        for line in lines:
            if line.startswith(b"data: {"):
                return json.loads(line.removeprefix(b"data: "))
    raise AssertionError("no snapshot")


def read_pages(process: DaemonProcess) -> None:
    """Read every page of the admin server: a folder that is no UTF-8 may stand in each of them."""
    port = process.wait_for("admin_server_started")["port"]

    def get(path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=60, trust_env=False)

    for path in ("/", "/metrics", "/healthz", "/readyz", "/fleet"):
        response = get(path)
        assert response.status_code == 200
        assert response.content.decode()
    get("/fleet.json")  # begins to read the hosts
    wait_until(lambda: get("/fleet.json").status_code == 200)
    assert get("/fleet.json").json()


def printed(settings: Mapping[str, str], *arguments: str | bytes) -> str:
    done = run(*arguments, settings=settings)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout  # UTF-8, whatever the names are


def path_in(metadata: Mapping[str, Any], field: str = "original_file_path") -> str:
    raw = metadata.get(f"{field}_base64")
    return os.fsdecode(base64.b64decode(raw)) if raw else str(metadata[field])


@pytest.mark.parametrize("names", NAMES, ids=repr)
def test_p1_p2_p3_a_recording_of_any_bytes_is_renamed_crashes_and_resumes(
    settings: Mapping[str, str], watched: Path, embedded: Store, names: tuple[bytes, bytes, bytes, bytes]
) -> None:
    folder, name, new_folder, new_name = names
    first = below(watched, folder, name)
    first.parent.mkdir()
    moved, last = below(watched, new_folder, name), below(watched, new_folder, new_name)
    with first.open("wb", buffering=0) as writer:
        with daemon(settings) as process:
            writer.write(os.urandom(6 * MIB))
            process.wait_for("part_uploaded", part_number=1)
            first.parent.rename(moved.parent)
            process.wait_for("recording_renamed", count=1)
            moved.rename(last)
            process.wait_for("recording_renamed", count=2)
            writer.write(os.urandom(6 * MIB))
            process.wait_for("part_uploaded", part_number=2)
            (row,) = snapshot(process)["streams"]
            assert row["file"] == str(last.relative_to(watched))
            (stream,) = answer("list", settings=settings)["streams"]
            assert stream["path"] == str(last)
            assert printed(settings, "list")
            assert printed(settings, "status")
            process.kill()
        # Renamed again while no daemon runs.
        again = last.with_name(os.fsdecode(b"again \xa7.mp4"))
        last.rename(again)
        with daemon(settings) as process:
            process.wait_for("stream_resumed", stream_id=stream["stream_id"])
            writer.write(os.urandom(6 * MIB))
            process.wait_for("part_uploaded", part_number=3)
            assert process.count("part_uploaded") == 1, "no recorded part is sent again"
            writer.close()
            process.wait_for("stream_completed", stream_id=stream["stream_id"])
            (done,) = answer("list", settings=settings)["streams"]
            assert (done["path"], done["stream_id"]) == (str(again), stream["stream_id"])
            shown = answer("show", stream["stream_id"], settings=settings)
            assert (shown["original_path"], shown["current_path"]) == (str(first), str(again))
            assert printed(settings, "show", stream["stream_id"])
            assert printed(settings, "verify", os.fsencode(again))
            assert process.stop() == 0
    (key,) = embedded.recordings()
    assert set(embedded.contents()) == {again.read_bytes()}
    assert path_in(embedded.metadata(key)) in {str(first), str(again)}
    # The completed recording is renamed while no daemon runs: it is known again, and not uploaded twice.
    again.rename(below(watched, new_folder, name))
    with daemon(settings) as process:
        process.wait_for("recording_unchanged", stream_id=stream["stream_id"])
        process.wait_for_rounds(3)
        assert process.stop() == 0
    assert len(embedded.recordings()) == 1
    assert answer("list", settings=settings)["streams"][0]["path"] == str(below(watched, new_folder, name))


def test_p6_a_failed_recording_of_any_bytes_is_retried(
    settings: Mapping[str, str], watched: Path, embedded: Store
) -> None:
    path = below(watched, b"caf\xe9\n.mp4")
    with path.open("wb", buffering=0) as writer:
        writer.write(os.urandom(6 * MIB))
        with daemon(settings) as process:
            process.wait_for("part_uploaded")
            assert process.stop() == 0
        (stream,) = answer("list", settings=settings)["streams"]
        assert printed(settings, "abort", stream["stream_id"])
    assert printed(settings, "retry", stream["stream_id"])
    with daemon(settings) as process:
        process.wait_for("stream_completed", stream_id=stream["stream_id"])
        assert process.stop() == 0
    assert embedded.contents() == {path.read_bytes(): 1}


def test_p8_a_recording_of_any_bytes_is_moved_and_its_folder_is_named_everywhere(
    settings: Mapping[str, str], watched: Path, embedded: Store
) -> None:
    target = watched.with_name(os.fsdecode(b"t\xe9l\xe9"))
    target.mkdir()
    path = below(watched, b"caf\xe9\n.mp4")
    content = os.urandom(MIB)
    with daemon({**settings, "AFTER_UPLOAD": f"move:{target}"}) as process:
        path.write_bytes(content)
        process.wait_for("recording_moved_after_upload")
        (one,) = answer("fleet", settings=settings)["daemons"]
        assert one["folder"] == str(watched)
        read_pages(process)
        assert printed(settings, "fleet")
        findings = answer("doctor", settings=settings, code=None)["findings"]
        assert not [one for one in findings if one["subject"] == "watch folder" and one["severity"] == "PROBLEM"]
        assert process.stop() == 0
    assert (target / path.name).read_bytes() == content
    assert not path.exists()
    assert embedded.contents() == {content: 1}
