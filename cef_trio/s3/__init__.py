"""The S3 client: signed requests with httpx, multipart uploads, checksums, error classification.

Promise: every byte sent is verified by what S3 returns, a checksum, an MD5 or the object; a response of a proxy or an
ingress never changes an upload's state; every response is limited in bytes, elements and seconds.

Open

- `client.py` for the operations, one attempt each; `complete.py` for CompleteMultipartUpload; `recording_put.py` for
  PutObject of a small recording; `fence.py` for what is asked in each attempt: whether the stream is still ours;
  `expected_object.py` for whether the object of a lost response is ours; `download.py` for HeadObject and GetObject;
  `body.py` and `upload_body.py` for the bodies of parts and objects
- `transport.py` for one request and its response; `response_guard.py` for its limits; `response_origin.py` for
  responses of proxies; `clock.py` for wrong clocks
- `errors.py` for error codes, transient or permanent; `httpx_errors.py` for network errors. What follows from an error
  is in the rooms `resilience/` (repeat, outage) and `upload/` (`upload/failures.py`: end of the stream)
- `capabilities.py` for checksum and signing headers that a store refuses; the room `settings/` for option headers
  (`settings/object_options.py`), which are always sent
- `checksums.py` and `etags.py` for checksum algorithms and what an ETag proves; `proof.py` for what a response proves
  about a body; `signing.py` for SigV4; `credentials.py` for access keys, also refused ones; `credential_program.py` for
  the program of a `credential_process`
- `address.py`, `config.py`, `model.py`, `xml.py` for URLs, the client's configuration, its values and documents
- `rate_limiter.py` and `token_bucket.py` for `MAX_UPLOAD_RATE`; `store_probe.py` for the probe in an outage
"""

from typing import TYPE_CHECKING

from cef_trio.lazy_door import lazy_door

if TYPE_CHECKING:
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
        to_base64,
    )
    from cef_trio.s3.client import S3Client
    from cef_trio.s3.config import Addressing, ChecksumMode, CredentialsProvider, PayloadSigning, S3Config
    from cef_trio.s3.credentials import ChainCredentials, StaticCredentials
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
    from cef_trio.s3.rate_limiter import Rate, RateLimiter
    from cef_trio.s3.signing import Credentials
    from cef_trio.s3.store_probe import StoreProbe
    from cef_trio.s3.transport import network_transport
    from cef_trio.s3.xml import Element, XmlError, parse_xml
else:
    __getattr__ = lazy_door(__name__)

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
    "Rate",
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
    "to_base64",
]
