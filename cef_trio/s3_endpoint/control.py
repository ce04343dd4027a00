"""Faults and counters of an endpoint in another process, over unsigned HTTP: ``/_control/…``.

Served only if enabled, in tests. Bodies are JSON::

    POST   /_control/faults        a Fault's fields ({"kind": "error", "operation": "UploadPart", …}) → {"number": 1}
    GET    /_control/faults        the armed faults, with ``seen`` and ``hits``
    DELETE /_control/faults        disarm all (frozen connections are dropped)
    DELETE /_control/faults/1      disarm that one
    GET    /_control/calls         counters and journal (see ``calls.py``)
    DELETE /_control/calls         reset them
    POST   /_control/tokens        {"access_key_id": …, "session_token": …}: replace the token; the old one expires
"""

from __future__ import annotations

import json
from contextlib import aclosing
from dataclasses import fields
from typing import Any, Final

from cef_trio.s3_endpoint.auth import Account
from cef_trio.s3_endpoint.calls import CallLog
from cef_trio.s3_endpoint.faults import ArmedFault, Fault, FaultTable, Kind, Moment
from cef_trio.s3_endpoint.request import EndpointRequest, Reply

PREFIX: Final = "/_control/"
_MAX_BODY_BYTES: Final = 64 * 1024
_FIELDS: Final = frozenset(field.name for field in fields(Fault)) - {"predicate"}


async def respond(request: EndpointRequest, faults: FaultTable, log: CallLog, accounts: dict[str, Account]) -> Reply:
    """Serve a request under ``/_control/``."""
    body = bytearray()
    async with aclosing(request.body) as blocks:
        async for block in blocks:
            body += block
            if len(body) > _MAX_BODY_BYTES:
                return _json(413, {"error": "the body is too long"})
    resource, _, number = request.path.removeprefix(PREFIX).partition("/")
    content: object = {}
    match (request.method, resource):
        case ("POST", "faults" | "tokens"):
            try:
                content = _posted(resource, json.loads(body), faults, accounts)
            except ValueError as error:
                return _json(400, {"error": str(error)})
        case ("GET", "faults"):
            content = [_armed_to_json(armed) for armed in faults.armed()]
        case ("DELETE", "faults"):
            for armed in faults.armed():
                if number in ("", str(armed.number)):
                    faults.disarm(armed)
        case ("GET", "calls"):
            content = log.to_json()
        case ("DELETE", "calls"):
            log.reset()
        case _:
            return _json(404, {"error": f"no {request.method} {request.path}"})
    return _json(200, content)


def _posted(resource: str, data: object, faults: FaultTable, accounts: dict[str, Account]) -> object:
    if resource == "faults":
        return {"number": faults.arm(fault_from_json(data)).number}
    if not isinstance(data, dict) or data.get("access_key_id") not in accounts or "session_token" not in data:
        raise ValueError("a token is an object with an account's 'access_key_id' and a 'session_token'")
    accounts[data["access_key_id"]] = accounts[data["access_key_id"]].renewed(data["session_token"])
    return {}


def fault_from_json(data: object) -> Fault:
    """Return a fault from JSON.

    Raises:
        ValueError: it is not one.
    """
    if not isinstance(data, dict) or "kind" not in data:
        raise ValueError("a fault is an object with at least a 'kind'")
    unknown = sorted(data.keys() - _FIELDS)
    if unknown:
        raise ValueError(f"a fault has no {', '.join(unknown)}")
    values: dict[str, Any] = dict(data)
    values["kind"] = Kind(values["kind"])
    if "moment" in values:
        values["moment"] = Moment(values["moment"])
    try:
        return Fault(**values)
    except TypeError as error:
        raise ValueError(str(error)) from error


def _armed_to_json(armed: ArmedFault) -> dict[str, Any]:
    shown: dict[str, Any] = {name: getattr(armed.fault, name) for name in sorted(_FIELDS)}
    return {"number": armed.number, "seen": armed.seen, "hits": armed.hits, **shown}


def _json(status: int, value: object) -> Reply:
    return Reply(status, [("Content-Type", "application/json")], json.dumps(value).encode())
