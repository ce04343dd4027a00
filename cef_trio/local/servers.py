"""The embedded servers of ``--local`` and the demo: Valkey and an S3 endpoint, with their data in one folder.

``<data>/valkey`` has the append-only file, ``<data>/objects`` the buckets. Both survive a restart and a ``kill -9``.
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
OWNER_NAME: Final = "local"
"""The data folder has the streams of one machine; its name need not differ from others."""


class LocalDataError(CefMp4ProcessorError):
    """The data folder cannot be read or written."""


@dataclass(frozen=True, slots=True)
class LocalServers:
    """The addresses of the embedded servers."""

    redis_url: str
    s3_url: str
    endpoint: S3Endpoint
    """The S3 endpoint at ``s3_url``, which runs in this process."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a daemon that uses them."""
        return {
            "redis_url": self.redis_url,
            "redis_key_prefix": "",
            "owner_name": OWNER_NAME,
            "s3_endpoint_url": self.s3_url,
            "s3_access_key_id": DEFAULT_ACCESS_KEY_ID,
            "s3_secret_access_key": DEFAULT_SECRET_ACCESS_KEY,
            "s3_session_token": None,
            "s3_bucket_name": BUCKET,
            "s3_region_name": DEFAULT_REGION,
            "s3_addressing": "path",
            "s3_proxy_url": None,
            # Settings for another bucket; the embedded endpoint has no ACLs, and no restore from archive classes.
            "s3_storage_class": None,
            "s3_acl": None,
        }


@asynccontextmanager
async def local_servers(data_dir: Path) -> AsyncIterator[LocalServers]:
    """Run both servers during the block.

    Raises:
        EmbeddedValkeyError: see :func:`~cef_trio.local.valkey.embedded_valkey`.
        LocalDataError: the folder of the objects cannot be read or written.
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
