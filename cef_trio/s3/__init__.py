"""The S3 client: signed requests with httpx, multipart uploads, checksums, error classification.

Promise: every byte sent is verified by a checksum; a response of a proxy or an ingress never changes an upload's state;
every response is limited in bytes, elements and seconds.

Open `client.py` for the operations; `complete.py` for CompleteMultipartUpload; `transport.py` for one request and its
response; `capabilities.py` for features that a store lacks; `errors.py` for error codes, transient or permanent;
`httpx_errors.py` for network errors; `clock.py` for wrong clocks; `response_origin.py` for responses of proxies;
`checksums.py` for checksum algorithms; `signing.py` for SigV4; `rate_limiter.py` for `MAX_UPLOAD_RATE`.
"""

from cef_trio.s3.body import BytesSource
from cef_trio.s3.checksums import (
    CHECKSUMS,
    Crc64Nvme,
    combine_crc64nvme,
    crc64nvme,
    crc64nvme_bytes,
    crc64nvme_from_base64,
    crc64nvme_to_base64,
    from_base64,
)
from cef_trio.s3.client import S3Client
from cef_trio.s3.config import Addressing, ChecksumMode, PayloadSigning, S3Config
from cef_trio.s3.credentials import ChainCredentials, CredentialsProvider, StaticCredentials
from cef_trio.s3.errors import ARCHIVED, HINTS, PERMANENT, TRANSIENT
from cef_trio.s3.etags import looks_like_md5, multipart_etag
from cef_trio.s3.model import (
    AbortRule,
    ChecksumAlgorithm,
    CopiedPart,
    ListedObject,
    ListedPart,
    ListedUpload,
    ObjectRange,
    PartToComplete,
    StoredObject,
)
from cef_trio.s3.rate_limiter import RateLimiter
from cef_trio.s3.signing import Credentials
from cef_trio.s3.store_probe import StoreProbe
from cef_trio.s3.transport import network_transport
from cef_trio.s3.xml import Element, XmlError, parse_xml

__all__ = [
    "ARCHIVED",
    "CHECKSUMS",
    "HINTS",
    "PERMANENT",
    "TRANSIENT",
    "AbortRule",
    "Addressing",
    "BytesSource",
    "ChainCredentials",
    "ChecksumAlgorithm",
    "ChecksumMode",
    "CopiedPart",
    "Crc64Nvme",
    "Credentials",
    "CredentialsProvider",
    "Element",
    "ListedObject",
    "ListedPart",
    "ListedUpload",
    "ObjectRange",
    "PartToComplete",
    "PayloadSigning",
    "RateLimiter",
    "S3Client",
    "S3Config",
    "StaticCredentials",
    "StoreProbe",
    "StoredObject",
    "XmlError",
    "combine_crc64nvme",
    "crc64nvme",
    "crc64nvme_bytes",
    "crc64nvme_from_base64",
    "crc64nvme_to_base64",
    "from_base64",
    "looks_like_md5",
    "multipart_etag",
    "network_transport",
    "parse_xml",
]
