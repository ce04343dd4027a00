"""The XML documents of S3's API: written here, and parsed by ``cef_trio.s3.xml``. Pure.

Element names and their order are those of https://docs.aws.amazon.com/AmazonS3/latest/API/. Characters that XML 1.0
cannot represent are sent as numeric references, as S3 does; clients avoid them with ``encoding-type=url``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final
from urllib.parse import quote_plus

from cef_trio.s3 import Element, XmlError, parse_xml
from cef_trio.s3_endpoint.checksums import Algorithm
from cef_trio.s3_endpoint.decimals import decimal
from cef_trio.s3_endpoint.errors import S3Error
from cef_trio.s3_endpoint.multipart import MAX_PARTS, RequestedPart

NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"

Node = tuple[str, "str | Sequence[Node]"]
"""An element: its name, with attributes if any, and its text or its children."""

_REFERENCES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}


def document(root: str, children: Iterable[Node], *, namespace: bool = True) -> bytes:
    """Return a document."""
    attribute = f' xmlns="{NAMESPACE}"' if namespace else ""
    inner = "".join(_element(child) for child in children)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{root}{attribute}>{inner}</{root}>'.encode()


def error_document(error: S3Error, resource: str, request_id: str, host_id: str) -> bytes:
    """Return the document of an error."""
    return document(
        "Error",
        [
            ("Code", error.code),
            ("Message", error.message),
            *error.details.items(),
            ("Resource", resource),
            ("RequestId", request_id),
            ("HostId", host_id),
        ],
        namespace=False,
    )


def read_complete(body: bytes) -> list[RequestedPart]:
    """Return the parts of a CompleteMultipartUpload, in the document's order.

    Raises:
        S3Error: ``MalformedXML``.
    """
    root = _read(body, "CompleteMultipartUpload")
    parts = [_requested_part(element) for element in root.all("Part")]
    if not 0 < len(parts) <= MAX_PARTS:
        raise S3Error("MalformedXML")
    return parts


def read_location_constraint(body: bytes) -> str | None:
    """Return the region of a CreateBucket; ``None`` if there is none.

    Raises:
        S3Error: ``MalformedXML``.
    """
    return _read(body, "CreateBucketConfiguration").text_of("LocationConstraint") if body.strip() else None


def read_lifecycle(body: bytes) -> str:
    """Return a lifecycle configuration as sent; it must have a rule.

    Raises:
        S3Error: ``MalformedXML``.
    """
    if _read(body, "LifecycleConfiguration").first("Rule") is None:
        raise S3Error("MalformedXML")
    return body.decode("utf-8")


def read_delete(body: bytes) -> tuple[list[str], bool]:
    """Return the keys of a DeleteObjects, and whether the response lists failures only.

    Raises:
        S3Error: ``MalformedXML``; ``NotImplemented`` for a version or a condition.
    """
    root = _read(body, "Delete")
    if any(child.name != "Key" for element in root.all("Object") for child in element.children):
        raise S3Error("NotImplemented", "Versions and conditional deletions are not implemented by this endpoint")
    keys = [element.text_of("Key") or "" for element in root.all("Object")]
    if not 0 < len(keys) <= 1000 or "" in keys:  # noqa: PLR2004 - S3's limit, used once
        raise S3Error("MalformedXML")
    return keys, root.text_of("Quiet") == "true"


def iso_time(moment: float) -> str:
    """Return a time as in S3's XML, in milliseconds."""
    at = datetime.fromtimestamp(moment, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"


def http_time(moment: float) -> str:
    """Return a time as in HTTP headers."""
    return format_datetime(datetime.fromtimestamp(int(moment), UTC), usegmt=True)


def quoted(etag: str) -> str:
    """Return an ETag with quotes."""
    return f'"{etag}"' if etag else ""


def url_encoded(text: str) -> str:
    """Return a key as in ``encoding-type=url``: a space as ``+``, slashes unchanged."""
    return quote_plus(text, safe="/*")


def grant(kind: str, grantee: Sequence[Node], permission: str) -> Node:
    """Return an entry of an access control list. ``kind`` is ``CanonicalUser`` or ``Group``."""
    attributes = f'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="{kind}"'
    return ("Grant", [(f"Grantee {attributes}", grantee), ("Permission", permission)])


def _element(node: Node) -> str:
    name, content = node
    inner = _escape(content) if isinstance(content, str) else "".join(_element(child) for child in content)
    return f"<{name}>{inner}</{name.partition(' ')[0]}>"


def _escape(text: str) -> str:
    return re.sub(r"[&<>\"\x00-\x1f\x7f]", lambda hit: _REFERENCES.get(hit[0], f"&#x{ord(hit[0]):x};"), text)


def _read(body: bytes, name: str) -> Element:
    try:
        root = parse_xml(body)
    except XmlError as error:
        raise S3Error("MalformedXML") from error
    if root.name != name:
        raise S3Error("MalformedXML")
    return root


def _requested_part(element: Element) -> RequestedPart:
    number, etag = decimal((element.text_of("PartNumber") or "").strip()), element.text_of("ETag")
    if number is None or etag is None:
        raise S3Error("MalformedXML")
    given = {algorithm: element.text_of(algorithm.element) for algorithm in Algorithm}
    return RequestedPart(
        number=number,
        etag=etag.strip().strip('"'),
        checksums={algorithm: text for algorithm, text in given.items() if text is not None},
    )
