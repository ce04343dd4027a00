"""Parsers for the files of ``deploy/``, as far as tests need them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"

Unit = list[tuple[str, str, str]]
"""Section, key and value of each line, in order; a key may stand more than once."""


def documents(path: Path) -> list[Any]:
    """A YAML file's documents."""
    return list(yaml.safe_load_all(path.read_text()))


def unit(path: Path) -> Unit:
    """A systemd unit or quadlet.

    Raises:
        ValueError: a line is neither a section, nor ``key=value``, nor a comment.
    """
    found: Unit = []
    section = ""
    for line in path.read_text().splitlines():
        if not line or line.startswith(("#", ";")):
            continue
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = match[1]
        elif (match := re.fullmatch(r"(\w+)=(.*)", line)) and section:
            found.append((section, match[1], match[2]))
        else:
            raise ValueError(f"{path.name}: {line!r}")
    return found


def values(lines: Unit, section: str, key: str) -> list[str]:
    return [value for in_section, name, value in lines if (in_section, name) == (section, key)]


def value(lines: Unit, section: str, key: str) -> str:
    """The one value of a key."""
    (found,) = values(lines, section, key)
    return found


def environment(lines: Unit, section: str) -> dict[str, str]:
    """All of ``Environment=``; none of ours is quoted."""
    return dict(pair.split("=", 1) for line in values(lines, section, "Environment") for pair in line.split())


def of_kubernetes(kind: str) -> Any:
    """The one object of that kind."""
    (found,) = (document for document in documents(DEPLOY / "kubernetes.yaml") if document["kind"] == kind)
    return found


def dashboard_queries(panels: list[Any]) -> Iterator[str]:
    """Every query of the dashboard's panels."""
    for panel in panels:
        yield from (target["expr"] for target in panel.get("targets", ()))
        yield from dashboard_queries(panel.get("panels", []))
