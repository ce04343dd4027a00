"""On disk, objects and open uploads survive a restart and ``kill -9``; incomplete files do not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from servers.embedded_s3 import embedded_s3_server
from servers.endpoints import Endpoint
from servers.s3_cases import BIG, SMALL, Bench

from cef_trio.s3_endpoint import (
    DEFAULT_ACCESS_KEY_ID,
    DEFAULT_REGION,
    DEFAULT_SECRET_ACCESS_KEY,
    DiskStorage,
    MemoryStorage,
    S3Endpoint,
    Storage,
)
from cef_trio.s3_endpoint.disk import readable_path


@pytest.mark.real
def test_objects_and_open_uploads_survive_a_restart(tmp_path: Path) -> None:
    with embedded_s3_server(tmp_path, data=tmp_path / "data") as endpoint, closing(endpoint.client()) as client:
        bench = Bench(endpoint, client, "streams/a/clip.mp4")
        client.put_object(Bucket=bench.bucket, Key="kept", Body=b"kept", Metadata={"of": "me"})
        upload = bench.create(ChecksumAlgorithm="CRC64NVME", Metadata={"stream": "a"})
        first = bench.part(upload, 1, BIG, ChecksumAlgorithm="CRC64NVME")
    (blob,) = (path for path in (tmp_path / "data" / "blobs").iterdir() if path.stat().st_size == len(BIG))
    (blob.parent / "half.tmp").write_bytes(b"half a part")
    (blob.parent / "orphan").write_bytes(b"a blob whose record was never written")
    with embedded_s3_server(tmp_path, data=tmp_path / "data") as endpoint, closing(endpoint.client()) as client:
        bench = Bench(endpoint, client, "streams/a/clip.mp4")
        kept = client.get_object(Bucket=bench.bucket, Key="kept")
        assert (kept["Body"].read(), kept["Metadata"]) == (b"kept", {"of": "me"})
        done = bench.complete(upload, first, bench.part(upload, 2, SMALL, ChecksumAlgorithm="CRC64NVME"))
        assert bench.body() == BIG + SMALL
        assert client.head_object(**bench.place)["Metadata"] == {"stream": "a"}
    with embedded_s3_server(tmp_path, data=tmp_path / "data") as endpoint, closing(endpoint.client()) as client:
        again = Bench(endpoint, client, "streams/a/clip.mp4").complete(upload, first)
        assert again["ETag"] == done["ETag"]
    readable = tmp_path / "data" / "buckets" / endpoint.bucket / "objects" / "streams" / "a" / "clip.mp4"
    assert readable.read_bytes() == BIG + SMALL
    assert len(list((tmp_path / "data" / "blobs").iterdir())) == 2


@pytest.mark.real
def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "cef_trio.s3_endpoint", "--port", "0", "--bucket", "abc", "--data", str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            with embedded_client(url) as client:
                before = [each["Key"] for each in client.list_objects_v2(Bucket="abc").get("Contents", [])]
                key = f"k{len(before)}"
                client.put_object(Bucket="abc", Key=key, Body=key.encode())
                upload = client.create_multipart_upload(Bucket="abc", Key="open")["UploadId"]
                client.upload_part(Bucket="abc", Key="open", UploadId=upload, PartNumber=1, Body=SMALL)
            os.kill(process.pid, signal.SIGKILL)
    endpoint = S3Endpoint(DiskStorage(tmp_path))
    assert [endpoint.model.object("abc", f"k{number}").size_bytes for number in range(3)] == [2, 2, 2]
    page = endpoint.model.list_uploads("abc", prefix="", delimiter="", key_marker="", upload_id_marker="", limit=10)
    assert len(page.uploads) == 3
    for upload in page.uploads:
        parts = endpoint.model.list_parts("abc", "open", upload.upload_id, after=0, limit=10).parts
        assert [part.size_bytes for part in parts] == [len(SMALL)]


def embedded_client(url: str) -> closing[Any]:
    return closing(Endpoint(url, DEFAULT_ACCESS_KEY_ID, DEFAULT_SECRET_ACCESS_KEY, DEFAULT_REGION, "abc").client())


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300))
def test_every_key_has_a_readable_path_that_stays_inside_and_fits(key: str) -> None:
    path = readable_path(key)
    assert not path.is_absolute()
    assert all(part not in ("", ".", "..") and len(part.encode()) <= 255 for part in path.parts)


@given(st.sets(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60), min_size=2, max_size=2))
def test_two_keys_never_share_a_readable_path(keys: set[str]) -> None:
    first, second = keys
    assert readable_path(first) != readable_path(second)


@pytest.mark.parametrize("kind", ["memory", "disk"])
async def test_blobs_are_read_joined_and_outlive_their_removal_while_open(kind: str, tmp_path: Path) -> None:
    storage: Storage = MemoryStorage() if kind == "memory" else DiskStorage(tmp_path, fsync=True)
    blobs = []
    for text in (b"abc", b"", b"defgh"):
        with storage.new_blob() as writer:
            for at in range(0, len(text), 2):
                writer.write(text[at : at + 2])
            blobs.append((await writer.commit(), len(text)))
    joined = await storage.join_blobs(blobs)
    with closing(storage.open_blob(joined)) as reader:
        storage.remove_blob(joined)
        for start in range(9):
            for size in range(9):
                assert reader.read(start, size) == b"abcdefgh"[start : start + size]


async def test_a_blob_that_was_not_committed_leaves_nothing(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    with trio.CancelScope() as scope, storage.new_blob() as writer:
        writer.write(b"half")
        scope.cancel()
        await writer.commit()
    assert scope.cancelled_caught
    assert not list((tmp_path / "blobs").iterdir())


@pytest.mark.real
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--port", "ninety"], "'ninety' is not a port number"),
        (["--minimum-part-size", "0"], "'0' is not a positive number of bytes"),
        (["--port", "0", "--bucket", "UPPER"], "InvalidBucketName"),
        (["--port", "0", "--data", "/dev/null/x"], "/dev/null"),
    ],
)
def test_bad_arguments_are_one_clear_line(arguments: list[str], line: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cef_trio.s3_endpoint", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode in (1, 2)
    assert line in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
