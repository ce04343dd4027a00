"""Encoding of checkpoints: flat hash fields for a record, one JSON value per part. Pure.

An encoded value decodes to an equal value, whatever bytes a file name has. Unknown fields (of a newer version) are
ignored, and no write changes them. A known field that cannot be decoded raises :class:`CorruptFieldError`; nothing is
guessed.

- Times are ISO 8601 in UTC with microseconds and ``Z``: they sort as text as they sort in time.
- Checksums are 16 hexadecimal digits, paths are the raw bytes of the file system (``os.fsencode``).
- ``identity`` is flattened into ``file_dev``, ``file_ino``, ``head_size_bytes``, ``head_crc64nvme`` and, where the file
  system tells it, ``file_generation``; ``file_birth_ns``, ``file_fs_type``, ``file_fs_id`` and ``file_mount`` are empty
  where it is not reported, since a file that moved to another file system must not keep what the first one reported.
- ``owner`` is flattened likewise: ``owner_machine``, ``owner_file_system``, ``owner_mount``, empty where unknown, and
  ``owner``, its name, which the scripts compare.
- ``schema`` is the record's schema (``checkpoint/schema.py``), 1 without the field. A newer record is not decoded.
- ``None`` is a field that is not there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

from cef_trio.checkpoint import schema
from cef_trio.checkpoint.model import FileIdentity, Owner, PartRecord, StreamMeta
from cef_trio.checkpoint.states import Status, StreamSet

_CRC64_DIGITS: Final = re.compile(r"[0-9a-f]{16}")
_PART_NUMBERS: Final = range(1, 10_001)
_MOST_PART_BYTES: Final = 5 << 30
"""S3's limits (https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html). Past them, ``upload/part_plan.py``
has no place in the file, or one that no system call takes as an offset."""
_HEAD_SIZES: Final = range(4096 + 1)
"""How many first bytes an identity covers (``files/identity.py``): that many are read at once."""
_MOST_DIGITS: Final = 30
"""More than any time stamp of a file has, in nanoseconds, and few enough for a float."""


class CorruptFieldError(ValueError):
    """A known field with a value that cannot be decoded."""

    def __init__(self, field: str, why: str) -> None:
        self.field = field
        super().__init__(f"field {field!r} {why}")


class NewerSchemaError(ValueError):
    """A record of a newer schema, which is not decoded."""

    def __init__(self, schema: int) -> None:
        self.schema = schema
        super().__init__(f"schema {schema}")


def encode_time(value: datetime) -> str:
    """Encode a time as ``2026-01-31T12:00:00.000000Z``.

    Raises:
        ValueError: the time is naive, or UTC has none such (the first and last hours of ``datetime``).
    """
    if value.tzinfo is None:
        raise ValueError(f"a checkpoint's times are aware; {value!r} is not")
    try:
        in_utc = value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{value!r} is no time in UTC") from error
    return in_utc.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


_FIRST_YEAR: Final = 1900
_LAST_YEAR: Final = 9000
"""A few centuries before the last year of :class:`datetime`, so that no sum with a time overflows."""


def decode_time(text: str) -> datetime:
    """Decode a time that :func:`encode_time` encoded.

    Raises:
        ValueError: the text has another form.
    """
    value = datetime.fromisoformat(text)
    if value.tzinfo is None:
        raise ValueError("is a time without its zone")
    if not _FIRST_YEAR <= value.year <= _LAST_YEAR:
        raise ValueError("is no time of a recording")
    return value.astimezone(UTC)


def encode_crc64(value: int) -> str:
    """Encode a checksum as 16 hexadecimal digits.

    Raises:
        ValueError: the value does not fit into 64 bits.
    """
    if not 0 <= value < 1 << 64:
        raise ValueError(f"{value} is no 64-bit checksum")
    return f"{value:016x}"


def decode_crc64(text: str) -> int:
    """Decode a checksum that :func:`encode_crc64` encoded.

    Raises:
        ValueError: the text has another form.
    """
    if _CRC64_DIGITS.fullmatch(text) is None:
        raise ValueError("is not 16 hexadecimal digits")
    return int(text, 16)


def _decode_bool(text: str) -> bool:
    try:
        return {"true": True, "false": False}[text]
    except KeyError:
        raise ValueError("is neither true nor false") from None


def _decode_path(text: str) -> str:
    if "\0" in text:  # no file system has such a name, and Python's calls reject it
        raise ValueError("is no path, which holds no NUL")
    return text


def _encode_text(text: str) -> bytes:
    # Surrogate escapes are how Python spells the bytes of a path; they also get into texts that quote a path. This is
    # os.fsencode as it is on every Linux with UTF-8 mode or a UTF-8 locale, and the same on a host with another one.
    return text.encode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class _Form:
    """Encoder and decoder of one kind of value."""

    encode: Callable[[Any], str]
    decode: Callable[[str], Any]


def _decode_integer(text: str) -> int:
    value = int(text)
    if abs(value) >= 10**_MOST_DIGITS:
        raise ValueError(f"has more than {_MOST_DIGITS} digits")
    return value


def _decode_count(text: str) -> int:
    value = int(text)
    if not 0 <= value < 1 << 64:
        raise ValueError("is no number from 0 to 2^64 - 1")
    return value


def _decode_positive(text: str) -> int:
    value = _decode_count(text)
    if value == 0:
        raise ValueError("is not at least 1")
    return value


def _decode_head_size(text: str) -> int:
    value = int(text)
    if value not in _HEAD_SIZES:
        raise ValueError(f"is no number from 0 to {_HEAD_SIZES[-1]}")
    return value


def _decode_part_size(text: str) -> int:
    value = _decode_positive(text)
    if value > _MOST_PART_BYTES:
        raise ValueError(f"is more than a part's {_MOST_PART_BYTES} bytes")
    return value


def _decode_part_number(text: str) -> int:
    value = int(text)
    if value not in _PART_NUMBERS:
        raise ValueError(f"is no part number, 1 to {_PART_NUMBERS[-1]}")
    return value


def _decode_seconds(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("is no number of seconds")
    return value


_TEXT: Final = _Form(str, str)
_PATH: Final = _Form(str, _decode_path)
_INTEGER: Final = _Form(lambda value: str(int(value)), _decode_integer)
_COUNT: Final = _Form(lambda value: str(int(value)), _decode_count)
_POSITIVE: Final = _Form(lambda value: str(int(value)), _decode_positive)
_PART_SIZE: Final = _Form(lambda value: str(int(value)), _decode_part_size)
_HEAD_SIZE: Final = _Form(lambda value: str(int(value)), _decode_head_size)
_SECONDS: Final = _Form(lambda value: repr(float(value)), _decode_seconds)
_BOOL: Final = _Form(lambda value: "true" if value else "false", _decode_bool)
_TIME: Final = _Form(encode_time, decode_time)
_CRC64: Final = _Form(encode_crc64, decode_crc64)
_STATUS: Final = _Form(lambda value: Status(value).value, Status)
_SCHEMA: Final = _Form(lambda value: str(int(value)), schema.parse)

_FORMS: Final[Mapping[str, _Form]] = MappingProxyType(
    {
        "stream_id": _TEXT,
        "original_path": _PATH,
        "current_path": _PATH,
        "s3_bucket": _TEXT,
        "s3_key_prefix": _TEXT,
        "part_size": _PART_SIZE,
        "equal_parts": _BOOL,
        "started_at_utc": _TIME,
        "last_activity_at_utc": _TIME,
        "status": _STATUS,
        "failure_reason": _TEXT,
        "s3_upload_id": _TEXT,
        "checksum_algorithm": _TEXT,
        "total_bytes_sent": _COUNT,
        "next_part_to_upload": _POSITIVE,
        "parts_rewritten": _COUNT,
        "bytes_rewritten": _COUNT,
        "uploads_restarted": _COUNT,
        "retry_at_utc": _TIME,
        "retry_attempts": _COUNT,
        "object_etag": _TEXT,
        "object_crc64nvme": _CRC64,
        "verified_size_bytes": _COUNT,
        "verified_mtime_ns": _INTEGER,
        "verified_crc64nvme": _CRC64,
        "completed_at_utc": _TIME,
        "duration_seconds": _SECONDS,
        "broken": _TEXT,
        "let_go_at_utc": _TIME,
        "let_go_size_bytes": _COUNT,
        "let_go_mtime_ns": _INTEGER,
        "supersedes_stream_id": _TEXT,
        "supersedes_key": _TEXT,
        "s3_endpoint": _TEXT,
        "recording_began_at_utc": _TIME,
        schema.FIELD: _SCHEMA,
    }
)
_IDENTITY_FORMS: Final[Mapping[str, _Form]] = MappingProxyType(
    {"file_dev": _COUNT, "file_ino": _COUNT, "head_size_bytes": _HEAD_SIZE, "head_crc64nvme": _CRC64}
)
_GENERATION: Final = "file_generation"
_OPTIONAL_IDENTITY_FORMS: Final[Mapping[str, _Form]] = MappingProxyType(
    {"birth_ns": _INTEGER, "fs_type": _TEXT, "fs_id": _TEXT, "mount": _TEXT}
)
_OWNER: Final = "owner"
_OWNER_FORMS: Final[Mapping[str, _Form]] = MappingProxyType({"machine": _TEXT, "file_system": _TEXT, "mount": _PATH})
OWNER_FIELDS: Final = tuple(f"owner_{part}" for part in _OWNER_FORMS)
"""The fields of a record that hold the fields of :class:`Owner`, in their order."""
# Without its status a record says nothing about how to go on, so it is required although the model has a default.
_REQUIRED: Final = {field.name for field in fields(StreamMeta) if field.default is MISSING} | {"status"}


FIELD_NAMES: Final = frozenset(
    {
        *_FORMS,
        *_IDENTITY_FORMS,
        _GENERATION,
        *(f"file_{part}" for part in _OPTIONAL_IDENTITY_FORMS),
        _OWNER,
        *(f"owner_{part}" for part in _OWNER_FORMS),
    }
)
"""The hash fields of a record."""


def encode_field(name: str, value: Any) -> dict[str, bytes]:
    """Return the hash fields of one field: several for ``identity`` and ``owner``. Not for a value of ``None``.

    Raises:
        ValueError: there is no such field, or its value cannot be stored.
    """
    if name == "identity":
        encoded = {part: _encode_text(form.encode(getattr(value, part))) for part, form in _IDENTITY_FORMS.items()}
        if value.generation is not None:
            encoded[_GENERATION] = _encode_text(_INTEGER.encode(value.generation))
        for part, form in _OPTIONAL_IDENTITY_FORMS.items():
            reported = getattr(value, part)
            encoded[f"file_{part}"] = b"" if reported is None else _encode_text(form.encode(reported))
        return encoded
    if name == _OWNER:
        encoded = {_OWNER: value.name.encode()}
        for part in _OWNER_FORMS:
            encoded[f"owner_{part}"] = _encode_text(getattr(value, part) or "")
        return encoded
    if name not in _FORMS:
        raise ValueError(f"a checkpoint has no field {name!r}")
    return {name: _encode_text(_FORMS[name].encode(value))}


def encode_meta(meta: StreamMeta) -> dict[str, bytes]:
    """Encode a record as hash fields.

    Raises:
        ValueError: a value cannot be stored (a naive time, a checksum of more than 64 bits).
    """
    encoded: dict[str, bytes] = {}
    for field in fields(StreamMeta):
        value = getattr(meta, field.name)
        if value is not None:
            encoded.update(encode_field(field.name, value))
    return encoded


def decode_meta(raw: Mapping[bytes, bytes], *, of: str | None = None) -> StreamMeta:
    """Decode a record from its hash fields; ``of``: the stream id in their key.

    Raises:
        NewerSchemaError: the record is of a newer schema.
        CorruptFieldError: a field is missing, or its value cannot be read; or ``stream_id``
            differs from ``of``.
    """
    values: dict[str, Any] = {schema.FIELD: _readable_schema(raw)}
    for name, form in _FORMS.items():
        value = raw.get(name.encode())
        if value is not None:
            values[name] = _decode(name, form, value)
        elif name in _REQUIRED:
            raise CorruptFieldError(name, "is missing")
    identity: dict[str, Any] = {}
    for name, form in _IDENTITY_FORMS.items():
        value = raw.get(name.encode())
        if value is None:
            raise CorruptFieldError(name, "is missing")
        identity[name] = _decode(name, form, value)
    generation = raw.get(_GENERATION.encode())
    if generation is not None:
        identity["generation"] = _decode(_GENERATION, _INTEGER, generation)
    for name, form in _OPTIONAL_IDENTITY_FORMS.items():
        if reported := raw.get(f"file_{name}".encode()):
            identity[name] = _decode(f"file_{name}", form, reported)
    if of is not None and values["stream_id"] != of:
        raise CorruptFieldError("stream_id", f"is another stream's, {values['stream_id']!r}")
    if raw.get(_OWNER.encode()) is not None:
        owner_fields = {part: raw.get(f"owner_{part}".encode()) for part in _OWNER_FORMS}
        values[_OWNER] = Owner(
            **{part: _decode(f"owner_{part}", _OWNER_FORMS[part], text) for part, text in owner_fields.items() if text}
        )
    return StreamMeta(identity=FileIdentity(**identity), **values)


def _readable_schema(raw: Mapping[bytes, bytes]) -> int:
    stored = raw.get(schema.FIELD.encode())
    found: int = 1 if stored is None else _decode(schema.FIELD, _SCHEMA, stored)
    if schema.is_newer(found):
        raise NewerSchemaError(found)
    return found


def of_newer(raw: Mapping[bytes, bytes], stream_set: StreamSet | None) -> schema.NewerRecord:
    """Return what every schema keeps of a record that is of a newer one."""
    return schema.NewerRecord(
        schema=raw[schema.FIELD.encode()].decode(errors="replace"),
        stream_set=stream_set,
        current_path=raw.get(b"current_path"),
        owner=raw.get(_OWNER.encode(), b"").decode(errors="replace"),
    )


def _decode(name: str, form: _Form, raw: bytes) -> Any:
    try:
        return form.decode(raw.decode("utf-8", "surrogateescape"))
    except (ValueError, OverflowError) as error:
        raise CorruptFieldError(name, f"cannot be read from {raw[:80]!r}: {error}") from error


def encode_path(path: str) -> bytes:
    """Encode a path as a field of ``streams:by_path``."""
    return _encode_text(path)


COUNT_FIELD: Final = b"\0streams"
"""The field of ``streams:by_path`` that holds the number of streams in the four sets; no path begins so."""


def path_field(path: str, owner: str = "") -> bytes:
    """Return the field of ``streams:by_path`` for a path; with ``owner``, the field of an owner that is not the first.

    It is the plain path as long as all streams of that path have one owner.
    """
    return beside(encode_path(path), owner)


def beside(path: bytes, owner: str) -> bytes:
    """Return :func:`path_field` of an encoded path."""
    return path + (b"\0" + owner.encode() if owner else b"")


def encode_part(part: PartRecord) -> bytes:
    """Return the JSON value of a part. Equal records give equal bytes, by which ``commit.lua`` detects a repetition.

    Raises:
        ValueError: a value cannot be stored.
    """
    value: dict[str, Any] = {
        "etag": part.etag,
        "size": part.size_bytes,
        "crc64nvme": encode_crc64(part.crc64nvme),
        "uploaded_at_utc": encode_time(part.uploaded_at_utc),
    }
    if part.checksum is not None:
        value["checksum"] = part.checksum
    return json.dumps(value, separators=(",", ":")).encode()


def decode_part(number: bytes, raw: bytes) -> PartRecord:
    """Decode a field of ``stream:<id>:parts``.

    Raises:
        CorruptFieldError: its number or its JSON cannot be read.
    """
    name = repr(number)[2:-1]
    try:
        value = json.loads(raw)
        etag, size, checksum = value["etag"], value["size"], value.get("checksum")
        if not isinstance(etag, str) or type(size) is not int or not isinstance(checksum, str | None):
            raise TypeError("has a value of another type")  # noqa: TRY301 - one handler for all errors in the JSON
        if not 0 <= size <= _MOST_PART_BYTES:
            raise ValueError("has a size that no part has")  # noqa: TRY301 - one handler for all errors in the JSON
        return PartRecord(
            part_number=_decode_part_number(number.decode()),
            etag=etag,
            size_bytes=size,
            crc64nvme=decode_crc64(value["crc64nvme"]),
            uploaded_at_utc=decode_time(value["uploaded_at_utc"]),
            checksum=checksum,
        )
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError) as error:
        raise CorruptFieldError(name, f"cannot be read from {raw[:80]!r}: {error}") from error
