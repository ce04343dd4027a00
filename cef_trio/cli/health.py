"""``cef-trio health``: check whether the daemon on this machine is healthy. One GET, one line, exit code 0 or 1.

A container runs this every few seconds, so it imports only the standard library: no settings class, no trio, no rich.
It reads its two settings itself; the environment overrides the ``.env`` file.
"""

from __future__ import annotations

import argparse
import http.client
import os
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cef_trio.cli.arguments import add_common
from cef_trio.cli.json_document import print_document
from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.safe_text import one_line

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8000
_TIMEOUT_SECONDS: Final = 5.0
_MAX_BODY_BYTES: Final = 4096
_MAX_LINE: Final = 200
_ANY: Final[Mapping[str, str]] = {"0.0.0.0": "127.0.0.1", "::": "::1", "[::]": "::1"}  # noqa: S104 - compared only
"""Wildcard addresses to listen on, and the address to connect to instead."""
_OK: Final = 200


class HealthSettingsError(CefMp4ProcessorError):
    """``PROM_HOST`` or ``PROM_PORT`` is wrong."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``health``."""
    add_common(
        parser,
        more="Asks http://PROM_HOST:PROM_PORT/healthz and prints the answer in one line.",
        all_exit_codes="Exit codes: 0 healthy, 1 not, or no answer within 5 seconds, 2 wrong settings or arguments.",
        examples=(
            "cef-trio health",
            "cef-trio health --json",
        ),
    )


def run(arguments: argparse.Namespace) -> int:
    """Ask the daemon, print the response, and return the exit code.

    Raises:
        HealthSettingsError: a setting is invalid.
    """
    host, port = address(os.environ, _of_file(arguments.env_file))
    health = ask(host, port)
    if arguments.json:
        document = {"healthy": health.healthy, "status": health.status, "says": health.says}
        print_document(document)
    else:
        sys.stdout.write(f"{'healthy' if health.healthy else 'unhealthy'}: {health.says}\n")
    return 0 if health.healthy else 1


@dataclass(frozen=True, slots=True)
class Health:
    """The daemon's response; ``status`` is the HTTP status, or ``None`` without a response."""

    healthy: bool
    says: str
    status: int | None = None


def address(environment: Mapping[str, str], file: Mapping[str, str | None]) -> tuple[str, int]:
    """Return the host and port to connect to. An empty setting counts as unset.

    As for the daemon, names may be in lower case, and values have blanks around them.

    Raises:
        HealthSettingsError: the port is invalid.
    """
    found: dict[str, str] = {}
    for values in (file, environment):
        found |= {name.upper(): value.strip() for name, value in values.items() if value}
    host, port = found.get("PROM_HOST", DEFAULT_HOST), found.get("PROM_PORT", str(DEFAULT_PORT))
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise HealthSettingsError(f"PROM_PORT: takes a port from 1 to 65535 to be asked at (it is {port!r})")
    return _ANY.get(host, host).strip("[]"), int(port)


def _of_file(env_file: Path) -> Mapping[str, str | None]:
    if not os.path.isfile(env_file):  # noqa: PTH113 - Path's raises in a folder that this user may not enter
        return {}
    from dotenv import dotenv_values

    try:
        return dotenv_values(env_file)
    except (OSError, UnicodeDecodeError) as error:
        raise HealthSettingsError(f"{env_file} cannot be read as settings: {error}") from error


def ask(host: str, port: int, *, timeout_seconds: float = _TIMEOUT_SECONDS) -> Health:
    """GET ``/healthz``. A connection error means unhealthy."""
    where = f"http://{f'[{host}]' if ':' in host else host}:{port}/healthz"
    try:
        with closing(http.client.HTTPConnection(host, port, timeout=timeout_seconds)) as connection:
            connection.request("GET", "/healthz")
            response = connection.getresponse()
            body = response.read1(_MAX_BODY_BYTES)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Health(healthy=False, says=_line(f"no answer from {where}: {error or type(error).__name__}"))
    text = _line(body.decode(errors="replace"))
    says = f"HTTP {response.status}{': ' + text if text else ''}"
    return Health(healthy=response.status == _OK, says=says, status=response.status)


def _line(text: str) -> str:
    """Return the text on one line, cut to a maximum: it comes from whatever process listens there."""
    return "; ".join(filter(None, map(one_line, text.splitlines())))[:_MAX_LINE]
