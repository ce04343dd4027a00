"""A bucket as boto3 sees it: what arrived, independent of the daemon's own reports."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import botocore.config
from servers.endpoints import Endpoint
from waiting import wait_until


@dataclass(frozen=True, slots=True)
class Store:
    """A bucket, and a boto3 client of it."""

    endpoint: Endpoint
    client: Any

    def keys(self) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.endpoint.bucket)
        return sorted(item["Key"] for page in pages for item in page.get("Contents", []))

    def recordings(self) -> list[str]:
        return [key for key in self.keys() if not key.endswith(".metadata.json")]

    def contents(self) -> Counter[bytes]:
        """The bytes of each recording, and how many recordings have them."""
        objects = (self.client.get_object(Bucket=self.endpoint.bucket, Key=key) for key in self.recordings())
        return Counter(found["Body"].read() for found in objects)

    def open_uploads(self) -> list[str]:
        listed = self.client.list_multipart_uploads(Bucket=self.endpoint.bucket)
        return [upload["Key"] for upload in listed.get("Uploads", [])]

    def key_of(self, file_name: str) -> str:
        """The one object of a file of that name."""
        found = [key for key in self.recordings() if key.endswith(f"/{file_name}")]
        assert len(found) == 1, f"{file_name}: {found} of {self.keys()}"
        return found[0]

    def wait_for_metadata(self, file_name: str) -> None:
        """Wait until the metadata of a file of that name is there, the last thing that is written of a recording."""
        wait_until(
            lambda: any(key.endswith(f"/{file_name}.metadata.json") for key in self.keys()),
            otherwise=lambda: f"no metadata of {file_name}: {self.keys()}",
        )

    def sha256(self, key: str) -> str:
        digest = hashlib.sha256()
        for block in self.client.get_object(Bucket=self.endpoint.bucket, Key=key)["Body"].iter_chunks(1 << 20):
            digest.update(block)
        return digest.hexdigest()

    def metadata(self, key: str) -> Mapping[str, Any]:
        body = self.client.get_object(Bucket=self.endpoint.bucket, Key=f"{key}.metadata.json")["Body"].read()
        document: Mapping[str, Any] = json.loads(body)
        return document

    def assert_identical(self, path: Path, key: str | None = None) -> Mapping[str, Any]:
        """P1: the object of this file is the file, and its metadata adds up; returns the metadata.

        ``key``: which one it is, if there may be several of its name.
        """
        key = key or self.key_of(path.name)
        assert self.sha256(key) == sha256_of(path), f"{key} is not {path}"
        metadata = self.metadata(key)
        assert metadata["total_size_bytes"] == path.stat().st_size
        assert sum(chunk["size_bytes"] for chunk in metadata["chunks"]) == path.stat().st_size
        numbers = [chunk["part_number"] for chunk in metadata["chunks"]]
        assert numbers == list(range(1, len(numbers) + 1))
        return metadata


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def look_into(endpoint: Endpoint, session_token: str | None = None) -> Store:
    client = boto3.client(
        "s3",
        endpoint_url=endpoint.url,
        aws_access_key_id=endpoint.access_key,
        aws_secret_access_key=endpoint.secret_key,
        aws_session_token=session_token,
        region_name=endpoint.region,
        config=botocore.config.Config(
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
    return Store(endpoint, client)
