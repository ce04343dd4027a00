"""P4: every shield has an end. The source is read: ``shield`` stands in one helper, nowhere else."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import pytest
import trio
import trio.testing

import cef_trio
from cef_trio.resilience.shield import shielded

PACKAGE = Path(cef_trio.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
HELPER = PACKAGE / "resilience/shield.py"


def shields(source: str) -> list[int]:
    """Lines that shield: ``shield=…`` in a call, or ``….shield = …``."""
    tree = ast.parse(source)
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "shield":
            lines.append(node.value.lineno)
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            lines += [
                target.lineno for target in targets if isinstance(target, ast.Attribute) and target.attr == "shield"
            ]
    return lines


def names_used(source: str, name: str) -> list[int]:
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if (isinstance(node, ast.Attribute) and node.attr == name) or (isinstance(node, ast.Name) and node.id == name)
    ]


def test_the_check_finds_every_way_to_shield() -> None:
    assert shields("with trio.CancelScope(shield=True): pass") == [1]
    assert shields("scope.shield = True") == [1]
    assert shields("trio.move_on_after(1, shield=x)") == [1]
    assert shields("shielded(1, saving='x')") == []


def test_shields_stand_in_the_one_helper_only() -> None:
    assert SOURCES
    assert shields(HELPER.read_text()) != []
    assert {path: lines for path in SOURCES if path != HELPER and (lines := shields(path.read_text()))} == {}


def test_nothing_else_keeps_cancellation_waiting() -> None:
    """``cancel_shielded_checkpoint`` is a shield too; only the in-process stores may imitate a thread's with it."""
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in SOURCES
        if names_used(path.read_text(), "cancel_shielded_checkpoint")
    }
    assert users <= {"checkpoint/memory.py"}


def test_a_call_that_changes_something_is_never_abandoned() -> None:
    """``abandon_on_cancel=True`` is for reads: disk, folders, writers, credentials, certificates, settings.

    And for the watch folder's lock, which the end of the process releases.
    """
    users = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.keyword)
                and node.arg == "abandon_on_cancel"
                and not (isinstance(node.value, ast.Constant) and node.value.value is False)
            ):
                users.add(path.relative_to(PACKAGE).as_posix())
    assert users <= {
        "daemon/owner_name.py",
        "files/reader.py",
        "http/tls.py",
        "media/ffprobe.py",
        "cli/check.py",
        "cli/probes.py",
        "files/mounts.py",
        "s3/credentials.py",
        "daemon/watch_folder.py",
        "cli/session.py",
        "local/valkey.py",
        "resilience/threads.py",
        "daemon/reload.py",
    }


@pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan])
def test_a_shield_without_an_end_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="finite"), shielded(seconds, saving="nothing"):
        pass


async def test_a_cancellation_waits_for_the_shielded_body_and_comes_right_after(
    autojump_clock: trio.testing.MockClock,
) -> None:
    saved = False
    with trio.CancelScope() as outer:
        outer.cancel()
        with shielded(5, saving="the state"):
            await trio.sleep(1)
            saved = True
        await trio.lowlevel.checkpoint()
        pytest.fail("the cancellation was lost")
    assert saved
    assert outer.cancelled_caught
    assert trio.current_time() == pytest.approx(1)


async def test_a_shielded_body_that_hangs_is_left_when_its_time_is_over(autojump_clock: trio.testing.MockClock) -> None:
    with trio.CancelScope() as outer:
        outer.cancel()
        with shielded(5, saving="the state") as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught
    assert trio.current_time() == pytest.approx(5)
