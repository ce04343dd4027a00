"""Parsers and checks of single values, with their error messages. Pure.

Each function returns the parsed value or raises ``ValueError`` with what the setting takes; ``model.py`` prepends the
variable's name. No message contains the value, which may be a secret.
"""

from __future__ import annotations

import base64
import difflib
import re
from collections.abc import Mapping
from ipaddress import IPv6Address
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BeforeValidator, SecretStr

from cef_trio.settings.object_options import CONTENT_TYPES, parse_tags

_UNITS: Final = {
    "": 1,
    "b": 1,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
_SIZE: Final = re.compile(r"\s*(\d{1,18})\s*([a-z]*)\s*", re.IGNORECASE)
_REDIS_SCHEMES: Final = (
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)
_WEBHOOK_SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what every such secret begins with
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
OTHER_SEPARATOR: Final = re.compile(r"[,;|\s]\s*/")
"""Between two paths, in place of the colon."""
_REGION: Final = re.compile(r"[A-Za-z0-9._-]+")
_HOST_NAME: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_TEMPLATE_BYTES: Final = 800
_KEY_BYTES: Final = 1024 - len(".metadata.json")
_LEAST_NAME_BYTES: Final = 120
_SHOWN_CHARACTERS: Final = 200
_SEVERAL_PATTERNS: Final = re.compile(r"\.\w+[\s;|:]+\*?\.")
"""Two extensions with something else than a comma between them: ``*.mp4;*.mkv``."""
_DEFAULT_TEMPLATE: Final = "streams/{owner}/{stream_id}/{file_name}"
_KEY_FIELDS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "owner": 63,
        "host": 128,
        "relative_dir": 0,
        "year": 4,
        "month": 2,
        "day": 2,
        "hour": 2,
        "file_name": 0,
        "file_stem": 0,
        "file_ext": 0,
        "stream_id": 36,
    }
)
"""The fields of a key template, and their most bytes; names and folders are cut (``upload/object_key.py``)."""
_MEANT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "date": "{year}-{month}-{day}",
        "time": "{hour}",
        "minute": "{hour}",
        "id": "{stream_id}",
        "uuid": "{stream_id}",
        "dir": "{relative_dir}",
        "folder": "{relative_dir}",
        "path": "{relative_dir}",
        "camera": "{relative_dir}",
        "extension": "{file_ext}",
        "instance_id": "{host}",
    }
)
"""Fields that other programs have."""
_OWNER: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_RESERVED: Final = frozenset({"fleet"})
"""Namespaces in Redis that are no owner's."""


def size_in_bytes(value: object) -> object:
    """Parse a size: a number of bytes, or a number with a unit."""
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value)
    unit = match[2].lower() if match else ""
    if match is None or unit not in _UNITS:
        raise ValueError("takes a size in bytes, such as 10485760 or 10MiB")
    return int(match[1]) * _UNITS[unit]


AUTO: Final = "auto"
_LEAST_PART_BYTES: Final = 5 << 20
_MOST_PART_BYTES: Final = 5 << 30


def part_size(value: object) -> object:
    """Parse the size of parts: ``auto``, or a size that S3 takes for a part."""
    if isinstance(value, str) and value.strip().lower() == AUTO:
        return AUTO
    try:
        size = size_in_bytes(value)
    except ValueError:
        size = None
    if not isinstance(size, int) or not _LEAST_PART_BYTES <= size <= _MOST_PART_BYTES:
        raise ValueError("takes auto, or a size from 5MiB to 5GiB, such as 10485760 or 10MiB")
    return size


def patterns(value: object) -> object:
    """Parse a comma-separated list."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def watch_patterns(value: tuple[str, ...]) -> tuple[str, ...]:
    """Check patterns of recordings' names: each can match one. A daemon that finds nothing would look healthy."""
    if not value:
        raise ValueError("takes names of recordings with * and ?, such as *.mp4,*.mkv")
    for pattern in value:
        extension = pattern.removeprefix(".").lower()
        if "/" in pattern:
            raise ValueError(
                f"the pattern {pattern!r} can match no name: take names such as *.mp4; WATCH_DIR chooses folders, and "
                "WATCH_EXCLUDE leaves some out"
            )
        if _SEVERAL_PATTERNS.search(pattern) or pattern.count("{") != pattern.count("}"):
            raise ValueError(f"{pattern!r} is one pattern: separate patterns by commas, such as *.mp4,*.mkv")
        if extension in CONTENT_TYPES:
            raise ValueError(f"the pattern {pattern!r} is a whole name; did you mean *.{extension}?")
    return value


def watch_dir(value: Path) -> Path:
    """Check that the first of several watch folders is named: an empty name would be the working directory."""
    if str(value).startswith(":"):
        raise ValueError("takes a folder, or several such as /srv/a:/srv/b; the first one has no name")
    return value


def folders(value: object) -> object:
    """Parse a list of absolute paths, separated by colons as in PATH."""
    if not isinstance(value, str):
        return value
    found = tuple(dict.fromkeys(part for part in value.split(":") if part))
    if any(not part.startswith("/") or OTHER_SEPARATOR.search(part) for part in found):
        raise ValueError("takes absolute paths of folders, separated by colons, such as /mnt/a:/mnt/b")
    return found


def host_names(value: object) -> object:
    """Parse a comma-separated list of host names; convert to lower case. What no request can name is refused."""
    if not isinstance(value, str):
        return value
    found = [name.rstrip(".") for name in map(str.strip, value.lower().split(",")) if name]
    if not all(map(_HOST_NAME.fullmatch, found)):
        raise ValueError("takes host names without scheme, port and *, such as status.example.com,recorder.example.com")
    return tuple(found)


def key_prefix(value: str) -> str:
    """Check a prefix of keys in Redis: other text cannot be sent, which would look like an outage."""
    if not value.isprintable():  # a byte that is not UTF-8 is a surrogate here, which is not printable
        raise ValueError("takes printable text in UTF-8, such as cef-trio:")
    return value


def region(value: str) -> str:
    """Check the name of a region: another one cannot be signed."""
    if not _REGION.fullmatch(value):
        raise ValueError("takes the name of a region, such as eu-central-1")
    return value


def listen_host(value: str) -> str:
    """Check an address or a host name to listen at; an IPv6 address may be in brackets."""
    host = value.strip()
    inner = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if ":" in inner:
        try:
            return str(IPv6Address(inner))
        except ValueError:
            inner = ""
    if not inner.isascii() or not inner.isprintable() or not inner or re.search(r"[\s/*@\[\]]", inner):
        raise ValueError("takes an address or a host name such as 127.0.0.1, 0.0.0.0 or ::1; the port is PROM_PORT")
    return inner


def tags(value: object) -> object:
    """Parse tags: ``key=value,key=value``."""
    return parse_tags(value) if isinstance(value, str) else value


def is_owner_name(text: str) -> bool:
    """Return whether a text may be an owner's name: it is part of keys in Redis and S3."""
    return _OWNER.fullmatch(text) is not None and text not in _RESERVED


def owner_name(value: str) -> str:
    """Check an owner's name; empty is derived later."""
    if value and not is_owner_name(value):
        raise ValueError("takes 1 to 63 of a-z, 0-9, '.', '_' and '-', the first a letter or digit, such as node-7")
    return value


def key_template(value: str) -> str:
    """Check a key template: it has a fixed prefix, the stream's id, and an unambiguous place for each field."""
    found = _fault_of(value)
    if found is None:
        return value
    why, corrected = found
    if corrected is None:
        raise ValueError(why)
    fits = len(corrected) <= _SHOWN_CHARACTERS and _fault_of(corrected) is None
    raise ValueError(f"{why}; such as {corrected if fits else _DEFAULT_TEMPLATE!r}")


def _fault_of(value: str) -> tuple[str, str | None] | None:  # noqa: PLR0911 - a return a rule
    """Return the first fault of a template, and the template without it, if that helps."""
    fields = re.findall(r"\{([^{}]*)\}", value)
    folders = value.split("/")
    unknown = [name for name in fields if name not in _KEY_FIELDS]
    if unknown:
        return _unknown_field(unknown[0]), None
    if set("{}") & set(re.sub(r"\{[^{}]*\}", "", value)):
        return "must have braces around fields only, such as {stream_id}", None
    twice = [name for name in fields if fields.count(name) > 1]
    if twice:
        return f"must not contain {{{twice[0]}}} more than once", None
    if not value.isprintable() or len(value.encode()) > _TEMPLATE_BYTES:
        return f"must be at most {_TEMPLATE_BYTES} bytes of printable text: a key has 1,024, names included", None
    if {"", ".", ".."} & set(folders):
        begins, ends = not folders[0], not folders[-1]
        wrong = "begin with '/'" if begins else "end with '/'" if ends else "have '//', '/./' or '/../'"
        return f"must not {wrong}", "/".join(one for one in folders if one not in {"", ".", ".."})
    if "stream_id" not in fields:
        return "must contain {stream_id}, which makes each key unique", _with_stream_id(value)
    if folders[0].startswith("{") and not folders[0].startswith(("{owner}", "{host}")):
        return "must begin with a fixed prefix, by which our uploads are found", f"recordings/{value}"
    return _misplaced_field(value, fields, folders) or _why_too_long(value, fields)


def _misplaced_field(value: str, fields: list[str], folders: list[str]) -> tuple[str, str | None] | None:
    if "owner" in fields and ("{owner}/" not in value or set(fields[: fields.index("owner")]) - {"host"}):
        return "must have {owner} at the end of a folder, before other fields", _DEFAULT_TEMPLATE
    if "relative_dir" in fields and "{relative_dir}" not in folders[:-1]:
        corrected = re.sub("//+", "/", value.replace("{relative_dir}", "/{relative_dir}/")).strip("/")
        return "must have {relative_dir} as a folder of its own", corrected
    if {one.replace("{file_ext}", "") for one in folders if "{file_ext}" in one} & {"", ".", ".."}:
        return "must have other text beside {file_ext}, because a file may have no extension", None
    before, _, behind = next(one for one in folders if "{stream_id}" in one).partition("{stream_id}")
    if "{file_" in before and "{file_" in behind.removesuffix("{file_ext}"):
        return (
            "must not have names on both sides of {stream_id} in a folder, but {file_ext} at its end: names hold ids",
            value.replace(behind, "{file_ext}"),
        )
    return None


def _why_too_long(value: str, fields: list[str]) -> tuple[str, None] | None:
    fixed = len(re.sub(r"\{[^{}]*\}", "", value).encode()) + sum(_KEY_FIELDS[name] for name in fields)
    left = _KEY_BYTES - fixed
    if left >= _LEAST_NAME_BYTES:
        return None
    most = f"a key has 1,024 bytes, and {_LEAST_NAME_BYTES} are for the file's name and folder"
    return f"must be {_LEAST_NAME_BYTES - left} bytes shorter, with the longest names of owner and host: {most}", None


def _unknown_field(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), _KEY_FIELDS, n=1, cutoff=0.5)
    meant = _MEANT.get(name.lower()) or (f"{{{close[0]}}}" if close else None)
    shown = f"field {{{name}}}" if re.fullmatch(r"[ -~]{1,40}", name) else "such field"
    hint = f"did you mean {meant}?" if meant else f"its fields are {', '.join(f'{{{field}}}' for field in _KEY_FIELDS)}"
    return f"has no {shown}; {hint}"


def _with_stream_id(value: str) -> str:
    """Return the template with ``{stream_id}`` where it hinders least: before the extension, or as a folder."""
    if value.endswith("{file_ext}"):
        return f"{value.removesuffix('{file_ext}')}-{{stream_id}}{{file_ext}}"
    folder, _, name = value.rpartition("/")
    return f"{folder}/{{stream_id}}/{name}" if folder else f"{name}/{{stream_id}}"


def time_zone(value: str) -> str:
    """Check the name of a time zone."""
    try:
        ZoneInfo(value)
    except (ValueError, KeyError, OSError):  # a ZoneInfoNotFoundError is a KeyError; a folder of zones is an OSError
        names = {name.lower(): name for name in sorted(available_timezones())}
        # Abbreviations are near to wrong ones (CEST and EST), and the signs of Etc/GMT+1 are reversed: never proposed.
        cities = {name.rpartition("/")[2]: name for name in names if "/" in name and not name.startswith("etc/")}
        wanted = value.strip().lower().replace(" ", "_")
        exact = [wanted] if wanted in names else []
        near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.8) if "/" in wanted else []
        close = exact or near or [cities[one] for one in difflib.get_close_matches(wanted, cities, n=1, cutoff=0.8)]
        hint = f"; did you mean {names[close[0]]}?" if close else ""
        raise ValueError(f"takes the name of a time zone, such as Europe/Berlin or UTC{hint}") from None
    return value


def redis_url(value: SecretStr) -> SecretStr:
    """Check the scheme of a Redis URL; ``checkpoint/redis/address.py`` parses the rest."""
    scheme = value.get_secret_value().partition("://")[0]
    if scheme not in _REDIS_SCHEMES:
        raise ValueError(f"must begin with one of {', '.join(f'{scheme}://' for scheme in _REDIS_SCHEMES)}")
    return value


def printable_ascii(value: SecretStr) -> SecretStr:
    """Check a secret that is sent in a header."""
    # A line break would make the HTTP library quote the secret in its error.
    if not re.fullmatch(r"[!-~]*", value.get_secret_value()):
        raise ValueError("must be printable ASCII without spaces")
    return value


def secret_key(value: SecretStr) -> SecretStr:
    """Check a secret that signs: what an editor or a shell puts around it would only be a wrong signature."""
    text = value.get_secret_value()
    if text != text.strip().strip("\ufeff") or re.fullmatch(r"(['\"]).*\1", text, re.DOTALL):
        raise ValueError("has blanks, quotes or a byte order mark around it, which are part of it here: remove them")
    return value


def endpoint_url(value: str) -> str:
    """Check the URL of an S3 endpoint; strip a final slash."""
    if _http_url(value) is None or re.search(r"[\s?#]", value):
        raise ValueError("must be a URL such as https://s3.example.com or http://127.0.0.1:9000")
    if "@" in value:
        raise ValueError("must not contain a user or password: set S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY")
    return value.rstrip("/")


def bucket_name(value: str) -> str:
    """Check a bucket name."""
    # Less strict than AWS for new buckets: older ones and other stores allow capitals and underscores.
    if not _BUCKET.fullmatch(value):
        raise ValueError("takes 3 to 63 letters, digits, '.', '-' and '_', with a letter or digit at both ends")
    return value


def proxy_url(value: SecretStr) -> SecretStr:
    """Check the URL of an HTTP proxy."""
    url = value.get_secret_value()
    parts = _http_url(url)
    if url.lower().startswith("https://"):
        raise ValueError(
            "must begin with http://: the proxy itself is spoken to without TLS; to an https server it passes TLS on"
        )
    if parts is None or not url.isascii() or not url.isprintable() or re.search(r"[\s?#\\]", url):
        raise ValueError(
            "must be a URL such as http://proxy.example.com:3128 or http://user:password@proxy.example.com:3128, with "
            "other characters than letters, digits, '-', '.', '_' and '~' of user and password as %XX"
        )
    if parts.path not in {"", "/"}:
        raise ValueError("must have nothing after the port, such as http://proxy.example.com:3128")
    return value


def webhook_url(value: SecretStr) -> SecretStr:
    """Check the URL of a webhook receiver."""
    url = value.get_secret_value()
    parts = _http_url(url)
    if parts is None or not url.isascii() or not url.isprintable() or re.search(r"[\s#\\]", url):
        raise ValueError("must be a URL such as https://example.com/recordings?token=x, in ASCII, without '#'")
    if "@" in parts.netloc:
        raise ValueError("must not contain a user or password: WEBHOOK_SECRET authenticates the sender")
    return value


def webhook_secret(value: SecretStr) -> SecretStr:
    """Check a secret of Standard Webhooks (``whsec_`` and base64)."""
    encoded = value.get_secret_value().removeprefix(_WEBHOOK_SECRET_PREFIX)
    try:
        size_bytes = len(base64.b64decode(encoded, validate=True))
    except ValueError:
        size_bytes = 0
    if not (value.get_secret_value().startswith(_WEBHOOK_SECRET_PREFIX) and 24 <= size_bytes <= 64):  # noqa: PLR2004
        raise ValueError(
            'takes whsec_ and the base64 of 24 to 64 bytes, as of: echo "whsec_$(openssl rand -base64 32)"'
        )
    return value


def in_any_case(*words: str) -> BeforeValidator:
    """Ignore case: ``info`` becomes ``INFO``. Other values are unchanged, so that the error shows them."""

    def find(value: object) -> object:
        same = [word for word in words if isinstance(value, str) and word.lower() == value.strip().lower()]
        return same[0] if same else value

    return BeforeValidator(find)


def named_path(value: Path) -> Path:
    """Check that a path holds no NUL character."""
    if "\0" in str(value):  # a settings file after a power failure may hold them
        raise ValueError("must be a path with no NUL character")
    return value


def _http_url(text: str) -> SplitResult | None:
    """Split a URL with a host; ``None`` if invalid."""
    try:
        parts = urlsplit(text)
        well_formed = parts.scheme in {"http", "https"} and parts.hostname and (parts.port is None or parts.port > 0)
        if well_formed and parts.netloc.isascii():
            (parts.hostname or "").encode("idna")  # as at each lookup; httpx has other rules for further characters
    except ValueError:  # invalid port or IPv6 address, an empty label or one of more than 63 characters
        return None
    return parts if well_formed else None
