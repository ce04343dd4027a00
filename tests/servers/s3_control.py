"""Switching on the faults of an embedded S3 endpoint that runs as a process (``--control``)."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
from servers.endpoints import Endpoint


def arm(endpoint: Endpoint, fault: Mapping[str, object]) -> None:
    """Switch a fault on; the fields are those of ``cef_trio.local.s3.Fault``."""
    httpx.post(f"{endpoint.url}/_control/faults", json=fault, trust_env=False).raise_for_status()


def disarm_all(endpoint: Endpoint) -> None:
    """Switch all of them off; frozen connections drop."""
    httpx.delete(f"{endpoint.url}/_control/faults", trust_env=False).raise_for_status()
