"""The embedded endpoint ignores no option: it does as S3 does, or responds with NotImplemented."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx
import pytest
from servers.s3_signing import element, send

from cef_trio.s3_endpoint import InProcessTransport, S3Endpoint

BUCKET = "recordings"
NOW = 1_800_000_000.5
DATE = "Fri, 15 Jan 2027 08:00:00 GMT"
BEFORE = "Fri, 15 Jan 2027 07:59:59 GMT"
AFTER = "Fri, 15 Jan 2027 08:00:01 GMT"
ETAG = '"9dd4e461268c8034f5c8564e155c67a6"'
OTHER = '"00000000000000000000000000000000"'


@asynccontextmanager
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client of an endpoint with the object ``k``, whose bytes are ``x``."""
    endpoint = S3Endpoint(buckets=[BUCKET], clock=lambda: NOW)
    async with httpx.AsyncClient(transport=InProcessTransport(endpoint), base_url="http://s3.test") as http:
        await send(http, "PUT", f"/{BUCKET}/k", b"x", now=NOW)
        yield http


async def asked(
    http: httpx.AsyncClient, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> str:
    given = {name.replace("_", "-"): value for name, value in (headers or {}).items()}
    reply = await send(http, method, path, body, headers=given, now=NOW)
    code = element(reply, "Code") if reply.content and reply.status_code >= 400 else ""
    return f"{reply.status_code} {code}".strip()


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("DELETE", "k?versionId=abc", {}),
        ("GET", "k?versionId=abc", {}),
        ("PUT", "k?versionId=abc", {}),
        ("DELETE", "k", {"if_match": ETAG}),
        ("DELETE", "k", {"if_match": OTHER}),
        ("DELETE", "k", {"if_none_match": "*"}),
        ("DELETE", "k", {"x_amz_if_match_size": "1"}),
        ("DELETE", "k", {"x_amz_if_match_last_modified_time": DATE}),
        ("DELETE", "k", {"x_amz_mfa": "1 2"}),
        ("PUT", "k", {"x_amz_write_offset_bytes": "1"}),
        ("PUT", "k", {"if_unmodified_since": DATE}),
        ("PUT", "k", {"x_amz_object_lock_mode": "GOVERNANCE"}),
        ("GET", "k", {"if_range": ETAG}),
        ("POST", "k?uploads=", {"if_none_match": "*"}),
    ],
)
async def test_unsupported_options_are_refused_without_effect(method: str, path: str, headers: dict[str, str]) -> None:
    async with client() as http:
        assert await asked(http, method, f"/{BUCKET}/{path}", b"yy" if method == "PUT" else b"", headers) == (
            "501 NotImplemented"
        )
        assert (await send(http, "GET", f"/{BUCKET}/k", now=NOW)).content == b"x"


@pytest.mark.parametrize("more", ["<VersionId>v</VersionId>", f"<ETag>{OTHER}</ETag>", "<Size>9</Size>"])
async def test_a_deletion_of_many_with_a_version_or_a_condition_is_refused(more: str) -> None:
    async with client() as http:
        body = f"<Delete><Object><Key>k</Key>{more}</Object></Delete>".encode()
        assert await asked(http, "POST", f"/{BUCKET}?delete=", body) == "501 NotImplemented"
        assert await asked(http, "HEAD", f"/{BUCKET}/k") == "200"


async def test_the_only_version_of_an_object_is_null() -> None:
    async with client() as http:
        assert await asked(http, "GET", f"/{BUCKET}/k?versionId=null") == "200"
        assert await asked(http, "DELETE", f"/{BUCKET}/k?versionId=null") == "204"
        assert await asked(http, "GET", f"/{BUCKET}/k") == "404 NoSuchKey"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"if_modified_since": BEFORE}, 200),
        ({"if_modified_since": DATE}, 304),
        ({"if_modified_since": AFTER}, 304),
        ({"if_modified_since": "yesterday"}, 200),
        ({"if_unmodified_since": BEFORE}, 412),
        ({"if_unmodified_since": DATE}, 200),
        ({"if_unmodified_since": AFTER}, 200),
        ({"if_unmodified_since": "Fri, 31 Dec 9999 23:59:59 -2359"}, 200),
        ({"if_match": ETAG, "if_unmodified_since": BEFORE}, 200),
        ({"if_match": OTHER, "if_unmodified_since": AFTER}, 412),
        ({"if_none_match": OTHER, "if_modified_since": AFTER}, 200),
        ({"if_none_match": ETAG, "if_modified_since": BEFORE}, 304),
        ({"if_match": f"{OTHER}, {ETAG}"}, 200),
        ({"if_match": "*"}, 200),
        ({"if_none_match": f"{OTHER}, W/{ETAG}"}, 304),
        ({"if_none_match": "*"}, 304),
        ({"if_match": ETAG.strip('"')}, 200),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_conditions_of_a_read_hold_as_in_rfc_9110(method: str, headers: dict[str, str], status: int) -> None:
    async with client() as http:
        assert (await asked(http, method, f"/{BUCKET}/k", headers=headers)).split()[0] == str(status)
