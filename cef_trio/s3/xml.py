"""S3's XML: request bodies and the parsing of responses. Pure.

Responses are parsed by the standard library's expat. Document type declarations are refused: S3 sends none, and without
them there are no entities to expand and no external documents (so defusedxml is not needed). Namespaces are ignored,
since some stores omit them, and expat would write a namespace's whole URI into every name. Depth, elements, attributes
and what is kept of a text are limited here, bytes by the transport. Listings use ``encoding-type=url``, since XML 1.0
cannot represent every key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NoReturn
from urllib.parse import unquote_plus
from xml.parsers import expat
from xml.sax.saxutils import escape

from cef_trio.s3.checksums import CHECKSUMS, crc64nvme_from_base64, crc64nvme_to_base64
from cef_trio.s3.model import (
    AbortRule,
    ChecksumAlgorithm,
    CopiedPart,
    ListedObject,
    ListedPart,
    ListedUpload,
    ObjectsPage,
    PartToComplete,
)
from cef_trio.safe_text import one_line

NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
MAX_DEPTH: Final = 16
MAX_ELEMENTS: Final = 50_000
"""A page of 1,000 parts or uploads has some 12,000."""
_MAX_ATTRIBUTES: Final = 100_000
"""In total, counted by ``=`` before parsing, since expat reads all attributes of a tag at once."""
MAX_TEXT: Final = 4096
"""Characters of a key, id, checksum or ETag: they are kept by the ten thousand, ETags in Redis too. An encoded key of
1,024 bytes has 3,072."""
_PART_NUMBERS: Final = range(1, 10_001)
_MAX_OBJECT_BYTES: Final = 1 << 50
_KNOWN_YEARS: Final = range(2006, 2200)
UNKNOWN_MOMENT: Final = datetime(2200, 1, 1, tzinfo=UTC)
"""Replaces an invalid date: later than any other, so that no upload is considered old because of it."""
_COMPOSITE: Final = {name: entry.xml_element for name, entry in CHECKSUMS.items() if entry.is_composite}
"""The elements of the checksums that are kept for each part alone."""


class XmlError(ValueError):
    """The document is not XML, or not a response of S3."""


@dataclass(slots=True)
class Element:
    """An element: its name without namespace, its text, its children."""

    name: str
    children: list[Element] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text. Pieces are joined only here, to avoid quadratic copying."""
        return "".join(self.pieces)

    def first(self, name: str) -> Element | None:
        """Return the first child of that name."""
        return next((child for child in self.children if child.name == name), None)

    def all(self, name: str) -> Iterator[Element]:
        """Iterate over the children of that name, in order."""
        return (child for child in self.children if child.name == name)

    def text_of(self, name: str) -> str | None:
        """Return the text of the first child of that name; ``None`` if missing or empty."""
        child = self.first(name)
        return (child.text or None) if child is not None else None


def parse_xml(body: bytes) -> Element:
    """Parse a document; leading white space is allowed (CompleteMultipartUpload sends it to keep connections alive).

    Raises:
        XmlError: it is not well-formed, has a document type, is nested too deep, or has too many elements.
    """
    if body.count(b"=") > _MAX_ATTRIBUTES:
        raise XmlError("too many attributes")
    elements = 0
    parser = expat.ParserCreate()
    parser.buffer_text = True
    stack = [Element("")]

    def begin(name: str, _attributes: dict[str, str]) -> None:
        nonlocal elements
        elements += 1
        if len(stack) > MAX_DEPTH:
            raise XmlError("nested too deep")
        if elements > MAX_ELEMENTS:
            raise XmlError("too many elements")
        element = Element(name.rpartition(":")[2])
        stack[-1].children.append(element)
        stack.append(element)

    def end(_name: str) -> None:
        stack.pop()

    def text(data: str) -> None:
        stack[-1].pieces.append(data)

    def refuse(*_: object) -> NoReturn:
        raise XmlError("a document type declaration")

    parser.StartElementHandler = begin
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        # XML forbids white space before the declaration, but a long CompleteMultipartUpload sends it.
        parser.Parse(body.lstrip(b" \t\r\n"), True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        if isinstance(error, XmlError):
            raise
        raise XmlError(str(error)) from error
    return stack[0].children[0]


def complete_multipart_upload(parts: Sequence[PartToComplete], checksum: ChecksumAlgorithm) -> bytes:
    """Return the body of CompleteMultipartUpload. Parts must be in order of their numbers."""
    element = CHECKSUMS[checksum].xml_element
    rows = []
    for part in parts:
        row = f"<PartNumber>{part.part_number}</PartNumber><ETag>&quot;{escape(part.etag)}&quot;</ETag>"
        value = crc64nvme_to_base64(part.crc64nvme) if checksum is ChecksumAlgorithm.CRC64NVME else part.checksum
        if value is not None and element:
            row += f"<{element}>{escape(value)}</{element}>"
        rows.append(f"<Part>{row}</Part>")
    inner = "".join(rows)
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<CompleteMultipartUpload xmlns="{NAMESPACE}">{inner}</CompleteMultipartUpload>'
    ).encode()


def parse_abort_rules(body: bytes) -> list[AbortRule]:
    """Return the enabled rules of a LifecycleConfiguration that abort open uploads.

    Raises:
        XmlError: it is another document, or malformed.
    """
    rules = []
    for rule in _root(body, "LifecycleConfiguration").all("Rule"):
        abort = rule.first("AbortIncompleteMultipartUpload")
        days = abort.text_of("DaysAfterInitiation") if abort is not None else None
        if days is None or rule.text_of("Status") != "Enabled":
            continue
        if not days.strip().isdecimal():
            raise XmlError(f"DaysAfterInitiation is {one_line(days)!r}")
        holder = rule.first("Filter") or rule  # before 2016 the prefix was in the rule itself
        rules.append(AbortRule((holder.first("And") or holder).text_of("Prefix") or "", int(days)))
    return rules


def create_bucket_configuration(region: str) -> bytes:
    """Return the body of CreateBucket; empty for ``us-east-1``, which S3 refuses as a location."""
    if region == "us-east-1":
        return b""
    return (
        f'<CreateBucketConfiguration xmlns="{NAMESPACE}"><LocationConstraint>{escape(region)}</LocationConstraint>'
        f"</CreateBucketConfiguration>"
    ).encode()


@dataclass(frozen=True, slots=True)
class CompleteResult:
    """The response of CompleteMultipartUpload; ``etag`` is ``None`` if missing or empty (Ceph)."""

    etag: str | None
    crc64nvme: int | None
    composite: str | None = None
    """The checksum of the parts' checksums, base64 and ``-N``, if S3 keeps one (CRC32C, SHA-256)."""


@dataclass(frozen=True, slots=True)
class PartsPage:
    """A page of ListParts; ``next_marker`` is ``None`` on the last one."""

    parts: tuple[ListedPart, ...]
    next_marker: str | None


@dataclass(frozen=True, slots=True)
class UploadsPage:
    """A page of ListMultipartUploads; ``next_markers`` (key, upload id) is ``None`` on the last one."""

    uploads: tuple[ListedUpload, ...]
    next_markers: tuple[str, str] | None


def parse_upload_id(body: bytes) -> str:
    """Return the upload id of CreateMultipartUpload's response.

    Raises:
        XmlError: there is none.
    """
    return _required(_root(body, "InitiateMultipartUploadResult"), "UploadId")


def parse_complete_result(body: bytes) -> CompleteResult:
    """Parse CompleteMultipartUpload's response.

    Raises:
        XmlError: it is another document (``<Error>``), or cut off.
    """
    root = _root(body, "CompleteMultipartUploadResult")
    # A composite checksum is not the checksum of the object's content.
    composite = root.text_of("ChecksumType") == "COMPOSITE"
    crc = None if composite else crc64nvme_from_base64(root.text_of("ChecksumCRC64NVME"))
    found = next((text for element in _COMPOSITE.values() if (text := _optional(root, element))), None)
    return CompleteResult(etag=unquoted(root.text_of("ETag")), crc64nvme=crc, composite=found)


def parse_copied_part(body: bytes) -> CopiedPart:
    """Parse UploadPartCopy's response.

    Raises:
        XmlError: it is something else (an ``<Error>`` with status 200; or empty, from a store that ran UploadPart).
    """
    root = _root(body, "CopyPartResult")
    others = (_optional(root, element) for element in _COMPOSITE.values())
    return CopiedPart(
        etag=unquoted(_required(root, "ETag")) or "",
        crc64nvme=crc64nvme_from_base64(root.text_of("ChecksumCRC64NVME")),
        checksum=next((text for text in others if text), None),
    )


def parse_parts(body: bytes) -> PartsPage:
    """Parse a page of ListParts.

    Raises:
        XmlError: it is another document, or malformed.
    """
    root = _root(body, "ListPartsResult")
    parts = tuple(
        ListedPart(
            part_number=_number(part, "PartNumber", _PART_NUMBERS),
            size_bytes=_number(part, "Size", range(_MAX_OBJECT_BYTES)),
            etag=unquoted(_required(part, "ETag")) or "",
            crc64nvme=crc64nvme_from_base64(part.text_of("ChecksumCRC64NVME")),
            checksum=_optional(part, _COMPOSITE[kept]) if kept is not None else None,
            checksum_algorithm=kept,
        )
        for part in root.all("Part")
        for kept in [next((each for each, element in _COMPOSITE.items() if part.text_of(element)), None)]
    )
    marker = None
    if root.text_of("IsTruncated") == "true":
        # A store that sends no marker has listed up to this page's last part; more pages may follow.
        last = max((part.part_number for part in parts), default=0)
        marker = _marker(root.text_of("NextPartNumberMarker") or str(last))
    return PartsPage(parts, marker)


def parse_uploads(body: bytes) -> UploadsPage:
    """Parse a page of ListMultipartUploads; keys are decoded if ``EncodingType`` is ``url``.

    Raises:
        XmlError: it is another document, or malformed.
    """
    root = _root(body, "ListMultipartUploadsResult")
    # AWS encodes a space as "+" here and everything else by percent; a store that writes "%20" is read alike.
    decode = unquote_plus if root.text_of("EncodingType") == "url" else str
    uploads = tuple(
        ListedUpload(
            key=decode(_required(upload, "Key")),
            upload_id=_required(upload, "UploadId"),
            initiated_at_utc=_moment(_required(upload, "Initiated")),
        )
        for upload in root.all("Upload")
    )
    markers = None
    if root.text_of("IsTruncated") == "true":
        markers = (decode(_required(root, "NextKeyMarker")), _optional(root, "NextUploadIdMarker") or "")
    return UploadsPage(uploads, markers)


def parse_objects(body: bytes) -> ObjectsPage:
    """Parse a page of ListObjectsV2; keys are decoded if ``EncodingType`` is ``url``.

    Raises:
        XmlError: it is another document, or a truncated page without a token (as of ListObjects, version 1).
    """
    root = _root(body, "ListBucketResult")
    decode = unquote_plus if root.text_of("EncodingType") == "url" else str
    objects = tuple(
        ListedObject(
            key=decode(_required(found, "Key")),
            size_bytes=_number(found, "Size", range(_MAX_OBJECT_BYTES)),
            etag=unquoted(found.text_of("ETag")) or "",
        )
        for found in root.all("Contents")
    )
    is_truncated = root.text_of("IsTruncated") == "true"
    return ObjectsPage(objects, _required(root, "NextContinuationToken") if is_truncated else None)


def unquoted(etag: str | None) -> str | None:
    """Return an ETag without its quotes; ``None`` if missing or empty, or too long to be one."""
    if etag is None or len(etag) > MAX_TEXT:
        return None
    return etag.strip().removeprefix("W/").strip('"') or None


def _root(body: bytes, name: str) -> Element:
    root = parse_xml(body)
    # Other clients ignore the root's name, so stores vary it: moto <ListPartsResponse>, rclone
    # <InitiateMultipartUpload>. Documents like <Error> and <html> are refused.
    stem = name.removesuffix("Result")
    if root.name not in {name, stem, f"{stem}Response"}:
        raise XmlError(f"<{one_line(root.name)}> instead of <{name}>")
    return root


def _required(element: Element, name: str) -> str:
    text = _optional(element, name)
    if text is None:
        raise XmlError(f"<{one_line(element.name)}> without <{name}>")
    return text


def _optional(element: Element, name: str) -> str | None:
    text = element.text_of(name)
    if text is not None and len(text) > MAX_TEXT:
        raise XmlError(f"<{name}> of {len(text)} characters")
    return text


def _number(element: Element, name: str, within: range) -> int:
    text = _required(element, name)
    # int() alone would accept "1_000", digits of other scripts and any number of digits.
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(within.stop)) and int(text) in within):
        raise XmlError(f"<{name}>{one_line(text)}</{name}>")
    return int(text)


def _marker(text: str) -> str:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(_PART_NUMBERS.stop))):
        raise XmlError(f"<NextPartNumberMarker>{one_line(text)}</NextPartNumberMarker>")
    return text


def _moment(text: str) -> datetime:
    """Parse a date; an invalid one must not make the whole listing unreadable."""
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return UNKNOWN_MOMENT
    return moment if moment.year in _KNOWN_YEARS else UNKNOWN_MOMENT
