"""The daemon as a process, a real Valkey, and the embedded S3 endpoint with boto3 to look into it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.daemon import Bucket
from servers.embedded_s3 import embedded_s3_server
from servers.store import Store, look_into
from servers.valkey import ValkeyServer, valkey_server


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with embedded_s3_server(tmp_path, bucket="recordings") as endpoint:
        looking = look_into(
            Bucket(endpoint.url, endpoint.access_key, endpoint.secret_key, endpoint.bucket, endpoint.region)
        )
        yield looking
        looking.client.close()


@pytest.fixture
def redis() -> Iterator[ValkeyServer]:
    with valkey_server() as server:
        yield server


@pytest.fixture
def watch_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "watch"
    folder.mkdir()
    return folder
