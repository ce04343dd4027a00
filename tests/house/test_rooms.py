"""The rooms: imports go through doors, and what is declared pure reaches no I/O, however it is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import cef_trio

ROOT = Path(cef_trio.__file__).parent
MAY_REACH_IN = {"lab"}
"""The laboratory replaces edges and breaks code on purpose; a door for that would be open to all."""
IO = {"trio", "httpx", "redis", "trio_util"}
PURE = sorted(
    [
        "admin.connection_limits",
        "admin.origins",
        "admin.status_page",
        "checkpoint.model",
        "checkpoint.commit",
        "checkpoint.rules",
        "checkpoint.schema",
        "checkpoint.states",
        "checkpoint.verification",
        "checkpoint.claim_wait",
        "checkpoint.redis.address",
        "checkpoint.redis.codec",
        "checkpoint.redis.keys",
        "checkpoint.redis.server_info",
        "cli.checks",
        "cli.command_line",
        "cli.list_selection",
        "cli.object_check",
        "cli.retry_plan",
        "cli.status_model",
        "exceptions",
        "exit_codes",
        "files.file_stat",
        "files.identity",
        "files.time_stamps",
        "http.headers",
        "http.proxy",
        "local.fmp4",
        "local.h264",
        "local.progress",
        "media.metadata",
        "observability.at_risk",
        "observability.daemon_report",
        "observability.fleet",
        "observability.history",
        "observability.snapshot",
        "observability.stream_detail",
        "observability.lag",
        "observability.metric_families",
        "observability.metric_labels",
        "postprocess.after_upload_rules",
        "postprocess.free_space_rules",
        "resilience.backoff",
        "s3.address",
        "s3.response_origin",
        "s3.capabilities",
        "s3.checksums",
        "s3.clock",
        "s3.config",
        "s3.errors",
        "s3.etags",
        "s3.proof",
        "s3.model",
        "s3.signing",
        "s3.token_bucket",
        "s3.xml",
        "s3_endpoint.options",
        "safe_text",
        "settings.after_upload",
        "settings.misspelt",
        "settings.model",
        "settings.object_options",
        "settings.values",
        "settings.upload_rate",
        "settings.watch_exclude",
        "upload.failures",
        "upload.file_state",
        "upload.file_triage",
        "upload.files_without_task",
        "upload.sparse_file_lag",
        "upload.idle_rules",
        "upload.next_action",
        "upload.object_key",
        "upload.part_plan",
        "upload.start_minimum",
        "upload.part_size",
        "upload.webhook_events",
        "upload.work_division",
        "watch.events",
        "watch.patterns",
        "webhook.outcome",
        "webhook.signature",
    ]
)


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


FILES = {module_of(file): file for file in ROOT.rglob("*.py")}
ROOMS = sorted({name for name, file in FILES.items() if file.name == "__init__.py" and name}, key=len, reverse=True)


def room_of(module: str) -> str | None:
    return next((room for room in ROOMS if module == room or module.startswith(room + ".")), None)


@cache
def imports(module: str) -> tuple[tuple[str, str | None], ...]:
    """What a module imports, at whatever depth: the module, and the name that is taken from it."""
    found: list[tuple[str, str | None]] = []
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [(node.module, alias.name) for alias in node.names]
    return tuple(found)


def ours(target: str) -> str | None:
    return target.removeprefix("cef_trio.") if target.startswith("cef_trio.") else "" if target == "cef_trio" else None


def defining(target: str, name: str | None) -> str:
    """The module behind an import of ours: the one that defines the name, where a door only hands it on."""
    if name is not None and (inner := f"{target}.{name}".lstrip(".")) in FILES:
        return inner
    if name is not None and FILES[target].name == "__init__.py":
        for module, handed_on in imports(target):
            if handed_on == name and (source := ours(module)) is not None:
                return defining(source, name)
    return target


def reaches(module: str) -> Iterator[tuple[str, str]]:
    """Every library that a module reaches, with the module of ours that imports it."""
    seen, waiting = {module}, [module]
    while waiting:
        current = waiting.pop()
        for target, name in imports(current):
            inside = ours(target)
            if inside is None:
                yield target.partition(".")[0], current
            elif (source := defining(inside, name)) not in seen:
                seen.add(source)
                waiting.append(source)


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_reaches_no_io(module: str) -> None:
    assert not [found for found in reaches(module) if found[0] in IO]


@pytest.mark.parametrize("module", sorted(FILES))
def test_a_room_is_entered_by_its_door(module: str) -> None:
    here = room_of(module)
    if here is not None and here.partition(".")[0] in MAY_REACH_IN:
        pytest.skip("the laboratory may reach in")
    for target, name in imports(module):
        inside = ours(target)
        room = room_of(inside) if inside else None
        if inside is None or room is None or here == room or f"{here}.".startswith(f"{room}."):
            continue
        if here is not None and room.startswith(f"{here}."):
            continue  # a room in ours
        assert inside == room, f"{module} imports {name} from {target}, not from cef_trio.{room}"
        exported = ast.literal_eval(all_of(room))
        assert name in exported or f"{inside}.{name}" in ROOMS, f"cef_trio.{room} does not hand on {name}"


def all_of(room: str) -> ast.expr:
    tree = ast.parse(FILES[room].read_text())
    return next(
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )


@pytest.mark.parametrize("room", [room for room in ROOMS if "." not in room])
def test_a_door_lists_what_is_behind_it(room: str) -> None:
    text = door_of(room)
    assert len(text) > 60


def door_of(room: str) -> str:
    return ast.get_docstring(ast.parse(FILES[room].read_text())) or ""


@pytest.mark.parametrize("room", [room for room in ROOMS if room.partition(".")[0] not in MAY_REACH_IN])
def test_a_door_names_every_module_of_its_room(room: str) -> None:
    """The laboratory's groups are in a table of `docs/architecture.md`, which `test_docs.py` checks."""
    modules = [file.name for file in FILES[room].parent.glob("*.py") if not file.name.startswith("_")]
    assert [name for name in modules if f"`{name}`" not in door_of(room)] == []


@pytest.mark.parametrize("room", [room for room in ROOMS if "lazy_door" in FILES[room].read_text()])
def test_no_name_of_a_lazy_door_is_also_that_of_a_module_behind_it(room: str) -> None:
    """Once the module is imported, Python sets it as the door's attribute, and the door is not asked for the name."""
    modules = {file.stem for file in FILES[room].parent.glob("*.py")} | {
        folder.name for folder in FILES[room].parent.iterdir() if (folder / "__init__.py").exists()
    }
    exported = {
        alias.asname or alias.name
        for node in ast.walk(ast.parse(FILES[room].read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"cef_trio.{room}.")
        for alias in node.names
    }
    assert exported & modules == set()
