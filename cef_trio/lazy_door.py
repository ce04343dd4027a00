"""Doors of rooms that import a module only when one of its names is used. Standard library only.

A command line is started hundreds of times a day, and ``cef-trio list`` needs neither S3's client nor the metrics. A
door lists its imports as always, but for type checkers, and loads them by name::

    if TYPE_CHECKING:
        from cef_trio.http.headers import parse_http_date
    else:
        __getattr__ = lazy_door(__name__)

``from cef_trio.http import parse_http_date`` then imports ``headers.py`` alone. Modules import at their beginning, so a
daemon still loads everything before it starts.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from importlib.abc import InspectLoader


def lazy_door(door: str) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a door, the package of that name."""

    def load(name: str) -> Any:
        if name not in _sources(door):
            raise AttributeError(f"module {door!r} has no attribute {name!r}")
        module, original = _sources(door)[name]
        loaded = import_module(module)
        value = loaded if original is None else getattr(loaded, original)
        setattr(sys.modules[door], name, value)
        return value

    return load


@cache
def _sources(door: str) -> Mapping[str, tuple[str, str | None]]:
    """Return the names of a door: the module of each, and its name there; ``None``: it is the module itself."""
    spec = find_spec(door)
    loader = cast("InspectLoader", spec.loader if spec is not None else None)
    found: dict[str, tuple[str, str | None]] = {}
    for node in ast.walk(ast.parse(loader.get_source(door) or "")):
        if isinstance(node, ast.ImportFrom) and node.module and f"{node.module}.".startswith(f"{door}."):
            for alias in node.names:
                is_module = node.module == door
                source = (f"{door}.{alias.name}", None) if is_module else (node.module, alias.name)
                found[alias.asname or alias.name] = source
    return found
