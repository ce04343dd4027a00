"""A command's context in a world: the memory store, the in-process S3 endpoint, a virtual clock."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

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
            lease=command_lease(30.0),
            bucket=BUCKET,
            owner_name="",
            key_template=KeyTemplate("streams/{stream_id}/{file_name}"),
            part_size=PART,
            equal_parts=False,
            utc_now=world.utc_now,
        )
