"""A lease proves nothing on what this machine's NFS server writes (kind 1, P8)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cef_trio.cli.checks import FolderFacts, judge_folder
from cef_trio.files import nfs_server
from cef_trio.files.nfs_server import exported_folders, is_in
from cef_trio.files.writers import WriterState, writer_state_now


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the files in which the kernel and exportfs(8) tell what an NFS server serves."""
    folder = tmp_path / "server"
    folder.mkdir()
    monkeypatch.setattr(nfs_server, "_THREADS", folder / "threads")
    monkeypatch.setattr(nfs_server, "_EXPORTS", folder / "etab")
    return folder


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "rec ordings" / "a.mp4"
    path.parent.mkdir()
    path.write_bytes(b"x")
    yield path
    path.unlink()


def export(server: Path, folder: Path, options: str = "rw,sync,wdelay") -> None:
    escaped = os.fspath(folder).replace(" ", "\\040")
    (server / "etab").write_text(f"{escaped}\t192.0.2.0/24({options},sec=sys)\n")


def test_p8_the_writers_of_an_exported_folder_are_unknown_as_clients_open_no_file(
    server: Path, recording: Path
) -> None:
    assert writer_state_now(str(recording)) is WriterState.NONE
    export(server, recording.parent)
    assert writer_state_now(str(recording)) is WriterState.NONE, "no server runs"
    (server / "threads").write_text("0\n")
    assert writer_state_now(str(recording)) is WriterState.NONE, "it was stopped"
    (server / "threads").write_text("8\n")
    assert writer_state_now(str(recording)) is WriterState.UNKNOWN
    export(server, recording.parent.parent)
    assert writer_state_now(str(recording)) is WriterState.UNKNOWN
    export(server, Path("/srv/other"))
    assert writer_state_now(str(recording)) is WriterState.NONE
    export(server, recording.parent, "ro,sync")
    assert writer_state_now(str(recording)) is WriterState.NONE, "no client may write"
    (server / "etab").unlink()
    assert writer_state_now(str(recording)) is WriterState.UNKNOWN, "it serves, and it is not known what"


def test_the_table_of_exports_is_read_with_its_escapes() -> None:
    text = "/srv/a\\040b\t*(rw,sync)\n/srv/c\t10.0.0.1(ro,sync)\n/srv/c\t10.0.0.2(rw)\n\n# nothing\n/d\\9\t*(rw)\n"
    assert exported_folders(text) == ["/srv/a b", "/srv/c", "/d\\9"]


@pytest.mark.parametrize(
    ("path", "expected"), [("/srv/a/x.mp4", True), ("/srv/a", True), ("/srv/ab/x.mp4", False), ("/srv", False)]
)
def test_only_what_is_at_or_below_an_export_is_exported(path: str, expected: bool) -> None:
    assert is_in(path, ["/srv/a"]) is expected


def test_doctor_says_that_the_writers_of_an_exported_folder_cannot_be_known() -> None:
    facts = FolderFacts(path="/srv/rec", is_folder=True, knows_writers=False)
    [found] = [one for one in judge_folder(facts) if one.subject == "writers"]
    assert "exports the folder by NFS: only STREAM_TIMEOUT_SECONDS of silence" in found.says
