"""Whatever a recording is called, S3, boto3 and we mean the same object by its key, and it lies under our prefix."""

from __future__ import annotations

from uuid import uuid4

import pytest
from security.hostile import NAMES
from servers.store import Store

from cef_trio.s3.client import S3Client
from cef_trio.s3.config import Addressing, S3Config
from cef_trio.s3.credentials import StaticCredentials
from cef_trio.s3.signing import Credentials
from cef_trio.upload.object_key import KeyTemplate, metadata_key

TEMPLATE = KeyTemplate("recordings/{file_stem}/{stream_id}/{file_name}")


@pytest.mark.real
async def test_a_key_of_any_name_is_signed_sent_listed_and_read_back(embedded: Store) -> None:
    keys = {TEMPLATE.key(str(uuid4()), f"/watch/{name}"): name for name in NAMES}
    credentials = Credentials(embedded.endpoint.access_key, embedded.endpoint.secret_key, None)
    config = S3Config(
        bucket=embedded.endpoint.bucket,
        credentials=StaticCredentials(credentials),
        endpoint_url=embedded.endpoint.url,
        addressing=Addressing.PATH,
    )
    async with S3Client(config) as client:
        for key in keys:
            await client.put_object(key, key.encode(), content_type="text/plain", metadata={})
            await client.put_object(metadata_key(key), b"{}", content_type="application/json", metadata={})
            await client.create_multipart_upload(key, metadata={})
        ours = {upload.key for upload in await client.list_multipart_uploads(TEMPLATE.prefix)}
    assert ours == keys.keys()
    assert set(embedded.keys()) == keys.keys() | {metadata_key(key) for key in keys}
    assert set(embedded.open_uploads()) == keys.keys()
    for key, name in keys.items():
        body = embedded.client.get_object(Bucket=embedded.endpoint.bucket, Key=key)["Body"].read()
        assert body == key.encode()
        proposed = TEMPLATE.parse(key)
        assert proposed is not None
        assert [other for other in NAMES if proposed.fits(f"/elsewhere/{other}")] == [name]
