"""Mutations that accept responses of any length, and absurd values in them."""

from __future__ import annotations

import math
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Final

from cef_trio.lab.mutations.model import Mutation, replace_in
from cef_trio.resilience import backoff
from cef_trio.s3 import clock, xml
from cef_trio.s3.client import S3Client
from cef_trio.s3.model import ListedUpload
from cef_trio.s3.response_guard import ResponseGuard
from cef_trio.s3.signing import EMPTY_SHA256
from cef_trio.s3.transport import Request
from cef_trio.s3.xml import parse_uploads


def _idle_timeout_only(stack: ExitStack) -> None:
    """Limit only the time between two bytes of a response."""
    trace = ResponseGuard.trace

    async def without_deadline(self: ResponseGuard, event: str, info: object) -> None:
        await trace(self, event, info)
        self.scope.deadline = math.inf

    replace_in(stack, ResponseGuard, "trace", without_deadline)


def _unlimited_elements(stack: ExitStack) -> None:
    replace_in(stack, xml, "MAX_ELEMENTS", 1 << 60)


def _leftover_bytes_kept(stack: ExitStack) -> None:
    def kept(_self: ResponseGuard) -> None:
        return None

    replace_in(stack, ResponseGuard, "_refuse_leftover", kept)


def _every_marker_followed(stack: ExitStack) -> None:
    async def for_ever(self: S3Client, prefix: str = "") -> list[ListedUpload]:
        uploads: list[ListedUpload] = []
        markers: tuple[str, str] | None = ("", "")
        while markers is not None:
            query = [("uploads", ""), ("prefix", prefix), ("key-marker", markers[0]), ("upload-id-marker", markers[1])]
            call = Request("list_multipart_uploads", "GET", EMPTY_SHA256, query=tuple(query))
            page = await self._page(call, parse_uploads)
            uploads += page.uploads
            markers = page.next_markers
        return uploads

    replace_in(stack, S3Client, "list_multipart_uploads", for_ever)


def _every_date_trusted(stack: ExitStack) -> None:
    replace_in(stack, clock, "PLAUSIBLE_YEARS", range(1, 10_000))


def _every_date_converted(stack: ExitStack) -> None:
    def moment(text: str) -> datetime:
        return datetime.fromisoformat(text).astimezone(UTC)

    replace_in(stack, xml, "_moment", moment)


def _unlimited_retry_after(stack: ExitStack) -> None:
    replace_in(stack, backoff, "MAX_RETRY_AFTER_SECONDS", math.inf)


MUTATIONS: Final = (
    Mutation(
        "unbounded: response headers",
        "a response is only limited by the time between two bytes",
        _idle_timeout_only,
        "endless-headers",
        ("P7",),
        None,
        kind="11",
    ),
    Mutation(
        "unbounded: XML elements",
        "an XML document of any number of elements is parsed in the event loop",
        _unlimited_elements,
        "too-many-xml-elements",
        ("P7",),
        None,
        kind="11",
    ),
    Mutation(
        "unchecked: bytes after a response",
        "a connection with bytes after its response is used again",
        _leftover_bytes_kept,
        "bytes-after-response",
        ("P2",),
        None,
        kind="14",
    ),
    Mutation(
        "unbounded: pages of a listing",
        "markers of a listing are followed without a limit",
        _every_marker_followed,
        "endless-listing",
        ("P7",),
        None,
        kind="14",
    ),
    Mutation(
        "unchecked: plausibility of the Date header",
        "an absurd Date of S3 corrects the clock",
        _every_date_trusted,
        "date-in-year-9999",
        ("P6",),
        None,
        kind="14",
    ),
    Mutation(
        "unchecked: plausibility of Initiated",
        "a listing with an absurd Initiated fails",
        _every_date_converted,
        "initiated-in-year-9999",
        ("P6",),
        None,
        kind="14",
    ),
    Mutation(
        "unbounded: Retry-After",
        "a call waits for any Retry-After",
        _unlimited_retry_after,
        "retry-after-in-year-9999",
        ("P6",),
        None,
        kind="14",
    ),
)
