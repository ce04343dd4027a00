"""The operation of a request: one table from method, resource and sub-resource to S3's name and the function.

What is not in the table is refused with ``NotImplemented`` (501).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final

from cef_trio.s3_endpoint import bucket_operations as on_bucket
from cef_trio.s3_endpoint import copy_operations as on_copy
from cef_trio.s3_endpoint import multipart_operations as on_upload
from cef_trio.s3_endpoint import object_operations as on_object
from cef_trio.s3_endpoint.call import S3Request
from cef_trio.s3_endpoint.errors import S3Error
from cef_trio.s3_endpoint.request import EndpointRequest, Reply, Target

Operation = Callable[[S3Request], Awaitable[Reply]]

_SERVICE, _BUCKET, _OBJECT = "service", "bucket", "object"

ROUTES: Final[Mapping[tuple[str, str, str], tuple[str, Operation]]] = MappingProxyType(
    {
        (_SERVICE, "GET", ""): ("ListBuckets", on_bucket.list_buckets),
        (_BUCKET, "PUT", ""): ("CreateBucket", on_bucket.create_bucket),
        (_BUCKET, "HEAD", ""): ("HeadBucket", on_bucket.head_bucket),
        (_BUCKET, "DELETE", ""): ("DeleteBucket", on_bucket.delete_bucket),
        (_BUCKET, "GET", ""): ("ListObjects", on_bucket.list_objects),
        (_BUCKET, "GET", "list-type"): ("ListObjectsV2", on_bucket.list_objects_v2),
        (_BUCKET, "GET", "location"): ("GetBucketLocation", on_bucket.get_bucket_location),
        (_BUCKET, "GET", "versioning"): ("GetBucketVersioning", on_bucket.get_bucket_versioning),
        (_BUCKET, "GET", "lifecycle"): ("GetBucketLifecycleConfiguration", on_bucket.get_bucket_lifecycle),
        (_BUCKET, "PUT", "lifecycle"): ("PutBucketLifecycleConfiguration", on_bucket.put_bucket_lifecycle),
        (_BUCKET, "DELETE", "lifecycle"): ("DeleteBucketLifecycle", on_bucket.delete_bucket_lifecycle),
        (_BUCKET, "GET", "uploads"): ("ListMultipartUploads", on_upload.list_multipart_uploads),
        (_BUCKET, "POST", "delete"): ("DeleteObjects", on_object.delete_objects),
        (_OBJECT, "PUT", ""): ("PutObject", on_object.put_object),
        (_OBJECT, "GET", ""): ("GetObject", on_object.get_object),
        (_OBJECT, "HEAD", ""): ("HeadObject", on_object.head_object),
        (_OBJECT, "GET", "tagging"): ("GetObjectTagging", on_object.get_object_tagging),
        (_OBJECT, "GET", "acl"): ("GetObjectAcl", on_object.get_object_acl),
        (_OBJECT, "DELETE", ""): ("DeleteObject", on_object.delete_object),
        (_OBJECT, "POST", "uploads"): ("CreateMultipartUpload", on_upload.create_multipart_upload),
        (_OBJECT, "PUT", "uploadId"): ("UploadPart", on_upload.upload_part),
        (_OBJECT, "GET", "uploadId"): ("ListParts", on_upload.list_parts),
        (_OBJECT, "POST", "uploadId"): ("CompleteMultipartUpload", on_upload.complete_multipart_upload),
        (_OBJECT, "DELETE", "uploadId"): ("AbortMultipartUpload", on_upload.abort_multipart_upload),
    }
)
"""(resource, method, sub-resource) → (S3's name, function)."""

COPIES: Final[Mapping[str, tuple[str, Operation]]] = MappingProxyType(
    {
        "PutObject": ("CopyObject", on_copy.copy_object),
        "UploadPart": ("UploadPartCopy", on_copy.upload_part_copy),
    }
)
"""Operation → the operation with ``x-amz-copy-source``."""

_SUB_RESOURCES: Final = frozenset(
    {
        *(sub for _, _, sub in ROUTES if sub),
        *("accelerate", "analytics", "attributes", "cors", "encryption", "inventory", "legal-hold", "logging"),
        *("metrics", "notification", "object-lock", "ownershipControls", "policy", "policyStatus"),
        *("publicAccessBlock", "replication", "requestPayment", "restore", "retention", "select", "session"),
        *("torrent", "versions", "website"),
    }
)


def route(request: EndpointRequest, target: Target) -> tuple[str, Operation]:
    """Return S3's name of the operation, and the function that performs it.

    Raises:
        S3Error: ``NotImplemented`` or ``MethodNotAllowed``.
    """
    resource = _SERVICE if target.bucket is None else _BUCKET if target.key is None else _OBJECT
    subs = [sub for sub in target.query if sub in _SUB_RESOURCES]
    if len(subs) > 1:
        raise S3Error("NotImplemented")
    sub = subs[0] if subs else ""
    found = ROUTES.get((resource, request.method, sub))
    if on_copy.SOURCE in request.headers:
        if found is None or found[0] not in COPIES:
            raise S3Error("NotImplemented")
        return COPIES[found[0]]
    if found is not None:
        return found
    known = any(each_resource == resource and each_sub == sub for each_resource, _, each_sub in ROUTES)
    raise S3Error("MethodNotAllowed" if known else "NotImplemented", details={"Method": request.method})
