"""What stands round the daemon in many tests: one Valkey and one embedded endpoint, which counts the bytes it is sent.

with surroundings(folder) as around:
    scene = around.scene("cut")  # a bucket and a key prefix of its own
    with daemon(scene.settings(watch_dir)) as process:
        ...
    assert scene.sent_bytes() < ...
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx
from servers.daemon import Bucket, settings_for
from servers.embedded_s3 import embedded_s3_server
from servers.endpoints import Endpoint
from servers.store import Store, look_into
from servers.valkey import ValkeyServer, valkey_server


@dataclass(frozen=True, slots=True)
class Scene:
    """One test's bucket and keys."""

    endpoint: Endpoint
    valkey: ValkeyServer
    bucket: Bucket

    def settings(self, watch_dir: Path, **more: object) -> dict[str, str]:
        """A daemon's settings; everything that is waited for is short."""
        given: dict[str, object] = {
            "redis_key_prefix": f"{self.bucket.name}:",
            "close_grace_seconds": 0.2,
            "rescan_seconds": 0.3,
            "stale_check_seconds": 0.3,
            **more,
        }
        return settings_for(watch_dir, self.bucket, self.valkey.url, **given)

    @contextlib.contextmanager
    def store(self) -> Iterator[Store]:
        """The bucket, to be looked at."""
        store = look_into(self.bucket)
        with contextlib.closing(store.client):
            yield store

    def sent_bytes(self, file_name: str = "") -> int:
        """How many bytes of recordings of that name, or of all, S3 was sent as parts, repetitions counted."""
        told = httpx.get(f"{self.endpoint.url}/_control/calls", trust_env=False).json()
        return sum(
            entry["size_bytes"]
            for entry in told["journal"]
            if entry["bucket"] == self.bucket.name
            and entry["operation"] == "UploadPart"
            and entry["key"].endswith(f"/{file_name}" if file_name else "")
        )


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The servers."""

    endpoint: Endpoint
    valkey: ValkeyServer

    def scene(self, name: str) -> Scene:
        """A bucket and a key prefix of its own."""
        bucket = f"{name}-{uuid4().hex[:8]}"
        where = self.endpoint
        return Scene(where, self.valkey, Bucket(where.url, where.access_key, where.secret_key, bucket, where.region))


@contextlib.contextmanager
def surroundings(folder: Path) -> Iterator[Surroundings]:
    """Both servers, on TCP so that daemons of other users reach them; ``folder`` takes the objects."""
    with (
        valkey_server(tcp=True) as valkey,
        embedded_s3_server(folder, data=folder / "objects", arguments=["--control"]) as endpoint,
    ):
        yield Surroundings(endpoint, valkey)
