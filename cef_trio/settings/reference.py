"""Makes the reference of the settings, ``example.env`` and ``docs/settings.md``, from the model.

``python -m cef_trio.settings.reference example-env|settings-md`` prints one of them; a test compares both.
"""

from __future__ import annotations

import sys
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from cef_trio.settings.meanings import meanings
from cef_trio.settings.model import Settings
from cef_trio.settings.secret_files import file_variables
from cef_trio.settings.sources import default_text


def example_env() -> str:
    """``example.env``: every setting, its meaning and its default."""
    blocks = [
        (
            "# Every setting of cef-trio; copy this file to .env and edit it. Made by\n"
            "# `python -m cef_trio.settings.reference example-env`."
        ),
        "# A secret may be in a file of its own instead (one line, mode 0600), named by one of these variables:\n# "
        + ", ".join(file_variables(Settings).values()),
    ]
    for name, field in Settings.model_fields.items():
        line = f"{name.upper()}={default_text(field)}"
        blocks.append(f"# {_meaning(name, field)}\n{line if field.is_required() else '#' + line}")
    return "\n\n".join(blocks) + "\n"


def settings_md() -> str:
    """``docs/settings.md``: the same as a table."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "required" if field.is_required() else f"`{default_text(field)}`" if default_text(field) else ""
        rows.append(f"| `{name.upper()}` | {default} | {_meaning(name, field)} |")
    head = (
        "# Settings\n\n"
        "Made by `python -m cef_trio.settings.reference settings-md`. Set them as environment variables, or as lines\n"
        "of a `.env` file in the working directory. The environment overrides it; an empty value counts as unset.\n"
        "`cef-trio check` shows each setting with its source, and every error. A variable that is nearly named as a\n"
        "setting (`S3_ENDPOINT`, `WATCH_DIRECTORY`, `CEF_TRIO_REDIS_URL`) is refused, as it would be ignored; in the\n"
        "environment not if that setting has the same value, or is a URL made from it (`REDIS_URL=redis://$REDIS_HOST`).\n\n"
        "A secret may be in a file of its own, named by one of these variables: "
        f"{', '.join(f'`{variable}`' for variable in file_variables(Settings).values())}.\n"
        "The file contains only the secret, as UTF-8 text of at most 64 KiB; one newline at its end is ignored. To set "
        "both the secret and its file\nis an error. `cef-trio doctor` warns of secret files that every user of "
        "the machine can read ([SECURITY.md](../SECURITY.md)).\n\n"
        "| variable | default | meaning |\n|---|---|---|\n"
    )
    return head + "\n".join(rows) + "\n"


def _meaning(name: str, field: FieldInfo) -> str:
    choices = literal_values(field.annotation)
    meaning = meanings(Settings)[name]
    return f"{meaning} One of: {', '.join(choices)}." if choices else meaning


def literal_values(annotation: Any) -> tuple[str, ...]:
    """The choices of a ``Literal``, also of one that may be ``None``; none if other values are possible too."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if int in get_args(annotation):
        return ()
    return next((choices for inner in get_args(annotation) if (choices := literal_values(inner))), ())


if __name__ == "__main__":
    _pages = {"example-env": example_env, "settings-md": settings_md}
    if len(sys.argv) != 2 or sys.argv[1] not in _pages:  # noqa: PLR2004 - the program and its one argument
        sys.exit(f"usage: python -m cef_trio.settings.reference {'|'.join(_pages)}")
    sys.stdout.write(_pages[sys.argv[1]]())
