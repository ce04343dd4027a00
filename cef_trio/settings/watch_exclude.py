"""``WATCH_EXCLUDE``: which files and folders below the watch folder are left out. Pure.

A pattern without ``/`` is compared with each name in a path (``.*``, ``@eaDir``). A pattern with ``/`` is compared with
the path relative to the watch folder, name by name: ``*`` matches within one name, ``**`` any number of names. What is
below an excluded folder is excluded. A pattern that ends in ``/``, ``/*`` or ``/**`` excludes the folder itself too, as
nothing in it is left. Upper and lower case are alike, as in ``WATCH_PATTERNS``.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import lru_cache
from itertools import product
from typing import Final

DEFAULT_EXCLUDE: Final = (".*", "#recycle", "#snapshot", "@eaDir", "@Recycle", "?RECYCLE.BIN", "lost+found")
"""Hidden files and folders (``._*`` of macOS, ``.Trash-1000``), and what file servers keep beside the recordings."""
_DEFAULT_WORD: Final = "default"
_NONE_WORD: Final = "none"
_ANY_NAMES: Final = "**"
_CACHED_FOLDERS: Final = 4096
_ALL_IN_IT: Final = re.compile(r"(/\*{0,2})+$")

_Name = re.Pattern[str] | None
"""The pattern of one name; ``None``: any number of names."""


def parse_exclude(value: object) -> object:
    """Parse a comma-separated list; ``default`` in it stands for the default patterns, ``none`` alone is empty."""
    if not isinstance(value, str):
        return value
    given = [part.strip() for part in value.split(",") if part.strip()]
    if [part.lower() for part in given] == [_NONE_WORD]:
        return ()
    found: list[str] = []
    for pattern in given:
        if pattern.lower() in {_NONE_WORD, f"{_DEFAULT_WORD}s"}:
            raise ValueError(f"takes {_NONE_WORD} alone, and {_DEFAULT_WORD} among patterns, such as default,tmp/**")
        found += DEFAULT_EXCLUDE if pattern.lower() == _DEFAULT_WORD else [pattern]
    return tuple(dict.fromkeys(found))


def check_exclude(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Check the patterns: each names something below the watch folder.

    Raises:
        ValueError: a pattern can match nothing, or is meant as something else.
    """
    for pattern in patterns:
        if re.search(r"[;|\n]", pattern):
            raise ValueError(f"{pattern!r} is one pattern: separate patterns by commas, such as @eaDir,tmp/**")
        if pattern.startswith("!"):
            raise ValueError(f"no pattern such as {pattern!r} takes another one back: exclude less")
        names = pattern.strip("/").split("/")
        if any(name in {"", ".", ".."} for name in names):
            raise ValueError(
                f"the pattern {pattern!r} can match nothing: take names such as @eaDir, or paths relative to WATCH_DIR "
                "such as tmp/** and */incoming/*"
            )
    return patterns


class Exclusion:
    """Which paths, relative to the watch folder, are excluded."""

    def __init__(self, patterns: Iterable[str]) -> None:
        names: list[str] = []
        folder_names: list[str] = []
        self._paths: list[tuple[Sequence[_Name], bool]] = []
        """Patterns with ``/``, and whether each is of folders only."""
        for pattern in patterns:
            # What is in an excluded folder is excluded, so the end needs no pattern of its own.
            path = _ALL_IN_IT.sub("", pattern)
            only_folders = path != pattern
            if path.strip("/") in {"", _ANY_NAMES}:
                names.append("*")
            elif "/" in pattern.rstrip("/"):
                self._paths.append((_compiled(path.strip("/").split("/")), only_folders))
            else:
                (folder_names if only_folders else names).append(path)
        self._file_names, self._folder_names = _one_of(names), _one_of([*names, *folder_names])
        """The patterns without ``/``."""
        self._excludes_folder = lru_cache(maxsize=_CACHED_FOLDERS)(self._excludes_one_of)

    def excludes_file(self, relative: str) -> bool:
        """Return whether a file is excluded, by itself or by a folder in its path."""
        names = relative.split("/")
        if self.excludes_folder(relative.rpartition("/")[0]) or self._file_names.match(names[-1]):
            return True
        return any(len(names) in _fitting(path, names) for path, only_folders in self._paths if not only_folders)

    def excludes_folder(self, relative: str) -> bool:
        """Return whether a folder is excluded, by itself or by a folder in its path; the watch folder (empty) never."""
        return bool(relative) and self._excludes_folder(relative)

    def _excludes_one_of(self, relative: str) -> bool:
        """As :meth:`excludes_folder`. No recursion: folders may be nested deeper than Python's stack."""
        names = relative.split("/")
        return any(map(self._folder_names.match, names)) or any(_fitting(path, names) for path, _ in self._paths)


def _one_of(patterns: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(fnmatch.translate, patterns)) or r"(?!)", re.IGNORECASE)


def _compiled(names: Iterable[str]) -> Sequence[_Name]:
    return [None if name == _ANY_NAMES else _one_of([name]) for name in names]


def _fitting(pattern: Sequence[_Name], names: Sequence[str]) -> Collection[int]:
    """Return which beginnings of a path fit a pattern, by how many names they have."""
    counts: Collection[int] = (0,)
    for one in pattern:
        if one is None:
            counts = range(min(counts), len(names) + 1) if counts else ()
        else:
            counts = [count + 1 for count in counts if count < len(names) and one.match(names[count])]
    return counts


_SAMPLES: Final = ("recording", "7", "2026-01-31 23.59", "Ä_z-x")
"""What stands for ``*`` in sample names. They have little in common, so what excludes all of them excludes all."""
_FOLDERS: Final = ("", "cam 1/", "Übung/2026/01/")


def excludes_everything(exclude: Iterable[str], patterns: Iterable[str]) -> bool:
    """Return whether no recording is left: no sample of a name that matches ``WATCH_PATTERNS``, at no depth."""
    is_excluded: Callable[[str], bool] = Exclusion(exclude).excludes_file
    samples = [_sample(pattern, text) for pattern in patterns for text in _SAMPLES]
    return all(is_excluded(folder + name) for folder, name in product(_FOLDERS, samples))


def _sample(pattern: str, text: str) -> str:
    """Return a name that matches a pattern."""
    without_sets = re.sub(r"\[(!?)(.)[^]]*\]", lambda found: "~" if found[1] else found[2], pattern)
    return without_sets.replace("?", text[-1]).replace("*", text)
