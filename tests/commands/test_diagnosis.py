"""What the doctor makes of facts: every case that has a name."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from servers.stream_records import a_stream

from cef_trio.checkpoint.model import Owner
from cef_trio.checkpoint.redis.server_info import Replica, ServerInfo
from cef_trio.cli.checks import (
    NETWORK_FILE_SYSTEMS,
    Finding,
    FolderFacts,
    Severity,
    StreamFacts,
    judge_checksum,
    judge_clock,
    judge_deletions,
    judge_ffprobe,
    judge_folder,
    judge_host,
    judge_lifecycle,
    judge_persistence,
    judge_redis,
    judge_redis_failure,
    judge_refused_write,
    judge_replication,
    judge_s3_failure,
    judge_streams,
    snapshot_seconds,
)
from cef_trio.cli.probes import file_system_in, has_cap_lease, is_of_another_disk, unmounted_points
from cef_trio.exceptions import RedisOperationError, S3OperationError
from cef_trio.s3.credentials import ChainCredentials
from cef_trio.s3.model import AbortRule, ChecksumAlgorithm
from cef_trio.s3.xml import XmlError, parse_abort_rules

OK, WARNING, PROBLEM = Severity.OK, Severity.WARNING, Severity.PROBLEM

FOLDER = FolderFacts(path="/rec", is_folder=True, file_system="ext4", folders=10, max_user_watches=100)
REDIS = ServerInfo(
    product="valkey",
    version="9.0.1",
    is_replica=False,
    append_only=True,
    append_fsync="everysec",
    save="",
    last_save_ok=True,
    eviction_policy="noeviction",
    max_memory_bytes=0,
)


def worst(findings: list[Finding]) -> Severity:
    for finding in findings:
        assert (finding.severity is OK) == (not finding.todo), finding
    return max((finding.severity for finding in findings), key=list(Severity).index)


@pytest.mark.parametrize(
    ("template", "host", "is_default", "warns"),
    [
        ("{host}/{stream_id}", "0123456789ab", True, True),
        ("{host}/{stream_id}", "0123456789ab", False, False),
        ("{host}/{stream_id}", "nvr-3", True, False),
        ("x/{stream_id}", "0123456789ab", True, False),
    ],
)
def test_a_containers_name_in_keys_is_a_warning(template: str, host: str, is_default: bool, warns: bool) -> None:
    assert bool(judge_host(template, host, is_default=is_default)) is warns


@pytest.mark.parametrize(
    ("changed", "severity"),
    [
        ({}, OK),
        ({"is_folder": False}, PROBLEM),
        ({"readable": False}, PROBLEM),
        ({"unreadable_folders": 1}, WARNING),
        ({"file_system": None}, WARNING),
        *(({"file_system": kind}, WARNING) for kind in sorted(NETWORK_FILE_SYSTEMS)),
        *(({"file_system": kind}, OK) for kind in ("xfs", "btrfs", "zfs", "tmpfs", "overlay")),
        ({"file_system": "fuse", "local": False}, OK),
        ({"may_lease_all": False}, OK),
        ({"inotify_error": "No space left on device"}, PROBLEM),
        ({"max_user_watches": None}, WARNING),
        ({"max_user_watches": 10}, PROBLEM),
        ({"max_user_watches": 12}, WARNING),
        ({"max_user_watches": 13}, OK),
    ],
)
def test_a_watch_folder(changed: dict[str, Any], severity: Severity) -> None:
    assert worst(judge_folder(replace(FOLDER, **changed))) is severity


@pytest.mark.parametrize(
    ("local", "may_lease_all", "says"),
    [
        (True, True, "known by leases: "),
        (True, False, "known by leases for this user's own files"),
        (False, True, "cannot be known on this file system: only STREAM_TIMEOUT_SECONDS of silence"),
        (False, False, "cannot be known on this file system: only STREAM_TIMEOUT_SECONDS of silence"),
    ],
)
def test_which_of_the_two_ends_a_recording_in_the_watch_folder_is_shown(
    local: bool, may_lease_all: bool, says: str
) -> None:
    facts = replace(FOLDER, local=local, may_lease_all=may_lease_all)
    (finding,) = [finding for finding in judge_folder(facts) if finding.subject == "writers"]
    assert (finding.severity, finding.says.startswith(says)) == (OK, True)


def test_a_file_system_whose_writers_cannot_be_known_is_not_called_local() -> None:
    facts = replace(FOLDER, file_system="fuse", local=False)
    assert not [finding for finding in judge_folder(facts) if "local" in finding.says]


@pytest.mark.parametrize(
    ("effective", "has"), [("000001ffffffffff", True), ("0000000010000000", True), ("00000000efffffff", False)]
)
def test_the_right_to_take_leases_is_read_from_the_processs_own_status(effective: str, has: bool) -> None:
    assert has_cap_lease(f"Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t{effective}\n") is has
    assert not has_cap_lease("Name:\tx\n")


def test_what_to_set_is_a_limit_that_is_enough() -> None:
    [*_, finding] = judge_folder(replace(FOLDER, folders=100_000, max_user_watches=65_536))
    assert finding.todo == "sysctl fs.inotify.max_user_watches=400000"


@pytest.mark.parametrize(
    ("changed", "severity", "says"),
    [
        ({}, OK, "at most about a second"),
        ({"append_fsync": "always"}, OK, "loses nothing"),
        ({"append_fsync": "no"}, WARNING, "30 seconds"),
        ({"append_fsync": None}, OK, "cannot be read"),
        ({"append_only": False}, PROBLEM, "loses every checkpoint"),
        ({"append_only": False, "save": "3600 1 300 100 60 10000"}, WARNING, "up to 3600 seconds"),
        ({"append_only": False, "save": None}, WARNING, "cannot be read"),
    ],
)
def test_what_a_crash_of_redis_would_lose(changed: dict[str, Any], severity: Severity, says: str) -> None:
    finding = judge_persistence(replace(REDIS, **changed))
    assert finding.severity is severity
    assert says in finding.says
    assert worst(judge_redis(replace(REDIS, **changed), "redis://here:1/0")) is severity


@pytest.mark.parametrize(
    ("changed", "severity"),
    [
        ({"is_replica": True}, PROBLEM),
        ({"last_save_ok": False}, PROBLEM),
        ({"product": "redis", "version": "3.2.12"}, PROBLEM),
        ({"product": "redis", "version": "5.0.14"}, WARNING),
        ({"product": "redis", "version": "6.0.16"}, OK),
        ({"product": "redis", "version": "unknown"}, OK),
        ({"product": "redis", "version": "10.0.0"}, OK),
        ({"eviction_policy": "allkeys-lru"}, WARNING),
        ({"eviction_policy": "volatile-lru", "max_memory_bytes": 1 << 20}, PROBLEM),
        ({"eviction_policy": "noeviction", "max_memory_bytes": 1 << 20}, OK),
        ({"eviction_policy": "unknown"}, WARNING),
        ({"max_memory_bytes": 100, "used_memory_bytes": 74}, OK),
        ({"max_memory_bytes": 100, "used_memory_bytes": 75}, WARNING),
        ({"max_memory_bytes": 100, "used_memory_bytes": 90, "system_memory_bytes": 1000}, PROBLEM),
        ({"used_memory_bytes": 90, "system_memory_bytes": 100}, PROBLEM),
        ({"used_memory_bytes": 90, "system_memory_bytes": 1000}, OK),
        ({"eviction_policy": "unknown", "used_memory_bytes": 90, "system_memory_bytes": 100}, PROBLEM),
    ],
)
def test_a_redis_server(changed: dict[str, Any], severity: Severity) -> None:
    assert worst(judge_redis(replace(REDIS, **changed), "redis://here:1/0")) is severity


FOLLOWS = Replica("10.0.0.2:6379", True, 1)
LATE = Replica("10.0.0.3:6379", True, 11)
AWAY = Replica("10.0.0.4:6379", False, 0)


@pytest.mark.parametrize(
    ("replicas", "least", "severity", "says"),
    [
        ((), 0, OK, "no replica"),
        ((), None, OK, "no replica"),
        ((), 1, PROBLEM, "it refuses them"),
        ((FOLLOWS,), 0, OK, "min-replicas-to-write is 0"),
        ((FOLLOWS, FOLLOWS), 0, WARNING, "min-replicas-to-write is 0"),
        ((FOLLOWS,), None, WARNING, "cannot be read"),
        ((FOLLOWS,), 1, OK, "of 10 seconds at most"),
        ((FOLLOWS,), 2, PROBLEM, "1 following replica"),
        ((FOLLOWS, LATE), 1, WARNING, "10.0.0.3:6379 (11 s behind)"),
        ((FOLLOWS, AWAY), 1, WARNING, "10.0.0.4:6379 (does not follow)"),
        ((LATE, AWAY), 1, PROBLEM, "0 following replicas"),
    ],
)
def test_whether_acknowledged_writes_survive_a_failover(
    replicas: tuple[Replica, ...], least: int | None, severity: Severity, says: str
) -> None:
    info = replace(REDIS, replicas=replicas, min_replicas_to_write=least)
    found = judge_replication(info)
    assert worst(found) is severity
    assert says in " ".join(one.says for one in found)
    slower = replace(info, min_replicas_max_lag_seconds=11)
    assert (LATE.address in str(judge_replication(slower))) is False


@pytest.mark.parametrize(
    ("daemons", "without_task", "failed", "severities", "says"),
    [
        ({}, 0, 0, [OK], "no stream is open"),
        ({"b": 2, "a": 1}, 0, 0, [OK], "a works on 1 stream, b works on 2 streams"),
        ({}, 1, 0, [WARNING], "no daemon works on 1 open stream"),
        ({"a": 3}, 2, 0, [WARNING], "no daemon works on 2 open streams; a works on 3 streams"),
        ({"a": 1}, 0, 2, [OK, WARNING], "a works on"),
    ],
)
def test_whether_a_daemon_works(
    daemons: dict[str, int], without_task: int, failed: int, severities: list[Severity], says: str
) -> None:
    found = judge_streams(StreamFacts(daemons=daemons, without_task=without_task, failed=failed))
    worst(found)
    assert [finding.severity for finding in found] == severities
    assert found[0].says.startswith(says)
    assert failed == 0 or found[1].says == "2 recordings failed"


def test_a_daemon_whose_start_waits_need_not_be_started() -> None:
    (found,) = judge_streams(StreamFacts(daemons={}, without_task=1, failed=0, starting={"cam"}))
    assert found.says == "no daemon works on 1 open stream; cam is still starting"
    assert found.todo.startswith("it resumes them once it has started")


@pytest.mark.parametrize(("without_task", "daemons"), [(0, {}), (1, {}), (0, {"cam": 1})])
def test_p10_daemons_that_were_stopped_are_a_warning_unless_one_holds_a_lease(
    without_task: int, daemons: dict[str, int]
) -> None:
    stopped = [f"cam-{number} on desk" for number in range(7)]
    found = judge_streams(StreamFacts(daemons=daemons, without_task=without_task, failed=0, stopped=stopped))
    assert worst(found) is (OK if daemons else WARNING)
    assert ("cam-4 on desk and 2 more" in found[0].says) is (not without_task and not daemons)


def test_kind9_records_that_cannot_be_read_are_problems_and_names_without_a_record_a_warning() -> None:
    unreadable = {f"stream:{number}:meta": f"stream:{number}:meta is no hash" for number in range(7)}
    found = judge_streams(
        StreamFacts(daemons={}, without_task=0, failed=0, without_record=2, unreadable=unreadable),
    )
    worst(found)
    assert [finding.severity for finding in found] == [OK, *[PROBLEM] * 6, WARNING]
    assert found[1].says.endswith("stream:0:meta is no hash")
    assert found[6].says == "2 more cannot be read"


def test_a_server_that_responds_is_shown_with_its_address() -> None:
    assert judge_redis(REDIS, "redis://here:1/0")[0].says == "valkey 9.0.1 answers at redis://here:1/0"


@pytest.mark.parametrize(
    ("transient", "todo"),
    [(True, "start it; or is redis://here:1/0 not"), (False, "correct REDIS_URL (user, password")],
)
def test_a_failing_redis_is_a_problem_with_a_hint_where_to_look(transient: bool, todo: str) -> None:
    finding = judge_redis_failure(RedisOperationError("ping", "no.", transient=transient), "redis://here:1/0")
    assert worst([finding]) is PROBLEM
    assert finding.todo.startswith(todo)


@pytest.mark.parametrize(
    ("code", "status", "transient", "todo"),
    [
        ("ConnectError", None, True, "start it; or is http://s3:9000 not"),
        ("ReadTimeout", None, True, "start it; or is http://s3:9000 not"),
        ("SlowDown", 503, True, "look at the store's own health"),
        ("AccessDenied", 403, False, "do that, then"),
        ("NoSuchBucket", 404, False, "do that, then"),
        ("OfItsOwn", 400, False, "look that code up"),
    ],
)
def test_a_failing_s3_is_a_problem_with_a_hint_where_to_look(
    code: str, status: int | None, transient: bool, todo: str
) -> None:
    error = S3OperationError("upload_part", "no.", code=code, status=status, transient=transient)
    finding = judge_s3_failure(error, "http://s3:9000")
    assert worst([finding]) is PROBLEM
    assert finding.todo.startswith(todo)


@pytest.mark.parametrize(("save", "seconds"), [("", None), ("900 1", 900), ("3600 1 300 100 60 10000", 3600)])
def test_how_long_a_change_may_wait_for_a_snapshot(save: str, seconds: int | None) -> None:
    assert snapshot_seconds(save) == seconds


@pytest.mark.parametrize(
    ("skew", "severity", "says"),
    [
        (0.0, OK, "agrees"),
        (59.0, OK, "agrees"),
        (-60.0, WARNING, "60 seconds ahead of S3"),
        (61.0, WARNING, "61 seconds behind S3"),
        (900.0, PROBLEM, "900 seconds behind S3"),
        (None, WARNING, "sends no Date"),
    ],
)
def test_a_clock(skew: float | None, severity: Severity, says: str) -> None:
    finding = judge_clock(skew)
    assert (worst([finding]), says in finding.says) == (severity, True)


@pytest.mark.parametrize("used", list(ChecksumAlgorithm))
@pytest.mark.parametrize("chosen", ["auto", "chosen"])
@pytest.mark.parametrize("listed", [False, True])
def test_a_checksum(used: ChecksumAlgorithm, chosen: str, listed: bool) -> None:
    insisted = used is ChecksumAlgorithm.CRC64NVME and chosen == "chosen" and not listed
    finding = judge_checksum(used, listed_with_crc=listed, chosen="auto" if chosen == "auto" else used.value)
    assert worst([finding]) is (WARNING if insisted else OK)
    assert used.value in finding.says


@pytest.mark.parametrize(
    ("rules", "severity"),
    [
        ([], OK),
        ([AbortRule("", 1)], PROBLEM),
        ([AbortRule("", 2)], WARNING),
        ([AbortRule("", 7)], OK),
        ([AbortRule("", 30), AbortRule("streams/", 3)], WARNING),
        ([AbortRule("other/", 1)], OK),
        ([AbortRule("streams/2026", 1)], PROBLEM),
        ([AbortRule("str", 1)], PROBLEM),
    ],
)
def test_a_lifecycle_rule(rules: list[AbortRule], severity: Severity) -> None:
    assert worst([judge_lifecycle(rules, "streams/")]) is severity


def test_ffprobe() -> None:
    assert judge_ffprobe("ffprobe", "ffprobe version 7", None).says == "ffprobe version 7"
    assert worst([judge_ffprobe("ffprobe", None, "not found")]) is WARNING


def a_rule(inner: str, status: str = "Enabled", days: str = "3") -> str:
    abort = f"<AbortIncompleteMultipartUpload><DaysAfterInitiation>{days}</DaysAfterInitiation>"
    return f"<Rule><ID>x</ID><Status>{status}</Status>{inner}{abort}</AbortIncompleteMultipartUpload></Rule>"


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        ("", []),
        (a_rule("<Filter><Prefix>a/</Prefix></Filter>"), [AbortRule("a/", 3)]),
        (a_rule("<Prefix>a/</Prefix>"), [AbortRule("a/", 3)]),
        (a_rule("<Filter><And><Prefix>a/</Prefix><X/></And></Filter>"), [AbortRule("a/", 3)]),
        (a_rule("<Filter/>"), [AbortRule("", 3)]),
        (a_rule("", status="Disabled"), []),
        ("<Rule><Status>Enabled</Status><Expiration><Days>1</Days></Expiration></Rule>", []),
    ],
)  # fmt: skip
def test_a_lifecycle_configuration_is_read(rule: str, found: list[AbortRule]) -> None:
    document = (
        f'<LifecycleConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{rule}</LifecycleConfiguration>'
    )
    assert parse_abort_rules(document.encode()) == found


def test_a_lifecycle_configuration_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(XmlError):
        parse_abort_rules(f"<LifecycleConfiguration>{a_rule('', days='x')}</LifecycleConfiguration>".encode())


def test_a_file_systems_type_is_that_of_its_device() -> None:
    mounts = (
        "22 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw\n"
        "90 22 0:45 / /mnt/a\\040b rw - nfs4 server:/x rw\n"
        "garbage\n"
        "91 22 0:46 / /x rw master:1 propagate_from:2 - fuse.sshfs y rw\n"
    )
    assert file_system_in(mounts, 8 << 8 | 2) == "ext4"
    assert file_system_in(mounts, 45) == "nfs4"
    assert file_system_in(mounts, 46) == "fuse.sshfs"
    assert file_system_in(mounts, 47) is None


@pytest.mark.parametrize(
    ("fstab", "mounted", "found"),
    [
        ("", [], []),
        ("UUID=1 / ext4 defaults 0 1", ["/"], []),
        ("UUID=1 /srv ext4 defaults 0 1", ["/", "/srv"], []),
        ("UUID=1 /srv ext4 defaults 0 1", ["/"], ["/srv"]),
        ("UUID=1 /srv/rec ext4 defaults 0 1", ["/", "/srv"], ["/srv/rec"]),
        ("UUID=1 /srv/rec/ ext4 defaults 0 1", ["/", "/srv/rec"], []),
        ("UUID=1 /srv/rec/cam\\0401 ext4 defaults", ["/"], ["/srv/rec/cam 1"]),
        ("UUID=1 /srv/rec/cam ext4 noauto,user 0 0", ["/"], []),  # below: mounted by hand, when it is needed
        ("UUID=1 /srv/rec ext4 user,noauto 0 0", ["/"], ["/srv/rec"]),
        ("UUID=1 /srv/recordings ext4 defaults 0 0", ["/"], []),  # another folder
        ("# UUID=1 /srv/rec ext4 defaults 0 0\nUUID=2 none swap sw 0 0\nnonsense", ["/"], []),
    ],
)
def test_a_disk_of_fstab_that_is_not_mounted_is_found(fstab: str, mounted: list[str], found: list[str]) -> None:
    mountinfo = "\n".join(f"{n} 1 8:1 / {point} rw - ext4 /dev/sda1 rw" for n, point in enumerate(mounted, 20))
    assert unmounted_points(fstab, mountinfo, "/srv/rec") == found


def test_an_unmounted_disk_is_a_problem_although_its_mount_point_can_be_read() -> None:
    findings = judge_folder(replace(FOLDER, unmounted=("/rec",), is_empty=True))
    assert worst(findings) is PROBLEM
    assert findings[0].todo == "mount /rec"
    assert "it is empty" in findings[1].says


@pytest.mark.parametrize(
    ("not_writable", "unit", "read_only", "severity", "says"),
    [
        ([], "", [], OK, "seen only from inside"),
        ([], "cef-trio.service", [], OK, "as far as its ProtectSystem and ReadWritePaths tell"),
        (["/rec/a"], "", [], PROBLEM, "this user may not write '/rec/a'"),
        ([f"/rec/{n}" for n in range(7)], "", [], PROBLEM, "'/rec/4' and 2 more, so nothing is deleted"),
        ([], "cef-trio.service", ["/rec"], PROBLEM, "ProtectSystem=strict, so its daemon may not write '/rec'"),
    ],
)
def test_p10_whether_what_is_to_be_deleted_may_be_deleted(
    not_writable: list[str], unit: str, read_only: list[str], severity: Severity, says: str
) -> None:
    facts = replace(FOLDER, not_writable=not_writable)
    finding = judge_deletions(facts, "MIN_FREE_SPACE", unit=unit, read_only=read_only)
    assert finding.severity is severity
    assert finding.says.startswith("MIN_FREE_SPACE: ")
    assert says in finding.says


@pytest.mark.parametrize(
    ("theirs", "path", "is_of_another"),
    [
        (Owner("m", "uuid:1", "/rec /"), "/rec/a.mp4", True),
        (Owner("m", "uuid:2", "/rec /"), "/rec/a.mp4", False),
        (Owner("m", None, "/rec /"), "/rec/a.mp4", False),
        (Owner("another", "uuid:1", "/rec /"), "/rec/a.mp4", False),
        (Owner("another", "net:nas:/rec", "/rec /"), "/rec/a.mp4", True),
        (Owner("m", "uuid:1", "/rec /"), "/records/a.mp4", False),
        (None, "/rec/a.mp4", False),
    ],
)
def test_an_open_stream_of_a_disk_that_is_not_there_is_noticed(
    theirs: Owner | None, path: str, is_of_another: bool
) -> None:
    meta = a_stream(path=path, owner=theirs)
    assert is_of_another_disk(meta, "/rec", Owner("m", "uuid:2", "/rec /")) is is_of_another


def test_streams_of_another_disk_are_a_problem_with_the_remedy() -> None:
    findings = judge_streams(StreamFacts(daemons={}, without_task=2, failed=0, of_another_disk=2))
    assert [one.todo.partition(";")[0] for one in findings if one.subject == "watch folder"] == ["mount it"]


def test_missing_credentials_name_where_they_were_looked_for_and_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(S3OperationError) as caught:
        trio.run(ChainCredentials().get)
    finding = judge_s3_failure(caught.value, "AWS")
    for place in ("S3_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID", f"{tmp_path}/.aws/credentials", "metadata service"):
        assert place in finding.says
    assert finding.todo.startswith("set S3_ACCESS_KEY_ID")


@pytest.mark.parametrize(
    ("reply", "todo"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", "more memory"),
        ("NOREPLICAS Not enough good replicas to write.", "start its replicas"),
        ("READONLY You can't write against a read only replica.", "set REDIS_URL to the primary"),
        ("MISCONF Errors writing to the AOF file: No space left on device", "free space"),
        ("NOPERM User x has no permissions to run the 'evalsha' command", "SECURITY.md"),
        ("no answer in 1 seconds", "start it"),
    ],
)
def test_a_server_that_refuses_writes_is_a_problem_with_its_own_remedy(reply: str, todo: str) -> None:
    finding = judge_refused_write(RedisOperationError("check_writable", reply, transient=True), "redis://x")
    assert (finding.severity, reply in finding.says, todo in finding.todo) == (PROBLEM, True, True)
