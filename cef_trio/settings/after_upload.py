"""``AFTER_UPLOAD`` as a value. Pure; `postprocess/after_upload.py` carries it out."""

from __future__ import annotations

import os.path
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class AfterUploadAction(StrEnum):
    """What is done with a recording whose object is verified."""

    KEEP = "keep"
    DELETE = "delete"
    MOVE = "move"


@dataclass(frozen=True, slots=True)
class AfterUploadRule:
    """An action and, for ``move``, the absolute folder to move to."""

    action: AfterUploadAction
    folder: str = ""

    def __str__(self) -> str:
        """Return the text of the setting."""
        return f"{self.action}:{self.folder}" if self.folder else self.action.value


KEEP_RECORDING: Final = AfterUploadRule(AfterUploadAction.KEEP)


def parse_after_upload(value: object) -> object:
    """Parse ``keep``, ``delete`` or ``move:DIR``, and normalize the folder.

    Raises:
        ValueError: with what the setting takes.
    """
    if not isinstance(value, str):
        return value
    word, colon, folder = value.partition(":")
    word = word.strip().lower()
    if word == AfterUploadAction.MOVE:
        if "\0" in folder or not os.path.isabs(folder):  # noqa: PTH117 - the text, as it stands
            raise ValueError("takes move:DIR with an absolute folder, such as move:/srv/archive")
        return AfterUploadRule(AfterUploadAction.MOVE, os.path.normpath(folder))
    if colon or word not in set(AfterUploadAction):
        raise ValueError("takes keep, delete or move:DIR, such as move:/srv/archive")
    return AfterUploadRule(AfterUploadAction(word))
