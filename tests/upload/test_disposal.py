"""P8: on a real file system, a file is deleted or moved only if it is the verified one, and replaces no other."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from servers.mounts import mounted

from cef_trio.checkpoint.model import FileIdentity
from cef_trio.exceptions import AfterUploadError
from cef_trio.files.file_system import Origin, file_system_named, inode_generation
from cef_trio.files.writers import WriterState, writer_state_now
from cef_trio.postprocess import disposal, rename_file
from cef_trio.postprocess.after_upload_rules import VerifiedFile
from cef_trio.postprocess.copy_file import Copy, is_other_entry
from cef_trio.postprocess.disposal import NotAsVerifiedError, delete_now, move_now
from cef_trio.postprocess.rename_file import OtherFileSystemError
from cef_trio.s3.checksums import crc64nvme

CONTENT = b"a whole recording"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "watch"
    folder.mkdir()
    file = folder / "a.mp4"
    file.write_bytes(CONTENT)
    return file


def verified(path: Path) -> VerifiedFile:
    stat = path.stat()
    with path.open("rb") as file:
        generation = inode_generation(file.fileno())
    identity = FileIdentity(stat.st_dev, stat.st_ino, generation=generation)
    return VerifiedFile("ID", str(path), identity, stat.st_size, stat.st_mtime_ns, crc64nvme(path.read_bytes()))


def listing(folder: Path | str) -> list[str]:
    return sorted(entry.name for entry in Path(folder).iterdir())


def rewrite(path: Path) -> None:
    before = path.stat()
    path.write_bytes(CONTENT[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def grow(path: Path) -> None:
    before = path.stat()
    with path.open("ab") as file:
        file.write(b"!")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_by_another(path: Path) -> None:
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(CONTENT)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(path)


def replace_by_a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def replace_by_a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


CHANGES = [rewrite, grow, replace_by_another, replace_by_a_link, replace_by_a_fifo, replace_by_a_folder]


def test_p8_the_verified_file_is_deleted_and_a_file_that_is_gone_is_no_error(path: Path) -> None:
    file = verified(path)
    assert delete_now(file)
    assert not path.exists()
    assert not delete_now(file)
    path.parent.rmdir()
    assert not delete_now(file)


@pytest.mark.parametrize("fs_id", ["uuid:of its own", "uuid:another", None])
@pytest.mark.parametrize("move", [False, True], ids=["delete", "move"])
def test_p8_after_a_boot_that_gave_its_disk_another_number_the_file_is_still_the_verified_one(
    path: Path, tmp_path: Path, move: bool, fs_id: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the file system's own id proves that; with another id or none, the file is kept."""
    told = Origin(system=file_system_named("ext4"), fs_id=fs_id)
    monkeypatch.setattr(disposal, "origin_of", lambda _descriptor: told)
    file = verified(path)
    file = replace(
        file,
        identity=replace(file.identity, file_dev=file.identity.file_dev + 7, fs_type="ext4", fs_id="uuid:of its own"),
    )
    target = tmp_path / "b.mp4"

    def act() -> object:
        return move_now(file, [str(target)]) if move else delete_now(file)

    if fs_id == "uuid:of its own":
        assert act()
        assert not path.exists()
        assert target.exists() == move
    else:
        with pytest.raises(NotAsVerifiedError, match="another file system"):
            act()
        assert path.exists()


@pytest.mark.parametrize("change", CHANGES)
def test_p8_whatever_is_not_the_verified_file_is_left_alone(path: Path, change: Callable[[Path], None]) -> None:
    file = verified(path)
    change(path)
    before = path.lstat()
    for action in (lambda: delete_now(file), lambda: move_now(file, [str(path.parent.parent / "to.mp4")])):
        with pytest.raises(NotAsVerifiedError, match="left alone"):
            action()
    assert path.lstat().st_ino == before.st_ino
    assert listing(path.parent.parent) == ["watch"]


def test_p8_a_folder_that_was_swapped_for_a_link_leads_nowhere(path: Path, tmp_path: Path) -> None:
    file = verified(path)
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "a.mp4").write_bytes(CONTENT)
    path.parent.rename(tmp_path / "was")
    path.parent.symlink_to(victim)
    with pytest.raises(NotAsVerifiedError):
        delete_now(file)
    assert (victim / "a.mp4").exists()


leases = pytest.mark.skipif("not has_leases()")


def has_leases() -> bool:
    return writer_state_now(__file__) is not WriterState.UNKNOWN


@leases
def test_p8_a_file_that_has_a_writer_is_left_alone_until_it_has_none(path: Path) -> None:
    file = verified(path)
    with path.open("r+b"), pytest.raises(AfterUploadError, match="open for writing") as caught:
        delete_now(file)
    assert not isinstance(caught.value, NotAsVerifiedError)  # which would be for good
    assert delete_now(file)


@leases
def test_p8_a_writer_that_opens_the_file_at_the_last_moment_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer opens the file during the check: the kernel delays it, and the daemon keeps the file."""
    file = verified(path)
    check, opened = disposal._check, threading.Event()

    def write() -> None:
        with path.open("r+b"):
            opened.set()

    writer = threading.Thread(target=write)

    def check_and_let_the_writer_come(*given: object) -> None:
        check(*given)  # type: ignore[arg-type]
        if not writer.is_alive() and not opened.is_set():
            writer.start()
            descriptor = next(fd for fd in map(int, listing("/proc/self/fd")) if leads_to(fd, path))
            while fcntl.fcntl(descriptor, fcntl.F_GETLEASE) == fcntl.F_RDLCK:
                os.sched_yield()  # until the kernel has taken the writer's open in

    monkeypatch.setattr(disposal, "_check", check_and_let_the_writer_come)
    with pytest.raises(AfterUploadError, match="opens it for writing"):
        delete_now(file)
    writer.join(20)
    assert opened.is_set()
    assert path.read_bytes() == CONTENT


def leads_to(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


# ---- moving ----------------------------------------------------------------------------------------------------------


def test_the_verified_file_is_moved_and_its_folders_are_made(path: Path, tmp_path: Path) -> None:
    file, target = verified(path), tmp_path / "done" / "deep" / "a.mp4"
    assert move_now(file, [str(target), "/never"]) == str(target)
    assert target.read_bytes() == CONTENT
    assert target.stat().st_ino == file.identity.file_ino
    assert not path.exists()
    assert move_now(file, [str(target)]) is None


def test_the_folders_of_a_recording_that_is_nested_deeper_than_pythons_stack_are_made(
    path: Path, tmp_path: Path
) -> None:
    done = tmp_path / "done"
    target = f"{done}{'/d' * (sys.getrecursionlimit() + 100)}/a.mp4"
    try:
        assert move_now(verified(path), [target]) == target
        assert Path(target).read_bytes() == CONTENT
    finally:
        subprocess.run(["rm", "-r", done], check=True)  # shutil.rmtree, pytest's too, calls itself for each folder


@pytest.mark.parametrize("renameat2", [True, False], ids=["renameat2", "hard link"])
def test_p8_a_name_that_is_taken_is_never_replaced(
    path: Path, tmp_path: Path, renameat2: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not renameat2:  # as NFS has it
        monkeypatch.setattr(rename_file, "_renameat2", lambda *_: errno.EINVAL)
    first, second = tmp_path / "done" / "a.mp4", tmp_path / "done" / "a.ID.mp4"
    first.parent.mkdir()
    first.write_bytes(b"another file's")
    assert move_now(verified(path), [str(first), str(second)]) == str(second)
    assert (first.read_bytes(), second.read_bytes()) == (b"another file's", CONTENT)
    path.write_bytes(CONTENT)
    with pytest.raises(AfterUploadError, match="are taken"):
        move_now(verified(path), [str(first), str(second)])
    assert path.read_bytes() == CONTENT


def test_a_move_that_was_killed_between_its_two_names_is_finished(path: Path, tmp_path: Path) -> None:
    file, target = verified(path), tmp_path / "a.mp4"
    target.hardlink_to(path)
    assert move_now(file, [str(target)]) == str(target)
    assert not path.exists()
    assert target.read_bytes() == CONTENT


def test_p8_a_target_that_is_the_file_itself_by_another_path_does_not_lose_it(path: Path, tmp_path: Path) -> None:
    alias = tmp_path / "alias"
    alias.symlink_to(path.parent)
    with pytest.raises(AfterUploadError, match="its own path"):
        move_now(verified(path), [str(alias / "a.mp4")])
    assert path.read_bytes() == CONTENT


def test_p8_another_file_that_takes_the_name_at_the_last_moment_is_renamed_back(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, rename = verified(path), rename_file.rename

    def after_another_came(from_folder: int, name: str, to_folder: int, new_name: str) -> bool:
        if not (tmp_path / "kept").exists():
            path.rename(tmp_path / "kept")
            path.write_bytes(b"a new recording")
        return rename(from_folder, name, to_folder, new_name)

    monkeypatch.setattr(disposal, "rename", after_another_came)
    with pytest.raises(NotAsVerifiedError, match="just now"):
        move_now(file, [str(tmp_path / "to.mp4")])
    assert path.read_bytes() == b"a new recording"
    assert not (tmp_path / "to.mp4").exists()


def test_another_file_system_is_distinguished_from_a_rejection(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = verified(path)
    monkeypatch.setattr(rename_file, "_renameat2", lambda *_: errno.EXDEV)
    with pytest.raises(OtherFileSystemError):
        move_now(file, [str(path.with_name("b.mp4"))])
    monkeypatch.setattr(rename_file, "_renameat2", lambda *_: errno.EROFS)
    with pytest.raises(AfterUploadError, match=r"cannot move '.*a\.mp4': Read-only file system") as caught:
        move_now(file, [str(path.with_name("b.mp4"))])
    assert not isinstance(caught.value, OtherFileSystemError)
    assert path.read_bytes() == CONTENT


def test_a_rejection_of_the_file_system_has_a_readable_message(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(AfterUploadError, match=r"cannot delete '.*a\.mp4': Permission denied"):
        delete_now(verified(path))


@pytest.mark.skipif(os.getuid() != 0, reason="mounts need root")
def test_p8_a_target_at_which_the_file_itself_is_mounted_does_not_lose_it(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    target.touch()
    with mounted("--bind", path, target), pytest.raises(AfterUploadError, match="its own path"):
        move_now(verified(path), [str(target)])
    assert path.read_bytes() == CONTENT


# ---- copies ----------------------------------------------------------------------------------------------------------


def test_a_copy_is_private_until_it_is_whole_and_then_like_the_file(path: Path, tmp_path: Path) -> None:
    path.chmod(0o640)
    os.utime(path, ns=(1, 1_000_000_007))
    file, hidden, target = verified(path), tmp_path / "d" / ".copy", tmp_path / "d" / "a.mp4"
    hidden.parent.mkdir()
    hidden.write_bytes(b"what a killed daemon left, and longer than the file is")
    copy = Copy(str(hidden))
    assert hidden.read_bytes() == b""
    copy.write(CONTENT[5:], 5)
    copy.write(CONTENT[:5], 0)
    copy.finish(file)
    assert copy.name([str(target)]) == str(target)
    assert target.read_bytes() == CONTENT
    assert (target.stat().st_mode & 0o777, target.stat().st_mtime_ns) == (0o640, 1_000_000_007)
    assert listing(hidden.parent) == ["a.mp4"]


def test_p8_what_a_kill_left_between_link_and_unlink_is_not_cut_under_its_final_name(
    path: Path, tmp_path: Path
) -> None:
    hidden, target = tmp_path / ".copy", tmp_path / "a.mp4"
    hidden.write_bytes(CONTENT)
    target.hardlink_to(hidden)
    copy = Copy(str(hidden))
    copy.write(b"another attempt", 0)
    assert target.read_bytes() == CONTENT
    copy.discard()
    assert listing(tmp_path) == ["a.mp4", "watch"]


@pytest.mark.parametrize("mode", [0o640, 0o440])
def test_p8_only_a_marked_copy_of_a_recording_without_the_mark_or_another_name_is_another_entry(
    path: Path, tmp_path: Path, mode: int
) -> None:
    path.chmod(mode)
    file, hidden, target = verified(path), tmp_path / ".copy", tmp_path / "a.mp4"
    copy = Copy(str(hidden))
    copy.finish(file)
    copy.name([str(target)])
    assert is_other_entry(str(target), file)
    assert not is_other_entry(str(target), replace(file, stream_id="another's"))
    assert not is_other_entry(file.path, file)
    assert not is_other_entry(str(tmp_path / "missing" / "a.mp4"), file)
    assert is_other_entry(str(tmp_path / "a.ID.mp4"), file)
    os.setxattr(path, "user.cef-trio.copy", b"ID")  # it was moved back
    assert not is_other_entry(str(target), file)


def test_p8_without_attributes_of_files_a_copy_of_the_same_name_is_not_known_to_be_another_entry(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> bytes:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    monkeypatch.setattr(os, "getxattr", refuse)
    file, copy = verified(path), Copy(str(tmp_path / ".copy"))
    copy.finish(file)
    assert not is_other_entry(copy.name([str(tmp_path / "a.mp4")]), file)


def test_a_new_copy_is_unreadable_for_others_and_is_deleted_when_discarded(tmp_path: Path) -> None:
    hidden = tmp_path / ".copy"
    copy = Copy(str(hidden))
    assert hidden.stat().st_mode & 0o777 == 0o600
    copy.discard()
    assert listing(tmp_path) == []


def test_p8_two_daemons_never_write_one_copy(path: Path, tmp_path: Path) -> None:
    hidden, target = tmp_path / ".copy", tmp_path / "a.mp4"
    first = Copy(str(hidden))
    first.write(CONTENT, 0)
    with pytest.raises(AfterUploadError, match="another daemon does"):
        Copy(str(hidden))
    assert hidden.read_bytes() == CONTENT
    first.name([str(target)])
    second = Copy(str(hidden))
    assert target.read_bytes() == CONTENT
    second.discard()


def test_p8_a_whole_copy_never_replaces_anything(path: Path) -> None:
    hidden, taken, free = (path.with_name(name) for name in (".copy", "taken.mp4", "free.mp4"))
    taken.write_bytes(b"another file's")
    assert Copy(str(hidden)).name([str(taken), str(free)]) == str(free)
    copy = Copy(str(hidden))
    with pytest.raises(AfterUploadError, match="are taken"):
        copy.name([str(taken), str(free)])
    copy.discard()
    assert taken.read_bytes() == b"another file's"


def test_a_copy_is_written_through_no_link(path: Path) -> None:
    link = path.with_name(".copy")
    link.symlink_to(path)
    with pytest.raises(AfterUploadError, match="cannot write"):
        Copy(str(link))
    assert path.read_bytes() == CONTENT


def test_a_full_disk_has_a_readable_message(tmp_path: Path) -> None:
    copy = Copy(str(tmp_path / ".copy"))
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, copy._descriptor)
    os.close(full)
    with pytest.raises(AfterUploadError, match=r"cannot write '.*copy': No space left on device"):
        copy.write(CONTENT, 0)
    copy.discard()


def test_nothing_is_left_open(path: Path) -> None:
    file, before = verified(path), listing("/proc/self/fd")
    with pytest.raises(NotAsVerifiedError):
        delete_now(replace(file, size_bytes=1))
    move_now(file, [str(path.with_name("b.mp4"))])
    delete_now(file)
    Copy(str(path)).discard()
    Copy(str(path)).name([str(path.with_name("c.mp4"))])
    path.symlink_to("c.mp4")
    with pytest.raises(AfterUploadError):
        Copy(str(path))
    assert listing("/proc/self/fd") == before
