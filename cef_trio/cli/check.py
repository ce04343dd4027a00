"""``cef-trio check``: the settings that ``run`` would use, without starting anything.

Each setting with its source, one line for each error, and object keys for example recordings. Nothing is asked over the
network: that is what ``cef-trio doctor`` does.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio
from rich.text import Text

from cef_trio.cli import output
from cef_trio.cli.arguments import add_common, add_owner, owner_override
from cef_trio.cli.checks import FolderFacts
from cef_trio.cli.output import Column
from cef_trio.cli.probes import folder_facts
from cef_trio.cli.redis_session import files_of_settings
from cef_trio.daemon import OwnerName, checkpoint_store, find_owner, key_template, s3_client, webhook_clients
from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.exit_codes import ExitCode
from cef_trio.resilience import SingleAttempt, run_in_thread
from cef_trio.settings import (
    GivenSetting,
    Settings,
    SettingsError,
    check_folders,
    given_settings,
    read_settings,
    split_watch_dir,
    world_readable_secrets,
)
from cef_trio.upload import EXAMPLE_BEGAN

_FOLDER_SECONDS: Final = 10.0
"""How long looking into one watch folder may take."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``check``."""
    add_common(
        parser,
        more="Reads the environment and the settings file, and looks at the folders; asks neither Redis nor S3 "
        "(`cef-trio doctor` does).",
        all_exit_codes="Exit codes: 0 all are valid, 2 wrong settings or arguments.",
        examples=("cef-trio check", "cef-trio check --changed --env-file /etc/cef-trio/cef-trio.env"),
    )
    add_owner(parser)
    parser.add_argument("--changed", action="store_true", help="show only the settings that are not defaults")


def run(arguments: argparse.Namespace) -> int:
    """Run ``check`` and return its exit code: ``BAD_SETTINGS`` if anything is wrong."""
    overrides = owner_override(arguments)
    settings, errors = _settings(arguments.env_file, overrides)
    owner: OwnerName | None = None
    if settings is not None:
        owner, more = _owner(settings)
        errors += [*more, *(_unfit_clients(settings, owner) if owner is not None else ())]
    shown = _given(arguments.env_file, overrides, settings, owner)
    examples = key_template(settings, owner.name).example_keys if settings is not None and owner is not None else ()
    looked_into = trio.run(_look_into_folders, settings) if settings is not None and not errors else []
    folders = [one for one in looked_into if one.is_folder and one.readable]
    warnings = _warnings(arguments.env_file) + [
        f"WATCH_DIR: {one.path!r} is missing, or this user may not read it: `cef-trio run` starts without it, and "
        "watches it once it can be read"
        for one in looked_into
        if one not in folders
    ]
    if arguments.json:
        output.print_json(
            {
                "ok": not errors,
                "errors": errors,
                "warnings": warnings,
                "settings": [asdict(one) for one in shown if not (arguments.changed and one.is_default)],
                "examples": [{"path": path, "key": key} for path, key in examples],
                "folders": [_folder_document(one) for one in folders],
            }
        )
    else:
        _print(shown, errors, warnings, examples, folders, changed=arguments.changed)
    return ExitCode.BAD_SETTINGS if errors else ExitCode.DONE


def _settings(env_file: Path, overrides: dict[str, Any]) -> tuple[Settings | None, list[str]]:
    try:
        with files_of_settings(env_file):
            settings = read_settings(env_file, **overrides)
    except SettingsError as error:
        return None, error.lines
    return trio.run(_check_folders, settings)


async def _check_folders(settings: Settings) -> tuple[Settings, list[str]]:
    with trio.move_on_after(settings.file_system_timeout_seconds):
        # May be abandoned: it only reads, and a mount may hang.
        return await run_in_thread(partial(_checked, settings), abandon_on_cancel=True)
    given = os.fspath(settings.watch_dir)
    return settings, [f"WATCH_DIR {given!r}, or another folder of the settings, does not respond: repair its mount"]


def _checked(settings: Settings) -> tuple[Settings, list[str]]:
    """Return the settings with the first watch folder at least, for the examples, and a line for each unfit folder."""
    try:
        return check_folders(settings), []
    except SettingsError as error:
        return settings.model_copy(update={"watch_dir": split_watch_dir(settings.watch_dir)[0]}), error.lines


async def _look_into_folders(settings: Settings) -> list[FolderFacts]:
    """Return what is in the watch folders; those that take longer than ``_FOLDER_SECONDS`` are left out."""
    found = []
    for folder in settings.watch_dirs:
        with trio.move_on_after(_FOLDER_SECONDS):
            facts = await folder_facts(
                folder,
                settings.watch_patterns,
                settings.watch_exclude,
                link_roots=settings.watch_link_roots,
                least_bytes=settings.watch_min_size_bytes,
            )
            found.append(facts)
    return found


def _folder_document(facts: FolderFacts) -> dict[str, Any]:
    return {
        "path": facts.path,
        "recordings": facts.recordings,
        "small_recordings": facts.small_recordings,
        "excluded_folders": facts.excluded_folders,
        "excluded_recordings": facts.excluded_recordings,
        "links_not_followed": len(facts.links),
    }


def _folder_line(facts: FolderFacts) -> str:
    excluded = (
        f"{output.count(facts.excluded_folders, 'folder')} and {output.count(facts.excluded_recordings, 'recording')}"
    )
    parts = [
        f"{facts.path}: {output.count(facts.recordings, 'recording')}, and {excluded} excluded by WATCH_EXCLUDE",
        f"{facts.small_recordings} smaller than WATCH_MIN_SIZE_BYTES" if facts.small_recordings else "",
        f"{output.count(len(facts.links), 'symbolic link')} not followed" if facts.links else "",
    ]
    return "; ".join(part for part in parts if part)


def _owner(settings: Settings) -> tuple[OwnerName | None, list[str]]:
    try:
        return trio.run(find_owner, settings), []
    except SettingsError as error:
        return None, error.lines


def _unfit_clients(settings: Settings, owner: OwnerName) -> list[str]:
    """Return a line for each client that cannot be made from the settings. Connects nowhere."""
    makers: tuple[Callable[[], object], ...] = (
        lambda: checkpoint_store(settings, owner.name, SingleAttempt()),
        lambda: s3_client(settings, SingleAttempt()),
        lambda: webhook_clients(settings),
    )
    lines = []
    for make in makers:
        try:
            make()
        except CefMp4ProcessorError as error:
            lines += str(error).splitlines()
    return lines


def _given(
    env_file: Path, overrides: dict[str, Any], settings: Settings | None, owner: OwnerName | None
) -> list[GivenSetting]:
    try:
        found = given_settings(env_file)
    except (OSError, UnicodeDecodeError):  # it is among the errors
        found = given_settings(None)
    shown = []
    for one in found:
        if one.name.lower() in overrides:
            shown.append(GivenSetting(one.name, overrides[one.name.lower()], "command line"))
        elif one.name == "OWNER_NAME" and one.is_default and owner is not None:
            shown.append(replace(one, value=owner.name, says=f"the {owner.source.value}"))
        elif one.name == "INSTANCE_ID" and one.is_default and settings is not None:
            shown.append(replace(one, value=settings.instance_id, says="the host's name"))
        else:
            shown.append(one)
    return shown


def _warnings(env_file: Path) -> list[str]:
    try:
        return [f"{found.description}: chmod o= {found.file}" for found in world_readable_secrets(env_file)]
    except (OSError, UnicodeDecodeError):
        return []


_COLUMNS: Final = (Column("setting"), Column("value", flexible=True), Column("source", flexible=True))


def _print(
    shown: list[GivenSetting],
    errors: list[str],
    warnings: list[str],
    examples: Sequence[tuple[str, str]],
    folders: Sequence[FolderFacts],
    *,
    changed: bool,
) -> None:
    out = output.console()
    rows = [
        (
            Text(one.name, style="" if one.is_default else "bold"),
            output.safe(one.value),
            output.safe(f"{one.source} ({one.says})" if one.says else one.source),
        )
        for one in shown
        if not (changed and one.is_default)
    ]
    out.print(output.table(_COLUMNS, rows) if rows else "All settings have their defaults.")
    if examples:
        out.print()
        out.print(output.table((Column("recording", flexible=True), Column("object key", flexible=True)), [
            (output.safe(path), output.safe(key)) for path, key in examples
        ]))  # fmt: skip
        out.print(f"(of recordings that began at {EXAMPLE_BEGAN:%Y-%m-%d %H:%M} UTC)", style="dim")
    out.print()
    for facts in folders:
        out.print(output.safe(_folder_line(facts)))
    for line in warnings:
        out.print(output.safe(f"warning: {line}", "yellow"))
    for line in errors:
        output.print_error(line)
    if errors:
        out.print(Text(f"{output.count(len(errors), 'error')}: `cef-trio run` would be refused.", style="bold red"))
    else:
        out.print(Text("All settings are valid.", style="green"))
