"""Answers that are believed however long, late or absurd they are (kinds 11 and 14)."""

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


def _silence_only(stack: ExitStack) -> None:
    """Only silence has a limit: a header that grows by a byte now and then is none."""
    trace = ResponseGuard.trace

    async def without_deadline(self: ResponseGuard, event: str, info: object) -> None:
        await trace(self, event, info)
        self.scope.deadline = math.inf

    replace_in(stack, ResponseGuard, "trace", without_deadline)


def _all_elements(stack: ExitStack) -> None:
    replace_in(stack, xml, "MAX_ELEMENTS", 1 << 60)


def _leftover_kept(stack: ExitStack) -> None:
    def kept(_self: ResponseGuard) -> None:
        return None

    replace_in(stack, ResponseGuard, "_refuse_leftover", kept)


def _any_marker_followed(stack: ExitStack) -> None:
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


def _any_clock_believed(stack: ExitStack) -> None:
    replace_in(stack, clock, "PLAUSIBLE_YEARS", range(1, 10_000))


def _any_moment_is_one(stack: ExitStack) -> None:
    def moment(text: str) -> datetime:
        return datetime.fromisoformat(text).astimezone(UTC)

    replace_in(stack, xml, "_moment", moment)


def _waits_as_long_as_told(stack: ExitStack) -> None:
    replace_in(stack, backoff, "MAX_RETRY_AFTER_SECONDS", math.inf)


MUTATIONS: Final = (
    Mutation(
        "unbounded: response headers",
        "time-outs count silence, and a dripped header is none",
        _silence_only,
        "endless-headers",
        ("P7",),
        None,
        kind="11",
    ),
    Mutation(
        "unbounded: XML elements",
        "a document is read to its end, in the loop",
        _all_elements,
        "too-many-xml-elements",
        ("P7",),
        None,
        kind="11",
    ),
    Mutation(
        "unchecked: bytes after a response",
        "a connection on which more came than the answer is used again",
        _leftover_kept,
        "bytes-after-response",
        ("P2",),
        None,
        kind="14",
    ),
    Mutation(
        "unbounded: pages of a listing",
        "whatever marker is named is followed",
        _any_marker_followed,
        "endless-listing",
        ("P7",),
        None,
        kind="14",
    ),
    Mutation(
        "unchecked: plausibility of the Date header",
        "S3's Date is taken for the time, whatever it says",
        _any_clock_believed,
        "date-in-year-9999",
        ("P6",),
        None,
        kind="14",
    ),
    Mutation(
        "unchecked: plausibility of Initiated",
        "a listing with an absurd date cannot be read",
        _any_moment_is_one,
        "initiated-in-year-9999",
        ("P6",),
        None,
        kind="14",
    ),
    Mutation(
        "unbounded: Retry-After",
        "a call waits for as long as it is told to",
        _waits_as_long_as_told,
        "retry-after-in-year-9999",
        ("P6",),
        None,
        kind="14",
    ),
)
