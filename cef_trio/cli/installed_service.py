"""The settings of the installed systemd service, for commands that an operator runs beside it.

Without this each command would need the unit's environment by hand: ``EnvironmentFile=``, the ``*_FILE`` variables of
its credentials, ``--env-file``. The unit is read with its drop-ins, as systemd.unit(5) merges them, as far as it
concerns settings and rights: ``Environment=``, ``EnvironmentFile=``, ``LoadCredential=``, ``WorkingDirectory=``,
``User=``, ``Group=``, ``SupplementaryGroups=``, ``AmbientCapabilities=``, ``ProtectSystem=``, ``ReadWritePaths=``.
Standard library only, unless a unit is found, because ``cef-trio health`` imports this.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cef_trio.cli.arguments import DEFAULT_ENV_FILE

UNIT: Final = "cef-trio.service"
_FOLDERS: Final = (
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
)
"""By precedence (systemd.unit(5))."""
_ASSIGNMENT: Final = re.compile(r"\s*([A-Za-z]+)\s*=\s*(.*?)\s*\Z")
_QUOTED: Final = re.compile(r"""'[^']*(?:'|\Z)|"(?:\\.|[^"\\])*(?:"|\Z)""", re.DOTALL)
_ENTRY: Final = re.compile(
    rf"^[ \t\r]*(?:[#;](?:\\.|[^\n\\])*|([^=\n#;][^=\n]*?)[ \t]*=((?:[ \t]|{_QUOTED.pattern})*)((?:\\.|[^\n\\])*))$",
    re.DOTALL | re.MULTILINE,
)
"""A comment, or a line of an environment file: its name, quoted texts, and what follows them."""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SPECIFIER: Final = re.compile(r"%(.)")
_CREDENTIALS: Final = re.compile(r"(?:%d|\$\{CREDENTIALS_DIRECTORY\})/([^/]+)\Z")


@dataclass(frozen=True, slots=True)
class InstalledService:
    """What the unit gives its daemon."""

    unit: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    """Its environment. Credentials are named by the files that they are loaded from."""
    environment_files: tuple[Path, ...] = ()
    settings_file: Path | None = None
    """``.env`` in its working directory, if there is one."""
    user: str = "root"
    groups: tuple[str, ...] = ()
    """``Group=`` and ``SupplementaryGroups=``, beside those of the user."""
    may_lease_all: bool = False
    """Whether the daemon has ``CAP_LEASE``."""
    writable: tuple[str, ...] | None = None
    """With ``ProtectSystem=strict`` the folders of ``ReadWritePaths=``: all others are read-only to the daemon."""
    credentials: tuple[str, ...] = ()
    """The files of ``LoadCredential=``, which systemd reads as root."""
    unreadable: tuple[Path, ...] = ()
    """The environment files that this user may not read."""

    def may_write(self, folder: str) -> bool:
        """Return whether the unit lets its daemon write to a folder, or to one below it.

        As far as ``ProtectSystem=`` and ``ReadWritePaths=`` tell: ``ReadOnlyPaths=``, ``ProtectHome=`` and others may
        forbid it.
        """
        if self.writable is None:
            return True
        own = Path(os.path.realpath(folder))
        others = [Path(os.path.realpath(one)) for one in self.writable]
        return any(own.is_relative_to(one) or one.is_relative_to(own) for one in others)

    def missing_in(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the variables that an environment lacks; ``NAME`` and ``NAME_FILE`` are two ways to set one."""
        given = {name.removesuffix("_FILE") for name, value in environment.items() if value}
        return {name: value for name, value in self.variables.items() if name.removesuffix("_FILE") not in given}


def use_installed_service(arguments: argparse.Namespace) -> None:
    """Find the service, for ``arguments.service``, and complete this process's environment with that of the service.

    What this process has is not overridden. The environment stays as it is if another settings file is given, or is in
    the working directory.
    """
    arguments.service = None
    env_file = getattr(arguments, "env_file", None)
    if env_file is None:
        return
    arguments.service = service = find_installed_service()
    if service is None or not (
        env_file in service.environment_files or (env_file is DEFAULT_ENV_FILE and not _exists(env_file))
    ):
        return
    os.environ.update(service.missing_in(os.environ))
    if env_file is DEFAULT_ENV_FILE and service.settings_file is not None:
        arguments.env_file = service.settings_file
    for file in service.unreadable:
        sys.stderr.write(f"cef-trio: this user may not read {file}, the settings of {service.unit.name}: use sudo\n")


def _exists(file: Path) -> bool:
    return os.path.exists(file)  # noqa: PTH110 - Path's raises in a folder that this user may not enter


def find_installed_service(root: Path = Path("/")) -> InstalledService | None:
    """Return the service that is installed below ``root``, or ``None``."""
    folders = [root / folder for folder in _FOLDERS]
    unit = next((folder / UNIT for folder in folders if _exists(folder / UNIT)), None)
    if unit is None:
        return None
    drop_ins = {one.name: one for folder in reversed(folders) for one in (folder / f"{UNIT}.d").glob("*.conf")}
    lines: list[str] = []
    for file in (unit, *(drop_ins[name] for name in sorted(drop_ins))):
        try:
            lines += file.read_text(errors="replace").splitlines()
        except OSError:
            continue  # of a drop-in that only root may read
    return _service(unit, settings_of(lines), root)


def settings_of(lines: Iterable[str]) -> dict[str, list[str]]:
    """Return the assignments of the section ``[Service]`` of a unit and its drop-ins: key → values. Pure.

    An empty assignment removes the earlier values of its key.
    """
    found: dict[str, list[str]] = {}
    section = ""
    for line in _joined(lines):
        if line.startswith("["):
            section = line.strip()
        elif section == "[Service]" and (match := _ASSIGNMENT.match(line)):
            key, value = match.groups()
            found[key] = [*found.get(key, []), value] if value else []
    return found


def _joined(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines without comments, those that end with a backslash joined with the next."""
    begun = ""
    for line in lines:
        if line.lstrip().startswith(("#", ";")):
            continue
        if line.endswith("\\"):
            begun += line[:-1] + " "
        else:
            yield begun + line
            begun = ""


def _service(unit: Path, found: Mapping[str, list[str]], root: Path) -> InstalledService:
    credentials = dict(_pair(value, ":") for value in found.get("LoadCredential", ()))
    variables, files, unreadable = dict[str, str](), list[Path](), list[Path]()
    for text in found.get("Environment", ()):
        for name, value in (_pair(one, "=") for one in _words(text)):
            match = _CREDENTIALS.match(value)
            source = credentials.get(match[1], "") if match else ""
            variables[name] = str(root / source.lstrip("/")) if source else _specified(value, root)
    for text in found.get("EnvironmentFile", ()):
        file = root / text.removeprefix("-").lstrip("/")
        files.append(file)
        try:
            variables |= variables_of(file.read_text(encoding="utf-8", errors="replace"))
        except FileNotFoundError:
            continue
        except OSError:
            unreadable.append(file)
    folder = root / _last(found, "WorkingDirectory", "").removeprefix("-").lstrip("/")
    settings_file = folder / ".env"
    return InstalledService(
        unit=unit,
        variables={name: value for name, value in variables.items() if value},
        environment_files=tuple(files),
        settings_file=settings_file if "WorkingDirectory" in found and os.access(settings_file, os.R_OK) else None,
        user=_last(found, "User", "root"),
        groups=tuple(
            name
            for text in (*found.get("Group", ())[-1:], *found.get("SupplementaryGroups", ()))
            for name in text.split()
        ),
        may_lease_all="CAP_LEASE" in _last(found, "AmbientCapabilities", "").split(),
        writable=_writable(found) if _last(found, "ProtectSystem", "") == "strict" else None,
        credentials=tuple(str(root / source.lstrip("/")) for source in credentials.values() if source),
        unreadable=tuple(unreadable),
    )


def _writable(found: Mapping[str, list[str]]) -> tuple[str, ...]:
    return tuple(word.lstrip("-+") for text in found.get("ReadWritePaths", ()) for word in _words(text))


def _specified(value: str, root: Path) -> str:
    """Return a value of ``Environment=`` with its specifiers replaced (systemd.unit(5)), as far as they name the host.

    ``%%`` is one ``%``, as in the password of a URL.
    """
    host = socket.gethostname()
    texts = {"%": "%", "H": host, "l": host.partition(".")[0], "n": UNIT, "N": Path(UNIT).stem, "p": Path(UNIT).stem}
    if "%m" in value:
        with suppress(OSError):
            texts["m"] = (root / "etc/machine-id").read_text().strip()
    return _SPECIFIER.sub(lambda match: texts.get(match[1], match[0]), value)


def _words(text: str) -> list[str]:
    """Return the words of a value; none if a quotation mark has no other: systemd ignores the line then."""
    try:
        return shlex.split(text)
    except ValueError:
        return []


def variables_of(text: str) -> dict[str, str]:
    """Parse an ``EnvironmentFile=`` as systemd.exec(5) does. Pure.

    A comment begins a line: ``A=x # y`` is ``x # y``. Text after a quoted one belongs to the value.
    """
    found = {}
    for match in _ENTRY.finditer(text):
        name, quoted, plain = match.groups()
        if name is not None and _NAME.fullmatch(name):
            parts = [_unquoted(part) for part in _QUOTED.findall(quoted)]
            kept = re.sub(r"(?<!\\)((?:\\\\)*)[ \t\r]+\Z", r"\1", plain)
            found[name] = "".join([*parts, re.sub(r"\\(.)", _escaped, kept, flags=re.DOTALL)])
    return found


def _unquoted(part: str) -> str:
    if part.startswith("'"):
        return part[1:].removesuffix("'")
    inner = part[1:-1] if part.endswith('"') and len(part) > 1 else part[1:]
    return re.sub(r'\\(["\\`$\n])', _escaped, inner)


def _escaped(match: re.Match[str]) -> str:
    return "" if match[1] == "\n" else match[1]


def _last(found: Mapping[str, list[str]], key: str, default: str) -> str:
    return (found.get(key) or [default])[-1]


def _pair(text: str, separator: str) -> tuple[str, str]:
    name, _, value = text.partition(separator)
    return name, value
