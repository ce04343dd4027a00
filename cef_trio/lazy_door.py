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
        module = _sources(door).get(name)
        if module is None:
            raise AttributeError(f"module {door!r} has no attribute {name!r}")
        loaded = import_module(module)
        value = loaded if module == f"{door}.{name}" else getattr(loaded, name)
        setattr(sys.modules[door], name, value)
        return value

    return load


@cache
def _sources(door: str) -> Mapping[str, str]:
    """Return the names of a door with the modules that have them, from the imports in its source."""
    spec = find_spec(door)
    loader = cast("InspectLoader", spec.loader if spec is not None else None)
    found = {}
    for node in ast.walk(ast.parse(loader.get_source(door) or "")):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(door):
            for alias in node.names:
                found[alias.name] = f"{door}.{alias.name}" if node.module == door else node.module
    return found
