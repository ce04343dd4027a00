"""Credentials that expire while recordings are uploaded are found again where they came from; none fails (P6).

The embedded S3 endpoint as a process, whose account gets another session token; the daemon has its credentials from
files, from a ``credential_process``, or from a container's service of credentials, as AWS's chain finds them.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from servers.daemon import daemon, settings_for
from servers.embedded_s3 import embedded_s3_server
from servers.endpoints import Endpoint
from servers.s3_control import renew_token
from servers.store import look_into
from servers.valkey import ValkeyServer
from thoroughness import only_long

pytestmark = pytest.mark.real
PART = 5 << 20
LONGER = only_long("one of a kind")
SOON = {
    "close_grace_seconds": 0.2,
    "retry_attempts": 2,
    "retry_initial_seconds": 0.1,
    "retry_max_seconds": 0.5,
    "retry_stream_max_seconds": 1,
}
KEYS = ("S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY")


class Source(ABC):
    """Where a daemon has its credentials from; ``breaks`` says what the log says while there are none."""

    def __init__(self, folder: Path, endpoint: Endpoint) -> None:
        self.folder = folder
        self.endpoint = endpoint

    @abstractmethod
    def settings(self) -> Mapping[str, str]:
        """The variables that lead to it."""

    @abstractmethod
    def offer(self, session_token: str) -> None:
        """Have the account's keys and this token there."""

    @abstractmethod
    def hiccup(self) -> None:
        """Have nothing there that can be used, for a while."""

    def document(self, session_token: str) -> str:
        """The credentials as AWS's programs and services write them."""
        keys = {"AccessKeyId": self.endpoint.access_key, "SecretAccessKey": self.endpoint.secret_key}
        tokens = {"SessionToken": session_token, "Token": session_token, "Expiration": "2099-01-01T00:00:00Z"}
        return json.dumps({"Version": 1, **keys, **tokens})

    def replace(self, name: str, text: str) -> None:
        new = self.folder / f"{name}.new"
        new.write_text(text)
        new.chmod(0o600)
        new.rename(self.folder / name)


class Files(Source):
    """``S3_SESSION_TOKEN_FILE`` and the others, which are renewed meanwhile."""

    def settings(self) -> Mapping[str, str]:
        self.replace("key", self.endpoint.access_key)
        self.replace("secret", self.endpoint.secret_key)
        named = {"S3_ACCESS_KEY_ID": "key", "S3_SECRET_ACCESS_KEY": "secret", "S3_SESSION_TOKEN": "token"}
        return {f"{variable}_FILE": str(self.folder / name) for variable, name in named.items()}

    def offer(self, session_token: str) -> None:
        self.replace("token", session_token)

    def hiccup(self) -> None:
        (self.folder / "token").unlink()  # as during a replacement


class CredentialProcess(Source):
    """A program that prints them."""

    def settings(self) -> Mapping[str, str]:
        program = self.folder / "program.py"
        program.write_text(f"print(open({str(self.folder / 'printed')!r}).read())\n")
        (self.folder / "config").write_text(f"[default]\ncredential_process = {sys.executable} {program}\n")
        return {"AWS_CONFIG_FILE": str(self.folder / "config"), "AWS_EC2_METADATA_DISABLED": "true"}

    def offer(self, session_token: str) -> None:
        self.replace("printed", self.document(session_token))

    def hiccup(self) -> None:
        self.replace("printed", '{"Version": 1, "AccessKeyId": "half of')


class ContainerService(Source):
    """A service on the container's own address; in a hiccup it cannot be reached."""

    server: ThreadingHTTPServer | None = None
    port = 0
    said = ""

    def settings(self) -> Mapping[str, str]:
        uri = f"http://127.0.0.1:{self.port}/"
        return {"AWS_CONTAINER_CREDENTIALS_FULL_URI": uri, "AWS_CONFIG_FILE": "/nonexistent"}

    def offer(self, session_token: str) -> None:
        source = self
        self.said = self.document(session_token)

        class Answering(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(source.said.encode())

            def log_message(self, *_: object) -> None:
                pass

        if self.server is None:
            self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Answering)
            self.port = self.server.server_port
            threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def hiccup(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[Endpoint]:
    arguments = ["--control", "--session-token=first"]
    with embedded_s3_server(tmp_path, bucket="recordings", arguments=arguments) as endpoint:
        yield endpoint


@contextlib.contextmanager
def offering(kind: type[Source], folder: Path, s3: Endpoint) -> Iterator[Source]:
    folder.mkdir(mode=0o700)
    source = kind(folder, s3)
    try:
        yield source
    finally:
        if isinstance(source, ContainerService):
            source.hiccup()


@pytest.mark.parametrize(
    "kind", [Files, pytest.param(CredentialProcess, marks=LONGER), pytest.param(ContainerService, marks=LONGER)]
)
def test_p6_a_token_that_expires_while_its_source_has_a_hiccup_costs_no_recording(
    tmp_path: Path, watch_dir: Path, s3: Endpoint, valkey: ValkeyServer, kind: type[Source]
) -> None:
    with offering(kind, tmp_path / "source", s3) as source:
        source.offer("first")
        given = settings_for(watch_dir, s3, valkey.url, **SOON)
        settings = {name: value for name, value in given.items() if name not in KEYS} | dict(source.settings())
        recordings = [watch_dir / f"{number}.mp4" for number in range(3)]
        with contextlib.ExitStack() as stack:
            process = stack.enter_context(daemon(settings))
            writers = [stack.enter_context(path.open("wb")) for path in recordings]
            for writer in writers:
                writer.write(os.urandom(PART))
                writer.flush()
            process.wait_for("part_uploaded", part_number=1, count=3)

            source.hiccup()
            renew_token(s3, "second")
            for writer in writers:
                writer.write(os.urandom(PART))
                writer.flush()
            process.wait_for("outage_started", service="s3")
            process.wait_for("outage_probe_failed", service="s3")
            source.offer("second")
            process.wait_for("part_uploaded", part_number=2, count=3)

            source.offer("third")  # in time: before anybody sees that the second has expired
            renew_token(s3, "third")
            for writer in writers:
                writer.write(os.urandom(1000))
                writer.close()
            process.wait_for("stream_completed", count=3)
            assert process.count("stream_failed") == 0
            assert process.stop() == 0
    looking = look_into(s3, session_token="third")
    for path in recordings:
        looking.assert_identical(path)
    looking.client.close()


@pytest.mark.parametrize(
    "kind", [pytest.param(CredentialProcess, marks=LONGER), pytest.param(ContainerService, marks=LONGER)]
)
def test_p6_a_source_that_cannot_be_reached_at_the_start_is_waited_for(
    tmp_path: Path, watch_dir: Path, s3: Endpoint, valkey: ValkeyServer, kind: type[Source]
) -> None:
    with offering(kind, tmp_path / "source", s3) as source:
        source.offer("first")
        given = settings_for(watch_dir, s3, valkey.url, **SOON)
        settings = {name: value for name, value in given.items() if name not in KEYS} | dict(source.settings())
        source.hiccup()
        with daemon(settings, wait_started=False) as process:
            process.wait_for("waiting_for_service")
            source.offer("first")
            process.wait_for("daemon_started")
            assert process.stop() == 0
