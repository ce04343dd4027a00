"""``docs/events.md`` names every event that the source logs, with its level and its fields, and no other."""

from __future__ import annotations

import ast
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

import cef_trio

PACKAGE = Path(cef_trio.__file__).parent
PAGE = PACKAGE.parent / "docs" / "events.md"
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
NOT_FIELDS = {"exc_info", "stack_info"}
REST = "…"


@dataclass(frozen=True, slots=True)
class Logged:
    """One call of a logger. ``exception`` logs at the level error."""

    event: str
    level: str
    fields: frozenset[str]


def logged_in(source: str) -> list[Logged]:
    """Every call ``log.<level>(…)`` in the source."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="log"), attr=level)) if level in LEVELS:
                match node.args:
                    case [ast.Constant(value=str(event))]:
                        fields = {keyword.arg or REST for keyword in node.keywords} - NOT_FIELDS
                        level = "error" if level == "exception" else level
                        found.append(Logged(event, level, frozenset(fields)))
                    case _:
                        raise AssertionError(f"line {node.lineno}: an event is one literal string, and fields by name")
    return found


def logged() -> dict[tuple[str, str], frozenset[str]]:
    """``(event, level)`` → all the fields that it may have."""
    found: dict[tuple[str, str], frozenset[str]] = defaultdict(frozenset)
    for path in PACKAGE.rglob("*.py"):
        for call in logged_in(path.read_text()):
            found[call.event, call.level] |= call.fields
    return dict(found)


def documented() -> dict[tuple[str, str], frozenset[str]]:
    found = {}
    for line in PAGE.read_text().splitlines():
        if line.startswith("| `"):
            event, level, when, fields = (cell.strip() for cell in line.strip("|").split("|"))
            assert when.endswith("."), line
            key = (event.strip("`"), level)
            assert key not in found, f"{key} is there twice"
            found[key] = frozenset(field.strip().strip("`") for field in fields.split(",") if field.strip())
    return found


def test_the_check_finds_every_way_to_log() -> None:
    assert logged_in("log.info('a', b=1, **more)") == [Logged("a", "info", frozenset({"b", REST}))]
    assert logged_in("log.exception(\n  'a',\n  exc_info=e)") == [Logged("a", "error", frozenset())]
    with pytest.raises(AssertionError, match="literal"):
        logged_in("log.info(f'{a}')")
    with pytest.raises(AssertionError, match="literal"):
        logged_in("log.info('a %s', 1)")


def test_every_logger_has_the_name_that_the_check_looks_for() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assign) and "structlog.get_logger" in ast.unparse(node.value):
                assert ast.unparse(node.targets[0]) == "log", path


def test_every_event_is_in_the_table_and_the_table_has_no_other() -> None:
    assert set(logged()) == set(documented())


def test_the_fields_are_those_of_the_source() -> None:
    source, page = logged(), documented()
    assert {key: sorted(source[key]) for key in source} == {key: sorted(page[key]) for key in page}


def test_event_names_are_snake_case_and_short() -> None:
    for event, _ in logged():
        assert event.isidentifier()
        assert event == event.lower()
        assert len(event) <= 40
