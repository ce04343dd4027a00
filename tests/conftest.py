"""What tests of several rooms stand on: the embedded S3 endpoint as a process, and a look into its bucket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.daemon import Bucket
from servers.embedded_s3 import embedded_s3_server
from servers.endpoints import Endpoint
from servers.store import Store, look_into
from servers.valkey import ValkeyServer, valkey_server


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Endpoint]:
    """An endpoint of this test's own, whose faults can be switched on (``servers/s3_control.py``)."""
    with embedded_s3_server(tmp_path, bucket="recordings", arguments=["--control"]) as running:
        yield running


@pytest.fixture
def embedded(endpoint: Endpoint) -> Iterator[Store]:
    """A look into its bucket."""
    looking = look_into(Bucket(endpoint.url, endpoint.access_key, endpoint.secret_key, "recordings", endpoint.region))
    yield looking
    looking.client.close()


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    """A Valkey of this test's own, at an address that commands can be given too."""
    with valkey_server(append_only=True, tcp=True) as server:
        yield server
