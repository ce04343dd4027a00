"""``health``: 0 or 1 in one line, fast, whatever listens there."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.command import ROOT, command
from servers.endpoints import closed_port

from cef_trio.cli.health import Health, HealthSettingsError, address, ask


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """Something on a port of the loopback that answers one request with these bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)


def http_answer(status: str, body: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()


@pytest.mark.real
@pytest.mark.parametrize(
    ("status", "code", "says"), [("200 OK", 0, "healthy: HTTP 200: ok\n"), ("503 Bad", 1, "unhealthy: HTTP 503: ok\n")]
)
def test_the_answer_is_the_exit_code_and_one_line(status: str, code: int, says: str) -> None:
    with answering(http_answer(status, "ok\n")) as port:
        done = command("health", settings={"PROM_PORT": str(port)}, code=code)
    assert (done.stdout, done.stderr) == (says, "")


@pytest.mark.real
def test_as_json_it_is_one_document() -> None:
    with answering(http_answer("503 No", "watcher silent")) as port:
        done = command("health", "--json", settings={"PROM_PORT": str(port)}, code=1)
    assert json.loads(done.stdout) == {
        "version": 1,
        "healthy": False,
        "status": 503,
        "says": "HTTP 503: watcher silent",
    }


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\x00" * 9000, b"HTTP/1.1 200 OK\r\nConte"]
)
def test_whatever_listens_there_is_an_answer_of_one_line(answer: bytes) -> None:
    with answering(answer) as port:
        health = ask("127.0.0.1", port)
    assert health.healthy is (answer.startswith(b"HTTP/1.1 200"))
    assert health.says.isprintable()


def test_the_text_of_a_response_forges_no_line_and_is_not_endless() -> None:
    with answering(http_answer("200 OK", "a\n\x1b[31mb" + "c" * 5000)) as port:
        says = ask("127.0.0.1", port).says
    assert says.startswith("HTTP 200: a; [31mbccc")
    assert len(says) < 300


def test_no_server_at_the_address_is_not_healthy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, closed_port() as closed:
        port = server.getsockname()[1]
        answers = {port: ask("127.0.0.1", port, timeout_seconds=0.1), closed: ask("127.0.0.1", closed)}
    for port, health in answers.items():
        assert isinstance(health, Health)
        assert (health.healthy, health.status) == (False, None)
        assert health.says.startswith(f"no answer from http://127.0.0.1:{port}/healthz: ")


def test_the_environment_wins_over_the_file_and_empty_means_unset() -> None:
    file = {"PROM_HOST": "file", "PROM_PORT": "2"}
    assert address({}, {}) == ("127.0.0.1", 8000)
    assert address({"PROM_HOST": "", "PROM_PORT": ""}, file) == ("file", 2)
    assert address({"PROM_HOST": "environment", "PROM_PORT": "1"}, file) == ("environment", 1)


def test_p10_the_daemon_is_asked_where_it_listens_also_by_names_in_lower_case_and_with_blanks() -> None:
    file = {"prom_host": " ::1 ", "Prom_Port": "2 "}
    assert address({}, file) == ("::1", 2)
    assert address({"prom_port": " 3", "PROM_HOST": " 0.0.0.0 "}, file) == ("127.0.0.1", 3)


def test_a_host_that_is_none_is_no_bug() -> None:
    assert ask("a b", 1).says.startswith("no answer from http://a b:1/healthz: ")


@pytest.mark.parametrize(
    ("given", "asked"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("[::]", "::1"), ("[::1]", "::1")]
)
def test_a_server_on_all_addresses_is_asked_on_the_loopback(given: str, asked: str) -> None:
    assert address({"PROM_HOST": given}, {})[0] == asked


@pytest.mark.parametrize("port", ["0", "65536", "x", "-1", "\uff11"])
def test_a_port_that_is_none_is_a_wrong_setting(port: str) -> None:
    with pytest.raises(HealthSettingsError, match="PROM_PORT"):
        address({"PROM_PORT": port}, {})


@pytest.mark.real
def test_settings_come_from_the_env_file_too(tmp_path: Path) -> None:
    file = tmp_path / "settings"
    with answering(http_answer("200 OK", "")) as port:
        file.write_text(f"PROM_PORT={port}\n")
        assert command("health", "--env-file", str(file)).stdout == "healthy: HTTP 200\n"
    file.write_bytes(b"PROM_PORT=\xff\n")
    assert "cannot be read as settings" in command("health", "--env-file", str(file), code=2).stderr


@pytest.mark.real
def test_nothing_heavy_is_imported_for_it() -> None:
    source = (
        "import sys\nfrom cef_trio.cli.main import main\nmain(['health'])\n"
        "print(sorted({'trio', 'rich', 'pydantic', 'redis', 'httpx', 'structlog', 'awscrt'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", source],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PROM_PORT": "9"},
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    assert done.stdout.splitlines()[-1] == "[]"
