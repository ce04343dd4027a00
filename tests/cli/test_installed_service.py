"""Commands find the settings of the installed systemd service, as its daemon has them, without any export."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from pathlib import Path

import pytest

from cef_trio.cli import doctor, installed_service
from cef_trio.cli.arguments import DEFAULT_ENV_FILE
from cef_trio.cli.installed_service import InstalledService, find_installed_service, settings_of, variables_of
from cef_trio.cli.main import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine on which the service was installed by the steps of docs/operations.md."""
    units, settings = tmp_path / "etc/systemd/system", tmp_path / "etc/cef-trio"
    (units / "cef-trio.service.d").mkdir(parents=True)
    (settings / "secrets").mkdir(parents=True)
    (units / "cef-trio.service").write_text((ROOT / "deploy/systemd/cef-trio.service").read_text())
    (units / "cef-trio.service.d/secrets.conf").write_text((ROOT / "deploy/systemd/secrets.conf").read_text())
    (settings / "cef-trio.env").write_text("# ours\nWATCH_DIR=/srv/recordings\nS3_BUCKET_NAME=recordings\n")
    for name in ("s3-access-key-id", "s3-secret-access-key", "redis-url"):
        (settings / "secrets" / name).write_text(f"redis://of-{name}:6379/0" if name == "redis-url" else f"the-{name}")
    return tmp_path


def test_the_environment_of_the_unit_is_found_with_its_credentials(machine: Path) -> None:
    service = find_installed_service(machine)
    assert service is not None
    secrets = machine / "etc/cef-trio/secrets"
    assert service.user == "cef-trio"
    assert service.variables == {
        "APP_ENV": "production",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "S3_ACCESS_KEY_ID_FILE": str(secrets / "s3-access-key-id"),
        "S3_SECRET_ACCESS_KEY_FILE": str(secrets / "s3-secret-access-key"),
        "REDIS_URL_FILE": str(secrets / "redis-url"),
        "WATCH_DIR": "/srv/recordings",
        "S3_BUCKET_NAME": "recordings",
    }
    assert (service.settings_file, service.unreadable, service.may_lease_all) == (None, (), False)
    assert set(service.credentials) == {value for name, value in service.variables.items() if name.endswith("_FILE")}


def test_drop_ins_change_the_unit_as_systemd_merges_them(machine: Path) -> None:
    local = machine / "etc/systemd/system/cef-trio.service.d/zz.conf"
    local.write_text(
        "[Unit]\nEnvironment=NOT_OF=the-service\n[Service]\nUser=recorder\nSupplementaryGroups=video audio\n"
        "AmbientCapabilities=CAP_LEASE\nEnvironment=\nEnvironment='S3_TAGS=a=b c' \\\n  LOG_LEVEL=DEBUG\n"
    )
    (machine / "etc/cef-trio/live").mkdir()
    (machine / "etc/cef-trio/live/.env").write_text("MAX_UPLOAD_RATE=1MiB\n")
    vendor = machine / "usr/lib/systemd/system/cef-trio.service.d"
    vendor.mkdir(parents=True)
    (vendor / "zz.conf").write_text("[Service]\nUser=masked\n")
    service = find_installed_service(machine)
    assert service is not None
    assert (service.user, service.groups, service.may_lease_all) == ("recorder", ("cef-trio", "video", "audio"), True)
    assert service.variables["S3_TAGS"] == "a=b c"
    assert service.variables["LOG_LEVEL"] == "DEBUG"
    assert not {"APP_ENV", "NOT_OF", "S3_ACCESS_KEY_ID_FILE"} & service.variables.keys()
    assert service.settings_file == machine / "etc/cef-trio/live/.env"


@pytest.mark.parametrize(
    ("line", "may"),
    [
        ("", False),
        ("ReadWritePaths=/srv/recordings", True),
        ("ReadWritePaths=/srv -/else", True),
        ("ReadWritePaths=-/srv/recordings/cam1", True),
        ("ReadWritePaths=/srv/rec", False),
        ("ReadWritePaths=/srv/recordings\nReadWritePaths=", False),
        ("ProtectSystem=full", True),
    ],
)
def test_p10_what_the_unit_lets_its_daemon_write_is_known(machine: Path, line: str, may: bool) -> None:
    """The unit as it is makes everything read-only, so that nothing could be deleted."""
    (machine / "etc/systemd/system/cef-trio.service.d/zz.conf").write_text(f"[Service]\n{line}\n")
    service = find_installed_service(machine)
    assert service is not None
    assert service.may_write("/srv/recordings") is may


def test_p10_specifiers_in_the_unit_are_what_its_daemon_gets(machine: Path) -> None:
    """Else a command asks another Redis than the daemon, and doctor reports what is well."""
    (machine / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (machine / "etc/systemd/system/cef-trio.service.d/zz.conf").write_text(
        "[Service]\nEnvironment=REDIS_URL=redis://:p%%40ss@10.0.0.1/0 INSTANCE_ID=%H S3_TAGS=machine=%m,unit=%n\n"
        "Environment='WEBHOOK_SECRET=100%%d' LOG_LEVEL=%?\n"
    )
    service = find_installed_service(machine)
    assert service is not None
    assert service.variables["REDIS_URL"] == "redis://:p%40ss@10.0.0.1/0"
    assert service.variables["INSTANCE_ID"] == socket.gethostname()
    assert service.variables["S3_TAGS"] == "machine=0123456789abcdef0123456789abcdef,unit=cef-trio.service"
    assert (service.variables["WEBHOOK_SECRET"], service.variables["LOG_LEVEL"]) == ("100%d", "%?")


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([], {}),
        (["User=a"], {}),
        (["[Service]", "User=a", "; User=b", " # User=c"], {"User": ["a"]}),
        (["[Service]", "User = a ", "User=b"], {"User": ["a", "b"]}),
        (["[Service]", "User=a", "User="], {"User": []}),
        (["[Service]", "ExecStart=a \\", "# no end", "b"], {"ExecStart": ["a  b"]}),
        (["[Service]", "User=a", "[Install]", "User=b"], {"User": ["a"]}),
    ],
)
def test_a_unit_is_read(lines: list[str], found: dict[str, list[str]]) -> None:
    assert settings_of(lines) == found


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("X=recordings # main", "recordings # main"),
        ("  X = spaced \t", "spaced"),
        ("X='a # b'", "a # b"),
        ('X="a" # c', "a# c"),
        ("X='it' 's'", "its"),
        ("X=a'b'c", "a'b'c"),
        ('X="a \\" \\n b"', 'a " \\n b'),
        ("X='a\\\\b'", "a\\\\b"),
        ("X=a\\\\b\\#\\ ", "a\\b# "),
        ("X=a\\\nb", "ab"),
        ('X="two\nlines"', "two\nlines"),
        ('X="to the end\nY=1\n', "to the end\nY=1\n"),
        ("# X=1", None),
        ("; X=1", None),
        ("# joined \\\nX=1", None),
        ("export X=1", None),
        ("X", None),
        ("1X=1", None),
    ],
)
def test_an_environment_file_is_read_as_systemd_reads_it(line: str, value: str | None, tmp_path: Path) -> None:
    """dotenv reads other values: a command would take settings for valid with which the daemon does not start."""
    assert variables_of(f"A=1\n{line}").get("X") == value
    generator = Path("/usr/lib/systemd/user-environment-generators/30-systemd-environment-d-generator")
    if generator.exists():  # the same parser
        (tmp_path / "environment.d").mkdir()
        (tmp_path / "environment.d/x.conf").write_text(f"A=1\n{line}")
        environment = {"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}
        out = subprocess.run([generator], env=environment, capture_output=True, text=True, check=True).stdout
        found = next((one.removeprefix("X=") for one in out.splitlines() if one.startswith("X=")), None)
        plain = found if found is None or not found.startswith('"') else re.sub(
            r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], found[1:-1]
        )  # fmt: skip
        assert plain == value


def test_what_the_operators_environment_has_is_not_replaced() -> None:
    service = InstalledService(Path("unit"), {"REDIS_URL_FILE": "/file", "LOG_LEVEL": "INFO", "S3_REGION_NAME": "x"})
    assert service.missing_in({"REDIS_URL": "redis://here", "LOG_LEVEL": "DEBUG", "S3_REGION_NAME": ""}) == {
        "S3_REGION_NAME": "x"
    }


def test_no_service_no_settings(tmp_path: Path) -> None:
    assert find_installed_service(tmp_path) is None


def test_a_command_has_the_settings_of_the_service(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    (machine / "etc/cef-trio/cef-trio.env").write_text(f"WATCH_DIR={folder}\nS3_BUCKET_NAME=recordings\nOWNER_NAME=a\n")
    monkeypatch.setattr(installed_service, "find_installed_service", lambda: find_installed_service(machine))
    assert main(["check", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    values = {one["name"]: one["value"] for one in document["settings"]}
    assert (values["WATCH_DIR"], values["S3_BUCKET_NAME"], values["OWNER_NAME"]) == (str(folder), "recordings", "a")
    assert (folder / DEFAULT_ENV_FILE).exists() is False


def test_settings_in_the_working_directory_come_first(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / ".env").write_text(f"WATCH_DIR={folder}\nS3_BUCKET_NAME=mine\nOWNER_NAME=mine\n")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(installed_service, "find_installed_service", lambda: find_installed_service(machine))
    assert main(["check", "--json"]) == 0
    values = {one["name"]: one["value"] for one in json.loads(capsys.readouterr().out)["settings"]}
    assert values["S3_BUCKET_NAME"] == "mine"


def test_a_settings_file_that_this_user_may_not_read_is_named(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    file = machine / "etc/cef-trio/cef-trio.env"
    service = InstalledService(machine / "cef-trio.service", unreadable=(file,))
    monkeypatch.setattr(installed_service, "find_installed_service", lambda: service)
    main(["check"])
    assert f"this user may not read {file}, the settings of cef-trio.service: use sudo" in capsys.readouterr().err


def test_a_line_of_the_unit_that_systemd_ignores_is_ignored(machine: Path) -> None:
    (machine / "etc/systemd/system/cef-trio.service.d").mkdir(parents=True, exist_ok=True)
    (machine / "etc/systemd/system/cef-trio.service.d/zz.conf").write_text(
        '[Service]\nEnvironment="LOG_LEVEL=DEBUG\nEnvironment=S3_REGION_NAME=x\n'
    )
    service = find_installed_service(machine)
    assert service is not None
    assert service.variables["S3_REGION_NAME"] == "x"


def test_the_unit_is_read_once_by_a_command(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {**os.environ, "REDIS_URL": f"unix://{tmp_path}/none", "OWNER_NAME": "a"})
    asked: list[InstalledService | None] = []

    def find() -> InstalledService | None:
        asked.append(find_installed_service(machine))
        return asked[-1]

    monkeypatch.setattr(installed_service, "find_installed_service", find)
    monkeypatch.setattr(doctor, "CHECK_SECONDS", 0.0)
    assert main(["doctor", "--json"]) == 5
    capsys.readouterr()
    assert len(asked) == 1
