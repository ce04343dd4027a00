"""Restore stored checkpoints (``record_checkpoints.py``) into a real Redis, S3 and folder.

What depends on the machine is that of this one: the folder's path, the files' numbers, the file system, the machine,
the upload ids. No field is added or removed, so that the records keep the form of the version that wrote them.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import trio
from awscrt.checksums import crc64nvme
from fleet.record_checkpoints import BUCKET, FOLDER, PART, S3, WATCH, content
from servers.endpoints import Endpoint
from servers.store import look_into

from cef_trio.checkpoint.model import FileIdentity, Owner
from cef_trio.checkpoint.redis import codec
from cef_trio.daemon.machine import machine_id
from cef_trio.files import HEAD_BYTES, KernelDisk
from cef_trio.upload.ownership_rules import owner_at
from cef_trio.upload.recognition import identify

LEASE_MILLISECONDS = 500
"""What is left of the leases of the killed daemon."""
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

QUICK: Final = {
    "close_grace_seconds": 0.2,
    "stream_timeout_seconds": 2,
    "stale_check_seconds": 0.3,
    "rescan_seconds": 0.5,
    "lease_seconds": 3,
}
"""Settings of a daemon that resumes stored checkpoints, by which it is done soon."""


@dataclass(frozen=True)
class Restored:
    """What was restored."""

    watch: Path
    stored: Mapping[str, Any]
    metas: Mapping[str, Mapping[str, str]]
    """The records as stored, by the file's path below the folder."""

    def parts_in_s3(self) -> set[tuple[str, int]]:
        """Return the key and number of each part that S3 had."""
        return {(one["key"], part[0]) for one in self.stored["uploads"] for part in one["parts"]}

    def missing_parts(self) -> set[tuple[str, int]]:
        """Return the key and number of each part that was not in S3, of the streams that have not ended."""
        missing = set()
        for name, meta in self.metas.items():
            if meta["status"] in {"completed", "s3_completed"} or meta["status"].startswith("failed_"):
                continue
            numbers = range(1, -(-self.stored["files"][name]["size"] // PART) + 1)
            missing |= {(meta["s3_key_prefix"], number) for number in numbers} - self.parts_in_s3()
        return missing


def load(name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads((FOLDER / name).read_text())
    return found


def restore(name: str, watch: Path, endpoint: Endpoint, raw: Any) -> Restored:
    """Put everything where it was; ``raw`` is a client of an empty Redis."""
    stored = load(name)
    for path, file in stored["files"].items():
        there = watch / path
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(content(file["content"], file["size"]))
        os.utime(there, ns=(file["mtime_ns"], file["mtime_ns"]))
    with contextlib.closing(look_into(endpoint).client) as client:
        upload_ids = {upload["upload_id"]: _open_upload(client, upload, stored) for upload in stored["uploads"]}
        for one in stored["objects"]:
            _put_object(client, one, stored, lambda text: text.replace(WATCH, str(watch)).replace(S3, endpoint.url))
    identities = trio.run(_identities, watch, list(stored["files"]))
    owner = trio.run(_owner, watch)

    def text(value: str) -> bytes:
        shown = value.replace(WATCH, str(watch)).replace(S3, endpoint.url)
        for name_of_owner in owners - {None}:
            shown = shown.replace(f"\0{name_of_owner}", f"\0{owner.name}")
        return shown.encode("utf-8", "surrogateescape")

    records = [value["hash"] for key, value in stored["redis"].items() if key.endswith(":meta")]
    paths = {record["stream_id"]: record["current_path"].removeprefix(f"{WATCH}/") for record in records}
    owners = {record.get("owner") for record in records}
    metas = {}
    for key, value in stored["redis"].items():
        if "hash" in value:
            fields = dict(value["hash"])
            if key.endswith(":meta"):
                path = paths[fields["stream_id"]]
                metas[path] = value["hash"]
                here = {**codec.encode_field("identity", identities[path]), **codec.encode_field("owner", owner)}
                numbers = {one: found.decode() for one, found in here.items() if not one.startswith("head_")}
                fields |= {one: found for one, found in numbers.items() if one in fields}
                if "s3_upload_id" in fields:
                    fields["s3_upload_id"] = upload_ids.get(fields["s3_upload_id"], fields["s3_upload_id"])
            raw.hset(text(key), mapping={text(one): text(field) for one, field in fields.items()})
        elif "set" in value:
            raw.sadd(text(key), *(text(member) for member in value["set"]))
        elif "zset" in value:
            scores = value["zset"]
            if key.endswith("streams:by_inode"):
                scores = {one: identities[paths[one]].file_ino for one in scores}
            raw.zadd(text(key), {text(member): score for member, score in scores.items()})
        else:
            raw.set(text(key), text(value["string"]), px=LEASE_MILLISECONDS if value["expires"] else None)
    return Restored(watch, stored, metas)


def _bytes_of(key: str, stored: Mapping[str, Any]) -> bytes:
    """Return the recording whose object has that key, by its first name."""
    name = key.rpartition("/")[2]
    [file] = [one for one in stored["files"].values() if one["content"] == name]
    return content(name, file["size"])


def _checksum(body: bytes) -> dict[str, str]:
    return {"ChecksumCRC64NVME": base64.b64encode(crc64nvme(body).to_bytes(8, "big")).decode()}


def _multipart(client: Any, key: str, algorithm: str | None, body: bytes, numbers: list[int]) -> tuple[str, Any]:
    checksum = {"ChecksumAlgorithm": algorithm, "ChecksumType": "FULL_OBJECT"} if algorithm else {}
    stream_id = _ID.search(key)
    assert stream_id is not None
    upload_id: str = client.create_multipart_upload(
        Bucket=BUCKET, Key=key, Metadata={"cef-stream-id": stream_id[0]}, ContentType="video/mp4", **checksum
    )["UploadId"]
    parts = []
    for number in numbers:
        block = body[(number - 1) * PART : number * PART]
        checksum = _checksum(block) if algorithm else {}
        sent = client.upload_part(Bucket=BUCKET, Key=key, UploadId=upload_id, PartNumber=number, Body=block, **checksum)
        parts.append({"PartNumber": number, "ETag": sent["ETag"]})
    return upload_id, parts


def _open_upload(client: Any, upload: Mapping[str, Any], stored: Mapping[str, Any]) -> str:
    """Open an upload with the parts that it had; return its id."""
    body = _bytes_of(upload["key"], stored)
    numbers = [part[0] for part in upload["parts"]]
    upload_id, parts = _multipart(client, upload["key"], upload["algorithm"], body, numbers)
    assert [part["ETag"] for part in parts] == [part[2] for part in upload["parts"]]
    return upload_id


def _put_object(client: Any, one: Mapping[str, Any], stored: Mapping[str, Any], text: Any) -> None:
    if "text" in one:
        client.put_object(
            Bucket=BUCKET, Key=one["key"], Body=text(one["text"]).encode(), ContentType="application/json"
        )
        return
    body = _bytes_of(one["key"], stored)
    if "-" not in one["etag"]:
        checksum = _checksum(body) if one["algorithm"] else {}
        put = client.put_object(
            Bucket=BUCKET, Key=one["key"], Body=body, Metadata=one["metadata"], ContentType="video/mp4", **checksum
        )
        assert put["ETag"] == one["etag"]
        return
    numbers = list(range(1, -(-one["size"] // PART) + 1))
    upload_id, parts = _multipart(client, one["key"], one["algorithm"], body, numbers)
    done = client.complete_multipart_upload(
        Bucket=BUCKET, Key=one["key"], UploadId=upload_id, MultipartUpload={"Parts": parts}
    )
    assert done["ETag"] == one["etag"]


async def _identities(watch: Path, names: list[str]) -> dict[str, FileIdentity]:
    found = {}
    for name in names:
        async with KernelDisk().open(str(watch / name)) as recording:
            found[name] = await identify(recording, await recording.stat(), HEAD_BYTES)
    return found


async def _owner(watch: Path) -> Owner:
    return owner_at(await KernelDisk().mount_around(f"{watch}/-", within=str(watch)), machine_id())
