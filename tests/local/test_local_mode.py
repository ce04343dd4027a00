"""``run --local`` and the demo run without other services, keep their data, and set their exit codes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from dotenv import dotenv_values
from rich.console import Console
from servers.mounts import mounted
from waiting import WAIT_SECONDS, wait_until

from cef_trio.local.progress import DemoView, line, render
from cef_trio.local.run import settings_for, settings_for_commands
from cef_trio.local.servers import LocalServers
from cef_trio.s3_endpoint import S3Endpoint
from cef_trio.settings.object_options import ObjectOptions

MIB = 1024 * 1024
OBJECTS = Path("objects/buckets")
"""Where the embedded S3 has whole objects. The folder of an open upload, elsewhere, may vanish while it is listed."""


def test_the_progress_shows_recording_upload_and_lag() -> None:
    view = DemoView("recording", 10.0, 20.0, 30 * MIB, 24 * MIB, 4)
    assert view.behind_bytes == 6 * MIB
    assert view.behind_seconds == pytest.approx(2.0)
    assert view.expected_bytes == 60 * MIB
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(render(view))
    text = console.export_text()
    for expected in ("Recording", "30.0 MiB", "10 of 20 s", "In S3", "24.0 MiB", "4 parts", "6.0 MiB (2.0 s)"):
        assert expected in text
    console.file.close()
    assert "behind by 6.0 MiB" in line(view)


def test_the_progress_of_an_empty_recording_is_drawn() -> None:
    view = DemoView("recording", 0.0, 20.0, 0, 0, 0)
    assert view.behind_seconds == 0.0
    Console(quiet=True).print(render(view))


@contextmanager
def running(*arguments: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "cef_trio", *arguments],
        env={"PATH": os.environ["PATH"], "CLOSE_GRACE_SECONDS": "0.2", "APP_ENV": "production", "PROM_PORT": "0"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def objects_of(data_dir: Path, name: str) -> list[Path]:
    return [path for path in (data_dir / OBJECTS).rglob(name) if path.is_file()]


def until_object(process: subprocess.Popen[str], data_dir: Path, name: str) -> Path:
    wait_until(lambda: process.poll() is not None or objects_of(data_dir, name))
    assert process.poll() is None, process.stdout.read() if process.stdout else ""
    return objects_of(data_dir, name)[0]


@pytest.mark.real
def test_run_local_uploads_a_folder_once_also_after_a_kill(tmp_path: Path) -> None:
    watch, data = tmp_path / "watch", tmp_path / "data"
    watch.mkdir()
    (watch / "first.mp4").write_bytes(os.urandom(6 * MIB))
    arguments = ("run", "--local", str(watch), "--data-dir", str(data))
    with running(*arguments, cwd=tmp_path) as process:
        stored = until_object(process, data, "first.mp4.metadata.json")
        assert until_object(process, data, "first.mp4").read_bytes() == (watch / "first.mp4").read_bytes()
    (watch / "second.mp4").write_bytes(b"2")
    with running(*arguments, cwd=tmp_path) as process:
        until_object(process, data, "second.mp4.metadata.json")
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_SECONDS) == 0
    assert objects_of(data, "first.mp4.metadata.json") == [stored]
    pids = subprocess.run(["pgrep", "-f", str(data)], capture_output=True, text=True, check=False).stdout.split()
    assert pids == [], "the embedded Valkey is still there"


@pytest.mark.real
def test_a_second_daemon_on_the_same_data_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    data, folders = tmp_path / "data", (tmp_path / "one", tmp_path / "two")
    for folder in folders:
        folder.mkdir()
    (folders[0] / "first.mp4").write_bytes(b"1")
    with running("run", "--local", str(folders[0]), "--data-dir", str(data), cwd=tmp_path) as process:
        until_object(process, data, "first.mp4.metadata.json")
        with running("run", "--local", str(folders[1]), "--data-dir", str(data), cwd=tmp_path) as second:
            output, _ = second.communicate(timeout=60)
        assert second.returncode == 2
        assert "used by another cef-trio" in output
        (folders[0] / "later.mp4").write_bytes(b"2")
        until_object(process, data, "later.mp4.metadata.json")
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_SECONDS) == 0


@pytest.mark.real
def test_run_local_reloads_its_settings(tmp_path: Path) -> None:
    (tmp_path / "watch").mkdir()
    env_file = tmp_path / ".env"
    env_file.write_text("MAX_UPLOAD_RATE=1MiB\n")
    with running("run", "--local", str(tmp_path / "watch"), cwd=tmp_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if '"daemon_started"' in line:
                env_file.write_text("MAX_UPLOAD_RATE=2MiB\nS3_BUCKET_NAME=not-in-local-mode\n")
                process.send_signal(signal.SIGHUP)
            if '"settings_reloaded"' in line:
                break
        event = json.loads(line)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_SECONDS) == 0
    assert (event["applied"], event["needs_restart"]) == ({"MAX_UPLOAD_RATE": 2 << 20}, [])


@pytest.mark.real
def test_commands_use_the_env_file_that_exists_while_local_mode_runs(tmp_path: Path) -> None:
    watch, data = tmp_path / "watch", tmp_path / "some data"
    watch.mkdir()
    (watch / "first.mp4").write_bytes(b"1")
    file = data / "local.env"
    with running("run", "--local", str(watch), "--data-dir", str(data), cwd=tmp_path) as process:
        assert process.stdout is not None
        said = next(line for line in process.stdout if line.startswith("In another terminal: "))
        assert shlex.split(said.partition(": ")[2]) == ["cef-trio", "status", "--env-file", str(file)]
        until_object(process, data, "first.mp4.metadata.json")
        assert file.stat().st_mode & 0o777 == 0o600
        for line in process.stdout:
            if '"stream_completed"' in line:
                break
        for arguments in (["verify", str(watch / "first.mp4")], ["doctor"]):
            with running(*arguments, "--json", "--env-file", str(file), cwd=tmp_path) as command:
                output, _ = command.communicate(timeout=60)
            assert command.returncode == 0, output
        folder = next(one for one in json.loads(output)["findings"] if one["subject"] == "watch folder")
        assert folder["severity"] == "ok", folder
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_SECONDS) == 0
    assert not file.exists()


@pytest.mark.parametrize(
    "name", ["plain", "with space # and ünicode", "with ' quote", "with ${HOME}", "two\nlines", "\udcff"]
)
def test_the_env_file_has_the_exact_watch_folder_or_none(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    with settings_for_commands(tmp_path, folder, {"s3_acl": None, "redis_url": "unix:///x"}) as file:
        values = dotenv_values(file)
    assert values.pop("REDIS_URL") == "unix:///x"
    assert values in ({}, {"WATCH_DIR": str(folder)})
    assert bool(values) is (name in {"plain", "with space # and ünicode"})


def test_options_of_another_bucket_do_not_affect_the_local_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"S3_STORAGE_CLASS": "GLACIER", "S3_ACL": "public-read", "S3_TAGS": "team=a"}.items():
        monkeypatch.setenv(name, value)
    servers = LocalServers("redis://localhost", "http://127.0.0.1:1", S3Endpoint())
    options = settings_for(servers, tmp_path).object_options
    assert options == ObjectOptions(tags=(("team", "a"),))


@pytest.mark.real
def test_the_data_folder_must_not_be_in_the_watch_folder(tmp_path: Path) -> None:
    with running("run", "--local", str(tmp_path), cwd=tmp_path) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "lies in the watched folder" in output


def fill(path: Path) -> None:
    """Write until there is no room at all."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        for size_bytes in (MIB, 4096, 1):
            with suppress(OSError):
                while file.write(bytes(size_bytes)):
                    pass


@pytest.mark.real
def test_a_full_disk_is_an_outage_of_the_embedded_servers_and_ends_no_stream(tmp_path: Path) -> None:
    watch, data = tmp_path / "watch", tmp_path / "data"
    watch.mkdir()
    data.mkdir()
    arguments = ("run", "--local", str(watch), "--data-dir", str(data))
    with mounted("-t", "tmpfs", "-o", "size=32m", "none", data):
        with running(*arguments, cwd=tmp_path) as process:
            assert process.stdout is not None
            until_said(process.stdout, '"daemon_started"')
            fill(data / "filler")
            (watch / "a.mp4").write_bytes(os.urandom(6 * MIB))
            until_said(process.stdout, '"outage_started"')
            assert process.poll() is None
            (data / "filler").unlink()
            until_said(process.stdout, '"stream_completed"')
            assert until_object(process, data, "a.mp4").read_bytes() == (watch / "a.mp4").read_bytes()
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_SECONDS) == 0
        fill(data / "filler")
        (watch / "b.mp4").write_bytes(os.urandom(MIB))
        with running(*arguments, cwd=tmp_path) as process:
            assert process.stdout is not None
            until_said(process.stdout, "cannot be written: No space left on device")
            until_said(process.stdout, '"daemon_started"')
            (data / "filler").unlink()
            until_said(process.stdout, '"stream_completed"')
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_SECONDS) == 0


@pytest.mark.real
def test_a_start_on_a_full_disk_that_has_no_data_yet_ends_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "watch").mkdir()
    (tmp_path / "data").mkdir()
    with mounted("-t", "tmpfs", "-o", "size=1m", "none", tmp_path / "data"):
        fill(tmp_path / "data" / "filler")
        with running("run", "--local", "watch", "--data-dir", "data", cwd=tmp_path) as process:
            said, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "Traceback" not in said
    assert "No space left on device" in said, said


def until_said(lines: Iterable[str], what: str) -> None:
    """Read until a line says so."""
    if not any(what in text for text in lines):
        raise AssertionError(f"it ended without {what}")


@pytest.mark.real
@pytest.mark.parametrize("keep", [False, True])
def test_the_demo_succeeds_only_with_identical_bytes_and_keeps_files_only_with_keep(tmp_path: Path, keep: bool) -> None:
    arguments = ["demo", "--duration", "4", *(["--keep"] if keep else [])]
    with running(*arguments, cwd=tmp_path) as process:
        output, _ = process.communicate(timeout=90)
    assert process.returncode == 0, output
    assert "verdict  identical" in output
    assert "duration_seconds" in output
    assert "\x1b" not in output, "without a terminal there are no escape sequences"
    assert len(objects_of(tmp_path / "cef-data" / "demo-1", "*.mp4")) == (1 if keep else 0)
    assert (tmp_path / "cef-data").exists() is keep


@pytest.mark.real
def test_a_folder_whose_name_looks_like_markup_is_shown_as_it_is(tmp_path: Path) -> None:
    name = "a[red]b[/x]\x1b[31m"
    with running("demo", "--duration", "1", "--keep", "--data-dir", name, cwd=tmp_path) as process:
        output, _ = process.communicate(timeout=90)
    assert process.returncode == 0, output
    assert f"Kept: recording {tmp_path}/a[red]b[/x]\\x1b[31m/demo-1/recordings/demo.mp4" in output
    assert "\x1b" not in output


@pytest.mark.real
def test_an_interrupted_demo_has_exit_code_130(tmp_path: Path) -> None:
    with running("demo", "--duration", "60", cwd=tmp_path) as process:
        wait_until((tmp_path / "cef-data" / "demo-1" / "recordings" / "demo.mp4").exists)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output


@pytest.mark.real
@pytest.mark.parametrize("kind", ["unwritable", "a file", "below a file"])
def test_a_demo_that_cannot_use_its_folder_is_one_line(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a file").touch()
    folder = {"unwritable": Path("/proc/cef"), "a file": tmp_path / "a file", "below a file": tmp_path / "a file/x"}
    with running("demo", "--data-dir", str(folder[kind]), cwd=tmp_path) as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 2, said
    assert said.startswith("cef-trio: --data-dir "), said
    assert said.count("\n") == 1


@pytest.mark.real
def test_a_demo_on_a_disk_that_is_too_full_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with mounted("-t", "tmpfs", "-o", "size=8m", "none", tmp_path / "data"):
        with running("demo", "--duration", "5", "--data-dir", "data", cwd=tmp_path) as process:
            said, _ = process.communicate(timeout=60)
        assert list((tmp_path / "data").iterdir()) == []
    assert (process.returncode, said.count("\n")) == (2, 1), said
    assert "8.0 MiB of free space, and this demo needs 49.0 MiB" in said


@pytest.mark.real
def test_a_demo_leaves_alone_what_is_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "cef-data" / "demo-1").mkdir(parents=True)
    (tmp_path / "cef-data" / "demo-1" / "of another demo").touch()
    with running("demo", "--duration", "1", cwd=tmp_path) as process:
        said, _ = process.communicate(timeout=90)
    assert process.returncode == 0, said
    assert [file.name for file in (tmp_path / "cef-data").rglob("*")] == ["demo-1", "of another demo"]
