"""The owner's name: lasting, derived from what is known, and never guessed."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import pytest

from cef_trio.daemon import machine, owner_name
from cef_trio.daemon.owner_name import OwnerName, OwnerSource, derive, owner_of
from cef_trio.files import file_system, lasting_id
from cef_trio.settings import Settings, SettingsError, is_owner_name, load_settings
from cef_trio.upload import KeyTemplate

MACHINE = "0123456789abcdef"
DISK = "fsid:0011223344556677"


@pytest.mark.parametrize(
    ("known", "name", "source"),
    [
        (("node-7", MACHINE, DISK, "cam"), "node-7", OwnerSource.SETTING),
        (("", MACHINE, DISK, "cam"), "0123456789ab", OwnerSource.MACHINE),
        (("", MACHINE, None, None), "0123456789ab", OwnerSource.MACHINE),
        (("", None, DISK, "cam"), "c037988590c2", OwnerSource.FILE_SYSTEM),
        (("", None, "uuid:00112233", "cam"), "cam", OwnerSource.INSTANCE),  # an older kernel reports none
        (("", None, "uuid:00112233", None), "bed0d322c931", OwnerSource.FILE_SYSTEM),
        (("", None, None, "Cam-1"), "cam-1", OwnerSource.INSTANCE),
        (("", None, None, "cam 1"), "55c2406da4e1", OwnerSource.INSTANCE),
        (("", None, None, "fleet"), "e13d1a7b741b", OwnerSource.INSTANCE),
    ],
)
def test_the_name_comes_from_the_surest_identity_that_is_known(
    known: tuple[str, str | None, str | None, str | None], name: str, source: OwnerSource
) -> None:
    """A name that changed with a version would hide all streams: these are the wire format."""
    assert derive(*known) == OwnerName(name, source)
    assert is_owner_name(name)


def test_without_an_identity_no_name_is_guessed() -> None:
    assert derive("", None, None, None) is None


TRANSIENT = "61 28 0:25 /machine-id /etc/machine-id ro,relatime shared:14 - tmpfs tmpfs rw,size=6553600k,mode=755"
OF_A_HOST = "62 28 254:0 /etc/machine-id /etc/machine-id ro,relatime - ext4 /dev/vda rw"


@pytest.mark.parametrize(
    ("mountinfo", "is_of_this_boot"),
    [
        ("", False),
        ("28 1 254:0 / / rw - ext4 /dev/vda rw", False),
        (TRANSIENT, True),
        (OF_A_HOST, False),
        (f"{OF_A_HOST}\n{TRANSIENT}", True),
        (f"{TRANSIENT}\n{OF_A_HOST}", False),  # mounted above it
        (TRANSIENT.replace(" /etc/machine-id", " /var/lib/dbus/machine-id"), False),  # another file's
        (TRANSIENT.replace(" /machine-id", " /pytest/machine-id"), False),  # a file of a tmpfs that someone made
        ("garbage", False),
    ],
)
def test_a_machine_id_that_systemd_makes_at_each_boot_is_no_identity(mountinfo: str, is_of_this_boot: bool) -> None:
    assert machine.is_of_this_boot(mountinfo, "/etc/machine-id") is is_of_this_boot


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (f"{7:032x}", True),
        (f"{7:032x}\n", True),
        ("0" * 32, False),  # of an image: each of its copies would be the same machine
        ("", False),
        ("uninitialized", False),  # machine-id(5): the first boot is not over
        (f"{7:033x}", False),
    ],
)
def test_what_an_image_has_instead_of_a_machine_id_is_no_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, is_one: bool
) -> None:
    file = tmp_path / "machine-id"
    file.write_text(text)
    monkeypatch.setattr(machine, "_MACHINE_IDS", (file, tmp_path / "absent"))
    assert (machine.machine_id() is not None) is is_one


def test_p9_a_machine_without_descriptors_is_no_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the name would be derived from something else, and no stream found under it."""

    class Unopenable:
        def read_text(self, **_: str) -> str:
            raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

    for name in ("_MOUNTS", "_BOOT_ID"):
        with monkeypatch.context() as context:
            context.setattr(machine, name, Unopenable())
            with pytest.raises(OSError, match="Too many open files"):
                (machine.machine_id if name == "_MOUNTS" else machine.boot_id)()

    def unopenable(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(owner_name, "machine_id", lambda: None)
    monkeypatch.setattr(os, "open", unopenable)
    with pytest.raises(OSError, match="Too many open files"):
        owner_of(settings("/", instance_id="cam-3"))


@pytest.mark.parametrize("more_folders", ["", ":/srv/other"], ids=["one folder", "the first of several"])
@pytest.mark.parametrize("number", [errno.ENFILE, errno.EMFILE, errno.ENOMEM])
def test_p9_a_watch_folder_that_no_descriptor_is_left_for_makes_no_other_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, more_folders: str
) -> None:
    """Else the name would be the container's ``INSTANCE_ID``, and no stream found under it."""

    def lacking(_folder: Path) -> str:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(owner_name, "machine_id", lambda: None)
    monkeypatch.setattr(owner_name, "lasting_id", lacking)
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        owner_of(settings(f"{tmp_path}{more_folders}", instance_id="cam-3"))


def settings(folder: Path | str, **more: Any) -> Settings:
    return load_settings(None, watch_dir=folder, s3_bucket_name="recordings", **more)


@pytest.fixture
def container(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container without a machine-id, on a file system that is made anew with it."""
    monkeypatch.setattr(owner_name, "machine_id", lambda: None)
    monkeypatch.setattr(owner_name, "lasting_id", lambda _folder: None)


@pytest.mark.usefixtures("container")
def test_the_host_name_is_no_identity_and_an_instance_id_that_was_set_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INSTANCE_ID", raising=False)
    with pytest.raises(SettingsError, match="set OWNER_NAME to a permanent name, or mount"):
        owner_of(settings(tmp_path))
    monkeypatch.setenv("INSTANCE_ID", "cam-3")
    assert owner_of(settings(tmp_path)) == OwnerName("cam-3", OwnerSource.INSTANCE)
    assert owner_of(settings(tmp_path, owner_name="site")) == OwnerName("site", OwnerSource.SETTING)


@pytest.mark.usefixtures("container")
def test_p3_no_other_name_is_taken_while_the_folder_that_it_is_derived_from_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several folders the daemon starts without the first one. Under another name it would not find its streams."""
    monkeypatch.setattr(owner_name, "lasting_id", lasting_id)
    monkeypatch.setenv("INSTANCE_ID", "cam-3")
    (tmp_path / "there").mkdir()
    with pytest.raises(SettingsError, match=r"the first folder of WATCH_DIR, '.*/missing', cannot be opened"):
        owner_of(settings(f"{tmp_path}/missing:{tmp_path}/there"))
    assert owner_of(settings(f"{tmp_path}/there:{tmp_path}/missing")) == owner_of(settings(tmp_path / "there"))


def test_a_file_system_that_passes_with_its_mount_or_container_is_no_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tmpfs", "overlay"):
        found = file_system.file_system_named(name)
        monkeypatch.setattr(file_system, "statfs", lambda _descriptor, found=found: (found, b"12345678"))
        assert file_system.lasting_id(Path("/")) is None
    ext4 = file_system.file_system_named("ext4")
    monkeypatch.setattr(file_system, "statfs", lambda _descriptor: (ext4, b"12345678"))
    assert file_system.lasting_id(Path("/")) == "fsid:3132333435363738"
    nfs = file_system.file_system_named("nfs")
    monkeypatch.setattr(file_system, "statfs", lambda _descriptor: (nfs, b"12345678"))
    monkeypatch.setattr(file_system, "_uuid", lambda _descriptor: None)
    assert file_system.lasting_id(Path("/")) is None


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    file_system.lasting_id(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_owner_belongs_to_the_fixed_prefix_of_its_keys() -> None:
    template = KeyTemplate.of_owner("streams/{owner}/{stream_id}/{file_name}", "node-7")
    assert template.prefix == "streams/node-7/"
    assert template.probe_key == "streams/node-7/cef-trio-probe"
    key = template.key("0b6b1d7e-0000-4000-8000-000000000000", "/rec/{owner}.mp4")
    assert key == "streams/node-7/0b6b1d7e-0000-4000-8000-000000000000/{owner}.mp4"
    assert template.parse(key) is not None
    other = KeyTemplate.of_owner("streams/{owner}/{stream_id}/{file_name}", "node-70")
    assert other.parse(key) is None
    assert not other.prefix.startswith(template.prefix)
