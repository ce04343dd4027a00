"""The embedded S3 endpoint: one strict model of S3's multipart semantics, for local mode and as the tests' reference.

It keeps buckets, objects and multipart uploads in memory or on disk, checks signatures, checksums, sizes, order and
ETags as S3 does, and responds as S3 does. Faults simulate failing networks and stores that differ from S3. It must
never accept what S3 refuses. boto3 is its reference client, and the same conformance cases run against other servers
(``tests/s3_endpoint``).

Open `endpoint.py` for one request from end to end and for a full disk; `call.py` and `request.py` for its values;
`routing.py` for the table of operations; `bucket_operations.py`, `object_operations.py`, `multipart_operations.py` and
`copy_operations.py` for HTTP to model; `model.py`, `multipart.py`, `conditions.py`, `checksums.py` and `options.py` for
the rules; `errors.py` and `documents.py` for codes and XML; `auth.py` for signatures; `receiving.py` and `chunked.py`
for bodies; `decimals.py` for numbers in requests; `storage.py`, `disk.py` and `records.py` for blobs
and records; `faults.py`, `calls.py` and `control.py` for tests; `server.py` and `transport.py` for the two ways in.

::

    endpoint = S3Endpoint(DiskStorage(Path("data")), buckets=["recordings"])
    url = await nursery.start(serve, endpoint)                               # on a socket
    client = httpx.AsyncClient(transport=InProcessTransport(endpoint))       # without a socket
    lost = endpoint.faults.arm(Fault(Kind.RESET, "UploadPart", Moment.REPLY, nth=3))
"""

from cef_trio.s3_endpoint.auth import Account
from cef_trio.s3_endpoint.calls import CallLog, LoggedCall
from cef_trio.s3_endpoint.disk import DiskStorage
from cef_trio.s3_endpoint.endpoint import (
    DEFAULT_ACCESS_KEY_ID,
    DEFAULT_REGION,
    DEFAULT_SECRET_ACCESS_KEY,
    S3Endpoint,
)
from cef_trio.s3_endpoint.errors import S3Error
from cef_trio.s3_endpoint.faults import ArmedFault, CallInfo, Fault, FaultTable, Kind, Moment
from cef_trio.s3_endpoint.server import serve
from cef_trio.s3_endpoint.storage import MemoryStorage, Storage
from cef_trio.s3_endpoint.transport import InProcessTransport

__all__ = [
    "DEFAULT_ACCESS_KEY_ID",
    "DEFAULT_REGION",
    "DEFAULT_SECRET_ACCESS_KEY",
    "Account",
    "ArmedFault",
    "CallInfo",
    "CallLog",
    "DiskStorage",
    "Fault",
    "FaultTable",
    "InProcessTransport",
    "Kind",
    "LoggedCall",
    "MemoryStorage",
    "Moment",
    "S3Endpoint",
    "S3Error",
    "Storage",
    "serve",
]
