"""The daemon as a process, a real Valkey, OpenStack Swift as the store, and boto3 to look at what arrived."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from servers.daemon import Bucket
from servers.store import Store, look_into
from servers.swift import swift_server
from servers.valkey import ValkeyServer, valkey_server


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with swift_server(tmp_path_factory.mktemp("swift")) as endpoint:
        yield Bucket(endpoint.url, endpoint.access_key, endpoint.secret_key, "unnamed", endpoint.region)


@pytest.fixture
def store(swift: Bucket) -> Iterator[Store]:
    """A bucket of this test's own in Swift."""
    looking = look_into(replace(swift, name=f"test-{uuid4().hex[:12]}"))
    looking.client.create_bucket(Bucket=looking.bucket.name)
    yield looking
    looking.client.close()


@pytest.fixture
def redis() -> Iterator[ValkeyServer]:
    with valkey_server(append_only=True) as server:
        yield server


@pytest.fixture
def watch_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "watch"
    folder.mkdir()
    return folder
