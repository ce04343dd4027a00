"""Operations on buckets: create, list, inspect, configure.

Each takes a ``S3Request`` and returns its ``Reply``; errors are raised. Rules:
https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html and its siblings.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable

from cef_trio.s3_endpoint.call import S3Request
from cef_trio.s3_endpoint.documents import (
    Node,
    document,
    iso_time,
    quoted,
    read_lifecycle,
    read_location_constraint,
    url_encoded,
)
from cef_trio.s3_endpoint.errors import S3Error
from cef_trio.s3_endpoint.model import ObjectsPage
from cef_trio.s3_endpoint.options import check_ownership
from cef_trio.s3_endpoint.records import StoredObject
from cef_trio.s3_endpoint.request import Reply


async def list_buckets(call: S3Request) -> Reply:
    """ListBuckets."""
    buckets: list[Node] = [
        ("Bucket", [("Name", bucket.name), ("CreationDate", iso_time(bucket.created_at))])
        for bucket in call.model.buckets()
    ]
    owner: Node = ("Owner", [("ID", "cef-trio"), ("DisplayName", "cef-trio")])
    return Reply(200, body=document("ListAllMyBucketsResult", [owner, ("Buckets", buckets)]))


async def create_bucket(call: S3Request) -> Reply:
    """CreateBucket; only in the endpoint's region."""
    region = read_location_constraint(await call.document())
    if (region or "us-east-1") != call.region:
        raise S3Error("InvalidLocationConstraint", details={"LocationConstraint": region or ""})
    call.model.create_bucket(call.bucket, check_ownership(call.header("x-amz-object-ownership")))
    return Reply(200, [("Location", f"/{call.bucket}")])


async def head_bucket(call: S3Request) -> Reply:
    """HeadBucket."""
    call.model.bucket(call.bucket)
    return Reply(200, [("x-amz-bucket-region", call.region)], head_only=True)


async def delete_bucket(call: S3Request) -> Reply:
    """DeleteBucket."""
    call.model.delete_bucket(call.bucket)
    return Reply(204)


async def get_bucket_location(call: S3Request) -> Reply:
    """GetBucketLocation: empty for us-east-1."""
    call.model.bucket(call.bucket)
    region = "" if call.region == "us-east-1" else call.region
    # The only document of S3 whose root element has text.
    return Reply(200, body=document("LocationConstraint", []).replace(b"></", f">{region}</".encode()))


async def get_bucket_versioning(call: S3Request) -> Reply:
    """GetBucketVersioning: never enabled."""
    call.model.bucket(call.bucket)
    return Reply(200, body=document("VersioningConfiguration", []))


async def put_bucket_lifecycle(call: S3Request) -> Reply:
    """PutBucketLifecycleConfiguration: stored and returned, without effect."""
    call.model.bucket(call.bucket)
    call.model.set_lifecycle(call.bucket, read_lifecycle(await call.document()))
    return Reply(200)


async def get_bucket_lifecycle(call: S3Request) -> Reply:
    """GetBucketLifecycleConfiguration."""
    lifecycle = call.model.bucket(call.bucket).lifecycle
    if lifecycle is None:
        raise S3Error("NoSuchLifecycleConfiguration", details={"BucketName": call.bucket})
    return Reply(200, body=lifecycle.encode())


async def delete_bucket_lifecycle(call: S3Request) -> Reply:
    """DeleteBucketLifecycle."""
    call.model.set_lifecycle(call.bucket, None)
    return Reply(204)


async def list_objects_v2(call: S3Request) -> Reply:
    """ListObjectsV2: pages of at most 1,000, by continuation token."""
    token = call.query("continuation-token")
    after = _token_key(token) if token else call.query("start-after")
    page, limit, encode = _page(call, after), call.limit("max-keys"), _encoder(call)
    children = _common(call, limit, page)
    children.append(("KeyCount", str(len(page.objects) + len(page.prefixes))))
    if call.query("start-after"):
        children.append(("StartAfter", encode(call.query("start-after"))))
    if token:
        children.append(("ContinuationToken", token))
    if page.is_truncated:
        children.append(("NextContinuationToken", base64.urlsafe_b64encode(page.last.encode()).decode("ascii")))
    return Reply(200, body=document("ListBucketResult", children + _entries(call, page)))


async def list_objects(call: S3Request) -> Reply:
    """ListObjects, the first version: pages by ``marker``."""
    marker = call.query("marker")
    page, limit, encode = _page(call, marker), call.limit("max-keys"), _encoder(call)
    children = [*_common(call, limit, page), ("Marker", encode(marker))]
    if page.is_truncated and call.query("delimiter"):
        children.append(("NextMarker", encode(page.last)))
    return Reply(200, body=document("ListBucketResult", children + _entries(call, page)))


def _page(call: S3Request, after: str) -> ObjectsPage:
    return call.model.list_objects(
        call.bucket,
        prefix=call.query("prefix"),
        delimiter=call.query("delimiter"),
        after=after,
        limit=call.limit("max-keys"),
    )


def _common(call: S3Request, limit: int, page: ObjectsPage) -> list[Node]:
    encode = _encoder(call)
    children: list[Node] = [
        ("Name", call.bucket),
        ("Prefix", encode(call.query("prefix"))),
        ("MaxKeys", str(limit)),
        ("IsTruncated", "true" if page.is_truncated else "false"),
    ]
    if call.query("delimiter"):
        children.append(("Delimiter", encode(call.query("delimiter"))))
    if call.query("encoding-type"):
        children.append(("EncodingType", call.query("encoding-type")))
    return children


def _entries(call: S3Request, page: ObjectsPage) -> list[Node]:
    encode = _encoder(call)
    entries: list[Node] = [("Contents", _contents(record, encode(record.key))) for record in page.objects]
    return entries + [("CommonPrefixes", [("Prefix", encode(prefix))]) for prefix in page.prefixes]


def _contents(record: StoredObject, key: str) -> list[Node]:
    children: list[Node] = [
        ("Key", key),
        ("LastModified", iso_time(record.modified_at)),
        ("ETag", quoted(record.etag)),
    ]
    children += [("ChecksumAlgorithm", algorithm.upper()) for algorithm in record.checksums]
    if record.checksum_type is not None:
        children.append(("ChecksumType", record.checksum_type.value))
    children += [
        ("Size", str(record.size_bytes)),
        ("StorageClass", record.headers.get("x-amz-storage-class", "STANDARD")),
    ]
    return children


def _encoder(call: S3Request) -> Callable[[str], str]:
    return url_encoded if call.query("encoding-type") == "url" else str


def _token_key(token: str) -> str:
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise S3Error("InvalidArgument", "The continuation token provided is incorrect") from error
