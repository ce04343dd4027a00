"""A command loads only what it needs: counted by modules, as times depend on the machine.

``benchmarks/cli_start.py`` measures the seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cef_trio.cli.main import COMMANDS
from cef_trio.settings.model import Settings

ROOT = Path(__file__).parents[2]
HEAVY = {
    "awscrt",
    "boto3",
    "botocore",
    "h11",
    "httpcore",
    "httpx",
    "inotify_simple",
    "prometheus_client",
    "cef_trio.admin",
    "cef_trio.daemon.main",
    "cef_trio.lab",
    "cef_trio.local",
    "cef_trio.postprocess",
    "cef_trio.s3_endpoint",
    "cef_trio.watch",
    "cef_trio.webhook",
}
S3 = {"boto3", "botocore", "cef_trio.admin", "cef_trio.daemon.main", "cef_trio.lab", "cef_trio.postprocess"}
"""What not even a command loads that needs S3."""
LIGHT = HEAVY | {"trio", "redis", "pydantic", "rich", "structlog", "ssl", "asyncio"}
NOT_LOADED = {
    "list": HEAVY | {"cef_trio.observability.fleet", "cef_trio.upload", "cef_trio.s3", "cef_trio.media"},
    "show": HEAVY,
    "status": HEAVY - {"awscrt"},
    "fleet": HEAVY - {"awscrt"},
    "health": LIGHT - {"ssl"},
    "run": LIGHT,
    "demo": LIGHT,
}


def loaded(statement: str) -> set[str]:
    """The modules that a statement imports, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", f"import json, sys; {statement}; print(json.dumps(sorted(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=ROOT,
    )
    return set(json.loads(done.stdout))


@pytest.mark.real
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_loads_nothing_heavy_that_it_does_not_need(command: str) -> None:
    assert loaded(f"import cef_trio.cli.{command}") & NOT_LOADED.get(command, S3) == set()


@pytest.mark.real
def test_the_help_and_the_version_load_no_library() -> None:
    assert loaded("from cef_trio.cli.main import make_parser; make_parser([])") & LIGHT == set()


@pytest.mark.real
def test_no_garbage_is_looked_for_while_a_command_is_imported_but_it_is_afterwards() -> None:
    """The collector's passes over what imports make are a twentieth of the start, and find nothing."""
    collected = "gc.get_stats()[2]['collections']"
    loaded(
        f"import gc; from cef_trio.cli.main import make_parser; before = {collected}; make_parser(['list']); "
        f"assert {collected} == before; assert gc.isenabled() and gc.get_freeze_count()"
    )


def test_the_texts_of_the_settings_are_read_when_they_are_shown_not_when_they_are_imported() -> None:
    """pydantic's way reads and parses ``model.py`` at every import, a tenth of the start of ``list``."""
    assert not any(field.description for field in Settings.model_fields.values())


@pytest.mark.real
@pytest.mark.parametrize("door", ["daemon", "http", "observability", "s3"])
def test_a_lazy_door_hands_on_all_of_its_names_and_nothing_else(door: str) -> None:
    assert not {name for name in loaded(f"import cef_trio.{door}") if name.startswith(f"cef_trio.{door}.")}
    names = f"import cef_trio.{door} as door; assert all(getattr(door, name) is not None for name in door.__all__)"
    loaded(names)
    with pytest.raises(subprocess.CalledProcessError):
        loaded(f"from cef_trio.{door} import no_such_name")
