"""The servers of the conformance cases; each starts once, when it is first needed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from servers.embedded_s3 import embedded_s3_server
from servers.endpoints import Endpoint
from servers.moto import moto_server
from servers.swift import swift_server


@pytest.fixture(scope="session")
def memory_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with embedded_s3_server(tmp_path_factory.mktemp("s3-memory")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def disk_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("s3-disk")
    with embedded_s3_server(folder, data=folder / "data") as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def swift_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with swift_server(tmp_path_factory.mktemp("swift")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def moto_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with moto_server(tmp_path_factory.mktemp("moto")) as endpoint:
        yield endpoint
