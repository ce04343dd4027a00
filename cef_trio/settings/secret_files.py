"""Secrets in files: ``<NAME>_FILE`` for every secret setting.

The value of an environment variable is visible in ``/proc/<pid>/environ``, in a container's inspection and in crash
dumps; a file is visible only to users who may read it. podman, compose and Kubernetes mount secrets as files, and
systemd passes credentials as files.

Read at the start, at SIGHUP (``daemon/reload.py``), and when S3 or Redis refused the credentials
(``s3/credentials.py``; ``checkpoint/redis/store.py``: ``read_url``). ``WEBHOOK_SECRET`` is read at the start only.

No message contains the content of a file. :class:`SecretFiles` is a pydantic-settings source. A file that cannot be
read becomes an :class:`UnreadableSecret`, which no secret field accepts, so that all errors are reported together.
:func:`find_world_readable` checks a file's permissions.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

MAX_SECRET_BYTES: Final = 64 * 1024
_SUFFIX: Final = "_FILE"
_CONTAINER_SECRETS: Final = Path("/run/secrets")
"""Mount point of secrets in podman, compose and ``deploy/``'s Kubernetes manifest. Only the container sees the mount;
the mode is 0444 because they do not know the container's user."""


def is_secret(field: FieldInfo) -> bool:
    """Return whether a setting is secret."""
    return "SecretStr" in str(field.annotation)


def file_variables(settings: type[BaseSettings]) -> dict[str, str]:
    """Return the secret settings of a class: field name → variable that names its file."""
    return {name: name.upper() + _SUFFIX for name, field in settings.model_fields.items() if is_secret(field)}


@dataclass(frozen=True, slots=True)
class UnreadableSecret:
    """Placeholder for a secret that cannot be read; ``line`` is the error."""

    line: str


class SecretFiles(PydanticBaseSettingsSource):
    """Reads the files that ``<NAME>_FILE`` names in ``variables``: all by lower-case name, after precedence."""

    def __init__(self, settings: type[BaseSettings], variables: Mapping[str, str | None]) -> None:
        super().__init__(settings)
        self._variables = variables

    def __call__(self) -> dict[str, Any]:
        """Return the secrets by field; an :class:`UnreadableSecret` for one that cannot be read."""
        found: dict[str, str | UnreadableSecret] = {}
        for name, variable in file_variables(self.settings_cls).items():
            path = self._variables.get(variable.lower())
            if path and name in self.current_state:
                continue  # an override needs no file
            if path and self._variables.get(name):
                found[name] = UnreadableSecret(f"{name.upper()} and {variable} are both set: set one of them")
            elif path:
                found[name] = read_secret(variable, Path(path))
        return found

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Not used: :meth:`__call__` returns all fields."""
        raise NotImplementedError


def read_secret(variable: str, path: Path) -> str | UnreadableSecret:
    """Return the content of a file without its final newline, or the error, which never quotes the content."""
    where = f"{variable}: {str(path)!r}"
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_SECRET_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else "that is no path"
        return UnreadableSecret(f"{where} cannot be read: {reason}")
    if len(raw) > MAX_SECRET_BYTES:
        return UnreadableSecret(f"{where} has more than {MAX_SECRET_BYTES >> 10} KiB: a secret has a few hundred bytes")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return UnreadableSecret(f"{where} is not UTF-8 text")
    secret = text.removesuffix("\n").removesuffix("\r")
    if not secret:
        return UnreadableSecret(f"{where} is empty")
    if any(character < " " or character == "\x7f" for character in secret):
        return UnreadableSecret(
            f"{where} has more than one line or a control character; it must contain the secret only"
        )
    return secret


@dataclass(frozen=True, slots=True)
class WorldReadableFile:
    """A secret file that every user of the machine can read or change."""

    file: str
    mode: str
    """Permissions in octal, such as ``0644``."""

    @property
    def description(self) -> str:
        """One sentence."""
        return f"{self.file!r} contains a secret, and every user of this machine can access it (mode {self.mode})"


def find_world_readable(path: Path) -> WorldReadableFile | None:
    """Return a file if other users can read or change it, else ``None``.

    Only permissions of *others* count, since the group may be the daemon's. A file with mode 0644 in a folder that
    others may not enter (systemd's credentials, ``/root``) does not count, nor does one below ``/run/secrets``.
    """
    try:
        resolved = path.resolve()
        found = resolved.stat()
        reachable = all(folder.stat().st_mode & stat.S_IXOTH for folder in resolved.parents)
    except OSError:
        return None  # reported when the file is read
    if not stat.S_ISREG(found.st_mode) or resolved.is_relative_to(_CONTAINER_SECRETS):
        return None
    if not found.st_mode & (stat.S_IROTH | stat.S_IWOTH) or not reachable:
        return None
    return WorldReadableFile(os.fspath(path), f"{stat.S_IMODE(found.st_mode):04o}")
