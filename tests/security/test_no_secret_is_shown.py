"""No secret in anything that the daemon or a command says, through failures of every kind, at the level DEBUG."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from servers.command import command
from servers.daemon import SOON_FINAL, daemon, settings_for
from servers.embedded_s3 import embedded_s3_server
from servers.endpoints import Endpoint
from servers.s3_control import arm, disarm_all
from servers.valkey import ValkeyServer, valkey_server

import cef_trio
from cef_trio.s3.signing import Credentials
from cef_trio.s3.transport import redact
from cef_trio.s3_endpoint import DEFAULT_REGION

ROOT = Path(cef_trio.__file__).parents[1]
KEY_ID = "AKIDxDISTINCTxKEYxID"
SECRET = "DISTINCT/secret+with&<odd>'characters'=="
TOKEN = "DISTINCT/session+token&" + "tail" * 100 + "=="
PASSWORD = "DISTINCT:p@ss/w?rd#%"
SENTINEL_PASSWORD = "DISTINCTxSENTINEL"
FORMS = {
    form
    for value in (KEY_ID, SECRET, TOKEN, PASSWORD, SENTINEL_PASSWORD)
    for form in (value, quote(value, safe=""), quote(value), escape(value), repr(value)[1:-1], json.dumps(value)[1:-1])
}
MARK = "DISTINCT"
LARGE = 6 * 1024 * 1024
"""More than one part: a smaller recording is sent in one PutObject, in which the faults below would not strike."""

pytestmark = pytest.mark.real


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[Endpoint]:
    """An endpoint that knows these credentials, and no others."""
    account = ["--access-key", KEY_ID, "--secret-key", SECRET, "--session-token", TOKEN, "--control"]
    with embedded_s3_server(tmp_path, bucket="recordings", arguments=account) as endpoint:
        yield endpoint


@contextmanager
def locked_valkey(password: str) -> Iterator[ValkeyServer]:
    with valkey_server(tcp=True) as server:
        assert server.command("CONFIG", "SET", "requirepass", password) == b"+OK\r\n"
        yield server


def settings_of(watch_dir: Path, url: str, redis_port: int, folder: Path, **more: object) -> dict[str, str]:
    """Settings whose secrets stand in files, where each is one, and in variables."""
    token = folder / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    bucket = Endpoint(url, KEY_ID, SECRET, DEFAULT_REGION, "recordings")
    redis_url = f"redis://:{quote(PASSWORD, safe='')}@127.0.0.1:{redis_port}/0"
    retries = {**SOON_FINAL, "retry_initial_seconds": 0.01, "retry_max_seconds": 0.1}
    return settings_for(watch_dir, bucket, redis_url, s3_session_token_file=token, **retries, **more)


def said(settings: Mapping[str, str], *arguments: str) -> str:
    done = command(*arguments, settings=settings, code=None)
    return done.stdout + done.stderr


def all_commands(settings: Mapping[str, str]) -> str:
    asked = ("doctor", "doctor --json", "status --json", "list", "gc --dry-run", "retry --all --json")
    return "".join(said(settings, *words.split()) for words in asked)


def assert_no_secret(text: str) -> None:
    assert text
    assert [form for form in FORMS if form in text] == []
    assert MARK not in text


def test_no_secret_is_shown_while_everything_fails(s3: Endpoint, watch_dir: Path, tmp_path: Path) -> None:
    with locked_valkey(PASSWORD) as server:
        settings = settings_of(watch_dir, s3.url, server.port, tmp_path, close_grace_seconds=0.1)
        with daemon(settings) as process:
            port = process.wait_for("admin_server_started")["port"]
            refused = {"kind": "error", "operation": "UploadPart", "code": "AccessDenied", "times": None}
            with (watch_dir / "denied.mp4").open("wb", buffering=0) as recording:
                recording.write(b"x")
                key = process.wait_for("stream_started")["key"]
                arm(s3, {**refused, "key": key})  # of every key, it would be an outage
                recording.write(b"x" * LARGE)
            failed = process.wait_for("stream_failed")["stream_id"]
            disarm_all(s3)
            arm(s3, {"kind": "reset", "operation": "UploadPart", "times": 3})
            (watch_dir / "reset.mp4").write_bytes(b"x" * LARGE)
            completed = process.wait_for("stream_completed")["stream_id"]
            disarm_all(s3)
            pages = "".join(fetched(port, path) for path in ("/", "/metrics", "/healthz", "/readyz"))
            snapshot = first_snapshot(port)
            details = {stream_id: detail(port, stream_id) for stream_id in (failed, completed)}
            commands = all_commands(settings)
            server.kill()
            process.wait_for("outage_started", service="redis")
            commands += said(settings, "doctor")
            process.stop()
            log = process.log_path.read_text()
    for text in (log, pages, snapshot, commands, *details.values()):
        assert_no_secret(text)
    assert "stream_failed" in details[failed]  # its log lines
    assert "retry" in details[completed]
    assert "denied.mp4" in snapshot + commands


def fetched(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
        body: bytes = answer.read()
        return body.decode()


def first_snapshot(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/events", timeout=60) as answer:
        lines = (str(line, "utf-8") for line in answer)
        return next(line for line in lines if line.startswith("data: {"))


def detail(port: int, stream_id: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/events?stream={stream_id}", timeout=60) as answer:
        lines = (str(line, "utf-8") for line in answer)
        return next(next(lines) for line in lines if line == "event: detail\n")


@contextmanager
def echoing_store() -> Iterator[str]:
    """A store that refuses everything, and quotes in its refusal all that it was sent and all that it knows."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            quoted = " ".join([TOKEN, KEY_ID, SECRET, *(f"{name}: {value}" for name, value in self.headers.items())])
            body = f"<Error><Code>AccessDenied</Code><Message>{escape(quoted, quote=False)}</Message></Error>".encode()
            self.send_response(403)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 - the library's names

        def log_message(self, *_arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_a_store_that_quotes_what_it_was_sent_has_it_struck_out(watch_dir: Path, tmp_path: Path) -> None:
    with echoing_store() as url, locked_valkey(PASSWORD) as server:
        assert TOKEN in httpx.get(url, headers={"x-token": TOKEN}, trust_env=False).text.replace("&amp;", "&")
        settings = settings_of(watch_dir, url, server.port, tmp_path)
        with daemon(settings, wait_started=False) as process:
            assert process.wait() == 4
            assert "AccessDenied" in process.tail()
            assert_no_secret(process.log_path.read_text())
        examined = said(settings, "doctor", "--json")
        assert "AccessDenied" in examined
        assert_no_secret(examined + said(settings, "gc"))


@pytest.mark.parametrize(
    ("scheme", "environment"),
    [("redis", "development"), ("redis+cluster", "production"), ("nonsense", "development")],
)
def test_no_secret_is_shown_if_redis_rejects_it_or_is_no_redis(
    watch_dir: Path, tmp_path: Path, scheme: str, environment: str
) -> None:
    with locked_valkey("another") as server:
        settings = settings_of(watch_dir, "http://127.0.0.1:9", server.port, tmp_path, app_env=environment)
        settings["REDIS_URL"] = settings["REDIS_URL"].replace("redis:", f"{scheme}:")
        with daemon(settings, wait_started=False) as process:
            assert process.wait() in {2, 4}
            assert_no_secret(process.log_path.read_text())
        assert_no_secret(said(settings, "doctor"))


def test_no_secret_of_an_invalid_url_is_shown(watch_dir: Path, tmp_path: Path) -> None:
    secret = quote(PASSWORD, safe="")
    urls = [
        f"redis://:{secret}@127.0.0.1:port/0",
        f"redis://h/0?password={secret}",
        f"redis+sentinel://:{secret}@h/?sentinel_password={SENTINEL_PASSWORD}",
        f"redis://{MARK}:{MARK}@[::1",
    ]
    for url in urls:
        settings = settings_of(watch_dir, "http://127.0.0.1:9", 9, tmp_path) | {"REDIS_URL": url}
        with daemon(settings, wait_started=False) as process:
            assert process.wait() == 2, url
            assert_no_secret(process.log_path.read_text())
    settings = settings_of(watch_dir, f"http://u:{MARK}@127.0.0.1:9/?X-Amz-Signature={MARK}", 9, tmp_path)
    assert_no_secret(said(settings, "run"))
    both = settings_of(watch_dir, "http://127.0.0.1:9", 9, tmp_path) | {"S3_SESSION_TOKEN": TOKEN}
    assert_no_secret(said(both, "run"))


def test_a_bug_that_ends_the_daemon_shows_no_secret(watch_dir: Path, tmp_path: Path) -> None:
    """An exception that quotes a secret, from within the running daemon, through all its nurseries."""
    settings = settings_of(watch_dir, "http://127.0.0.1:9", 9, tmp_path)
    program = (
        "import sys\n"
        "from cef_trio.daemon import main as daemon\n"
        "from cef_trio.cli.main import main\n"
        "async def broken(services, *, create_bucket):\n"
        "    keys = await services.s3._transport._config.credentials.get()\n"
        "    raise RuntimeError(f'{keys.access_key_id} {keys.secret_access_key} {keys.session_token}')\n"
        "daemon.check_reachable = broken\n"
        "sys.exit(main(['run']))\n"
    )
    for environment in ("development", "production"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **settings, "APP_ENV": environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 1
        assert "RuntimeError" in done.stderr
        assert_no_secret(done.stdout + done.stderr)


def test_credentials_are_struck_out_of_an_answer_in_each_form() -> None:
    keys = Credentials(KEY_ID, SECRET, TOKEN)
    for value in (KEY_ID, SECRET, TOKEN):
        for form in (value, quote(value, safe=""), escape(value, quote=False)):
            assert MARK.encode() not in redact(keys, f"<Message>{form}</Message>".encode())
    assert redact(Credentials("abc", "def"), b"nothing of it") == b"nothing of it"
