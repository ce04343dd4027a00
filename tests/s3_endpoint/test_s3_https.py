"""Over https boto3 sends bodies aws-chunked with trailing checksums: they are decoded and verified."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path
from typing import Any

import botocore.config
import pytest
import trio
from servers.authority import Authority
from servers.endpoints import Endpoint
from servers.s3_cases import BIG, SMALL, Bench

from cef_trio.s3_endpoint import DEFAULT_ACCESS_KEY_ID, DEFAULT_REGION, DEFAULT_SECRET_ACCESS_KEY, S3Endpoint, serve


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.mark.real
@pytest.mark.parametrize("algorithm", ["CRC32", "CRC64NVME", "SHA256"])
async def test_trailing_checksums_of_boto3_are_verified_and_kept(authority: Authority, algorithm: str) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority.certificate("127.0.0.1"))
    endpoint = S3Endpoint(buckets=["abc"])
    payloads: list[str] = []

    def work(url: str) -> dict[str, Any]:
        place = Endpoint(url, DEFAULT_ACCESS_KEY_ID, DEFAULT_SECRET_ACCESS_KEY, DEFAULT_REGION, "abc")
        config = botocore.config.Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1})
        with contextlib.closing(place.client(verify=str(authority.file), config=config)) as client:
            client.meta.events.register(
                "before-send.s3.UploadPart",
                lambda request, **_: payloads.append(request.headers["X-Amz-Content-SHA256"].decode()),
            )
            bench = Bench(place, client, "k")
            upload = bench.create(ChecksumAlgorithm=algorithm)
            parts = []
            for number, body in ((1, BIG), (2, SMALL)):
                sent = client.upload_part(**upload, PartNumber=number, Body=body, ChecksumAlgorithm=algorithm)
                name = f"Checksum{algorithm}"
                parts.append({"PartNumber": number, "ETag": sent["ETag"], name: sent[name]})
            bench.complete(upload, *parts)
            assert bench.body() == BIG + SMALL
            head: dict[str, Any] = client.head_object(**bench.place, ChecksumMode="ENABLED")
            return head

    async with trio.open_nursery() as nursery:
        url = await nursery.start(lambda **more: serve(endpoint, ssl_context=context, **more))
        head = await trio.to_thread.run_sync(work, url)
        nursery.cancel_scope.cancel()
    assert head[f"Checksum{algorithm}"]
    assert payloads == ["STREAMING-UNSIGNED-PAYLOAD-TRAILER"] * 2
