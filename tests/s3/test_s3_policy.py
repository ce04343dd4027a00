"""Every call of the S3 client goes through the retrier: nothing is sent outside an attempt."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx
import pytest

from cef_trio.exceptions import S3OperationError
from cef_trio.s3.body import BytesSource
from cef_trio.s3.client import S3Client
from cef_trio.s3.config import S3Config
from cef_trio.s3.credentials import StaticCredentials
from cef_trio.s3.model import ChecksumAlgorithm, ObjectRange, PartToComplete
from cef_trio.s3.signing import Credentials

T = TypeVar("T")
CRC = ChecksumAlgorithm.CRC64NVME


async def open_object(client: S3Client) -> None:
    async with client.get_object("k"):
        pass


CALLS: dict[str, Callable[[S3Client], Awaitable[Any]]] = {
    "create_multipart_upload": lambda s3: s3.create_multipart_upload("k", metadata={}),
    "upload_part": lambda s3: s3.upload_part("k", "u", 1, None, CRC),  # type: ignore[arg-type]
    "upload_part_copy": lambda s3: s3.upload_part_copy("k", "u", 1, ObjectRange("from", "etag", 0, 5)),
    "list_parts": lambda s3: s3.list_parts("k", "u"),
    "list_multipart_uploads": lambda s3: s3.list_multipart_uploads(),
    "list_objects": lambda s3: s3.list_objects("p"),
    "complete_multipart_upload": lambda s3: s3.complete_multipart_upload(
        "k", "u", [PartToComplete(1, "etag", 1, 0, None)], checksum=CRC, stream_id="s"
    ),
    "abort_multipart_upload": lambda s3: s3.abort_multipart_upload("k", "u"),
    "put_object": lambda s3: s3.put_object("k", b"", content_type="text/plain"),
    "put_recording": lambda s3: s3.put_recording("k", BytesSource(b""), crc64nvme=0, stream_id="s"),
    "head_object": lambda s3: s3.head_object("k"),
    "get_object": open_object,
    "delete_object": lambda s3: s3.delete_object("k"),
    "head_bucket": lambda s3: s3.head_bucket(),
    "get_bucket_lifecycle": lambda s3: s3.abort_rules(),
    "create_bucket": lambda s3: s3.create_bucket(),
}
MADE_OF_OTHERS = {"get_small_object"}
ANOTHER_NAME = {"abort_rules": "get_bucket_lifecycle", "find_recording": "head_object"}


class RefusedAttempts:
    """A retrier that makes no attempt at all."""

    def __init__(self) -> None:
        self.operations: list[str] = []

    async def call(self, operation: str, attempt: Callable[[], Awaitable[T]]) -> T:
        self.operations.append(operation)
        raise S3OperationError(operation, "no attempt was made")


def nothing_may_be_sent(request: httpx.Request) -> httpx.Response:
    pytest.fail(f"{request.method} {request.url} was sent, and not as an attempt of the policy")


def test_every_public_call_is_here() -> None:
    public = {
        name
        for name, value in vars(S3Client).items()
        if not name.startswith("_") and (inspect.iscoroutinefunction(value) or hasattr(value, "__wrapped__"))
    }
    assert {ANOTHER_NAME.get(name, name) for name in public - MADE_OF_OTHERS} == set(CALLS)


@pytest.mark.parametrize("operation", CALLS)
async def test_a_call_is_made_as_an_attempt_of_the_policy_under_its_own_name(operation: str) -> None:
    retrier = RefusedAttempts()
    config = S3Config(
        bucket="b", credentials=StaticCredentials(Credentials("k", "s")), endpoint_url="http://s3.policy.test"
    )
    async with S3Client(config, retrier=retrier, transport=httpx.MockTransport(nothing_may_be_sent)) as client:
        with pytest.raises(S3OperationError, match="no attempt was made"):
            await CALLS[operation](client)
    assert retrier.operations == [operation]
