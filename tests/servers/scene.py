"""One Valkey and one embedded S3 endpoint for many tests; the endpoint counts the bytes it receives.

with surroundings(folder) as around:
    scene = around.scene("cut")  # a bucket and a key prefix of its own
    with daemon(scene.settings(watch_dir)) as process:
        ...
    assert scene.sent_bytes() < ...
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from servers.daemon import settings_for
from servers.embedded_s3 import embedded_s3_server
from servers.endpoints import Endpoint
from servers.s3_control import call_log
from servers.store import Store, look_into
from servers.valkey import ValkeyServer, valkey_server


@dataclass(frozen=True, slots=True)
class Scene:
    """One test's bucket and keys."""

    endpoint: Endpoint
    valkey: ValkeyServer

    def settings(self, watch_dir: Path, **more: object) -> dict[str, str]:
        """A daemon's settings; everything that is waited for is short."""
        given: dict[str, object] = {
            "redis_key_prefix": f"{self.endpoint.bucket}:",
            "close_grace_seconds": 0.2,
            "rescan_seconds": 0.3,
            "stale_check_seconds": 0.3,
            **more,
        }
        return settings_for(watch_dir, self.endpoint, self.valkey.url, **given)

    @contextlib.contextmanager
    def store(self) -> Iterator[Store]:
        """The bucket, to be looked at."""
        store = look_into(self.endpoint)
        with contextlib.closing(store.client):
            yield store

    def sent_bytes(self, file_name: str = "") -> int:
        """Return the bytes that S3 received of recordings of that name, or of all, repetitions counted.

        As parts, or in the one PutObject of a small recording.
        """
        log = call_log(self.endpoint)
        return sum(
            entry["size_bytes"]
            for entry in log["journal"]
            if entry["bucket"] == self.endpoint.bucket
            and entry["operation"] in {"UploadPart", "PutObject"}
            and not entry["key"].endswith(".metadata.json")
            and entry["key"].endswith(f"/{file_name}" if file_name else "")
        )


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The servers."""

    endpoint: Endpoint
    valkey: ValkeyServer

    def scene(self, name: str) -> Scene:
        """A bucket and a key prefix of its own."""
        return Scene(replace(self.endpoint, bucket=f"{name}-{uuid4().hex[:8]}"), self.valkey)


@contextlib.contextmanager
def surroundings(folder: Path) -> Iterator[Surroundings]:
    """Both servers, on TCP so that daemons of other users reach them; ``folder`` takes the objects."""
    with (
        valkey_server(tcp=True) as valkey,
        embedded_s3_server(folder, data=folder / "objects", arguments=["--control"]) as endpoint,
    ):
        yield Surroundings(endpoint, valkey)
