"""``doctor`` on real servers: it finds what is wrong, hangs on nothing, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from pwd import getpwnam
from typing import Any

import pytest
import redis
import trio
from servers.authority import Authority
from servers.command import answer, command
from servers.endpoints import Endpoint
from servers.valkey import ValkeyServer, valkey_server
from trio.testing import MockClock

from cef_trio.checkpoint.redis import Keys, RedisCheckpointStore
from cef_trio.cli import doctor
from cef_trio.cli.checks import Finding, Severity, ok
from cef_trio.cli.doctor import AddFinding, run_checks
from cef_trio.cli.installed_service import InstalledService
from cef_trio.cli.probes import try_upload
from cef_trio.cli.session import CommandContext
from cef_trio.exceptions import S3OperationError
from cef_trio.lab.world import World
from cef_trio.observability import daemon_report
from cef_trio.observability.daemon_report import DaemonReport
from cef_trio.s3_endpoint import CallInfo, Fault, Kind, Moment
from cef_trio.settings import load_settings
from cef_trio.settings.object_options import ObjectOptions

PART_CALLS = ["UploadPart", "ListParts", "ListMultipartUploads", "HeadObject", "AbortMultipartUpload"]


@pytest.fixture
def endpoint(healthy_endpoint: Endpoint) -> Endpoint:
    return healthy_endpoint


@pytest.fixture
def settings(healthy_settings: dict[str, str]) -> dict[str, str]:
    return healthy_settings


def by_subject(document: Any) -> dict[str, tuple[str, str]]:
    return {one["subject"]: (one["severity"], one["says"]) for one in document["findings"]}


@pytest.mark.real
def test_without_problems_all_findings_are_ok_and_nothing_is_left_behind(
    settings: dict[str, str], endpoint: Endpoint
) -> None:
    document = answer("doctor", settings=settings)
    found = by_subject(document)
    assert document["ok"]
    assert {severity for severity, _ in found.values()} <= {"ok", "warning"}
    for subject in (
        "settings",
        "watch folder",
        "redis",
        "redis persistence",
        "redis memory",
        "s3",
        "checksum",
        "clock",
    ):
        assert found[subject][0] == "ok", found[subject]
    assert (found["ffprobe"], found["lifecycle"][0]) == (("ok", "ffprobe version 99"), "ok")
    listed = endpoint.client().list_multipart_uploads(Bucket="recordings")
    assert listed.get("Uploads", []) == []
    shown = command("doctor", settings=settings).stdout
    assert "ok      s3: bucket 'recordings'" in shown


@pytest.mark.real
def test_p10_a_template_with_every_field_is_no_problem(settings: dict[str, str], endpoint: Endpoint) -> None:
    template = "rec/{owner}/{host}/{relative_dir}/{year}-{month}-{day}T{hour}/{file_stem}-{stream_id}{file_ext}"
    document = answer("doctor", settings={**settings, "S3_KEY_TEMPLATE": template, "KEY_TIME_ZONE": "Europe/Berlin"})
    assert by_subject(document)["s3"][0] == "ok"
    assert endpoint.client().list_multipart_uploads(Bucket="recordings").get("Uploads", []) == []


@pytest.mark.real
@pytest.mark.parametrize(
    ("variable", "value", "subject", "says"),
    [
        ("S3_SECRET_ACCESS_KEY", "wrong", "s3", "SignatureDoesNotMatch"),
        ("S3_ACCESS_KEY_ID", "nobody", "s3", "InvalidAccessKeyId"),
        ("S3_BUCKET_NAME", "no-such-bucket", "s3", "NoSuchBucket"),
        ("S3_ENDPOINT_URL", "http://127.0.0.1:9", "s3", "ConnectError"),
        ("S3_BUCKET_NAME", "", "s3", "is not set"),
        ("REDIS_URL", "redis://127.0.0.1:9", "redis", "Redis operation 'ping' failed"),
        ("REDIS_URL", "redis://localhost:port/0", "redis", "REDIS_URL"),
        ("WATCH_DIR", "/no/such/folder", "watch folder", "is no folder here"),
        ("LOG_LEVEL", "loud", "settings", "LOG_LEVEL"),
    ],
)
def test_what_is_wrong_is_a_problem_and_the_rest_is_still_checked(
    settings: dict[str, str], variable: str, value: str, subject: str, says: str
) -> None:
    document = answer("doctor", settings={**settings, variable: value}, code=5)
    found = by_subject(document)
    assert found[subject][0] == "problem"
    assert says in found[subject][1]
    if subject != "settings":
        assert found["ffprobe"] == ("ok", "ffprobe version 99")
        assert sum(severity == "problem" for severity, _ in found.values()) == 1
    for one in document["findings"]:
        assert (one["severity"] == "ok") == (not one["todo"]), one


@pytest.mark.real
def test_a_redis_that_would_lose_everything_and_a_rule_that_kills_recordings_are_problems(
    settings: dict[str, str], endpoint: Endpoint
) -> None:
    rule = {
        "ID": "x",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
    }
    client = endpoint.client()
    client.put_bucket_lifecycle_configuration(Bucket="recordings", LifecycleConfiguration={"Rules": [rule]})
    try:
        with valkey_server(tcp=True, arguments=["--maxmemory-policy", "allkeys-lru", "--maxmemory", "100mb"]) as server:
            found = by_subject(answer("doctor", settings={**settings, "REDIS_URL": server.url}, code=5))
    finally:
        client.delete_bucket_lifecycle(Bucket="recordings")
    assert {subject for subject, (severity, _) in found.items() if severity == "problem"} == {
        "redis persistence",
        "redis memory",
        "lifecycle",
    }


@pytest.mark.real
def test_kind9_indexes_of_a_wrong_type_are_named_with_what_to_do(settings: dict[str, str]) -> None:
    with valkey_server(tcp=True) as server:
        raw = redis.Redis.from_url(server.url)
        keys = sorted(Keys("", "cam-1").types)
        for key in keys:
            raw.rpush(key, "a hand slipped")
        seen = set[str]()
        for _ in range(len(keys)):
            named = {**settings, "OWNER_NAME": "cam-1", "REDIS_URL": server.url}
            findings = answer("doctor", settings=named, code=5)["findings"]
            odd = {key: one["todo"] for key in keys for one in findings if f"skipped: {key} is " in one["says"]}
            for key, todo in odd.items():
                assert todo == f"`redis-cli RENAME {key} {key}.broken`: the daemon continues by itself"
                raw.rename(key, f"{key}.broken")
            seen |= odd.keys()
            if not odd or seen == set(keys):
                break
        raw.close()
    assert seen == set(keys)


@pytest.mark.real
def test_from_another_machine_the_folder_is_a_warning_only(settings: dict[str, str]) -> None:
    del settings["WATCH_DIR"]
    found = by_subject(answer("doctor", settings={**settings, "FFPROBE_PATH": "/no/such/ffprobe"}))
    assert (found["watch folder"][0], found["ffprobe"][0]) == ("warning", "warning")


@pytest.mark.real
def test_an_s3_that_does_not_respond_is_a_problem_and_delays_nothing_else(settings: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        given = {**settings, "S3_ENDPOINT_URL": url, "S3_READ_TIMEOUT_SECONDS": "1"}
        found = by_subject(answer("doctor", settings=given, code=5))
    assert (found["s3"][0], found["redis"][0]) == ("problem", "ok")


async def test_a_check_that_hangs_or_breaks_holds_no_other_back(autojump_clock: MockClock) -> None:
    async def hangs(tell: AddFinding) -> None:
        tell(ok("hanging", "as far as it came"))
        await trio.sleep_forever()

    async def breaks(_tell: AddFinding) -> None:
        raise ZeroDivisionError("a bug")

    async def refused(_tell: AddFinding) -> None:
        raise S3OperationError("head_bucket", "no.")

    async def works(tell: AddFinding) -> None:
        await trio.lowlevel.checkpoint()
        tell(ok("working", "well"))

    checks = [("hanging", hangs), ("breaking", breaks), ("refused", refused), ("working", works)]
    found = await run_checks(checks, timeout_seconds=5)
    assert [(finding.subject, finding.severity) for finding in found] == [
        ("hanging", Severity.OK),
        ("hanging", Severity.PROBLEM),
        ("breaking", Severity.PROBLEM),
        ("refused", Severity.PROBLEM),
        ("working", Severity.OK),
    ]
    assert trio.current_time() == pytest.approx(5)


@pytest.mark.parametrize("operation", PART_CALLS)
async def test_whatever_is_refused_the_doctors_upload_is_aborted(
    world: World, context: CommandContext, operation: str
) -> None:
    world.endpoint.faults.arm(Fault(Kind.ERROR, operation, code="AccessDenied"))
    with pytest.raises(S3OperationError) as caught:
        await try_upload(context.s3, context.key_template)
    assert caught.value.code == "AccessDenied"
    assert len(world.open_uploads()) == (operation == "AbortMultipartUpload")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (ObjectOptions(acl="public-read"), "AccessControlListNotSupported"),
        (ObjectOptions(storage_class="COLD"), "InvalidStorageClass"),
        (ObjectOptions(storage_class="GLACIER", encryption="aws:kms", tags=(("team", "a"),)), None),
    ],
)
async def test_the_doctors_upload_has_the_recordings_options_so_that_it_sees_what_refuses_them(
    world: World, options: ObjectOptions, code: str | None
) -> None:
    world.options = options
    async with world.services() as services:
        if code is None:
            await try_upload(services.s3, services.rules.key_template)
        else:
            with pytest.raises(S3OperationError) as caught:
                await try_upload(services.s3, services.rules.key_template)
            assert caught.value.code == code
    assert world.open_uploads() == []


@pytest.mark.parametrize("operation", PART_CALLS)
async def test_cancelled_at_any_of_its_calls_the_doctors_upload_is_aborted(
    world: World, context: CommandContext, operation: str
) -> None:
    scope = trio.CancelScope()

    def strike(_call: CallInfo) -> bool:
        scope.cancel()
        return False

    fault = Fault(Kind.ERROR, operation, moment=Moment.BEFORE, predicate=strike)
    world.endpoint.faults.arm(fault)
    with scope:
        await try_upload(context.s3, context.key_template)
    assert scope.cancel_called
    assert world.open_uploads() == []


@pytest.mark.real
@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_a_problem(settings: dict[str, str], tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    found = by_subject(answer("doctor", settings={**settings, "WATCH_DIR": str(closed)}, code=5))
    assert "may not be read" in found["watch folder"][1]


@pytest.mark.real
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may ask as another user")
def test_root_asks_for_the_folder_as_the_user_of_the_installed_service(
    settings: dict[str, str], tmp_path: Path
) -> None:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        service = InstalledService(tmp_path / "cef-trio.service", user="nobody")

        def found() -> tuple[str, str]:
            findings: list[Finding] = []
            given = load_settings(None, unneeded={"s3_bucket_name"}, watch_dir=folder)
            trio.run(doctor._check_folder, given, service, findings.append)
            return findings[0].severity, findings[0].says

        assert found() == ("problem", f"'{folder}' may not be read by the user nobody")
        folder.chmod(0o755)
        severity, says = found()
        assert (severity, "can be read by the user nobody" in says) == ("ok", True)
    finally:
        shutil.rmtree(folder)


@pytest.mark.real
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may ask as another user")
def test_p10_a_folder_in_which_the_daemon_may_delete_nothing_is_a_problem(tmp_path: Path) -> None:
    """With the unit as it is shipped, MIN_FREE_SPACE does nothing until the disk is short, and then nothing either."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        folder.chmod(0o755)
        (folder / "cam").mkdir()
        (folder / "cam" / "a.mp4").touch()

        def found(writable: tuple[str, ...] | None, **given: str) -> list[Finding]:
            findings: list[Finding] = []
            service = InstalledService(tmp_path / "cef-trio.service", user="nobody", writable=writable)
            settings = load_settings(None, unneeded={"s3_bucket_name"}, watch_dir=folder, **given)
            trio.run(doctor._check_folder, settings, service, findings.append)
            return [one for one in findings if one.subject == "after upload"]

        assert found(()) == []
        for given in ({"after_upload": "delete"}, {"min_free_space": "10%"}):
            (folder / "cam").chmod(0o755)
            (finding,) = found(None, **given)
            assert (finding.severity, f"the user nobody may not write '{folder}/cam'" in finding.says) == (
                "problem",
                True,
            )
            (folder / "cam").chmod(0o777)
            (finding,) = found((), **given)
            assert (finding.severity, finding.todo) == (
                "problem",
                f"`systemctl edit cef-trio`: [Service] ReadWritePaths={folder}",
            )
            assert [one.severity for one in found((str(folder),), **given)] == ["ok"]
            assert [one.severity for one in found(None, **given)] == ["ok"]
            (folder / "cam").chmod(0o1777)
            (finding,) = found(None, **given)
            assert (
                finding.severity,
                f"the user nobody may not delete or move other users' recordings in '{folder}/cam'" in finding.says,
            ) == ("problem", True)
            assert finding.todo.startswith("`chmod -t` it")
            os.chown(folder / "cam" / "a.mp4", getpwnam("nobody").pw_uid, -1)
            assert [one.severity for one in found(None, **given)] == ["ok"]
            os.chown(folder / "cam" / "a.mp4", 0, -1)
            (folder / "cam").chmod(0o777)
        (finding,) = found((str(folder),), after_upload=f"move:{tmp_path}")
        assert finding.todo.endswith(f"ReadWritePaths={tmp_path}")
    finally:
        shutil.rmtree(folder)


@pytest.mark.real
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may ask as another user")
def test_what_the_services_user_may_not_use_is_a_problem_although_root_may(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its daemon ends with exit code 2 every ten seconds."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        folder.chmod(0o755)
        (folder / "rec").mkdir(mode=0o755)
        archive, secret, certificates = folder / "archive", folder / "secret", Authority(folder).file
        archive.mkdir(mode=0o700)
        secret.write_text("only-a-test")
        secret.chmod(0o600)
        certificates.chmod(0o600)
        live = folder / ".env"
        live.write_text("LOG_LEVEL=INFO\n")
        live.chmod(0o600)
        monkeypatch.setenv("S3_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("S3_SECRET_ACCESS_KEY_FILE", str(secret))
        given = load_settings(
            live,
            unneeded={"s3_bucket_name"},
            watch_dir=folder / "rec",
            after_upload=f"move:{archive}/a/b",
            s3_ca_file=certificates,
        )

        def found(*credentials: Path) -> list[Finding]:
            findings: list[Finding] = []
            unit = tmp_path / "cef-trio.service"
            loaded = tuple(map(str, credentials))
            service = InstalledService(unit, user="nobody", settings_file=live, credentials=loaded)
            trio.run(doctor._check_start, given, service, live, findings.append)
            assert {one.severity for one in findings} <= {Severity.PROBLEM}
            return findings

        says = "the user nobody may not read {!r} (Permission denied), so its daemon does not start"
        assert [one.says for one in found()] == [
            f"S3_CA_FILE: {says.format(str(certificates))}",
            f"S3_SECRET_ACCESS_KEY_FILE: {says.format(str(secret))}",
            f"the settings file: {says.format(str(live))}",
            f"AFTER_UPLOAD: the user nobody may not write '{archive}', so its daemon does not start",
        ]
        certificates.chmod(0o644)
        live.chmod(0o644)
        archive.chmod(0o777)
        assert found(secret) == [], "systemd reads it as root"
    finally:
        shutil.rmtree(folder)


@pytest.mark.real
def test_folders_that_the_daemons_start_refuses_are_a_problem(settings: dict[str, str], tmp_path: Path) -> None:
    given = {**settings, "AFTER_UPLOAD": f"move:{tmp_path}/done"}
    findings = answer("doctor", settings=given, code=5)["findings"]
    (said,) = [one["says"] for one in findings if one["severity"] == "problem"]
    assert said.startswith("AFTER_UPLOAD: recordings cannot be moved to")


@pytest.mark.real
async def test_p10_a_daemon_that_was_stopped_is_a_warning(settings: dict[str, str], valkey: ValkeyServer) -> None:
    async def said() -> tuple[str, str]:
        ask = partial(answer, "doctor", settings={**settings, "OWNER_NAME": "room-1"})
        return by_subject(await trio.to_thread.run_sync(ask))["daemon"]

    async with RedisCheckpointStore(valkey.url, owner="room-1", socket_timeout_seconds=10) as store:
        assert (await said())[0] == "ok"
        now = (await store.reports()).now
        one = DaemonReport(instance="room-1/cam", owner="room-1", name="cam", host="desk", at=now, folder="/rec")
        await store.report(one.instance, daemon_report.encode(daemon_report.stopped(one)), beginning="")
        assert await said() == ("warning", "stopped, so that nothing is uploaded: cam on desk")
        await store.report(one.instance, daemon_report.encode(replace(one, at=now + 1)), beginning="")
        assert (await said())[0] == "ok"


@pytest.mark.real
@pytest.mark.skipif(os.geteuid() != 0, reason="this user is not root")
def test_root_is_told_that_it_sees_more(settings: dict[str, str]) -> None:
    says = by_subject(answer("doctor", settings=settings))["watch folder"][1]
    assert "root may read more than the daemon's user" in says
