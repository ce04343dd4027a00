"""Object keys: made from a template when a stream begins, read back when an upload is found in S3. Pure.

A key holds the stream's id and its file's name. The name is made fit for a key, not turned round again: bytes that are
not UTF-8, and control characters, which XML listings cannot carry, are percent-encoded, and so is a name that is ``.``
or ``..`` (the stem of ``...mp4``), which proxies and stores resolve; a name is cut where the key would have more than
S3's 1,024 bytes, its metadata's key included. All else stays as it is. So a key read back *proposes* the files whose
name gives the same text, and the bytes decide.

A name comes from whoever writes to the watch folder. It has no ``/``, so it is one segment, or a piece of one, behind
the template's prefix: no key leaves it, and none is another stream's, or another stream's metadata's, since the id is
drawn anew for each.
"""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final
from uuid import UUID

STREAM_ID: Final = "{stream_id}"
FILE_NAME: Final = "{file_name}"
FILE_STEM: Final = "{file_stem}"
_UUID: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_FIELD: Final = re.compile(r"\{(?:stream_id|file_name|file_stem)\}")
METADATA_SUFFIX: Final = ".metadata.json"
MAX_KEY_BYTES: Final = 1024
"""https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html, as UTF-8."""
_UUID_BYTES: Final = 36


def key_text(name: str) -> str:
    """The file name as it stands in a key; ``name`` as ``os.fsdecode`` gives it."""
    out = []
    for character in name:
        # Cs: the surrogate escapes of bytes that are not UTF-8; Cc: control characters; the two: no characters in XML.
        if unicodedata.category(character) in {"Cc", "Cs"} or character in "\ufffe\uffff":
            out.append("".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape")))
        else:
            out.append(character)
    text = "".join(out)
    return text.replace(".", "%2E") if text in {".", ".."} else text


def _shortened(text: str, most_bytes: int) -> str:
    """The text, or as much of its beginning as has that many bytes."""
    return text.encode()[:most_bytes].decode(errors="ignore")


@dataclass(frozen=True, slots=True)
class ProposedStream:
    """What a key says: the stream's id, and the texts its file's name must give (``None``: not in the template)."""

    stream_id: str
    file_name: str | None
    file_stem: str | None
    name_bytes: int = MAX_KEY_BYTES
    """Where its template cuts the two."""

    def fits(self, path: str) -> bool:
        """Whether a file of that path may be the one; a proposal, never a proof."""
        name = os.path.basename(path)  # noqa: PTH119 - PurePath would drop nothing here, but paths may hold any byte
        return (self.file_name is None or _shortened(key_text(name), self.name_bytes) == self.file_name) and (
            self.file_stem is None or _shortened(key_text(PurePath(name).stem), self.name_bytes) == self.file_stem
        )


@dataclass(frozen=True, slots=True)
class KeyTemplate:
    """``S3_KEY_TEMPLATE``, already validated: it holds ``{stream_id}`` once, behind a fixed prefix."""

    template: str

    @property
    def prefix(self) -> str:
        """What all our keys begin with."""
        return self.template[: self.template.index("{")]

    @property
    def probe_key(self) -> str:
        """Where S3 is asked whether it takes anything at all: below the prefix, and no key of a recording."""
        return f"{self.prefix}cef-trio-probe"

    @property
    def probe_recording_key(self) -> str:
        """A key as a recording may have, of no stream that there is."""
        return self.key(str(UUID(int=0)), "cef-trio-probe.mp4")

    @property
    def name_bytes(self) -> int:
        """How long a name in a key may be, so that the key of its metadata is none that S3 refuses."""
        names = len(_FIELD.findall(self.template)) - 1
        fixed = len(_FIELD.sub("", self.template).encode())
        return (MAX_KEY_BYTES - len(METADATA_SUFFIX) - _UUID_BYTES - fixed) // max(names, 1)

    def key(self, stream_id: str, path: str) -> str:
        """The object's key for that stream and file."""
        name = os.path.basename(path)  # noqa: PTH119 - see above
        values = {
            STREAM_ID: stream_id,
            FILE_NAME: _shortened(key_text(name), self.name_bytes),
            FILE_STEM: _shortened(key_text(PurePath(name).stem), self.name_bytes),
        }
        return _FIELD.sub(lambda match: values[match[0]], self.template)

    def parse(self, key: str) -> ProposedStream | None:
        """What a key of this template says; ``None`` if it is none of ours."""
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


def metadata_key(object_key: str) -> str:
    """Where the metadata JSON of an object is."""
    return object_key + METADATA_SUFFIX
