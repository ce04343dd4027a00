"""Signatures: AWS's published examples, and botocore as oracle for unusual input."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta, timezone
from unittest.mock import patch
from urllib.parse import unquote

import botocore.auth
import httpx
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given
from hypothesis import strategies as st
from s3.scripted_store import CREDENTIALS, NOW, SECRET, TOKEN, Reply, ScriptedStore, client_of

from cef_trio.s3.signing import (
    EMPTY_SHA256,
    UNSIGNED_PAYLOAD,
    Credentials,
    canonical_request,
    credential_scope,
    encode_path,
    encode_query,
    sign,
    signing_key,
)

EXAMPLE = Credentials("AKIAIOSFODNN7EXAMPLE", SECRET)
MAY_24 = datetime(2013, 5, 24, tzinfo=UTC)
HOST = "examplebucket.s3.amazonaws.com"


def signature(headers: dict[str, str]) -> str:
    return headers["authorization"].rpartition("Signature=")[2]


@pytest.mark.parametrize(
    ("method", "path", "query", "headers", "payload_hash", "expected"),
    [
        (
            "GET",
            "/test.txt",
            "",
            {"range": "bytes=0-9"},
            EMPTY_SHA256,
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "PUT",
            encode_path("/test$file.text"),
            "",
            {"date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
            hashlib.sha256(b"Welcome to Amazon S3.").hexdigest(),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        (
            "GET",
            "/",
            "lifecycle",
            {},
            EMPTY_SHA256,
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            "GET",
            "/",
            encode_query([("prefix", "J"), ("max-keys", "2")]),
            {},
            EMPTY_SHA256,
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
)
def test_the_examples_that_aws_published_for_s3_are_signed_alike(
    *, method: str, path: str, query: str, headers: dict[str, str], payload_hash: str, expected: str
) -> None:
    signed = sign(
        method=method,
        path=path,
        query=query,
        headers={"host": HOST, **headers},
        payload_hash=payload_hash,
        credentials=EXAMPLE,
        region="us-east-1",
        now=MAY_24,
    )
    assert signature(signed) == expected


def test_the_signing_key_that_aws_published_is_derived_alike() -> None:
    key = signing_key(
        "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", credential_scope("20120215T000000Z", "us-east-1", "iam")
    )
    assert key.hex() == "f4780e2d9f65fa895f9c67b32ce1baf0b0d8a43505a000a1a9e090d414db404d"


def test_the_canonical_request_that_aws_published_is_made_alike() -> None:
    canonical, names = canonical_request(
        "GET", "/", "lifecycle", {"Host": HOST, "x-amz-date": "20130524T000000Z"}, EMPTY_SHA256
    )
    assert canonical == (
        f"GET\n/\nlifecycle=\nhost:{HOST}\nx-amz-date:20130524T000000Z\n\nhost;x-amz-date\n{EMPTY_SHA256}"
    )
    assert names == "host;x-amz-date"


ODD = st.text(
    st.one_of(
        st.sampled_from(" %&+=~/.?#'\"<>[]{}|\\^`*!$(),;:@\n\t\x00\x7fé日🎥"),
        st.characters(blacklist_categories=["Cs"]),
    ),
    min_size=1,
    max_size=30,
)
HEADER_VALUE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20)
PARAMETERS = st.lists(st.tuples(ODD, st.one_of(st.just(""), ODD)), max_size=5, unique_by=lambda pair: pair[0])


@given(
    key=ODD,
    parameters=PARAMETERS,
    extra=HEADER_VALUE,
    token=st.one_of(st.none(), st.just(TOKEN)),
    body=st.one_of(st.none(), st.binary(max_size=40)),
    method=st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD"]),
)
def test_botocore_signs_every_request_alike(
    *,
    key: str,
    parameters: list[tuple[str, str]],
    extra: str,
    token: str | None,
    body: bytes | None,
    method: str,
) -> None:
    path, query = encode_path(f"/bucket/{key}"), encode_query(parameters)
    headers = {"host": "s3.test:9000", "x-amz-meta-note": extra, "content-type": "video/mp4"}
    payload_hash = UNSIGNED_PAYLOAD if body is None else hashlib.sha256(body).hexdigest()
    ours = sign(
        method=method,
        path=path,
        query=query,
        headers=headers,
        payload_hash=payload_hash,
        credentials=Credentials("AK", SECRET, token),
        region="eu-central-1",
        now=MAY_24,
    )
    request = AWSRequest(method, f"http://s3.test:9000{path}?{query}", headers=headers, data=body or b"")
    request.context["client_config"] = Config(s3={"payload_signing_enabled": body is not None})
    with patch.object(botocore.auth, "get_current_datetime", lambda: MAY_24.replace(tzinfo=None)):
        S3SigV4Auth(BotoCredentials("AK", SECRET, token), "s3", "eu-central-1").add_auth(request)
    assert ours["authorization"] == request.headers["Authorization"]
    assert ours["x-amz-content-sha256"] == request.headers["X-Amz-Content-SHA256"]
    assert ours.get("x-amz-security-token") == request.headers.get("X-Amz-Security-Token")


def test_a_moment_without_a_zone_is_refused_and_another_zone_is_the_same_moment() -> None:
    def signed_at(now: datetime) -> dict[str, str]:
        return sign(
            method="GET",
            path="/",
            query="",
            headers={"host": HOST},
            payload_hash=EMPTY_SHA256,
            credentials=EXAMPLE,
            region="us-east-1",
            now=now,
        )

    with pytest.raises(ValueError, match="time zone"):
        signed_at(MAY_24.replace(tzinfo=None))
    assert signed_at(MAY_24.astimezone(timezone(timedelta(hours=9)))) == signed_at(MAY_24)


def test_no_secret_is_in_the_credentials_text() -> None:
    assert SECRET not in f"{CREDENTIALS!r}{CREDENTIALS}"
    assert TOKEN not in f"{CREDENTIALS!r}{CREDENTIALS}"


ODD_KEYS = [
    "a b.mp4",
    "日本語/é🎥.mp4",
    "100%&+=?#.mp4",
    "%41%2F%zz",
    "line\nbreak\ttab\r",
    "a//b///c",
    "../../etc/passwd",
    "a/./b/../c",
    "..",
    "~tilde'quote\"double`back",
    "/begins with a slash",
    "ends/",
    "{braces}[brackets]|\\^<>",
    "null\x00byte\x7f",
    ":;,@!$*()",
]


@pytest.mark.parametrize("key", ODD_KEYS)
async def test_the_bytes_on_the_wire_are_the_bytes_that_were_signed(key: str) -> None:
    """The request line that httpcore writes: nothing is encoded twice, resolved or normalised."""
    store = ScriptedStore(Reply(204))
    async with client_of(store) as client:
        await client.delete_object(key)
    request = store.requests[0]
    assert request.target == encode_path(f"/recordings/{key}")
    assert unquote(request.target) == f"/recordings/{key}"
    resigned = AWSRequest("DELETE", f"http://s3.test:9000{request.target}", headers={"host": "s3.test:9000"})
    with patch.object(botocore.auth, "get_current_datetime", lambda: NOW.replace(tzinfo=None)):
        S3SigV4Auth(BotoCredentials(CREDENTIALS.access_key_id, SECRET, TOKEN), "s3", "eu-central-1").add_auth(resigned)
    assert request.headers["authorization"] == resigned.headers["Authorization"]


def test_httpx_alone_would_change_some_of_these_paths() -> None:
    """The reason to pass the request target through httpcore's extension."""
    changed = [
        key
        for key in ODD_KEYS
        if httpx.URL(f"http://h{encode_path('/' + key)}").raw_path.decode() != encode_path("/" + key)
    ]
    assert changed == ["../../etc/passwd", "a/./b/../c", ".."]
