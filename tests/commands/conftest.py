"""A command's context in a world (memory store, in-process S3, virtual clock); the settings of real servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from servers.embedded_s3 import embedded_s3_server
from servers.endpoints import Endpoint
from servers.valkey import ValkeyServer

from cef_trio.cli.session import CommandContext, command_lease
from cef_trio.lab.disk import InlineDisk
from cef_trio.lab.world import BUCKET, PART, World
from cef_trio.s3.client import S3Client
from cef_trio.s3.config import S3Config
from cef_trio.s3.credentials import StaticCredentials
from cef_trio.s3.signing import Credentials
from cef_trio.s3_endpoint import DEFAULT_ACCESS_KEY_ID, DEFAULT_SECRET_ACCESS_KEY, InProcessTransport
from cef_trio.upload.object_key import KeyTemplate


@pytest.fixture
async def context(world: World) -> AsyncIterator[CommandContext]:
    config = S3Config(
        bucket=BUCKET,
        credentials=StaticCredentials(Credentials(DEFAULT_ACCESS_KEY_ID, DEFAULT_SECRET_ACCESS_KEY)),
        endpoint_url="http://s3.world.test",
    )
    async with S3Client(config, transport=InProcessTransport(world.endpoint), now=world.utc_now) as s3:
        yield CommandContext(
            store=world.store,
            s3=s3,
            disk=InlineDisk(),
            folders=[str(world.folder)],
            lease=command_lease(30.0),
            bucket=BUCKET,
            owner_name="",
            key_template=KeyTemplate("streams/{stream_id}/{file_name}"),
            part_size=PART,
            equal_parts=False,
            utc_now=world.utc_now,
        )


@pytest.fixture(scope="module")
def healthy_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with embedded_s3_server(tmp_path_factory.mktemp("s3"), bucket="recordings") as running:
        yield running


@pytest.fixture
def healthy_settings(tmp_path: Path, healthy_endpoint: Endpoint, valkey: ValkeyServer) -> dict[str, str]:
    probe = tmp_path / "ffprobe"
    probe.write_text("#!/bin/sh\necho ffprobe version 99\n")
    probe.chmod(0o755)
    return {
        "WATCH_DIR": str(tmp_path),
        "S3_ENDPOINT_URL": healthy_endpoint.url,
        "S3_ACCESS_KEY_ID": healthy_endpoint.access_key,
        "S3_SECRET_ACCESS_KEY": healthy_endpoint.secret_key,
        "S3_BUCKET_NAME": "recordings",
        "REDIS_URL": valkey.url,
        "FFPROBE_PATH": str(probe),
    }
