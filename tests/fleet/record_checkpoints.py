"""Store checkpoints of a version, as its real daemons leave them, in ``tests/checkpoint/schemas/``.

    python tests/fleet/record_checkpoints.py NAME [COMMIT]

Without a commit the present version is run. Two daemons share a Redis: one is killed, the other is stopped. They leave
streams in every state that a later version must be able to resume: open, renamed, pending completion, complete in S3
but without metadata, waiting to retry, failed, interrupted in both ways, completed, with a webhook pending. What is
stored is what Redis, S3 and the folder hold then; ``stored_checkpoints.py`` restores it.

A stored file is never changed after its version was released: a new schema gets a new file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

sys.path.insert(0, str(Path(__file__).parents[1]))

import redis
from fleet.versions import source_of
from servers.command import ROOT
from servers.daemon import daemon, settings_for
from servers.embedded_s3 import embedded_s3_server
from servers.endpoints import Endpoint
from servers.s3_control import arm, call_log
from servers.valkey import valkey_server
from waiting import wait_until

from cef_trio.checkpoint import schema
from cef_trio.checkpoint.redis import codec

FOLDER = ROOT / "tests" / "checkpoint" / "schemas"
MANIFEST = FOLDER / "manifest.json"
MIB = 1 << 20
PART = 5 * MIB
WATCH, S3 = "@WATCH@", "@S3@"
"""What stands for the watch folder and the endpoint."""
OWNER = "stored"
BUCKET = "recordings"


@lru_cache(maxsize=64)
def content(name: str, size: int) -> bytes:
    """Return the first bytes of the recording of that name: the same in each process."""
    return random.Random(name).randbytes(size)


def field_names() -> list[str]:
    """Return the fields of a record that this version reads."""
    return sorted(codec.FIELD_NAMES)


@dataclass
class Scene:
    """What the recording daemons use, and what they have left in Redis so far."""

    watch: Path
    endpoint: Endpoint
    raw: Any
    settings: Mapping[str, str]
    writers: dict[str, BinaryIO]

    def write(self, name: str, size: int) -> None:
        """Have the file ``name`` that many bytes, and keep it open."""
        path = self.watch / name
        if name not in self.writers:
            path.parent.mkdir(exist_ok=True)
            self.writers[name] = path.open("ab")
        writer = self.writers[name]
        writer.write(content(path.name, size)[writer.tell() :])
        writer.flush()

    def close(self, name: str) -> None:
        self.writers.pop(name).close()

    def meta(self, name: str) -> dict[str, str]:
        """Return the record of that file; empty if there is none yet."""
        for index in self.raw.keys("*streams:by_path"):
            stream_id = self.raw.hget(index, str(self.watch / name))
            if stream_id is not None:
                prefix = index.decode().removesuffix("streams:by_path")
                found = self.raw.hgetall(f"{prefix}stream:{stream_id.decode()}:meta")
                parts = self.raw.hlen(f"{prefix}stream:{stream_id.decode()}:parts")
                return {key.decode(): value.decode() for key, value in found.items()} | {"parts": str(parts)}
        return {}

    def wait(self, name: str, **fields: str) -> dict[str, str]:
        """Wait until the record of that file has these values."""
        wait_until(
            lambda: fields.items() <= self.meta(name).items(), otherwise=lambda: f"{name}: {fields}: {self.meta(name)}"
        )
        return self.meta(name)

    def fault(self, name: str, operation: str, suffix: str = "", **fault: object) -> Callable[[], None]:
        """Arm a fault for that file's object; return a wait for the first call that meets it."""
        key = self.meta(name)["s3_key_prefix"] + suffix
        arm(self.endpoint, {"operation": operation, "key": key, "times": None, **fault})
        return lambda: wait_until(
            lambda: any(
                call["operation"] == operation and call["key"] == key and call["faults"]
                for call in call_log(self.endpoint)["journal"]
            )
        )


def killed_daemon(scene: Scene) -> None:
    """Run a daemon that is killed while its streams are in all phases."""
    with daemon(scene.settings, wait_started=False) as process:
        scene.write("killed/completed.mp4", MIB)
        scene.wait("killed/completed.mp4", status="active")
        scene.close("killed/completed.mp4")
        scene.wait("killed/completed.mp4", status="completed")
        scene.write("killed/open.mp4", 2 * PART + MIB)
        scene.write("killed/renamed.mp4", PART + MIB)
        scene.wait("killed/open.mp4", parts="2")
        scene.wait("killed/renamed.mp4", parts="1")
        (scene.watch / "killed/renamed.mp4").rename(scene.watch / "killed/new name é.mp4")
        scene.wait("killed/new name é.mp4", parts="1")
        scene.write("killed/failed.mp4", PART + MIB)
        scene.wait("killed/failed.mp4", parts="1")
        scene.fault("killed/failed.mp4", "UploadPart", kind="error", status=400, code="KeyTooLongError")
        scene.write("killed/failed.mp4", 2 * PART + MIB)
        scene.wait("killed/failed.mp4", status="failed_s3_upload")
        scene.write("killed/pending.mp4", PART + MIB)
        scene.wait("killed/pending.mp4", parts="1")
        met = scene.fault("killed/pending.mp4", "CompleteMultipartUpload", kind="freeze")
        scene.close("killed/pending.mp4")
        met()
        scene.wait("killed/pending.mp4", status="pending_completion", parts="2")
        scene.write("killed/without metadata.mp4", MIB)
        scene.wait("killed/without metadata.mp4", status="active")
        met = scene.fault("killed/without metadata.mp4", "PutObject", ".metadata.json", kind="freeze")
        scene.close("killed/without metadata.mp4")
        met()
        scene.wait("killed/without metadata.mp4", status="s3_completed")
        scene.write("killed/retrying.mp4", PART + MIB)
        scene.wait("killed/retrying.mp4", parts="1")
        scene.fault("killed/retrying.mp4", "UploadPart", kind="error", status=500)
        scene.write("killed/retrying.mp4", 2 * PART + MIB)
        scene.wait("killed/retrying.mp4", status="retrying")
        process.kill()


def stopped_daemon(scene: Scene) -> None:
    """Run a daemon that is stopped while a part is in flight, and that could not deliver a webhook."""
    more = {"ON_COMPLETE_WEBHOOK": "http://127.0.0.1:9/", "WATCH_DIR": str(scene.watch / "stopped")}
    with daemon({**scene.settings, **more}, wait_started=False) as process:
        scene.write("stopped/webhook.mp4", MIB)
        scene.wait("stopped/webhook.mp4", status="active")
        scene.close("stopped/webhook.mp4")
        scene.wait("stopped/webhook.mp4", status="completed")
        for name in ("interrupted", "cancelled"):
            scene.write(f"stopped/{name}.mp4", PART + MIB)
            scene.wait(f"stopped/{name}.mp4", parts="1")
        met = scene.fault("stopped/cancelled.mp4", "UploadPart", kind="freeze")
        scene.write("stopped/cancelled.mp4", 2 * PART + MIB)
        met()
        assert process.stop() == 0, process.tail()


@contextlib.contextmanager
def recorded(source: Path) -> Iterator[Scene]:
    """Run both daemons of that source; what they have left lasts as long as the block."""
    with (
        tempfile.TemporaryDirectory() as folder,
        valkey_server() as valkey,
        redis.Redis(unix_socket_path=str(valkey.socket_path)) as raw,
        embedded_s3_server(Path(folder), bucket=BUCKET, arguments=["--control"]) as endpoint,
    ):
        watch = Path(folder) / "watch"
        for name in ("killed", "stopped"):
            (watch / name).mkdir(parents=True)
        settings = settings_for(
            watch / "killed",
            endpoint,
            valkey.unix_url,
            close_grace_seconds=0.2,
            stream_timeout_seconds=1000,
            shutdown_grace_seconds=1,
            retry_attempts=2,
            retry_initial_seconds=0.1,
            retry_max_seconds=1,
            owner_name=OWNER,
        )
        scene = Scene(watch, endpoint, raw, {**settings, "PYTHONPATH": str(source)}, {})
        killed_daemon(scene)
        stopped_daemon(scene)
        try:
            yield scene
        finally:
            for writer in scene.writers.values():
                writer.close()


def dump(scene: Scene) -> dict[str, Any]:
    """Return what Redis, S3 and the folder hold."""

    def text(value: bytes) -> str:
        shown = value.decode("utf-8", "surrogateescape")
        return shown.replace(str(scene.watch), WATCH).replace(scene.endpoint.url, S3)

    def value_of(key: bytes) -> dict[str, Any]:
        raw = scene.raw
        match raw.type(key):
            case b"hash":
                return {"hash": {text(name): text(value) for name, value in sorted(raw.hgetall(key).items())}}
            case b"set":
                return {"set": sorted(text(member) for member in raw.smembers(key))}
            case b"zset":
                return {"zset": {text(member): score for member, score in raw.zrange(key, 0, -1, withscores=True)}}
            case b"string":
                return {"string": text(raw.get(key)), "expires": raw.pttl(key) > 0}
            case other:
                raise AssertionError(f"{key!r} is a {other!r}")

    client = scene.endpoint.client()
    uploads = []
    for listed in client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []):
        found = client.list_parts(Bucket=BUCKET, Key=listed["Key"], UploadId=listed["UploadId"])
        uploads.append(
            {
                "key": listed["Key"],
                "upload_id": listed["UploadId"],
                "algorithm": found.get("ChecksumAlgorithm"),
                "type": found.get("ChecksumType"),
                "parts": [[part["PartNumber"], part["Size"], part["ETag"]] for part in found.get("Parts", [])],
            }
        )
    objects = []
    for listed in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        head = client.head_object(Bucket=BUCKET, Key=listed["Key"], ChecksumMode="ENABLED")
        entry: dict[str, Any] = {"key": listed["Key"], "etag": head["ETag"], "metadata": head["Metadata"]}
        if listed["Key"].endswith(".json"):
            entry["text"] = text(client.get_object(Bucket=BUCKET, Key=listed["Key"])["Body"].read())
        else:
            entry["size"] = listed["Size"]
            entry["algorithm"] = "CRC64NVME" if "ChecksumCRC64NVME" in head else None
        objects.append(entry)
    files = {
        str(path.relative_to(scene.watch)): {
            "content": Path(json_name(scene, path)).name,
            "size": path.stat().st_size,
            "mtime_ns": path.stat().st_mtime_ns,
        }
        for path in sorted(scene.watch.rglob("*.mp4"))
    }
    keys = {text(key): value_of(key) for key in sorted(scene.raw.keys("*"))}
    return {"redis": keys, "uploads": uploads, "objects": objects, "files": files}


def json_name(scene: Scene, path: Path) -> str:
    """Return the path by which a recording's content was chosen: its first one."""
    return scene.meta(str(path.relative_to(scene.watch)))["original_path"]


def main(name: str, commit: str | None = None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = ROOT if commit is None else source_of(commit, Path(folder))
        with recorded(source) as scene:
            found = dump(scene)
    file = FOLDER / f"{name}.json"
    FOLDER.mkdir(exist_ok=True)
    file.write_text(json.dumps(found, indent=1, ensure_ascii=True) + "\n")
    manifest = json.loads(MANIFEST.read_text()) if MANIFEST.exists() else {"files": {}, "fields": {}}
    found_schema = max(
        int(value["hash"].get("schema", 1)) for key, value in found["redis"].items() if key.endswith(":meta")
    )
    manifest["files"][file.name] = {
        "schema": found_schema,
        "version": commit or "the version that wrote this line",
        "made": time.strftime("%Y-%m-%d"),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    if commit is None:
        manifest["fields"][str(schema.CURRENT)] = field_names()
    MANIFEST.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
