"""Object keys: made from a template when a stream begins, read back when an upload is found in S3. Pure.

A key holds the stream's id and its file's name. The name is made fit for a key, not turned round again: bytes that are
not UTF-8, and control characters, which XML listings cannot carry, are percent-encoded; all else stays as it is. So a
key read back *proposes* the files whose name gives the same text, and the bytes decide.
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


def key_text(name: str) -> str:
    """The file name as it stands in a key; ``name`` as ``os.fsdecode`` gives it."""
    out = []
    for character in name:
        # Cs: the surrogate escapes of bytes that are not UTF-8; Cc: control characters; the two: no characters in XML.
        if unicodedata.category(character) in {"Cc", "Cs"} or character in "\ufffe\uffff":
            out.append("".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape")))
        else:
            out.append(character)
    return "".join(out)


@dataclass(frozen=True, slots=True)
class ProposedStream:
    """What a key says: the stream's id, and the texts its file's name must give (``None``: not in the template)."""

    stream_id: str
    file_name: str | None
    file_stem: str | None

    def fits(self, path: str) -> bool:
        """Whether a file of that path may be the one; a proposal, never a proof."""
        name = os.path.basename(path)  # noqa: PTH119 - PurePath would drop nothing here, but paths may hold any byte
        return (self.file_name is None or key_text(name) == self.file_name) and (
            self.file_stem is None or key_text(PurePath(name).stem) == self.file_stem
        )


@dataclass(frozen=True, slots=True)
class KeyTemplate:
    """``S3_KEY_TEMPLATE``, already validated: it holds ``{stream_id}`` once, behind a fixed prefix."""

    template: str

    @property
    def prefix(self) -> str:
        """What all our keys begin with."""
        return self.template[: self.template.index("{")]

    def key(self, stream_id: str, path: str) -> str:
        """The object's key for that stream and file."""
        name = os.path.basename(path)  # noqa: PTH119 - see above
        values = {STREAM_ID: stream_id, FILE_NAME: key_text(name), FILE_STEM: key_text(PurePath(name).stem)}
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
        return ProposedStream(str(UUID(found["stream_id"])), found.get("file_name"), found.get("file_stem"))


def metadata_key(object_key: str) -> str:
    """Where the metadata JSON of an object is."""
    return object_key + METADATA_SUFFIX
