"""Options arrive at real recordings: boto3 sees them at the embedded endpoint, and what Swift and moto know there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers.daemon import daemon, settings_for
from servers.moto import moto_server
from servers.store import Store, look_into
from servers.valkey import ValkeyServer

pytestmark = pytest.mark.real
MIB = 1024 * 1024


@pytest.fixture
def moto(tmp_path: Path) -> Iterator[Store]:
    with moto_server(tmp_path, bucket="recordings") as endpoint:
        looking = look_into(endpoint)
        yield looking
        looking.client.close()


def uploaded(watch_dir: Path, store: Store, valkey: ValkeyServer, **options: str) -> tuple[Any, Any, str]:
    """Upload a recording with these settings; what HEAD says of it and of its metadata, and its key."""
    recording = watch_dir / "a.mp4"
    recording.write_bytes(os.urandom(6 * MIB))
    with daemon(settings_for(watch_dir, store.endpoint, valkey.url, **options)) as process:
        process.wait_for("stream_completed")
        assert process.stop() == 0
    store.assert_identical(recording)
    key = store.key_of("a.mp4")
    heads = [store.client.head_object(Bucket=store.endpoint.bucket, Key=name) for name in (key, f"{key}.metadata.json")]
    return heads[0], heads[1], key


def tags(store: Store, key: str) -> dict[str, str]:
    found = store.client.get_object_tagging(Bucket=store.endpoint.bucket, Key=key)["TagSet"]
    return {tag["Key"]: tag["Value"] for tag in found}


def test_all_options_arrive_at_the_embedded_endpoint(watch_dir: Path, embedded: Store, valkey: ValkeyServer) -> None:
    recording, metadata, key = uploaded(
        watch_dir,
        embedded,
        valkey,
        s3_storage_class="GLACIER_IR",
        s3_sse="aws:kms",
        s3_sse_kms_key_id="alias/recordings",
        s3_sse_bucket_key="true",
        s3_tags="team=a b, où=là/bas",
        s3_content_type="video/quicktime",
        s3_acl="bucket-owner-full-control",
    )
    assert (recording["StorageClass"], recording["ContentType"]) == ("GLACIER_IR", "video/quicktime")
    assert ("StorageClass" in metadata, metadata["ContentType"]) == (False, "application/json")
    for head in (recording, metadata):
        assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", "alias/recordings")
        assert (head["BucketKeyEnabled"], head["TagCount"]) == (True, 2)
    for name in (key, f"{key}.metadata.json"):
        assert tags(embedded, name) == {"team": "a b", "où": "là/bas"}


@pytest.mark.parametrize("checksum", ["auto", "md5"])
def test_options_that_moto_supports_arrive(watch_dir: Path, moto: Store, valkey: ValkeyServer, checksum: str) -> None:
    recording, metadata, key = uploaded(
        watch_dir,
        moto,
        valkey,
        s3_checksum=checksum,
        s3_storage_class="STANDARD_IA",
        s3_sse="aws:kms",
        s3_sse_kms_key_id="alias/recordings",
        s3_tags="team=a b",
        s3_acl="public-read",
    )
    assert (recording["StorageClass"], "StorageClass" in metadata) == ("STANDARD_IA", False)
    assert (recording["ServerSideEncryption"], metadata["ServerSideEncryption"]) == ("aws:kms", "aws:kms")
    assert tags(moto, key) == tags(moto, f"{key}.metadata.json") == {"team": "a b"}
    granted = moto.client.get_object_acl(Bucket=moto.endpoint.bucket, Key=key)["Grants"]
    assert "READ" in {grant["Permission"] for grant in granted}


def test_options_that_swift_supports_arrive(watch_dir: Path, store: Store, valkey: ValkeyServer) -> None:
    recording, metadata, _ = uploaded(
        watch_dir, store, valkey, s3_content_type="video/quicktime", s3_acl="private", s3_storage_class="STANDARD"
    )
    assert (recording["ContentType"], metadata["ContentType"]) == ("video/quicktime", "application/json")


def test_p6_options_that_a_store_refuses_are_an_outage_that_names_them_and_no_failure_of_each_recording(
    watch_dir: Path, store: Store, valkey: ValkeyServer
) -> None:
    (watch_dir / "a.mp4").write_bytes(os.urandom(6 * MIB))
    with daemon(settings_for(watch_dir, store.endpoint, valkey.url, s3_tags="team=a")) as process:
        error = str(process.wait_for("outage_started")["error"])
        assert process.stop() == 0
    assert "NotImplemented" in error
    assert "S3_TAGS" in error
    with daemon(settings_for(watch_dir, store.endpoint, valkey.url)) as process:
        process.wait_for("stream_completed")
        assert process.stop() == 0
