"""Which file names are recordings (``WATCH_PATTERNS``). Pure."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterable

PathMatcher = Callable[[str], bool]


def matcher(patterns: Iterable[str]) -> PathMatcher:
    """Whether a path's last name matches one of the patterns (``*``, ``?``, ``[…]``), upper and lower case alike.

    A name may hold any character, newlines too; ``fnmatch.translate`` lets ``*`` match those.
    """
    pattern = re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns), re.IGNORECASE)

    def matches(path: str) -> bool:
        return pattern.match(os.path.basename(path)) is not None  # noqa: PTH119 - a path of any bytes, as it is

    return matches
