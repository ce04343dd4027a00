"""What ``--local`` and the demo run on: an embedded Valkey and an embedded S3 endpoint, with their data in one folder.

``<data>/valkey`` holds the append-only file, ``<data>/objects`` the buckets. Both survive a restart, and a ``kill -9``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import trio

from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.local.valkey import embedded_valkey
from cef_trio.s3_endpoint import (
    DEFAULT_ACCESS_KEY_ID,
    DEFAULT_REGION,
    DEFAULT_SECRET_ACCESS_KEY,
    DiskStorage,
    S3Endpoint,
    serve,
)

BUCKET: Final = "recordings"


class LocalDataError(CefMp4ProcessorError):
    """The folder of local data cannot be read or written."""


@dataclass(frozen=True, slots=True)
class LocalServers:
    """Where the embedded servers are."""

    redis_url: str
    s3_url: str
    endpoint: S3Endpoint
    """What answers at ``s3_url``, in this process: its journal and its model."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that lead a daemon to them."""
        return {
            "redis_url": self.redis_url,
            "redis_key_prefix": "",
            "s3_endpoint_url": self.s3_url,
            "s3_access_key_id": DEFAULT_ACCESS_KEY_ID,
            "s3_secret_access_key": DEFAULT_SECRET_ACCESS_KEY,
            "s3_session_token": None,
            "s3_bucket_name": BUCKET,
            "s3_region_name": DEFAULT_REGION,
            "s3_addressing": "path",
            # Meant for a bucket elsewhere: this one has no ACLs, and restores nothing from an archive class.
            "s3_storage_class": None,
            "s3_acl": None,
        }


@asynccontextmanager
async def local_servers(data_dir: Path) -> AsyncIterator[LocalServers]:
    """Run both; they are gone when the block is left.

    Raises:
        EmbeddedValkeyError: see :func:`~cef_trio.local.valkey.embedded_valkey`.
        LocalDataError: the objects' folder cannot be read or written.
    """
    async with embedded_valkey(data_dir / "valkey") as redis_url, trio.open_nursery() as nursery:
        endpoint = _endpoint(data_dir / "objects")
        s3_url = await nursery.start(serve, endpoint)
        yield LocalServers(redis_url, s3_url, endpoint)
        nursery.cancel_scope.cancel()


def _endpoint(folder: Path) -> S3Endpoint:
    try:
        return S3Endpoint(DiskStorage(folder), buckets=[BUCKET])
    except OSError as error:
        raise LocalDataError(f"{str(folder)!r} cannot be used: {error.strerror}") from error
