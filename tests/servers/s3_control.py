"""Arm faults of an embedded S3 endpoint that runs as a process (``--control``), and read its calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import httpx
from servers.endpoints import Endpoint
from waiting import wait_until

from cef_trio.lab.world import is_probe

SECONDS = 60.0
"""httpx waits 5 s; on a busy machine the endpoint may not get to its answer in that time."""
_OF_UPLOADS = frozenset({"CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload"})


def arm(endpoint: Endpoint, fault: Mapping[str, object]) -> int:
    """Switch a fault on; the fields are those of ``cef_trio.s3_endpoint.Fault``. Returns its number."""
    answer = httpx.post(
        f"{endpoint.url}/_control/faults", json=fault, trust_env=False, timeout=SECONDS
    ).raise_for_status()
    return int(answer.json()["number"])


def disarm(endpoint: Endpoint, number: int) -> None:
    """Switch that one off."""
    httpx.delete(f"{endpoint.url}/_control/faults/{number}", trust_env=False, timeout=SECONDS).raise_for_status()


def disarm_all(endpoint: Endpoint) -> None:
    """Switch all of them off; frozen connections drop."""
    httpx.delete(f"{endpoint.url}/_control/faults", trust_env=False, timeout=SECONDS).raise_for_status()


def renew_token(endpoint: Endpoint, session_token: str) -> None:
    """Let the endpoint's account have another session token; the one that it had has expired."""
    renewed = {"access_key_id": endpoint.access_key, "session_token": session_token}
    httpx.post(f"{endpoint.url}/_control/tokens", json=renewed, trust_env=False, timeout=SECONDS).raise_for_status()


def calls(endpoint: Endpoint) -> dict[str, int]:
    """Return how often each operation was asked for, without the uploads of the daemon's probes."""
    log = call_log(endpoint)
    uploads = (call for call in log["journal"] if call["operation"] in _OF_UPLOADS)
    probed = Counter(call["operation"] for call in uploads if is_probe(call["key"]))
    return Counter(log["calls"]) - probed


def call_log(endpoint: Endpoint) -> dict[str, Any]:
    """Return everything that the endpoint noted of its calls (``cef_trio.s3_endpoint.CallLog``)."""
    log: dict[str, Any] = httpx.get(f"{endpoint.url}/_control/calls", trust_env=False, timeout=SECONDS).json()
    return log


def wait_for_fault(endpoint: Endpoint, number: int, *, hits: int = 1) -> None:
    """Wait until an armed fault has struck so many calls; those that it freezes are under way.

    Not by the counts of calls: an endpoint of several tests has those of earlier ones.
    """

    def struck() -> int:
        armed = httpx.get(f"{endpoint.url}/_control/faults", trust_env=False, timeout=SECONDS).json()
        return sum(int(one["hits"]) for one in armed if one["number"] == number)

    wait_until(lambda: struck() >= hits, otherwise=lambda: f"fault {number} struck {struck()}: {calls(endpoint)}")
