"""The embedded S3 endpoint: one strict model of S3's multipart semantics, for local mode and as the tests' reference.

It keeps buckets, objects and multipart uploads in memory or on disk, checks signatures, checksums, sizes, order and
ETags as S3 does, and responds as S3 does. Faults simulate failing networks and stores that differ from S3. It must
never accept what S3 refuses. boto3 is its reference client, and the same conformance cases run against other servers
(``tests/s3_endpoint``).

Open ``endpoint`` (one request from end to end), ``routing`` (the table of operations), ``*_operations`` (HTTP
to model), ``model`` and ``multipart`` (the rules), ``auth`` (signatures), ``receiving`` and ``chunked`` (bodies),
``storage`` and ``disk`` (blobs and records), ``faults``, ``calls``, ``control`` (for tests), ``server`` and
``transport`` (two ways in).

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
