"""OpenStack Swift as the S3 store, and programs that run in the daemon's Python before it."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from servers.endpoints import Endpoint
from servers.store import Store, look_into
from servers.swift import swift_server


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with swift_server(tmp_path_factory.mktemp("swift")) as endpoint:
        yield endpoint


@pytest.fixture
def store(swift: Endpoint) -> Iterator[Store]:
    """A new bucket in Swift."""
    looking = look_into(replace(swift, bucket=f"test-{uuid4().hex[:12]}"))
    looking.client.create_bucket(Bucket=looking.endpoint.bucket)
    yield looking
    looking.client.close()


@pytest.fixture
def meddle(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """Return the environment of a process that first runs this Python code."""

    def prepare(source: str) -> dict[str, str]:
        folder = tmp_path / "meddling"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(textwrap.dedent(source))
        return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}

    return prepare
