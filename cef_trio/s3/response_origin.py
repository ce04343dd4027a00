"""Whether an answer is the store's own. Pure; every answer is asked about here, once (``transport.py``).

Between us and the store stand ingresses, load balancers, proxies, firewalls and log-in pages, which answer in HTTP and
in HTML. What they say is about the way to the store, never about an upload: their 404 is no ``NoSuchUpload``, their 403
no ``AccessDenied``, their 200 no acknowledgement. Such an answer is :data:`NOT_S3_ANSWER`: transient, with its title
and the likely cause in the error.

An answer is the store's by what only S3 sends: an ``<Error>`` with a code, an ``x-amz-*`` header. Where neither can be
expected, it depends on what this store is known to do:

============================  =========================================================================================
answer                        not the store's own if …
============================  =========================================================================================
error to GET, PUT, POST, …    its body is HTML; or it has text that is no S3 error, and no ``x-amz-*`` header; or it is
                              empty, without such a header, and this store has sent request ids, or S3 errors, before
                              (but 405 and 501: some stores answer what they lack so)
error to HEAD (no body)       it has no ``x-amz-*`` header, and this store sends a request id with its other answers to
                              HEAD; or it announces a page of text; or it is one that S3 never gives (407, 413)
success                       its body is HTML, or is to be a document and is none; or it has no ``x-amz-*`` header and
                              announces a page, or lacks an ETag that must be there, or the store's request id
============================  =========================================================================================

Stores that answer bare (moto, Ceph and others to HEAD) stay themselves: nothing is concluded from a missing request id
until this very store has sent one, and an S3 document without one takes that conclusion back.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from cef_trio.s3.xml import one_line

NOT_S3_ANSWER: Final = "NotS3Answer"
"""Our code for an answer that somebody else gave in the store's place."""

_REQUEST_IDS: Final = ("x-amz-request-id", "x-amz-id-2")
_NOT_OF_S3: Final = ("x-amz-cf-", "x-amz-apigw-", "x-amzn-")  # CloudFront and API Gateway: in front of S3
_NEVER_TO_HEAD: Final = frozenset({407, 413})
_LACKING: Final = frozenset({405, 501})
_NO_CONTENT: Final = 204
_OK: Final = range(200, 300)
_REDIRECT: Final = range(300, 400)
_HTML_ONLY: Final = frozenset({"text/html", "application/xhtml+xml"})
_PAGES: Final = _HTML_ONLY | {"text/plain"}
_LOOKED_AT: Final = 4096
_MAX_TITLE: Final = 100
_TITLE: Final = re.compile(rb"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)
_TAG: Final = re.compile(rb"<(script|style)\b.*?</\1\s*>|<[^>]*>", re.IGNORECASE | re.DOTALL)
_HTML: Final = re.compile(
    rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)?<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE
)

_CAUSES: Final[Mapping[int, str]] = MappingProxyType(
    {
        401: "a proxy or a web server wants a log-in before it lets anything through",
        403: "a proxy, a firewall or a web server refuses it, not the store",
        404: "an ingress or a load balancer without a backend for this host, or S3_ENDPOINT_URL leads elsewhere",
        405: "a web server that is no S3 store; check S3_ENDPOINT_URL",
        407: "a proxy wants a log-in, and cef-trio uses no proxy",
        413: (
            "a proxy's limit for bodies (nginx: client_max_body_size, its default is 1 MiB); raise it above the size "
            "of a part, or lower CHUNK_SIZE_BYTES"
        ),
        502: "a proxy or an ingress that does not reach the store",
        503: "a proxy or an ingress without a backend that is ready",
        504: "a proxy or an ingress to which the store did not answer in time",
    }
)
_CAUSE_OF_SUCCESS: Final = "a log-in page or a web server answers for every address; check S3_ENDPOINT_URL"
_CAUSE_OF_REST: Final = "a proxy, an ingress or a web server in the store's place; check S3_ENDPOINT_URL"


def is_marked(headers: Mapping[str, str]) -> bool:
    """Whether an answer's headers (names in lower case) have a mark of S3."""
    return any(name.startswith("x-amz-") and not name.startswith(_NOT_OF_S3) for name in headers)


def is_html(headers: Mapping[str, str], body: bytes) -> bool:
    """Whether a body is a page for a browser."""
    return bool(_HTML.match(body[:_LOOKED_AT])) or (bool(body.strip()) and _media_type(headers) in _HTML_ONLY)


def is_document(headers: Mapping[str, str], body: bytes) -> bool:
    """Whether a body may be a document of S3's."""
    return body.lstrip().startswith(b"<") and not is_html(headers, body)


class ResponseOrigin:
    """What one store is known to send, and the judgement by it."""

    def __init__(self) -> None:
        self._sends_ids: dict[bool, bool | None] = {True: None, False: None}
        """To HEAD, and to the rest: whether it sends request ids; once refuted it stays so."""
        self._explains_errors = False

    def observe(self, method: str, headers: Mapping[str, str], *, is_document: bool = False) -> None:
        """Learn from an answer; ``is_document``: its body is a document that only S3 writes."""
        to_head = method == "HEAD"
        if any(name in headers for name in _REQUEST_IDS):
            if self._sends_ids[to_head] is None:
                self._sends_ids[to_head] = True
        elif is_document:
            self._sends_ids = {True: False, False: False}

    def observe_error_document(self) -> None:
        """Learn that this store says in S3's words why it refuses."""
        self._explains_errors = True

    def foreign_error(self, method: str, status: int, headers: Mapping[str, str], body: bytes) -> bool:
        """Whether an answer that is no success, and whose body names no code of S3's, is not the store's own."""
        marked = is_marked(headers)
        if method == "HEAD":
            if marked:
                return False
            return bool(self._sends_ids[True]) or status in _NEVER_TO_HEAD or _announces(headers, _PAGES)
        if is_html(headers, body):
            return True
        if marked or status in _LACKING:
            return False
        return bool(body.strip()) or self._explains_errors or bool(self._sends_ids[False])

    def foreign_success(
        self,
        method: str,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
        *,
        of_object: bool,
        document_expected: bool,
    ) -> bool:
        """Whether a success is not the store's own.

        Args:
            method: of the request.
            status: of the answer.
            headers: of the answer.
            body: of the answer, or its beginning; empty for an object's own bytes.
            of_object: whether it speaks of an object's or part's bytes, so that S3 names an ETag.
            document_expected: whether S3 sends a document with it.
        """
        if document_expected and body.strip():
            return is_html(headers, body) or not (is_document(headers, body) or is_marked(headers))
        return not is_marked(headers) and (
            is_html(headers, body) or self._unmarked_success(method, status, headers, of_object=of_object)
        )

    def _unmarked_success(self, method: str, status: int, headers: Mapping[str, str], *, of_object: bool) -> bool:
        if of_object and method in {"PUT", "HEAD"} and "etag" not in headers:
            return True
        if of_object:
            return _announces(headers, _HTML_ONLY) and (
                method != "HEAD" or "etag" not in headers or bool(self._sends_ids[True])
            )
        if method == "HEAD":
            return _announces(headers, _PAGES)
        return bool(self._sends_ids[False]) or (status != _NO_CONTENT and _announces(headers, _PAGES))


def describe_foreign(status: int, headers: Mapping[str, str], body: bytes) -> str:
    """What such an answer says, and where it is likely to come from."""
    title = _title(body)
    location = one_line(headers.get("location"))
    if status in _REDIRECT and location:
        cause = f"it redirects to {location}; check S3_ENDPOINT_URL"
    elif status in _OK:
        cause = _CAUSE_OF_SUCCESS
    else:
        cause = _CAUSES.get(status, _CAUSE_OF_REST)
    server = one_line(headers.get("server"))
    said = f", it is titled {title!r}" if title else ""
    by = f" (server: {server[:_MAX_TITLE]})" if server else ""
    return f"the answer is not S3's own{said}{by}; likely {cause}"


def _title(body: bytes) -> str | None:
    found = _TITLE.search(body)
    words = found[1] if found else _TAG.sub(b" ", body[:_LOOKED_AT])
    text = one_line(html.unescape(words.decode("utf-8", "replace")))
    return text[:_MAX_TITLE] if text else None


def _announces(headers: Mapping[str, str], types: frozenset[str]) -> bool:
    """Whether headers speak of a text for people: an empty one says nothing, whatever its type (moto, Swift)."""
    return _media_type(headers) in types and (
        headers.get("content-length", "0").strip() != "0" or "transfer-encoding" in headers
    )


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()
