"""The schemas of the commands' JSON documents, as ``docs/json/`` publishes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

FOLDER = Path(__file__).parents[2] / "docs" / "json"


def check_document(name: str, document: Any) -> None:
    """Check a document against a schema, or against that of a failed command; a field that it lacks is an error."""
    name = "error" if set(document) == {"version", "error"} else name
    file = FOLDER / f"{name}.schema.json"
    schema = json.loads(file.read_text())
    errors = [
        f"{'/'.join(map(str, error.absolute_path))}: {error.message}"
        for error in Draft202012Validator(closed(schema)).iter_errors(document)
    ]
    assert errors == [], f"{file.relative_to(FOLDER.parents[1])} does not describe this document: {errors}"


def closed(schema: Any) -> Any:
    """The schema without room for fields that it does not name."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    more = {"additionalProperties": False} if "properties" in schema and schema.get("type") == "object" else {}
    return {**more, **{name: closed(one) for name, one in schema.items()}}
