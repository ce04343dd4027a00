"""A lease proves nothing on what this machine's NFS server writes (kind 1, P8)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cef_trio.cli.checks import FolderFacts, judge_folder
from cef_trio.files import nfs_server
from cef_trio.files.nfs_server import exported_folders, is_in_exports
from cef_trio.files.writers import WriterState, writer_state_now


class Forbidden:
    """The kernel's file, of mode 0600, for another user than root."""

    def read_text(self) -> str:
        raise PermissionError


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the files in which the kernel and exportfs(8) tell what an NFS server serves."""
    folder = tmp_path / "server"
    folder.mkdir()
    monkeypatch.setattr(nfs_server, "_THREADS", folder / "threads")
    monkeypatch.setattr(nfs_server, "_EXPORTS", folder / "etab")
    monkeypatch.setattr(nfs_server, "_USERS", folder / "refcnt")
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


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 8:2 / /data rw shared:2 - xfs /dev/sda2 rw
31 22 8:2 /rec /export/rec rw shared:2 - xfs /dev/sda2 rw
32 22 8:3 / /mnt/my\\040disk rw shared:3 - ext4 /dev/sda3 rw
33 22 8:4 / /mnt/my\\040disk rw shared:4 - ext4 /dev/sda4 rw
"""


@pytest.mark.parametrize(
    ("path", "exports", "expected"),
    [
        ("/srv/a/x.mp4", ["/srv/a"], True),
        ("/srv/a", ["/srv/a"], True),
        ("/srv/ab/x.mp4", ["/srv/a"], False),
        ("/srv", ["/srv/a"], False),
        ("/data/rec/x.mp4", ["/export/rec"], True),  # a bind mount of it, as is usual for version 4
        ("/data/other/x.mp4", ["/export/rec"], False),
        ("/export/rec/cam/x.mp4", ["/data"], True),
        ("/export/rec/cam/x.mp4", ["/"], True),  # an export may cross mounts (crossmnt)
        ("/mnt/my disk/x.mp4", ["/mnt/my disk"], True),
        ("/srv/x.mp4", [], False),
    ],
)
def test_p8_what_is_in_an_export_is_found_whatever_mount_leads_there(
    path: str, exports: list[str], expected: bool
) -> None:
    assert is_in_exports(path, exports, MOUNTS) is expected
    assert is_in_exports(path, exports, "") is (expected and not path.startswith("/data/rec") and exports != ["/data"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_p8_the_writers_are_unknown_to_another_user_than_root_too(server: Path, recording: Path) -> None:
    export(server, recording.parent)
    (server / "threads").write_text("8\n")
    (server / "threads").chmod(0)
    assert writer_state_now(str(recording)) is WriterState.UNKNOWN


def test_p8_where_only_root_may_ask_whether_it_serves_its_exports_tell(
    server: Path, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon is no root."""
    monkeypatch.setattr(nfs_server, "_THREADS", Forbidden())
    export(server, recording.parent)
    assert writer_state_now(str(recording)) is WriterState.UNKNOWN
    (server / "etab").write_text("")
    assert writer_state_now(str(recording)) is WriterState.NONE, "a server that was stopped exports nothing"


class NoDescriptor:
    """A file of the kernel, in a process that has no descriptor left."""

    def read_text(self, **_: str) -> str:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.mark.parametrize("name", ["_THREADS", "_EXPORTS", "_USERS", "_MOUNTS"])
def test_p8_a_server_is_not_taken_for_absent_where_no_descriptor_is_left_to_look(
    server: Path, recording: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    export(server, Path("/srv/other"))
    (server / "threads").write_text("0\n" if name == "_USERS" else "8\n")
    assert writer_state_now(str(recording)) is WriterState.NONE
    monkeypatch.setattr(nfs_server, name, NoDescriptor())
    assert writer_state_now(str(recording)) is WriterState.UNKNOWN


@pytest.mark.parametrize(
    ("threads", "users", "expected"),
    [
        (None, "0", WriterState.NONE),  # the module is loaded, and unused
        (None, "1", WriterState.UNKNOWN),  # as a container sees its host's server
        ("0", "1", WriterState.NONE),  # our own /proc/fs/nfsd alone
        ("0", "2", WriterState.UNKNOWN),  # as a host sees the server of a container
        ("0", "no number", WriterState.NONE),
        ("8", "3", WriterState.NONE),  # our own server, which exports another folder; no other one is noticed then
    ],
)
def test_p8_a_server_in_another_network_namespace_is_noticed_by_the_kernels_module(
    server: Path, recording: Path, threads: str | None, users: str, expected: WriterState
) -> None:
    export(server, Path("/srv/other"))
    if threads is not None:
        (server / "threads").write_text(f"{threads}\n")
    (server / "refcnt").write_text(f"{users}\n")
    assert writer_state_now(str(recording)) is expected


def test_p8_beside_a_server_of_our_own_that_exports_nothing_its_users_cannot_be_told_from_another_ones(
    server: Path, recording: Path
) -> None:
    (server / "threads").write_text("8\n")
    (server / "etab").write_text("")
    (server / "refcnt").write_text("1\n")
    assert writer_state_now(str(recording)) is WriterState.NONE, "our own /proc/fs/nfsd alone"
    (server / "refcnt").write_text("3\n")  # also the channels that rpc.mountd has open, or two of another server
    assert writer_state_now(str(recording)) is WriterState.UNKNOWN


def test_p8_where_only_root_may_ask_a_server_elsewhere_is_noticed_if_this_one_exports_nothing(
    server: Path, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nfs_server, "_THREADS", Forbidden())
    (server / "etab").write_text("")
    (server / "refcnt").write_text("1\n")
    assert writer_state_now(str(recording)) is WriterState.NONE, "our own /proc/fs/nfsd alone"
    (server / "refcnt").write_text("2\n")
    assert writer_state_now(str(recording)) is WriterState.UNKNOWN


def test_doctor_says_that_the_writers_of_an_exported_folder_cannot_be_known() -> None:
    facts = FolderFacts(path="/srv/rec", is_folder=True, knows_writers=False)
    [found] = [one for one in judge_folder(facts) if one.subject == "writers"]
    assert "exports the folder by NFS, or may do so: only STREAM_TIMEOUT_SECONDS of silence" in found.says
