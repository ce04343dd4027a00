"""Build object keys from the key template, and parse the keys of uploads found in S3. Pure.

The fields of ``S3_KEY_TEMPLATE`` are ``{owner}``, ``{stream_id}``, ``{file_name}`` and ``{file_stem}``; there is no
date. ``{owner}`` is the same in all keys of a daemon, so it is replaced first, and belongs to the fixed prefix by which
uploads and objects are listed. The key is fixed when the upload is created (``session.py``: ``_name_object``), from the
file's name at that moment.

A key holds the stream ID and the file's name. The name is encoded one way: bytes that are not UTF-8 and control
characters, which XML listings cannot carry, are percent-encoded; so are the names ``.`` and ``..`` (the stem of
``...mp4``), which proxies and stores resolve. A name is cut so that the key, and the key of its metadata, has at most
S3's 1,024 bytes. Everything else is kept. A parsed key therefore only *proposes* files with a matching name; the bytes
of the file decide.

File names are untrusted: any process that can write to the watch folder chooses them. A name has no ``/``, so it is at
most one segment behind the template's prefix, and no key leaves the prefix. The random stream ID in each key keeps it
apart from the keys and metadata keys of all other streams.
"""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final
from uuid import UUID

OWNER: Final = "{owner}"
STREAM_ID: Final = "{stream_id}"
FILE_NAME: Final = "{file_name}"
FILE_STEM: Final = "{file_stem}"
_UUID: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_FIELD: Final = re.compile(r"\{(?:stream_id|file_name|file_stem)\}")
METADATA_SUFFIX: Final = ".metadata.json"
MAX_KEY_BYTES: Final = 1024
"""https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html (of UTF-8)"""
_UUID_BYTES: Final = 36


def key_text(name: str) -> str:
    """Return the file name as encoded in a key. ``name`` is a result of ``os.fsdecode``."""
    out = []
    for character in name:
        # Cs: surrogate escapes of bytes that are not UTF-8. Cc: control characters. U+FFFE, U+FFFF: not allowed in XML.
        if unicodedata.category(character) in {"Cc", "Cs"} or character in "\ufffe\uffff":
            out.append("".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape")))
        else:
            out.append(character)
    text = "".join(out)
    return text.replace(".", "%2E") if text in {".", ".."} else text


def _shortened(text: str, most_bytes: int) -> str:
    """Return the longest prefix of the text with at most ``most_bytes`` bytes of UTF-8."""
    return text.encode()[:most_bytes].decode(errors="ignore")


@dataclass(frozen=True, slots=True)
class ProposedStream:
    """A parsed key: the stream ID and the encoded file name and stem (``None``: not in the template)."""

    stream_id: str
    file_name: str | None
    file_stem: str | None
    name_bytes: int = MAX_KEY_BYTES
    """The length to which the template cuts names, in bytes."""

    def fits(self, path: str) -> bool:
        """Return whether a file at this path may belong to the stream. A match is no proof."""
        name = os.path.basename(path)  # noqa: PTH119 - PurePath would drop nothing here, but paths may hold any byte
        return (self.file_name is None or _shortened(key_text(name), self.name_bytes) == self.file_name) and (
            self.file_stem is None or _shortened(key_text(PurePath(name).stem), self.name_bytes) == self.file_stem
        )


@dataclass(frozen=True, slots=True)
class KeyTemplate:
    """A validated ``S3_KEY_TEMPLATE`` of one owner: it holds ``{stream_id}`` once, behind a fixed prefix."""

    template: str
    mixes_owners: bool = False
    """Whether other owners' keys have the same prefix."""

    @classmethod
    def of_owner(cls, template: str, owner: str) -> KeyTemplate:
        """Return the template with the owner's name in place of ``{owner}``."""
        return cls(template.replace(OWNER, owner), mixes_owners=OWNER not in template)

    @property
    def prefix(self) -> str:
        """The common prefix of all keys."""
        return self.template[: self.template.index("{")]

    @property
    def probe_key(self) -> str:
        """A key below the prefix for probes of S3. No recording can have it."""
        return f"{self.prefix}cef-trio-probe"

    @property
    def probe_recording_key(self) -> str:
        """A key in the form of a recording's key, with the nil UUID as its stream ID."""
        return self.key(str(UUID(int=0)), "cef-trio-probe.mp4")

    @property
    def name_bytes(self) -> int:
        """The maximum length of a name in a key, in bytes, so that the metadata's key fits into S3's limit."""
        names = len(_FIELD.findall(self.template)) - 1
        fixed = len(_FIELD.sub("", self.template).encode())
        return (MAX_KEY_BYTES - len(METADATA_SUFFIX) - _UUID_BYTES - fixed) // max(names, 1)

    def key(self, stream_id: str, path: str) -> str:
        """Return the object key of a stream and its file."""
        name = os.path.basename(path)  # noqa: PTH119 - see above
        values = {
            STREAM_ID: stream_id,
            FILE_NAME: _shortened(key_text(name), self.name_bytes),
            FILE_STEM: _shortened(key_text(PurePath(name).stem), self.name_bytes),
        }
        return _FIELD.sub(lambda match: values[match[0]], self.template)

    def parse(self, key: str) -> ProposedStream | None:
        """Parse a key; return ``None`` if it does not match the template."""
        groups = {
            STREAM_ID: f"(?P<stream_id>{_UUID})",
            FILE_NAME: "(?P<file_name>[^/]*)",
            FILE_STEM: "(?P<file_stem>[^/]*)",
        }
        fixed = _FIELD.split(self.template)
        fields = [groups[field] for field in _FIELD.findall(self.template)] + [""]
        match = re.fullmatch("".join(re.escape(text) + group for text, group in zip(fixed, fields, strict=True)), key)
        if match is None:
            return None
        found = match.groupdict()
        return ProposedStream(
            str(UUID(found["stream_id"])), found.get("file_name"), found.get("file_stem"), self.name_bytes
        )


MAX_METADATA_BYTES: Final = 4 << 20
"""Larger than any metadata JSON: 10,000 parts of some 280 bytes are 2.8 MB. A document of other content costs up to 30
times its size in memory, and blocks the daemon while it is read, so the limit is not larger."""


def metadata_key(object_key: str) -> str:
    """Return the key of an object's metadata JSON."""
    return object_key + METADATA_SUFFIX
