"""Arm faults of an embedded S3 endpoint that runs as a process (``--control``), and read its calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
from servers.endpoints import Endpoint
from waiting import wait_until


def arm(endpoint: Endpoint, fault: Mapping[str, object]) -> int:
    """Switch a fault on; the fields are those of ``cef_trio.s3_endpoint.Fault``. Returns its number."""
    answer = httpx.post(f"{endpoint.url}/_control/faults", json=fault, trust_env=False).raise_for_status()
    return int(answer.json()["number"])


def disarm(endpoint: Endpoint, number: int) -> None:
    """Switch that one off."""
    httpx.delete(f"{endpoint.url}/_control/faults/{number}", trust_env=False).raise_for_status()


def disarm_all(endpoint: Endpoint) -> None:
    """Switch all of them off; frozen connections drop."""
    httpx.delete(f"{endpoint.url}/_control/faults", trust_env=False).raise_for_status()


def renew_token(endpoint: Endpoint, session_token: str) -> None:
    """Let the endpoint's account have another session token; the one that it had has expired."""
    renewed = {"access_key_id": endpoint.access_key, "session_token": session_token}
    httpx.post(f"{endpoint.url}/_control/tokens", json=renewed, trust_env=False).raise_for_status()


def calls(endpoint: Endpoint) -> dict[str, int]:
    """Return how often each operation was asked for."""
    counted: dict[str, int] = call_log(endpoint)["calls"]
    return counted


def call_log(endpoint: Endpoint) -> dict[str, Any]:
    """Return everything that the endpoint noted of its calls (``cef_trio.s3_endpoint.CallLog``)."""
    log: dict[str, Any] = httpx.get(f"{endpoint.url}/_control/calls", trust_env=False).json()
    return log


def wait_for_call(endpoint: Endpoint, operation: str, *, count: int = 1) -> None:
    """Wait until ``operation`` has been asked for so often in the endpoint's bucket; the calls may still be under way.

    Only in its bucket: a server that several tests share has answered the calls of the tests before.
    """

    def begun() -> int:
        journal = call_log(endpoint)["journal"]
        return sum((call["operation"], call["bucket"]) == (operation, endpoint.bucket) for call in journal)

    wait_until(lambda: begun() >= count, otherwise=lambda: f"{operation}: {calls(endpoint)}")
