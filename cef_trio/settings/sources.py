"""Each setting with its value and its source, as ``cef-trio check`` shows them. Secrets are masked.

The value is the text that was given, so it can be shown also if it is wrong. Reads the environment and the settings
file; files of secrets are named, and not read.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dotenv import dotenv_values
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from cef_trio.settings.model import Settings
from cef_trio.settings.secret_files import file_variables, is_secret

MASK: Final = "***"
DEFAULT: Final = "default"
ENVIRONMENT: Final = "environment"


@dataclass(frozen=True, slots=True)
class GivenSetting:
    """A setting as it was given, or its default."""

    name: str
    value: str
    """Empty: unset. Without secrets."""
    source: str
    """``default``, ``environment``, ``command line``, or the settings file."""
    says: str = ""
    """How the value was found: the file of a secret, or where a default comes from."""

    @property
    def is_default(self) -> bool:
        """Whether it was not given."""
        return self.source == DEFAULT


def given_settings(env_file: Path | None) -> list[GivenSetting]:
    """Return all settings, in their order. An empty value counts as unset.

    Raises:
        OSError: the settings file cannot be read.
        UnicodeDecodeError: it is not UTF-8.
    """
    in_file = {name.upper(): value for name, value in dotenv_values(env_file).items() if value} if env_file else {}
    in_environment = {name.upper(): value for name, value in os.environ.items() if value}
    secrets = file_variables(Settings)
    found = []
    for field, about in Settings.model_fields.items():
        name, of_file = field.upper(), secrets.get(field, "")
        for source, values in ((ENVIRONMENT, in_environment), (str(env_file), in_file)):
            if of_file in values and not {name, of_file} & in_environment.keys() - values.keys():
                found.append(GivenSetting(name, MASK, source, f"{of_file}={values[of_file]}"))
                break
            if name in values:
                value = masked(field, values[name]) if is_secret(about) else _without_password(values[name])
                found.append(GivenSetting(name, value, source))
                break
        else:
            found.append(GivenSetting(name, default_text(about), DEFAULT))
    return found


def default_text(field: FieldInfo) -> str:
    """Return a setting's default as it would be written; empty without one."""
    if field.default_factory is not None or field.default in {PydanticUndefined, None}:
        return ""
    default = field.default
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    if isinstance(default, tuple):
        return ",".join(default)
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def masked(field: str, value: str) -> str:
    """Return a secret as it may be shown: of ``REDIS_URL`` everything but user, password and options. Pure."""
    if field != "redis_url":
        return MASK
    return re.sub(r"\?.*", f"?{MASK}", _without_password(value), flags=re.DOTALL)


def _without_password(value: str) -> str:
    return re.sub(r"://.*@", f"://{MASK}@", value, flags=re.DOTALL)
