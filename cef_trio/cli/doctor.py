"""``cef-trio doctor``: check everything that a daemon needs, and print a finding and a remedy for each.

The checks run concurrently, each with a timeout, so that one that hangs does not delay the others. Nothing is changed
except for one small multipart upload, which is aborted. No daemon is needed or disturbed.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

import trio

from cef_trio.checkpoint.redis import parse_address
from cef_trio.cli import output
from cef_trio.cli.arguments import add_common, add_owner, owner_override
from cef_trio.cli.checks import (
    Finding,
    Severity,
    judge_access,
    judge_checksum,
    judge_claimant,
    judge_clock,
    judge_deletions,
    judge_ffprobe,
    judge_folder,
    judge_host,
    judge_legacy,
    judge_lifecycle,
    judge_owner,
    judge_redis,
    judge_redis_failure,
    judge_refused_write,
    judge_s3_failure,
    judge_streams,
    judge_verification,
    ok,
    problem,
    warning,
)
from cef_trio.cli.findings import print_findings
from cef_trio.cli.installed_service import InstalledService
from cef_trio.cli.probes import (
    ClockSkewTransport,
    NoSuchUserError,
    access_facts,
    claimant,
    folder_facts,
    legacy_facts,
    stream_facts,
    try_upload,
    unfit_folders,
    utc_now,
    watch_folders,
)
from cef_trio.cli.redis_session import files_of_settings, run_cancellable
from cef_trio.daemon import UNKNOWN_BOOT, OwnerName, checkpoint_store, find_owner, key_template, s3_config, s3_proxy
from cef_trio.exceptions import CefMp4ProcessorError, FFprobeError, RedisOperationError, S3OperationError
from cef_trio.exit_codes import ExitCode
from cef_trio.media import ffprobe
from cef_trio.observability import configure
from cef_trio.resilience import SingleAttempt
from cef_trio.s3 import S3Client, network_transport
from cef_trio.settings import (
    STAND_INS,
    AfterUploadAction,
    Settings,
    SettingsError,
    given_settings,
    load_settings,
    secret_values,
    world_readable_secrets,
)

CHECK_SECONDS: Final = 30.0
"""How long one check may take."""
NO_OVERRIDES: Final[Mapping[str, str]] = MappingProxyType({})
_FFPROBE_SECONDS: Final = 10.0

AddFinding = Callable[[Finding], None]
Check = Callable[[AddFinding], Awaitable[None]]
"""Adds each finding as it is made, so that those made before a timeout are kept."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``doctor``."""
    add_common(
        parser,
        more="Settings, the watch folder, Redis and what a crash of it would lose, S3 by a small upload that is "
        "aborted, clock, lifecycle rules, ffprobe.",
        all_exit_codes="Exit codes: 0 no problem (warnings are possible), 5 a problem.",
        examples=(
            "cef-trio doctor",
            "cef-trio doctor --owner node-7 --json",
        ),
    )
    add_owner(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check everything, print the findings, and return the exit code: ``ANSWER_IS_NO`` if there is a problem."""
    settings, findings = read_settings(arguments.env_file, owner_override(arguments))
    if settings is None:
        return show(findings, as_json=arguments.json)
    configure(settings.app_env, "ERROR", secrets=secret_values(settings))
    service: InstalledService | None = arguments.service

    async def work() -> ExitCode:
        owner, about_owner = await determine_owner(settings)
        with output.waiting_message(
            f"asking the folder, Redis, S3 and ffprobe, for {CHECK_SECONDS:.0f} seconds at most …"
        ):
            found = await run_checks(checks_for(settings, owner, service, arguments.env_file))
        return show([*findings, *about_owner, *found], as_json=arguments.json)

    return run_cancellable(work)


def read_settings(env_file: Path, overrides: Mapping[str, str] = NO_OVERRIDES) -> tuple[Settings | None, list[Finding]]:
    """Return the settings and the findings about them; ``None`` if they are invalid."""
    try:
        with files_of_settings(env_file):
            settings = load_settings(env_file, unneeded=STAND_INS, **overrides)
    except SettingsError as error:
        return None, [problem("settings", line, "docs/settings.md lists all settings") for line in error.lines]
    exposed = [
        warning("secrets", found.description, f"chmod o= {found.file}") for found in world_readable_secrets(env_file)
    ]
    return settings, [ok("settings", "all are valid"), *exposed]


async def determine_owner(settings: Settings) -> tuple[OwnerName | None, list[Finding]]:
    """Return the owner, ``None`` if it cannot be derived, and the findings about its name."""
    try:
        owner = await find_owner(settings)
    except SettingsError as error:
        return None, [problem("owner", line, "docs/operations.md, Several hosts") for line in error.lines]
    template, is_default = settings.s3_key_template, "instance_id" not in settings.model_fields_set
    return owner, [
        *judge_owner(owner.name, owner.source.value, template),
        *judge_host(template, settings.instance_id, is_default=is_default),
    ]


def checks_for(
    settings: Settings, owner: OwnerName | None, service: InstalledService | None, env_file: Path
) -> list[tuple[str, Check]]:
    """Return the checks, by subject, in the order of the output. Redis and S3 are not checked without an owner."""
    of_owner = (
        []
        if owner is None
        else [
            ("redis", partial(_check_redis, settings, owner)),
            ("s3", partial(_check_s3, settings, owner.name)),
        ]
    )
    return [
        ("settings", partial(_check_start, settings, service, env_file)),
        ("watch folder", partial(_check_folder, settings, service)),
        *of_owner,
        ("ffprobe", partial(_check_ffprobe, settings)),
    ]


async def run_checks(checks: Sequence[tuple[str, Check]], *, timeout_seconds: float = CHECK_SECONDS) -> list[Finding]:
    """Run the checks concurrently, each for ``timeout_seconds`` at most. Return findings in the order of the checks."""
    results: list[list[Finding]] = [[] for _ in checks]
    async with trio.open_nursery() as nursery:
        for findings, (subject, check) in zip(results, checks, strict=True):
            nursery.start_soon(_bounded, subject, check, findings.append, timeout_seconds)
    return [finding for findings in results for finding in findings]


async def _bounded(subject: str, check: Check, add_finding: AddFinding, timeout_seconds: float) -> None:
    with trio.move_on_after(timeout_seconds) as scope:
        try:
            await check(add_finding)
        except (CefMp4ProcessorError, OSError) as error:
            add_finding(problem(subject, str(error), "correct that setting: see docs/settings.md"))
        except Exception as error:  # noqa: BLE001 - a bug in one check must not hide what the others found
            add_finding(
                problem(subject, f"the check itself failed: {type(error).__name__}: {error}", "report it as a bug")
            )
    if scope.cancelled_caught:
        add_finding(problem(subject, f"did not answer within {timeout_seconds:g} seconds", "check whether it hangs"))


async def _check_start(
    settings: Settings, service: InstalledService | None, env_file: Path, add_finding: AddFinding
) -> None:
    """Check what else the daemon's start would refuse: its folders, and what its user may not use, though root may."""
    if settings.watch_dir == STAND_INS["watch_dir"]:
        return
    for line in await unfit_folders(settings):
        if not line.startswith("WATCH_DIR must "):  # told of each folder, with more to it
            add_finding(problem("settings", line, "docs/settings.md lists all settings"))
    if service is None or service.user == "root" or os.geteuid() != 0:
        return
    files = {file: name for file, name in _named_files(settings, env_file).items() if file not in service.credentials}
    if env_file == service.settings_file:
        files[os.fspath(env_file)] = "the settings file"
    with suppress(NoSuchUserError):  # told of the watch folder
        facts = await access_facts(files, settings.after_upload.folder or "", service)
        for finding in judge_access(facts, files, service.user):
            add_finding(finding)


def _named_files(settings: Settings, env_file: Path) -> dict[str, str]:
    """Return the files of certificates and secrets, each with the variable that names it."""
    certificates = {
        "S3_CA_FILE": settings.s3_ca_file,
        "REDIS_CA_FILE": settings.redis_ca_file,
        "WEBHOOK_CA_FILE": settings.webhook_ca_file,
    }
    found = {os.fspath(file): name for name, file in certificates.items() if file is not None}
    for one in given_settings(env_file):
        name, _, file = one.says.partition("=")
        if file:
            found[file] = name
    return found


async def _check_folder(settings: Settings, service: InstalledService | None, add_finding: AddFinding) -> None:
    if settings.watch_dir == STAND_INS["watch_dir"]:
        add_finding(
            warning("watch folder", "not checked: WATCH_DIR is not set here", "run doctor on the daemon's host too")
        )
        return
    as_service = service if service is not None and os.geteuid() == 0 else None
    folders = await watch_folders(settings.watch_dir)
    wishes = _deletes_or_moves(settings)
    for folder in folders:
        try:
            facts = await folder_facts(
                folder,
                settings.watch_patterns,
                settings.watch_exclude,
                link_roots=settings.watch_link_roots,
                least_bytes=settings.watch_min_size_bytes,
                service=as_service,
            )
        except NoSuchUserError as error:
            add_finding(problem("watch folder", str(error), "correct User= of the unit, or create that user"))
            return
        findings = judge_folder(facts)
        if wishes and facts.readable and facts.is_folder:
            written = filter(None, (facts.path, settings.after_upload.folder))
            read_only = [one for one in written if service is not None and not service.may_write(one)]
            unit = service.unit.name if service is not None else ""
            findings.append(judge_deletions(facts, wishes, unit=unit, read_only=read_only))
        for finding in findings:
            is_named = len(folders) == 1 or repr(facts.path) in finding.says
            add_finding(finding if is_named else replace(finding, says=f"{facts.path}: {finding.says}"))


def _deletes_or_moves(settings: Settings) -> str:
    """Return the settings that have recordings deleted or moved; empty: none does."""
    after_upload = "" if settings.after_upload.action is AfterUploadAction.KEEP else "AFTER_UPLOAD"
    return " and ".join(filter(None, (after_upload, "MIN_FREE_SPACE" if settings.min_free_space else "")))


async def _check_redis(settings: Settings, owner: OwnerName, add_finding: AddFinding) -> None:
    async with checkpoint_store(settings, owner.name, SingleAttempt()) as store:
        address = str(parse_address(settings.redis_url.get_secret_value()))
        is_here = settings.watch_dir != STAND_INS["watch_dir"]
        folder = (await watch_folders(settings.watch_dir))[0] if is_here else None
        try:
            await store.ping()
            for finding in judge_redis(await store.info(), address):
                add_finding(finding)
            try:
                await store.check_writable()  # as the daemon does; a server that refuses all writes answers a PING
            except RedisOperationError as error:
                add_finding(judge_refused_write(error, address))
            verified = await store.verifications.totals()  # first: the facts have the keys that cannot be read
            for finding in judge_streams(await stream_facts(store, folder)):
                add_finding(finding)
            add_finding(judge_verification(verified, utc_now()))
            for finding in judge_legacy(*await legacy_facts(store)):
                add_finding(finding)
            other = await claimant(store)
            if other is not None:
                is_known = other.system != UNKNOWN_BOOT
                given = (owner.name, other.host, other.since)
                add_finding(judge_claimant(*given, is_derived=owner.is_derived, is_known=is_known))
        except RedisOperationError as error:
            add_finding(judge_redis_failure(error, address))


async def _check_s3(settings: Settings, owner: str, add_finding: AddFinding) -> None:
    if settings.s3_bucket_name == STAND_INS["s3_bucket_name"]:
        add_finding(problem("s3", "S3_BUCKET_NAME is not set", "set it"))
        return
    template = key_template(settings, owner)
    async with _s3(settings) as (s3, clock):
        try:
            tried = await try_upload(s3, template)
            add_finding(ok("s3", f"bucket {settings.s3_bucket_name!r}: a small upload was made, listed and aborted"))
            add_finding(
                judge_checksum(tried.checksum, listed_with_crc=tried.listed_with_crc, chosen=settings.s3_checksum)
            )
        except S3OperationError as error:
            add_finding(judge_s3_failure(error, settings.s3_endpoint_url or f"AWS, {settings.s3_region_name}"))
        proxy = s3_proxy(settings)
        if proxy is not None and clock.has_response:
            way = "tunnels (CONNECT)" if proxy.tunnels else "requests in plain http"
            add_finding(ok("proxy", f"S3 is reached through {proxy.name} by {way} (S3_PROXY_URL)"))
        if not clock.has_response:
            return  # no response: further requests would fail too
        add_finding(judge_clock(clock.skew_seconds))
        try:
            add_finding(judge_lifecycle(await s3.abort_rules(), template.prefix))
        except S3OperationError as error:
            todo = "make sure that no AbortIncompleteMultipartUpload rule is shorter than your longest recording"
            known_none = error.code in {"NotImplemented", "MethodNotAllowed"}
            says = f"rules cannot be read ({error.code})"
            add_finding(
                ok("lifecycle", "the store has no such rules") if known_none else warning("lifecycle", says, todo)
            )


@asynccontextmanager
async def _s3(settings: Settings) -> AsyncIterator[tuple[S3Client, ClockSkewTransport]]:
    try:
        config = s3_config(settings)
        clock = ClockSkewTransport(network_transport(config), utc_now)
        client = S3Client(config, transport=clock)
    except ValueError as error:  # a setting that only s3/ can check; the message names the variable
        raise SettingsError([str(error)]) from error
    async with client:
        yield client, clock


async def _check_ffprobe(settings: Settings, add_finding: AddFinding) -> None:
    version, error = None, None
    try:
        version = await ffprobe.version(settings.ffprobe_path, min(_FFPROBE_SECONDS, settings.ffprobe_timeout_seconds))
    except FFprobeError as failed:
        error = str(failed)
    add_finding(judge_ffprobe(settings.ffprobe_path, version, error))


def show(findings: Sequence[Finding], *, as_json: bool) -> ExitCode:
    """Print the findings and return the exit code."""
    worst = {finding.severity for finding in findings}
    if as_json:
        output.print_json({"ok": Severity.PROBLEM not in worst, "findings": [asdict(one) for one in findings]})
    else:
        print_findings(findings)
    return ExitCode.ANSWER_IS_NO if Severity.PROBLEM in worst else ExitCode.DONE
