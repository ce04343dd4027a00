"""Secrets that stand in files: ``<NAME>_FILE`` for every setting whose value must not be seen.

A value in an environment variable is shown by ``/proc/<pid>/environ``, by a container's inspection and by a crash dump;
a file is shown to who may read it. podman, compose and Kubernetes mount secrets as files, and systemd hands credentials
over as files: to each belongs a variable that names the file.

No message contains the content of a file. :class:`SecretFiles` is a pydantic-settings source. A file that cannot be
read becomes an :class:`UnreadableSecret`, which no secret field accepts, so that all errors are reported together.
:func:`exposure` checks a file's permissions.
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
_HANDED_OVER: Final = Path("/run/secrets")
"""Where podman and compose mount secrets by default, and our Kubernetes manifest does: in a mount that only the
container has, with mode 0444 since they cannot know its user. Who else could read them there is root."""


def is_secret(field: FieldInfo) -> bool:
    """Whether a setting's value must never be seen."""
    return "SecretStr" in str(field.annotation)


def file_variables(settings: type[BaseSettings]) -> dict[str, str]:
    """The secret settings of a class: name of the field → the variable that may name its file."""
    return {name: name.upper() + _SUFFIX for name, field in settings.model_fields.items() if is_secret(field)}


@dataclass(frozen=True, slots=True)
class UnreadableSecret:
    """Stands where a secret should, and is none: ``line`` says why."""

    line: str


class SecretFiles(PydanticBaseSettingsSource):
    """Reads the files that ``<NAME>_FILE`` names, in the environment or in a file of settings.

    Args:
        settings: the class of settings.
        variables: what is set, names in lower case; of two places with the same variable the one that counts.
    """

    def __init__(self, settings: type[BaseSettings], variables: Mapping[str, str | None]) -> None:
        super().__init__(settings)
        self._variables = variables

    def __call__(self) -> dict[str, Any]:
        """The secrets by field; an :class:`UnreadableSecret` for one that cannot be had."""
        found: dict[str, str | UnreadableSecret] = {}
        for name, variable in file_variables(self.settings_cls).items():
            path = self._variables.get(variable.lower())
            if path and name in self.current_state:
                continue  # given by the program itself, which asks for no file
            if path and self._variables.get(name):
                found[name] = UnreadableSecret(f"{name.upper()} and {variable} are both set: set one of them")
            elif path:
                found[name] = read_secret(variable, Path(path))
        return found

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Not asked: :meth:`__call__` gives all at once."""
        raise NotImplementedError


def read_secret(variable: str, path: Path) -> str | UnreadableSecret:
    """What a file holds, without the newline at its end; why not, without a word of what it holds."""
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
            f"{where} holds more than one line, or a control character: it is to hold the secret alone"
        )
    return secret


@dataclass(frozen=True, slots=True)
class Exposure:
    """A file with a secret in it that every user of the machine may read or change."""

    file: str
    mode: str
    """Its rights as chmod writes them, ``0644``."""

    @property
    def says(self) -> str:
        """One sentence."""
        return f"{self.file!r} holds a secret, and is open to every user of this machine (mode {self.mode})"


def exposure(path: Path) -> Exposure | None:
    """Judge a file's rights; ``None`` if others cannot get at it, or if whoever mounted it answers for that.

    Only what *others* may do counts: a group may be the daemon's own. A file with mode 0644 in a folder that others may
    not enter is not exposed (systemd's credentials, ``/root``). Under ``/run/secrets`` nothing is: see there.
    """
    try:
        resolved = path.resolve()
        found = resolved.stat()
        reachable = all(folder.stat().st_mode & stat.S_IXOTH for folder in resolved.parents)
    except OSError:
        return None  # that it cannot be looked at is told by whoever reads it
    if not stat.S_ISREG(found.st_mode) or resolved.is_relative_to(_HANDED_OVER):
        return None
    if not found.st_mode & (stat.S_IROTH | stat.S_IWOTH) or not reachable:
        return None
    return Exposure(os.fspath(path), f"{stat.S_IMODE(found.st_mode):04o}")
