"""Checkpoints of each released schema, as real daemons left them, are resumed by the present daemon (P2, P3)."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import redis as redis_py
from fleet.record_checkpoints import BUCKET, FOLDER, MANIFEST, OWNER, field_names
from fleet.stored_checkpoints import QUICK, load, restore
from servers.command import answer, command
from servers.daemon import daemon, settings_for
from servers.embedded_s3 import embedded_s3_server
from servers.endpoints import Endpoint
from servers.s3_control import call_log
from servers.store import look_into, sha256_of
from servers.valkey import ValkeyServer
from waiting import wait_until

from cef_trio.checkpoint import schema
from cef_trio.checkpoint.redis.keys import Keys

MANIFESTED: dict[str, Any] = json.loads(MANIFEST.read_text())
NAMES = sorted(MANIFESTED["files"])
OPEN = {"active", "pending_completion", "s3_completed", "retrying", "interrupted_shutdown", "interrupted_cancelled"}


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Endpoint]:
    with embedded_s3_server(tmp_path, bucket=BUCKET, arguments=["--control"]) as running:
        yield running


@contextmanager
def receiver() -> Iterator[tuple[str, list[str]]]:
    """A webhook receiver; the list gets the ids that it accepted."""
    accepted: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            accepted.append(self.headers["webhook-id"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", accepted
        finally:
            server.shutdown()
            thread.join()


def left_by_a_newer_version(raw: Any, namespace: str, path: Path, *, like: Path) -> str:
    """Leave a file, and the record of its open stream as a newer version would; return the record's key."""
    path.write_bytes(b"\1" * (6 << 20))
    stream_id = "ffffffff-0000-4000-8000-000000000000"
    before = raw.hget(f"{namespace}streams:by_path", str(like / "killed/open.mp4")).decode()
    record = raw.hgetall(f"{namespace}stream:{before}:meta")
    names = {"stream_id": stream_id, "original_path": str(path), "current_path": str(path)}
    more = {"schema": schema.CURRENT + 1, "s3_key_prefix": f"streams/{stream_id}/newer.mp4", "new_field": "new"}
    raw.hset(f"{namespace}stream:{stream_id}:meta", mapping={**record, **names, **more})
    raw.hset(f"{namespace}streams:by_path", str(path), stream_id)
    raw.sadd(f"{namespace}streams:active", stream_id)
    return f"{namespace}stream:{stream_id}:meta"


def test_every_schema_has_stored_checkpoints_and_none_was_edited() -> None:
    """A new schema: ``python tests/fleet/record_checkpoints.py schema-N``. Stored ones are never changed."""
    assert {entry["schema"] for entry in MANIFESTED["files"].values()} == set(schema.CHANGES)
    assert {file.name for file in FOLDER.glob("*.json")} == {*NAMES, MANIFEST.name}
    for name, entry in MANIFESTED["files"].items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == entry["sha256"], name
        records = [value["hash"] for key, value in load(name)["redis"].items() if key.endswith(":meta")]
        assert {int(record.get("schema", 1)) for record in records} == {entry["schema"]}, name


def test_a_record_has_the_fields_that_its_schema_had_when_its_checkpoints_were_stored() -> None:
    """A field that was added or removed: see ``schema.py`` whether it needs a new schema, then store checkpoints."""
    assert field_names() == MANIFESTED["fields"][str(schema.CURRENT)]


@pytest.mark.parametrize("name", NAMES)
def test_stored_checkpoints_have_a_stream_in_each_state_that_can_be_left_behind(name: str) -> None:
    records = {key: value["hash"] for key, value in load(name)["redis"].items() if key.endswith(":meta")}
    statuses = Counter(record["status"] for record in records.values())
    assert set(statuses) >= OPEN | {"completed", "failed_s3_upload"}
    assert any(record["current_path"] != record["original_path"] for record in records.values())


@pytest.mark.real
def test_p2_p3_stored_checkpoints_are_resumed_with_no_part_sent_twice_and_end_completed(
    tmp_path: Path, endpoint: Endpoint, valkey: ValkeyServer
) -> None:
    """Those of all schemas by one daemon, to be quick, each below a folder of its own; a newer record is left alone."""
    watch = tmp_path / "watch"
    namespace = Keys("", OWNER).prefix
    with redis_py.Redis.from_url(valkey.url) as raw, receiver() as (url, accepted):
        restored = {name: restore(name, watch / name, endpoint, raw) for name in NAMES}
        before = len(call_log(endpoint)["journal"])
        pending = {one.decode() for key in raw.keys("*webhooks:owed") for one in raw.smembers(key)}
        assert len(pending) >= len(NAMES) - 1  # the first version knew no webhooks
        metas = {
            str(one.watch.relative_to(watch) / path): meta
            for one in restored.values()
            for path, meta in one.metas.items()
        }

        def records(field: str) -> dict[str, str]:
            keys = raw.keys(f"{namespace}stream:*:meta")
            found = (raw.hmget(key, "current_path", field) for key in keys)
            return {str(Path(path.decode()).relative_to(watch)): (value or b"").decode() for path, value in found}

        settings = settings_for(
            watch,
            endpoint,
            valkey.url,
            owner_name=OWNER,
            **QUICK,
            on_complete_webhook=url,
        )
        expected = {path: "completed" if meta["status"] in OPEN else meta["status"] for path, meta in metas.items()}
        newer = left_by_a_newer_version(raw, namespace, watch / "newer.mp4", like=restored["schema-2.json"].watch)
        expected["newer.mp4"] = "active"
        untouched = raw.dump(newer)

        def differences() -> str:
            found = records("status")
            return str({path: (one, found.get(path)) for path, one in expected.items() if found.get(path) != one})

        with daemon(settings) as process:
            wait_until(lambda: records("status") == expected, otherwise=lambda: f"{differences()}\n{process.tail()}")
            wait_until(lambda: not raw.exists(f"{namespace}webhooks:owed"), otherwise=process.tail)
            process.wait_for_rounds(2)
            assert records("status") == expected
            assert not raw.keys("stream:*"), "the keys of schema 1 are moved into the namespace"
            assert process.count("stream_started") == process.count("checkpoint_unreadable") == 0
            assert process.count("records_newer") == 1
            assert process.metric("newer_records") == 1
            assert [one["key"] for one in answer("status", settings=settings)["newer"]] == [newer]
            examined = json.loads(command("doctor", "--json", settings=settings, code=None).stdout)["findings"]
            assert [one["says"] for one in examined if one["subject"] == "schema"]
            assert process.stop() == 0
        sent = [call for call in call_log(endpoint)["journal"][before:] if call["operation"] == "UploadPart"]
        missing = set().union(*(one.missing_parts() for one in restored.values()))
        found = ((call["key"], call["part_number"]) for call in sent if not call["key"].endswith("/cef-trio-doctor"))
        assert Counter(found) == Counter(missing)
        assert raw.dump(newer) == untouched
        schemas = records("schema")
        assert {schemas[path] for path, meta in metas.items() if meta["status"] in OPEN} == {str(schema.CURRENT)}
        assert {f"completed_{one}" for one in pending} <= set(accepted)
    store = look_into(endpoint)
    objects = {meta["s3_key_prefix"]: path for path, meta in metas.items() if expected[path] == "completed"}
    assert set(store.recordings()) == set(objects)
    for key, path in objects.items():
        assert store.sha256(key) == sha256_of(watch / path)
        assert sum(part["size_bytes"] for part in store.metadata(key)["chunks"]) == (watch / path).stat().st_size
    assert set(store.open_uploads()) <= {
        meta["s3_key_prefix"] for meta in metas.values() if meta["status"].startswith("failed_")
    }
