"""Mutations that accept responses of any length, and absurd values in them."""

from __future__ import annotations

import math
from contextlib import ExitStack
from datetime import UTC, datetime

from cef_trio.lab.mutations.model import mutation, replace_in
from cef_trio.resilience import backoff
from cef_trio.s3 import clock, xml
from cef_trio.s3.client import S3Client
from cef_trio.s3.model import ListedUpload
from cef_trio.s3.response_guard import ResponseGuard
from cef_trio.s3.signing import EMPTY_SHA256
from cef_trio.s3.transport import S3Request
from cef_trio.s3.xml import parse_uploads


@mutation("unbounded: response headers", "endless-headers", "P7", fault=None, kind="11")
def _idle_timeout_only(stack: ExitStack) -> None:
    """A response is only limited by the time between two bytes."""
    trace = ResponseGuard.trace

    async def without_deadline(self: ResponseGuard, event: str, info: object) -> None:
        await trace(self, event, info)
        self.scope.deadline = math.inf

    replace_in(stack, ResponseGuard, "trace", without_deadline)


@mutation("unbounded: XML elements", "too-many-xml-elements", "P7", fault=None, kind="11")
def _unlimited_elements(stack: ExitStack) -> None:
    """An XML document of any number of elements is parsed in the event loop."""
    replace_in(stack, xml, "MAX_ELEMENTS", 1 << 60)


@mutation("unchecked: bytes after a response", "bytes-after-response", "P2", fault=None, kind="14")
def _leftover_bytes_kept(stack: ExitStack) -> None:
    """A connection with bytes after its response is used again."""

    def kept(_self: ResponseGuard) -> None:
        return None

    replace_in(stack, ResponseGuard, "_refuse_leftover", kept)


@mutation("unbounded: pages of a listing", "endless-listing", "P7", fault=None, kind="14")
def _every_marker_followed(stack: ExitStack) -> None:
    """Markers of a listing are followed without a limit."""

    async def for_ever(self: S3Client, prefix: str = "") -> list[ListedUpload]:
        uploads: list[ListedUpload] = []
        markers: tuple[str, str] | None = ("", "")
        while markers is not None:
            query = [("uploads", ""), ("prefix", prefix), ("key-marker", markers[0]), ("upload-id-marker", markers[1])]
            call = S3Request("list_multipart_uploads", "GET", EMPTY_SHA256, query=tuple(query))
            page = await self._page(call, parse_uploads)
            uploads += page.uploads
            markers = page.next_markers
        return uploads

    replace_in(stack, S3Client, "list_multipart_uploads", for_ever)


@mutation("unchecked: plausibility of the Date header", "date-in-year-9999", "P6", fault=None, kind="14")
def _every_date_trusted(stack: ExitStack) -> None:
    """An absurd Date of S3 corrects the clock."""
    replace_in(stack, clock, "PLAUSIBLE_YEARS", range(1, 10_000))


@mutation("unchecked: plausibility of Initiated", "initiated-in-year-9999", "P6", fault=None, kind="14")
def _every_date_converted(stack: ExitStack) -> None:
    """A listing with an absurd Initiated fails."""

    def moment(text: str) -> datetime:
        return datetime.fromisoformat(text).astimezone(UTC)

    replace_in(stack, xml, "_moment", moment)


@mutation("unbounded: Retry-After", "retry-after-in-year-9999", "P6", fault=None, kind="14")
def _unlimited_retry_after(stack: ExitStack) -> None:
    """A call waits for any Retry-After."""
    replace_in(stack, backoff, "MAX_RETRY_AFTER_SECONDS", math.inf)
