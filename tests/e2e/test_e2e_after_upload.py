"""P8 and the webhook, for real: real files, a real Valkey, an S3 endpoint and a receiver over sockets, ``kill -9``."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from servers.command import answer
from servers.daemon import SOON_FINAL, daemon, settings_for
from servers.s3_control import arm, disarm
from servers.store import Store
from servers.valkey import ValkeyServer
from waiting import wait_until

pytestmark = pytest.mark.real
MIB = 1024 * 1024
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
RAM = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Post:
    """What came in, and how it was answered."""

    path: str
    headers: dict[str, str]
    body: bytes
    status: int


class Receiver:
    """A receiver that takes what is signed, once it has failed a given number of times."""

    def __init__(self, url: str, failures: int) -> None:
        self.url = url
        self.failures = failures
        self.posts: queue.Queue[Post] = queue.Queue()
        self._lock = threading.Lock()  # each request has a thread

    def answer(self, headers: dict[str, str], body: bytes) -> int:
        with self._lock:
            if self.failures:
                self.failures -= 1
                return 503
        signed = b".".join([headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body])
        digest = hmac.new(bytes(range(32)), signed, hashlib.sha256).digest()
        fresh = abs(time.time() - int(headers["webhook-timestamp"])) < 300
        right = hmac.compare_digest(headers["webhook-signature"], "v1," + base64.b64encode(digest).decode())
        return 200 if right and fresh else 401


@contextmanager
def receiver(failures: int) -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers["content-length"]))
            status = receiving.answer(headers, body)
            receiving.posts.put(Post(self.path, headers, body, status))
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiving = Receiver(f"http://127.0.0.1:{server.server_address[1]}/done?token=t0ken", failures)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield receiving
        finally:
            server.shutdown()
            thread.join()


def write(path: Path, size_bytes: int) -> str:
    """Write a file; returns its SHA-256."""
    content = os.urandom(size_bytes)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def test_p8_recordings_are_deleted_once_in_s3_and_delivered_to_a_receiver_that_failed_at_first(
    watch_dir: Path, embedded: Store, valkey: ValkeyServer
) -> None:
    with receiver(failures=1) as receiving:
        settings = settings_for(
            watch_dir,
            embedded.endpoint,
            valkey.url,
            close_grace_seconds=0.3,
            after_upload="delete",
            on_complete_webhook=receiving.url,
            webhook_secret=SECRET,
        )
        with daemon(settings) as process:
            sums = {name: write(watch_dir / name, size) for name, size in (("a.mp4", 11 * MIB), ("b.mp4", 5))}
            for name in sums:
                process.wait_for("recording_deleted_after_upload", path=str(watch_dir / name))
            process.wait_for("webhook_delivered", count=2)
            assert process.count("webhook_retrying") == 1
            text = process.log_path.read_text()
            assert process.stop() == 0
    assert list(watch_dir.iterdir()) == []
    assert {name: embedded.sha256(embedded.key_of(name)) for name in sums} == sums
    posts = list(receiving.posts.queue)
    assert sorted(post.status for post in posts) == [200, 200, 503]
    assert {post.path for post in posts} == {"/done?token=t0ken"}
    for key in embedded.recordings():
        document = embedded.client.get_object(Bucket=embedded.endpoint.bucket, Key=f"{key}.metadata.json")[
            "Body"
        ].read()
        (taken,) = [post for post in posts if post.body == document and post.status == 200]
        assert taken.headers["webhook-id"] == f"completed_{json.loads(document)['stream_id']}"
    assert "t0ken" not in text
    assert SECRET not in text


def test_a_start_and_a_failure_are_delivered_and_the_failed_stream_is_let_go_beside_its_daemon(
    watch_dir: Path, embedded: Store, valkey: ValkeyServer
) -> None:
    with receiver(failures=0) as receiving:
        settings = settings_for(
            watch_dir,
            embedded.endpoint,
            valkey.url,
            close_grace_seconds=0.3,
            on_start_webhook=receiving.url,
            on_failure_webhook=receiving.url,
            webhook_secret=SECRET,
            **SOON_FINAL,
        )
        refused = {"kind": "error", "operation": "CompleteMultipartUpload", "code": "AccessDenied", "times": None}
        with daemon(settings) as process:
            with (watch_dir / "a.mp4").open("wb", buffering=0) as recording:
                recording.write(os.urandom(MIB))
                key = process.wait_for("stream_started")["key"]
                fault = arm(embedded.endpoint, {**refused, "key": key})  # of every key, it would be an outage
                recording.write(os.urandom(10 * MIB))
            process.wait_for("stream_failed")
            process.wait_for("webhook_delivered", count=2)
            wait_until(lambda: process.metric('failed_streams_total{reason="access_denied"}'))  # its lease is released
            disarm(embedded.endpoint, fault)
            assert len(embedded.open_uploads()) == 1
            [done] = answer("forget", "--failed", "--yes", settings=settings)["results"]
            assert (done["ok"], done["record"]) == (True, "kept")
            assert embedded.open_uploads() == []
            assert answer("list", settings=settings)["streams"] == []
            assert process.stop() == 0
    posts = {post.headers["webhook-id"].partition("_")[0]: json.loads(post.body) for post in receiving.posts.queue}
    assert {name: document["type"] for name, document in posts.items()} == {
        "started": "stream.started",
        "failed": "stream.failed",
    }
    assert posts["failed"]["data"]["reason"] == "access_denied"
    assert posts["failed"]["data"]["stream_id"] == posts["started"]["data"]["stream_id"] == done["subject"]


@pytest.mark.parametrize("checksum", ["auto", "sha256", "md5"])
def test_p8_a_store_that_ignores_checksums_and_damages_bytes_is_never_believed(
    watch_dir: Path, embedded: Store, valkey: ValkeyServer, checksum: str
) -> None:
    """With KMS not even an ETag shows it. A small recording is sent again; a large one fails, and its file stays."""
    settings = settings_for(
        watch_dir,
        embedded.endpoint,
        valkey.url,
        close_grace_seconds=0.3,
        after_upload="delete",
        s3_checksum=checksum,
        s3_sse="aws:kms",
    )
    arm(embedded.endpoint, {"kind": "ignore-checksums", "times": None})
    with daemon(settings) as process:
        process.wait_for("daemon_started")
        arm(embedded.endpoint, {"kind": "damage", "operation": "PutObject"})
        small = write(watch_dir / "small.mp4", 1 * MIB)
        process.wait_for("recording_deleted_after_upload", path=str(watch_dir / "small.mp4"))
        assert embedded.sha256(embedded.key_of("small.mp4")) == small
        assert process.count("s3_object_verified_by_read") >= 2
        arm(embedded.endpoint, {"kind": "damage", "operation": "UploadPart", "part_number": 2})
        write(watch_dir / "large.mp4", 12 * MIB)
        process.wait_for("stream_failed")
        assert process.stop() == 0
    assert [path.name for path in watch_dir.iterdir()] == ["large.mp4"]


def test_p8_what_a_kill_left_undone_the_next_start_does(watch_dir: Path, embedded: Store, valkey: ValkeyServer) -> None:
    with receiver(failures=0) as receiving:
        settings = settings_for(
            watch_dir,
            embedded.endpoint,
            valkey.url,
            close_grace_seconds=0.3,
            after_upload="delete",
            on_complete_webhook=receiving.url,
            webhook_secret=SECRET,
        )
        path = watch_dir / "a.mp4"
        with daemon({**settings, "ON_COMPLETE_WEBHOOK": "http://127.0.0.1:9/nobody"}) as process:
            digest = write(path, 6 * MIB)
            process.wait_for("stream_completed")
            process.kill()
        with daemon(settings) as process:
            process.wait_for("webhook_delivered")
            if path.exists():  # the kill came within the second after the completion
                process.wait_for("recording_deleted_after_upload")
            assert process.count("stream_started") == 0
            assert process.stop() == 0
    assert not path.exists()
    assert embedded.sha256(embedded.key_of("a.mp4")) == digest
    assert [post.status for post in receiving.posts.queue] == [200]


@pytest.mark.skipif(not RAM.is_dir(), reason="no /dev/shm")
@pytest.mark.parametrize("elsewhere", [False, True], ids=["one file system", "another file system"])
def test_p8_recordings_are_moved_and_not_uploaded_again(
    watch_dir: Path, embedded: Store, valkey: ValkeyServer, tmp_path: Path, elsewhere: bool
) -> None:
    with TemporaryDirectory(dir=RAM if elsewhere else tmp_path) as folder:
        if elsewhere and Path(folder).stat().st_dev == watch_dir.stat().st_dev:
            pytest.skip("/dev/shm is no other file system here")
        settings = settings_for(
            watch_dir, embedded.endpoint, valkey.url, close_grace_seconds=0.3, after_upload=f"move:{folder}/done"
        )
        (watch_dir / "cam 1").mkdir()
        path, target = watch_dir / "cam 1" / "a.mp4", Path(folder) / "done" / "cam 1" / "a.mp4"
        with daemon(settings) as process:
            digest = write(path, 12 * MIB + 1)
            moved = process.wait_for("recording_moved_after_upload")
            assert moved["moved_to"] == str(target)
        with daemon(settings) as process:
            assert process.count("stream_started") == 0
            assert process.stop() == 0
        assert hashlib.sha256(target.read_bytes()).hexdigest() == digest == embedded.sha256(embedded.key_of("a.mp4"))
        assert [entry.name for entry in target.parent.iterdir()] == ["a.mp4"]
        assert list((watch_dir / "cam 1").iterdir()) == []
