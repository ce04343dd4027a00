"""A call being served: the request, its target, and what the operations need to serve it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from cef_trio.s3_endpoint.auth import Authorization
from cef_trio.s3_endpoint.calls import CallLog, LoggedCall
from cef_trio.s3_endpoint.checksums import Algorithm
from cef_trio.s3_endpoint.decimals import decimal
from cef_trio.s3_endpoint.errors import S3Error
from cef_trio.s3_endpoint.faults import CallFaults, Kind
from cef_trio.s3_endpoint.model import PAGE, S3Model
from cef_trio.s3_endpoint.receiving import DeclaredBody, Received, declared_body, receive, receive_document
from cef_trio.s3_endpoint.request import EndpointRequest, Target
from cef_trio.s3_endpoint.storage import BlobWriter


@dataclass(frozen=True, slots=True)
class S3Request:
    """A call with a valid signature."""

    operation: str
    request: EndpointRequest
    target: Target
    authorization: Authorization
    model: S3Model
    region: str
    faults: CallFaults
    log: CallLog
    entry: LoggedCall
    ignores_checksums: bool

    @property
    def bucket(self) -> str:
        """The bucket; empty for operations without one."""
        return self.target.bucket or ""

    @property
    def key(self) -> str:
        """The key; empty for operations without one."""
        return self.target.key or ""

    @property
    def upload_id(self) -> str:
        """``uploadId`` of the query."""
        return self.target.query.get("uploadId", "")

    def header(self, name: str) -> str | None:
        """Return a header of the request."""
        return self.request.headers.get(name)

    def query(self, name: str) -> str:
        """Return a query parameter; empty if missing."""
        return self.target.query.get(name, "")

    def limit(self, name: str) -> int:
        """Return a page size of the query: at most 1,000, which is also the default.

        Raises:
            S3Error: ``InvalidArgument``.
        """
        return min(self.number(name, PAGE), PAGE)

    def number(self, name: str, default: int) -> int:
        """Return a number of the query.

        Raises:
            S3Error: ``InvalidArgument``.
        """
        text = self.query(name)
        if not text:
            return default
        number = decimal(text)
        if number is None or number >= 2**31:
            raise S3Error(
                "InvalidArgument",
                f"Argument {name} must be an integer between 0 and 2147483647",
                details={"ArgumentName": name, "ArgumentValue": text},
            )
        return number

    def declared_body(self) -> DeclaredBody:
        """Return what the request declares about its body.

        Raises:
            S3Error: as ``declared_body``.
        """
        declared = declared_body(self.request.headers, self.authorization)
        return declared.without_checksums() if self.ignores_checksums else declared

    async def receive(
        self, declared: DeclaredBody, writer: BlobWriter, algorithms: Sequence[Algorithm] = ()
    ) -> Received:
        """Read the body into a blob.

        Raises:
            S3Error: as ``receiving.receive``.
            ConnectionDropped: a fault.
        """
        body = self._body()
        if self.changed_by(Kind.DAMAGE):
            body, algorithms, declared = _damaged(body), (*algorithms, *declared.algorithms), declared.unverified()
        return await receive(body, declared, writer, algorithms=algorithms, on_bytes=self._count)

    async def document(self) -> bytes:
        """Read the body into memory.

        Raises:
            S3Error: as ``receiving.receive_document``.
            ConnectionDropped: a fault.
        """
        of_body = self.operation != "CompleteMultipartUpload" and not self.ignores_checksums
        declared = declared_body(self.request.headers, self.authorization, checksums_of_body=of_body)
        return await receive_document(self._body(), declared)

    def changed_by(self, kind: Kind) -> bool:
        """Return whether a fault of that kind is applied to this call, and count a hit."""
        return self.faults.find(kind) is not None

    def _body(self) -> AsyncGenerator[bytes, None]:
        return self.faults.while_receiving(self.request.body)

    def _count(self, size_bytes: int) -> None:
        self.log.received(self.entry, size_bytes)


async def _damaged(body: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Yield a body with its first bit inverted."""
    whole = True
    async with aclosing(body) as blocks:
        async for block in blocks:
            yield bytes([block[0] ^ 0x80]) + block[1:] if whole and block else block
            whole = whole and not block
