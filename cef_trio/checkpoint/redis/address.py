"""Parsing of ``REDIS_URL``. Pure.

=====================================================  ==============================================================
``redis://[user:password@]host[:port][/db]``           one server
``unix://[user:password@]/path/to/socket[?db=0]``      one server on a unix socket
``redis+sentinel://…@host[:port],…/master[/db]``       the server that the sentinels name for ``master``
``redis+cluster://…@host[:port],…``                    a cluster; each owner's keys are in one slot (``keys.py``)
=====================================================  ==============================================================

``rediss``, ``rediss+sentinel`` and ``rediss+cluster`` are the same over TLS; for a server that requires a client
certificate (the default of Redis) add ``?ssl_certfile=/path.pem&ssl_keyfile=/path.pem``. For sentinels with
their own credentials add ``?sentinel_username=…&sentinel_password=…``. User, password and path are percent-decoded.
Other options are rejected: a ``socket_timeout`` in the URL would undo the bound on an exit (P4).

Error messages and ``repr`` contain no password.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

_REDIS_PORT = 6379
_SENTINEL_PORT = 26379
_HIGHEST_PORT = 65535
_IGNORED: Final = dict.fromkeys(map(ord, "\t\r\n"))
"""Characters that ``urlsplit`` removes: the end of the line in a file, for one."""
_ESCAPE: Final = (
    "in user and password '/' is written as %2F, '#' as %23, '?' as %3F, '@' as %40, ':' as %3A and '%' as %25"
)


class Topology(StrEnum):
    """The kind of deployment."""

    SINGLE = "single"
    UNIX = "unix"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A parsed ``REDIS_URL``. ``hosts`` are servers, sentinels or start-up nodes; empty for a unix socket."""

    topology: Topology
    hosts: tuple[tuple[str, int], ...] = ()
    socket_path: str | None = None
    master: str | None = None
    db: int = 0
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    client_certificate_file: str | None = None
    client_key_file: str | None = None
    """``None``: the key is in the certificate file."""

    def __str__(self) -> str:
        """The URL without its credentials, for logs and errors."""
        if self.topology is Topology.UNIX:
            return f"unix://{self.socket_path}"
        scheme = "rediss" if self.tls else "redis"
        if self.topology is not Topology.SINGLE:
            scheme += f"+{self.topology.value}"
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        path = [self.master] if self.master else []
        if self.topology is not Topology.CLUSTER:
            path.append(str(self.db))
        return "/".join([f"{scheme}://{hosts}", *path])

    def differs_in_login_only(self, other: RedisAddress) -> bool:
        """Return whether only the credentials differ."""
        as_theirs = replace(
            self,
            username=other.username,
            password=other.password,
            sentinel_username=other.sentinel_username,
            sentinel_password=other.sentinel_password,
        )
        return self != other and as_theirs == other

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that no message may contain."""
        return tuple(secret for secret in (self.password, self.sentinel_password) if secret)


def parse_address(url: str) -> RedisAddress:
    """Parse a ``REDIS_URL``.

    Raises:
        ValueError: it has none of the forms above. The message contains no credentials.
    """
    parts, netloc = _split(url)
    if "[" in (login := netloc.rpartition("@")[0]) or "]" in login:
        raise ValueError(f"REDIS_URL is not a URL; {_ESCAPE}, '[' as %5B and ']' as %5D")
    if parts.fragment:
        raise ValueError("REDIS_URL: '#' must be written as %23")
    if "@" in parts.path and parts.scheme != "unix":
        raise ValueError(f"REDIS_URL: there is a '/' before the '@'; {_ESCAPE}")
    if parts.scheme not in _FORMS:
        raise ValueError(
            f"REDIS_URL: unknown scheme {parts.scheme!r} (redis, rediss, unix, redis+sentinel, redis+cluster)"
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    username, password, location = _credentials(netloc)
    found = _FORMS[parts.scheme](parts, location, options)
    tls = parts.scheme.startswith("rediss")
    certificate, key = (options.pop(name, None) for name in ("ssl_certfile", "ssl_keyfile")) if tls else (None, None)
    if key and not certificate:
        raise ValueError("REDIS_URL: ssl_keyfile belongs to an ssl_certfile, which is missing")
    if options and "@" in parts.query:  # then an option's name may be a piece of the password
        raise ValueError(f"REDIS_URL: there is a '?' before the '@'; {_ESCAPE}")
    if options:
        raise ValueError(f"REDIS_URL: unknown option {min(options)!r}")
    return replace(
        found, username=username, password=password, tls=tls, client_certificate_file=certificate, client_key_file=key
    )


def _split(url: str) -> tuple[SplitResult, str]:
    """Return a URL's parts, and its hosts with the credentials before them.

    ``urlsplit`` expects one host: since CVE-2024-11168 it refuses a bracket after the first one. Debian's Python 3.11.2
    has that, 3.11.7 has it not.
    """
    scheme, separator, rest = url.translate(_IGNORED).partition("://")
    netloc = rest[: min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))]
    return urlsplit(f"{scheme}{separator}{rest.removeprefix(netloc)}"), netloc


def _unix(parts: SplitResult, location: str, options: dict[str, str]) -> RedisAddress:
    if location or not parts.path.strip("/"):
        raise ValueError("REDIS_URL: a unix socket is unix:///absolute/path")
    return RedisAddress(Topology.UNIX, socket_path=unquote(parts.path), db=_database(options.pop("db", "0")))


def _single(parts: SplitResult, location: str, options: dict[str, str]) -> RedisAddress:
    hosts, path = _hosts(location or "localhost", _REDIS_PORT), _path(parts)
    if len(hosts) != 1 or len(path) > 1:
        raise ValueError("REDIS_URL: one server is redis://host:port/db; for more use redis+sentinel or redis+cluster")
    return RedisAddress(Topology.SINGLE, hosts, db=_database(options.pop("db", path[0] if path else "0")))


def _sentinel(parts: SplitResult, location: str, options: dict[str, str]) -> RedisAddress:
    match _path(parts):
        case [master]:
            db = "0"
        case [master, db]:
            pass
        case _:
            raise ValueError("REDIS_URL: sentinels need the master's name, redis+sentinel://host:26379/master[/db]")
    return RedisAddress(
        Topology.SENTINEL,
        _hosts(location, _SENTINEL_PORT),
        master=master,
        db=_database(db),
        sentinel_username=options.pop("sentinel_username", None),
        sentinel_password=options.pop("sentinel_password", None),
    )


def _cluster(parts: SplitResult, location: str, _options: dict[str, str]) -> RedisAddress:
    if _path(parts) not in ([], ["0"]):
        raise ValueError("REDIS_URL: a cluster has no databases but 0")
    return RedisAddress(Topology.CLUSTER, _hosts(location, _REDIS_PORT))


_FORMS: Final = {
    "unix": _unix,
    "redis": _single,
    "rediss": _single,
    "redis+sentinel": _sentinel,
    "rediss+sentinel": _sentinel,
    "redis+cluster": _cluster,
    "rediss+cluster": _cluster,
}


def _path(parts: SplitResult) -> list[str]:
    return [unquote(piece) for piece in parts.path.split("/") if piece]


def _credentials(netloc: str) -> tuple[str | None, str | None, str]:
    login, at, location = netloc.rpartition("@")
    if not at:
        return None, None, location
    username, _, password = login.partition(":")
    return unquote(username) or None, unquote(password) or None, location


def _hosts(location: str, default_port: int) -> tuple[tuple[str, int], ...]:
    return tuple(_host(text, default_port) for text in location.split(","))


def _host(text: str, default_port: int) -> tuple[str, int]:
    if text.startswith("["):
        host, closing, rest = text[1:].partition("]")
        colon, port = rest[:1], rest[1:]
        well_formed = bool(closing) and colon in {"", ":"}
    else:
        host, colon, port = text.partition(":")
        well_formed = ":" not in port
    if not colon:
        port = str(default_port)
    if not (well_formed and host and _is_number(port) and 0 < int(port) <= _HIGHEST_PORT):
        raise ValueError(f"REDIS_URL: hosts are name:port or [IPv6]:port; {_ESCAPE}")
    try:
        host.encode("idna")  # as at each lookup
    except UnicodeError:
        raise ValueError("REDIS_URL: a host's name has 1 to 63 characters between two dots") from None
    return host, int(port)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _database(text: str) -> int:
    if not _is_number(text):
        raise ValueError("REDIS_URL: the database is a number")
    return int(text)
