"""Build object keys from the key template, and parse the keys of uploads found in S3. Pure.

The fields of ``S3_KEY_TEMPLATE``:

====================================  ==================================================================================
``{owner}``, ``{host}``               the same in all keys of a daemon: replaced first, and part of the fixed prefix by
                                      which uploads and objects are listed. ``{host}`` is ``INSTANCE_ID``
``{relative_dir}``                    the file's folder below its watch folder; left out, with its slash, for a file
                                      directly in it
``{year}{month}{day}{hour}``          when the recording began (:func:`recording_start`), in ``KEY_TIME_ZONE``
``{file_name}``                       ``{file_stem}{file_ext}``
``{file_ext}``                        with its dot; empty if the name has none
``{stream_id}``                       the stream's UUID: makes each key unique
====================================  ==================================================================================

The key is fixed when the upload is created (``session.py``: ``_name_object``), from the file's path at that moment.

File names are untrusted: any process that can write to the watch folder chooses them, and its folders. They are encoded
one way: bytes that are not UTF-8 and control characters, which XML listings cannot carry, are percent-encoded; so are
the names ``.`` and ``..`` (the stem of ``...mp4``), which proxies and stores resolve. In folders a ``%`` before two hex
digits is encoded too, so that no folder is written as another one. Names and folders are cut so that the key, and the
key of its metadata, has at most S3's 1,024 bytes; a folder that is cut ends with a hash of itself. No key leaves the
prefix. The random stream ID keeps each key apart from the keys and metadata keys of all other streams.

A parsed key has exactly one stream ID, whatever the file is called (``settings/values.py`` refuses other templates). It
only *proposes* files whose path would have that key; the bytes of the file decide.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from types import MappingProxyType
from typing import Final, TypeGuard
from uuid import UUID

OWNER: Final = "{owner}"
HOST: Final = "{host}"
RELATIVE_DIR: Final = "{relative_dir}"
STREAM_ID: Final = "{stream_id}"
FILE_NAME: Final = "{file_name}"
FILE_STEM: Final = "{file_stem}"
FILE_EXT: Final = "{file_ext}"
_NAMES: Final = (FILE_NAME, FILE_STEM, FILE_EXT)
_DATES: Final[Mapping[str, int]] = MappingProxyType({"{year}": 4, "{month}": 2, "{day}": 2, "{hour}": 2})
"""The fields of a time, and their digits."""
_ANY: Final = "\0"
"""Any character; no key has it."""
_UUID: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_UUID_BYTES: Final = 36
_FIELD: Final = re.compile(f"({'|'.join(map(re.escape, (RELATIVE_DIR, STREAM_ID, *_NAMES, *_DATES)))})")
_PATTERNS: Final[Mapping[str, str]] = MappingProxyType(
    {
        RELATIVE_DIR: _ANY,
        STREAM_ID: f"(?P<stream_id>{_UUID})",
        FILE_NAME: "[^/]*",
        FILE_STEM: "[^/]*",
        FILE_EXT: r"(?:\.[^/.-]*)?",
        **{field: f"[0-9]{{{digits}}}" for field, digits in _DATES.items()},
    }
)
METADATA_SUFFIX: Final = ".metadata.json"
MAX_KEY_BYTES: Final = 1024
"""https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html (of UTF-8)"""
MAX_HOST_BYTES: Final = 128
"""The length to which ``{host}`` is cut; ``settings/values.py`` reserves it."""
_HASH_DIGITS: Final = 16
_HEX: Final = re.compile("%(?=[0-9A-Fa-f]{2})")
EXAMPLE_BEGAN: Final = datetime(2026, 1, 31, 23, 30, tzinfo=UTC)
"""At the end of a month in UTC, so that the effect of a time zone shows."""
_EXAMPLES: Final = ("front door.mp4", "cameras/gate/recording.mp4")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_CLOCK_SET: Final = datetime(2000, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(2200, 1, 1, tzinfo=UTC)


def recording_start(birth_ns: int | None, mtime_ns: int | None, first_seen_utc: datetime) -> datetime:
    """Return when a recording began: the earliest of its birth, its modification and when it was first seen.

    The file system keeps the birth of a file that was written there (statx(2): ext4, xfs, btrfs, tmpfs, …; no network
    file system). A file that was copied with its time stamps was modified before its birth. A stamp before 2000 is left
    out: the clock was not set.
    """
    stamps = [_EPOCH + timedelta(microseconds=ns // 1000) for ns in (birth_ns, mtime_ns) if _is_time(ns)]
    return min([stamp for stamp in (*stamps, first_seen_utc) if stamp >= _CLOCK_SET], default=first_seen_utc)


def _is_time(ns: int | None) -> TypeGuard[int]:
    return ns is not None and 0 <= ns <= (_LATEST - _EPOCH) // timedelta(microseconds=1) * 1000


def relative_path(path: str, folders: Iterable[str]) -> str | None:
    """Return a file's path below its watch folder, the innermost one; ``None`` if it is in none of them."""
    above = [folder.rstrip("/") + "/" for folder in folders]
    inside = max((folder for folder in above if path.startswith(folder)), key=len, default=None)
    return None if inside is None else path[len(inside) :].lstrip("/")


def key_text(name: str) -> str:
    """Return the file name as encoded in a key. ``name`` is a result of ``os.fsdecode``."""
    if name.isascii() and name.isprintable():
        text = name
    else:
        # Cs: surrogate escapes of bytes that are not UTF-8. Cc: control characters. U+FFFE, U+FFFF: not in XML.
        text = "".join(
            _percent(character.encode("utf-8", "surrogateescape"))
            if unicodedata.category(character) in {"Cc", "Cs"} or character in "\ufffe\uffff"
            else character
            for character in name
        )
    return text.replace(".", "%2E") if text in {".", ".."} else text


def folder_text(folder: str) -> str:
    """Return a relative folder as encoded in a key: like :func:`key_text`, and different for different folders."""
    names = [name for name in folder.split("/") if name]
    return "/".join(key_text(_HEX.sub("%25", name)) for name in names)


def host_text(host: str) -> str:
    """Return the name of a host as encoded in a key: one segment without braces."""
    text = re.sub(r"[/{}]", lambda match: _percent(match[0].encode()), key_text(host))
    return _shortened(text, MAX_HOST_BYTES)


def _percent(raw: bytes) -> str:
    return "".join(f"%{byte:02X}" for byte in raw)


def _shortened(text: str, most_bytes: int) -> str:
    """Return the longest prefix of the text with at most ``most_bytes`` bytes of UTF-8."""
    return text.encode()[:most_bytes].decode(errors="ignore")


def _shortened_folder(folder: str, most_bytes: int) -> str:
    """Return an encoded folder with at most ``most_bytes`` bytes; the end of one that is cut is a hash of it."""
    raw = folder.encode()
    if len(raw) <= most_bytes:
        return folder
    end = f"~{hashlib.sha256(raw).hexdigest()[:_HASH_DIGITS]}"
    return _shortened(folder, most_bytes - len(end)) + end


def _split(name: str) -> tuple[str, str]:
    """Split a file name into stem and extension; a name that begins or ends with its only dot has no extension."""
    dot = name.rfind(".")
    return (name[:dot], name[dot:]) if 0 < dot < len(name) - 1 else (name, "")


@dataclass(frozen=True, slots=True)
class ProposedStream:
    """A parsed key: the stream ID, and which files it proposes."""

    stream_id: str
    key: str
    template: KeyTemplate

    def fits(self, path: str) -> bool:
        """Return whether a file at this path may belong to the stream: at some time its key was this one.

        A match is no proof.
        """
        return self.template.may_be_of(self.key, path)


@dataclass(frozen=True, slots=True)
class KeyTemplate:
    """A validated ``S3_KEY_TEMPLATE`` of one owner: it holds ``{stream_id}`` once, behind a fixed prefix."""

    template: str
    mixes_owners: bool = False
    """Whether other owners' keys have the same prefix."""
    folders: tuple[str, ...] = ()
    """The watch folders, as the paths of files begin; needed for ``{relative_dir}``."""
    zone: tzinfo = UTC
    """The time zone of the date in a key."""

    @classmethod
    def of_owner(
        cls, template: str, owner: str, *, host: str = "", folders: Iterable[str] = (), zone: tzinfo = UTC
    ) -> KeyTemplate:
        """Return the template with the names of the owner and the host in place of ``{owner}`` and ``{host}``."""
        fixed = template.replace(OWNER, owner).replace(HOST, host_text(host))
        return cls(fixed, mixes_owners=OWNER not in template, folders=tuple(folders), zone=zone)

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
        return self.key(str(UUID(int=0)), "cef-trio-probe.mp4", _EPOCH)

    @property
    def example_keys(self) -> tuple[tuple[str, str], ...]:
        """Paths in the watch folder, and the keys of recordings there that began at ``EXAMPLE_BEGAN``."""
        folder = self.folders[0].rstrip("/") if self.folders else ""
        paths = [f"{folder}/{name}" for name in _EXAMPLES]
        ids = [str(UUID(int=number, version=4)) for number in range(1, len(paths) + 1)]
        return tuple((path, self.key(one, path, EXAMPLE_BEGAN)) for one, path in zip(ids, paths, strict=True))

    @property
    def name_bytes(self) -> int:
        """The maximum length of a name in a key, in bytes, so that the metadata's key fits into S3's limit.

        Names leave half of what the template leaves to ``{relative_dir}``.
        """
        names = sum(token in _NAMES for token in _tokens(self.template))
        free = self._free_bytes // 2 if RELATIVE_DIR in self.template else self._free_bytes
        return free // max(names, 1)

    @property
    def _free_bytes(self) -> int:
        """What the template leaves for names and the folder."""
        widths = {STREAM_ID: _UUID_BYTES, RELATIVE_DIR: 0, **dict.fromkeys(_NAMES, 0), **_DATES}
        fixed = sum(widths.get(token, len(token.encode())) for token in _tokens(self.template))
        return MAX_KEY_BYTES - len(METADATA_SUFFIX) - fixed

    def key(self, stream_id: str, path: str, began_at: datetime | None = None) -> str:
        """Return the object key of a stream, its file, and the time when the recording began.

        Raises:
            ValueError: the template has a date, and there is no time.
        """
        dates: dict[str, str] = {}
        if began_at is not None:
            local = began_at.astimezone(self.zone)
            times = (local.year, local.month, local.day, local.hour)
            dates = {field: f"{time:0{digits}}" for (field, digits), time in zip(_DATES.items(), times, strict=True)}
        elif any(field in self.template for field in _DATES):
            raise ValueError(f"a key of {self.template!r} needs the time when the recording began")
        return self._render({STREAM_ID: stream_id, **dates}, path)

    def _render(self, values: Mapping[str, str], path: str) -> str:
        relative = relative_path(path, self.folders)
        folder, _, name = (relative if relative is not None else path.rpartition("/")[2]).rpartition("/")
        stem, ext = _split(name)
        # With a "-" in the extension, a name could end like a stream ID and an extension.
        texts = (key_text(name), key_text(stem), key_text(ext).replace("-", "%2D"))
        names = {field: _shortened(text, self.name_bytes) for field, text in zip(_NAMES, texts, strict=True)}
        tokens = _tokens(self.template)
        left = self._free_bytes - sum(len(names[token].encode()) for token in tokens if token in names)
        values = {**values, **names, RELATIVE_DIR: _shortened_folder(folder_text(folder), left)}
        key = "".join(values.get(token, token) for token in tokens)
        return key if values[RELATIVE_DIR] else "".join(values.get(token, token) for token in _without_folder(tokens))

    def parse(self, key: str) -> ProposedStream | None:
        """Parse a key; return ``None`` if it does not match the template."""
        match = _pattern(self.template).fullmatch(key)
        return ProposedStream(match["stream_id"], key, self) if match else None

    def may_be_of(self, key: str, path: str) -> bool:
        """Return whether a key may be that of a file at this path, at any time."""
        length, fixed = _fixed_text(self, path)
        return len(key) == length and all(key.startswith(text, at) for at, text in fixed)


@lru_cache(maxsize=1024)
def _fixed_text(template: KeyTemplate, path: str) -> tuple[int, tuple[tuple[int, str], ...]]:
    """Return the length of the key of a file at this path, and its text, but ID and date, with the offsets."""
    unknown = {STREAM_ID: _ANY * _UUID_BYTES, **{field: _ANY * digits for field, digits in _DATES.items()}}
    key = template._render(unknown, path)  # noqa: SLF001 - a cached method would keep its template
    return len(key), tuple((match.start(), match[0]) for match in re.finditer(f"[^{_ANY}]+", key))


@lru_cache(maxsize=64)
def _tokens(template: str) -> tuple[str, ...]:
    """Split a template into fields and the text between them."""
    return tuple(token for token in _FIELD.split(template) if token)


def _without_folder(tokens: tuple[str, ...]) -> tuple[str, ...]:
    """Leave ``{relative_dir}`` out, with the slash behind it."""
    if RELATIVE_DIR not in tokens:
        return tokens
    at = tokens.index(RELATIVE_DIR)
    return (*tokens[:at], tokens[at + 1].removeprefix("/"), *tokens[at + 2 :])


@lru_cache(maxsize=64)
def _pattern(template: str) -> re.Pattern[str]:
    text = "".join(_PATTERNS.get(token, re.escape(token)) for token in _tokens(template))
    return re.compile(text.replace(f"{_PATTERNS[RELATIVE_DIR]}/", "(?:[^/]+/)*"))


MAX_METADATA_BYTES: Final = 4 << 20
"""Larger than any metadata JSON: 10,000 parts of some 280 bytes are 2.8 MB. A document of other content costs up to 30
times its size in memory, and blocks the daemon while it is read, so the limit is not larger."""


def metadata_key(object_key: str) -> str:
    """Return the key of an object's metadata JSON."""
    return object_key + METADATA_SUFFIX
