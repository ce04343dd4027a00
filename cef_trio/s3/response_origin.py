"""Distinguish responses of the S3 store from those of proxies. Pure; ``transport.py`` checks every response once.

Ingresses, load balancers, proxies, firewalls and log-in pages respond in HTTP and HTML. Their 404 is not
``NoSuchUpload``, their 403 not ``AccessDenied`` and their 200 no acknowledgement. Such a response becomes the error
:data:`NOT_S3_ANSWER`: transient, with the page's title and the likely cause in the message.

An ``<Error>`` with a code or an ``x-amz-*`` header identifies S3. Without them the rules are:

============================  =========================================================================================
response                      foreign if …
============================  =========================================================================================
any error                     it has no ``x-amz-*`` header, and redirects
error to GET, PUT, POST, …    its body is HTML, or its status 407; or it has text that is not an S3 error and no
                              ``x-amz-*`` header; or it is empty, has no such header, and this store has sent request
                              ids or S3 errors before (except 405 and 501: some stores respond so to unsupported
                              operations)
error to HEAD (no body)       it has no ``x-amz-*`` header and this store has sent request ids in responses to HEAD; or
                              its content type is a page of text; or S3 never sends its status (407, 413)
success                       its body is HTML, or an XML document is required and it is none; or it has no ``x-amz-*``
                              header and its content type is a page, or a required ETag or request id is missing
============================  =========================================================================================

Some stores send few headers (moto; Ceph and others to HEAD). A missing request id counts only after this store has sent
one, and an S3 document without a request id disables that rule.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from cef_trio.safe_text import one_line

NOT_S3_ANSWER: Final = "NotS3Answer"
"""Our error code for a response that is not from the S3 store."""

_REQUEST_IDS: Final = ("x-amz-request-id", "x-amz-id-2")
_GATEWAY_PREFIXES: Final = ("x-amz-cf-", "x-amz-apigw-", "x-amzn-")  # CloudFront and API Gateway
_NEVER_TO_HEAD: Final = frozenset({407, 413})
_OF_PROXIES: Final = 407
"""Proxy Authentication Required."""
_UNSUPPORTED: Final = frozenset({405, 501})
_NO_CONTENT: Final = 204
_OK: Final = range(200, 300)
_REDIRECT: Final = range(300, 400)
_HTML_ONLY: Final = frozenset({"text/html", "application/xhtml+xml"})
_PAGES: Final = _HTML_ONLY | {"text/plain"}
_SEARCHED_BYTES: Final = 4096
_MAX_TITLE: Final = 100
_TITLE: Final = re.compile(rb"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)
_TAG: Final = re.compile(rb"<(script|style)\b.*?</\1\s*>|<[^>]*>", re.IGNORECASE | re.DOTALL)
_HTML: Final = re.compile(
    rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)?<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE
)

_CAUSES: Final[Mapping[int, str]] = MappingProxyType(
    {
        401: "a proxy or a web server that requires a log-in",
        403: "a proxy, a firewall or a web server that refuses the request",
        404: "an ingress or a load balancer without a backend for this host, or a wrong S3_ENDPOINT_URL",
        405: "a web server that is not an S3 store; check S3_ENDPOINT_URL",
        407: "a proxy that requires a log-in: set its user and password in S3_PROXY_URL",
        413: (
            "a proxy's limit for bodies (nginx: client_max_body_size, 1 MiB by default); raise it above the size "
            "of a part, or lower CHUNK_SIZE_BYTES"
        ),
        502: "a proxy or an ingress that cannot reach the store",
        503: "a proxy or an ingress without a backend that is ready",
        504: "a proxy or an ingress that got no response from the store in time",
        507: "a full disk of the store, or of a proxy before it",
    }
)
_CAUSE_OF_SUCCESS: Final = "a log-in page or a web server that responds to every address; check S3_ENDPOINT_URL"
_CAUSE_OF_REST: Final = "a proxy, an ingress or a web server instead of the store; check S3_ENDPOINT_URL"


def is_marked(headers: Mapping[str, str]) -> bool:
    """Whether headers (names in lower case) include one that only S3 sends."""
    return any(name.startswith("x-amz-") and not name.startswith(_GATEWAY_PREFIXES) for name in headers)


def is_html(headers: Mapping[str, str], body: bytes) -> bool:
    """Whether a body is HTML."""
    return bool(_HTML.match(body[:_SEARCHED_BYTES])) or (bool(body.strip()) and _media_type(headers) in _HTML_ONLY)


def is_document(headers: Mapping[str, str], body: bytes) -> bool:
    """Whether a body may be an XML document of S3."""
    return body.lstrip().startswith(b"<") and not is_html(headers, body)


class ResponseOrigin:
    """What one store has been observed to send, and the rules that use it."""

    def __init__(self) -> None:
        self._sends_ids: dict[bool, bool | None] = {True: None, False: None}
        """Whether the store sends request ids, by "is the method HEAD"; ``None`` is unknown, ``False`` is final."""
        self._explains_errors = False

    def observe(self, method: str, headers: Mapping[str, str], *, is_document: bool = False) -> None:
        """Record what the store sends; ``is_document``: the body is an XML document of S3."""
        to_head = method == "HEAD"
        if any(name in headers for name in _REQUEST_IDS):
            if self._sends_ids[to_head] is None:
                self._sends_ids[to_head] = True
        elif is_document:
            self._sends_ids = {True: False, False: False}

    def observe_error_document(self) -> None:
        """Record that this store sends S3 error documents."""
        self._explains_errors = True

    def foreign_error(self, method: str, status: int, headers: Mapping[str, str], body: bytes) -> bool:
        """Whether an error response without an S3 error code is not from the store."""
        marked = is_marked(headers)
        if not marked and status in _REDIRECT and "location" in headers:
            return True
        if method == "HEAD":
            if marked:
                return False
            return bool(self._sends_ids[True]) or status in _NEVER_TO_HEAD or _has_type(headers, _PAGES)
        if is_html(headers, body) or status == _OF_PROXIES:
            return True
        if marked or status in _UNSUPPORTED:
            return False
        sends_ids = self._sends_ids[False]
        if sends_ids is None:  # nothing but HEAD was asked yet, as just after the start
            sends_ids = self._sends_ids[True]
        return bool(body.strip()) or self._explains_errors or bool(sends_ids)

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
        """Whether a successful response is not from the store.

        ``body`` may be its beginning only, and is empty for an object's content. With ``of_object`` S3 sends an ETag,
        with ``document_expected`` an XML document.
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
            return _has_type(headers, _HTML_ONLY) and (
                method != "HEAD" or "etag" not in headers or bool(self._sends_ids[True])
            )
        if method == "HEAD":
            return _has_type(headers, _PAGES)
        return bool(self._sends_ids[False]) or (status != _NO_CONTENT and _has_type(headers, _PAGES))


def describe_foreign(status: int, headers: Mapping[str, str], body: bytes) -> str:
    """Return a message for a response that is not from the store: its title, its server, the likely cause."""
    title = _title(body)
    location = one_line(headers.get("location"))
    if status in _REDIRECT and location:
        cause = f"it redirects to {location}; check S3_ENDPOINT_URL"
    elif status in _OK:
        cause = _CAUSE_OF_SUCCESS
    else:
        cause = _CAUSES.get(status, _CAUSE_OF_REST)
    server = one_line(headers.get("server"))
    titled = f", its title is {title!r}" if title else ""
    by = f" (server: {server[:_MAX_TITLE]})" if server else ""
    return f"the response is not from the S3 store{titled}{by}; likely {cause}"


def _title(body: bytes) -> str | None:
    beginning = body[:_SEARCHED_BYTES]  # the patterns' time grows with its square
    found = _TITLE.search(beginning)
    words = found[1] if found else _TAG.sub(b" ", beginning)
    text = one_line(html.unescape(words.decode("utf-8", "replace")))
    return text[:_MAX_TITLE] if text else None


def _has_type(headers: Mapping[str, str], types: frozenset[str]) -> bool:
    """Whether the body has one of these types; an empty body has none, whatever its header (moto, Swift)."""
    return _media_type(headers) in types and (
        headers.get("content-length", "0").strip() != "0" or "transfer-encoding" in headers
    )


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()
