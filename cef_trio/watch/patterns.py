"""Which paths are recordings (``WATCH_PATTERNS``), and which are left out (``WATCH_EXCLUDE``). Pure."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cef_trio.files import root_of
from cef_trio.settings import Exclusion

PathMatcher = Callable[[str], bool]


def matcher(patterns: Iterable[str]) -> PathMatcher:
    """Whether a path's last name matches one of the patterns (``*``, ``?``, ``[…]``), upper and lower case alike.

    A name may hold any character, newlines too; ``fnmatch.translate`` lets ``*`` match those.
    """
    pattern = re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns), re.IGNORECASE)

    def matches(path: str) -> bool:
        return pattern.match(os.path.basename(path)) is not None  # noqa: PTH119 - a path of any bytes, as it is

    return matches


@dataclass(frozen=True, slots=True)
class WatchScope:
    """What of the watch folder is watched. Called with a path below it, it returns whether that is a recording."""

    roots: tuple[str, ...]
    """The watch folders."""
    matches: PathMatcher
    """Whether a name is a recording's."""
    exclusion: Exclusion
    link_roots: tuple[str, ...] = ()
    """The folders into which links are followed, resolved (``WATCH_LINK_ROOTS``)."""

    @classmethod
    def around(cls, matches: PathMatcher) -> WatchScope:
        """Return a matcher as a scope: a plain one leaves nothing out."""
        return matches if isinstance(matches, cls) else cls((), matches, Exclusion(()))

    @classmethod
    def of(
        cls,
        roots: str | Iterable[str],
        patterns: Iterable[str],
        exclude: Iterable[str] = (),
        link_roots: Iterable[str] = (),
    ) -> WatchScope:
        """Return the scope of ``WATCH_DIR``, ``WATCH_PATTERNS``, ``WATCH_EXCLUDE`` and ``WATCH_LINK_ROOTS``."""
        folders = (roots,) if isinstance(roots, str) else tuple(roots)
        return cls(folders, matcher(patterns), Exclusion(exclude), tuple(link_roots))

    def tops(self, folder: str) -> tuple[str, ...]:
        """Return the folders that a scan of ``folder`` begins with: all watch folders for the first one."""
        return self.roots if self.roots[:1] == (folder,) else (folder,)

    def is_in_roots(self, path: str) -> bool:
        """Return whether a path is a watch folder or below one. Lexical."""
        return path in self.roots or root_of(path, self.roots) is not None

    def __call__(self, path: str) -> bool:
        """Return whether a file is a recording, by its path."""
        return self.matches(path) and not self.excludes_file(path)

    def excludes_recording(self, path: str) -> bool:
        """Return whether a file has a recording's name, but is left out."""
        return self.matches(path) and not self(path)

    def excludes_file(self, path: str) -> bool:
        """Return whether a file is left out, whatever its name is but for ``WATCH_EXCLUDE``."""
        return self.exclusion.excludes_file(self._relative(path))

    def excludes_folder(self, path: str) -> bool:
        """Return whether a folder, and what is in it, is left out."""
        return self.exclusion.excludes_folder(self._relative(path))

    def _relative(self, path: str) -> str:
        """Return a path relative to its watch folder, or to the root that a link led into; empty: that is the path."""
        for folder in (*self.roots, *self.link_roots):
            if path == folder:
                return ""
        root = self._single_root(path) or root_of(path, (*self.roots, *self.link_roots)) or ""
        return path[len(root) :].lstrip("/")

    def _single_root(self, path: str) -> str | None:
        """Return the only root there is, if the path is below it: the usual case, without normalizing the path."""
        if len(self.roots) != 1 or self.link_roots:
            return None
        return self.roots[0] if path.startswith(f"{self.roots[0].rstrip('/')}/") else None
