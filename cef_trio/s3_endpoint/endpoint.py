"""The embedded S3 endpoint, independent of the transport.

``S3Endpoint.respond`` maps a request to a reply in S3's order: route, apply faults, check the signature, perform.
``server.serve`` serves it on a socket, ``transport.InProcessTransport`` inside an httpx client, with equal results.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import trio

from cef_trio.s3_endpoint import control
from cef_trio.s3_endpoint.auth import Account, verify
from cef_trio.s3_endpoint.call import S3Request
from cef_trio.s3_endpoint.calls import CallLog, LoggedCall
from cef_trio.s3_endpoint.conditions import refuse_unsupported
from cef_trio.s3_endpoint.decimals import decimal
from cef_trio.s3_endpoint.documents import error_document, http_time
from cef_trio.s3_endpoint.errors import S3Error
from cef_trio.s3_endpoint.faults import CallFaults, CallInfo, FaultTable, Kind, Moment
from cef_trio.s3_endpoint.model import S3Model
from cef_trio.s3_endpoint.multipart import MIN_PART_BYTES
from cef_trio.s3_endpoint.request import EndpointRequest, Reply, Target, parse_target
from cef_trio.s3_endpoint.routing import Operation, route
from cef_trio.s3_endpoint.storage import MemoryStorage, Storage

DEFAULT_ACCESS_KEY_ID: Final = "cef-trio"
DEFAULT_SECRET_ACCESS_KEY: Final = "cef-trio-secret"  # noqa: S105 - of an endpoint on loopback, and documented
DEFAULT_REGION: Final = "us-east-1"
DEFAULT_ACCOUNTS: Final[Mapping[str, Account]] = MappingProxyType(
    {DEFAULT_ACCESS_KEY_ID: Account(DEFAULT_SECRET_ACCESS_KEY)}
)
DEFAULT_DOMAINS: Final = ("localhost", "s3.test")


class S3Endpoint:
    """An S3 service in this process.

    Args:
        storage: in memory by default.
        buckets: created if they do not exist.
        accounts: access key id → account.
        region: the only region that signatures may name.
        domains: hosts whose sub-domains are buckets (virtual-host addressing); path-style always works.
        clock: returns Unix seconds; deterministic tests pass their virtual clock.
        minimum_part_size_bytes: of every part but the last.
        complete_again: whether a repeated Complete gets status 200 with the same result, or NoSuchUpload.
        new_request_id, new_upload_token: make request ids and the random ends of upload ids; deterministic tests pass
            repeatable ones.
        control: whether to serve ``/_control/`` (unsigned; see ``control.py``).

    ``faults`` are the armed faults, ``log`` is the journal of calls, ``model`` the state.

    Raises:
        S3Error: a bucket's name is invalid.
    """

    def __init__(
        self,
        storage: Storage | None = None,
        *,
        buckets: Sequence[str] = (),
        accounts: Mapping[str, Account] = DEFAULT_ACCOUNTS,
        region: str = DEFAULT_REGION,
        domains: Sequence[str] = DEFAULT_DOMAINS,
        clock: Callable[[], float] = time.time,
        minimum_part_size_bytes: int = MIN_PART_BYTES,
        complete_again: bool = True,
        control: bool = False,
        new_request_id: Callable[[], str] = lambda: secrets.token_hex(8).upper(),
        new_upload_token: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        self.model = S3Model(
            storage if storage is not None else MemoryStorage(),
            clock=clock,
            minimum_part_size_bytes=minimum_part_size_bytes,
            complete_again=complete_again,
            new_upload_token=new_upload_token,
        )
        self.faults = FaultTable()
        self.log = CallLog()
        self.region = region
        self.accounts = dict(accounts)
        self._domains = tuple(domains)
        self._clock = clock
        self._control = control
        self._new_request_id = new_request_id
        known = {bucket.name for bucket in self.model.buckets()}
        for name in buckets:
            if name not in known:
                self.model.create_bucket(name)

    async def respond(self, request: EndpointRequest) -> Reply:
        """Serve a request. Use the reply as a context manager.

        If cancelled, the call has taken effect completely or not at all.

        Raises:
            ConnectionDropped: a fault; the transport must drop the connection.
        """
        await trio.lowlevel.checkpoint()
        if self._control and request.path.startswith(control.PREFIX):
            return await control.respond(request, self.faults, self.log, self.accounts)
        request_id = self._new_request_id()
        skew = 0.0
        try:
            target = parse_target(request, self._domains)
            name, operation = route(request, target)
            refuse_unsupported(name, request, target)
        except S3Error as error:
            return self._finished(_refused(error, request, request_id), request_id, skew)
        info = _call_info(name, target)
        faults = self.faults.of_call(info)
        skewed = faults.find(Kind.SKEW)
        skew = 0.0 if skewed is None else skewed.seconds
        with self.log.record(info, self._clock()) as entry:
            entry.faults = faults.applied
            try:
                reply = await self._perform(operation, request, target, faults=faults, entry=entry, skew=skew)
                entry.outcome = str(reply.status)
            except S3Error as error:
                reply = _refused(error, request, request_id)
                entry.outcome = f"{error.status} {error.code}"
            except OSError as error:
                # A full or broken disk: the client gets the error.
                reply = _refused(S3Error("InternalError", f"Storage failed: {error}"), request, request_id)
                entry.outcome = "500 InternalError"
            if faults.truncates_reply():
                reply.truncate_to = reply.content_length // 2
            reply.drop = faults.drops_after_reply()
            return self._finished(reply, request_id, skew)

    async def _perform(
        self,
        operation: Operation,
        request: EndpointRequest,
        target: Target,
        *,
        faults: CallFaults,
        entry: LoggedCall,
        skew: float,
    ) -> Reply:
        await faults.at(Moment.BEFORE)
        authorization = verify(request, self.accounts, self.region, self._clock() + skew)
        if faults.find(Kind.REJECT_CHECKSUMS):
            _reject_checksums(request)
        call = S3Request(
            operation=entry.operation,
            request=request,
            target=target,
            authorization=authorization,
            model=self.model,
            region=self.region,
            faults=faults,
            log=self.log,
            entry=entry,
            ignores_checksums=faults.find(Kind.IGNORE_CHECKSUMS) is not None,
        )
        reply = await operation(call)
        try:
            await faults.at(Moment.REPLY)
            # Cancelled here: the call has taken effect, but the client gets no reply.
            await trio.lowlevel.checkpoint()
        except BaseException:
            reply.close()
            raise
        return reply

    def _finished(self, reply: Reply, request_id: str, skew: float) -> Reply:
        standard = [
            ("Date", http_time(self._clock() + skew)),
            ("Server", "cef-trio"),
            ("x-amz-request-id", request_id),
            ("x-amz-id-2", _host_id(request_id)),
        ]
        if reply.body and not any(name.lower() == "content-type" for name, _ in reply.headers):
            standard.append(("Content-Type", "application/xml"))
        reply.headers = standard + reply.headers
        return reply


def _call_info(name: str, target: Target) -> CallInfo:
    return CallInfo(
        operation=name,
        bucket=target.bucket,
        key=target.key,
        upload_id=target.query.get("uploadId"),
        part_number=decimal(target.query.get("partNumber", "")),
    )


def _reject_checksums(request: EndpointRequest) -> None:
    for name, _ in request.headers:
        if name.startswith(("x-amz-checksum-", "x-amz-sdk-checksum-")) and name != "x-amz-checksum-mode":
            raise S3Error("InvalidArgument", f"Unsupported header '{name}' received for this API call.")


def _refused(error: S3Error, request: EndpointRequest, request_id: str) -> Reply:
    bodiless = request.method == "HEAD" or error.status == 304  # noqa: PLR2004 - HTTP's Not Modified
    body = b"" if bodiless else error_document(error, request.path, request_id, _host_id(request_id))
    return Reply(error.status, list(error.headers.items()), body)


def _host_id(request_id: str) -> str:
    return f"cef-trio/{request_id}"
