"""Cases that other servers do not support: virtual hosts, session tokens, full pages, a Complete without repetition."""

from __future__ import annotations

import httpx
import pytest
from servers.s3_signing import element, send, signed_headers

from cef_trio.s3_endpoint import (
    DEFAULT_ACCESS_KEY_ID,
    DEFAULT_SECRET_ACCESS_KEY,
    Account,
    InProcessTransport,
    S3Endpoint,
)


def client_of(endpoint: S3Endpoint, host: str = "s3.test") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=InProcessTransport(endpoint), base_url=f"http://{host}")


async def test_a_bucket_is_named_by_the_host_or_by_the_path() -> None:
    endpoint = S3Endpoint(buckets=["abc"])
    async with client_of(endpoint, "abc.s3.test:9000") as by_host, client_of(endpoint) as by_path:
        assert (await send(by_host, "PUT", "/a%20b/%C3%BC", b"x")).status_code == 200
        assert (await send(by_path, "GET", "/abc/a%20b/%C3%BC")).content == b"x"


@pytest.mark.parametrize(
    ("known", "sent", "code"),
    [
        ("token", "token", ""),
        ("token", "other", "InvalidToken"),
        ("token", None, "InvalidAccessKeyId"),
        ("token", "old", "ExpiredToken"),
        (None, "token", "InvalidToken"),
    ],
)
async def test_a_session_token_must_be_the_one_of_its_key(known: str | None, sent: str | None, code: str) -> None:
    account = Account(DEFAULT_SECRET_ACCESS_KEY, known)
    if known is not None:
        account = Account(DEFAULT_SECRET_ACCESS_KEY, "old").renewed(known)
    accounts = {DEFAULT_ACCESS_KEY_ID: account}
    async with client_of(S3Endpoint(buckets=["abc"], accounts=accounts)) as client:
        headers = signed_headers("GET", "http://s3.test/abc?location=", session_token=sent)
        assert element(await client.get("/abc?location=", headers=headers), "Code") == code


async def test_listings_end_their_pages_at_a_thousand() -> None:
    endpoint = S3Endpoint(buckets=["abc"], minimum_part_size_bytes=1)
    async with client_of(endpoint) as client:
        upload = element(await send(client, "POST", "/abc/k?uploads="), "UploadId")
        for number in range(1, 1002):
            await send(client, "PUT", f"/abc/k?partNumber={number}&uploadId={upload}", b"x")
        first = await send(client, "GET", f"/abc/k?uploadId={upload}&max-parts=5000")
        assert (first.text.count("<Part>"), element(first, "IsTruncated")) == (1000, "true")
        marker = element(first, "NextPartNumberMarker")
        second = await send(client, "GET", f"/abc/k?uploadId={upload}&part-number-marker={marker}")
        assert (second.text.count("<Part>"), element(second, "IsTruncated")) == (1, "false")


async def test_complete_again_may_be_refused_as_other_stores_do() -> None:
    endpoint = S3Endpoint(buckets=["abc"], complete_again=False)
    async with client_of(endpoint) as client:
        upload = element(await send(client, "POST", "/abc/k?uploads="), "UploadId")
        etag = (await send(client, "PUT", f"/abc/k?partNumber=1&uploadId={upload}", b"x")).headers["etag"]
        body = (
            f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>"
            "</CompleteMultipartUpload>"
        ).encode()
        replies = [await send(client, "POST", f"/abc/k?uploadId={upload}", body) for _ in range(2)]
        assert [element(reply, "Code") for reply in replies] == ["", "NoSuchUpload"]
