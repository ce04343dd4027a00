"""``SECURITY.md`` lists the rights that are needed: the daemon and the commands run with them alone, and use each."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import redis as redis_library
import trio
from checkpoint import examples
from checkpoint.test_checkpoint_cancellation import CALLS
from servers.command import answer, command
from servers.daemon import NAMESPACE, OWNER, daemon, settings_for
from servers.embedded_s3 import embedded_s3_server
from servers.endpoints import Endpoint
from servers.s3_control import arm, call_log, disarm, disarm_all
from servers.valkey import ValkeyServer, valkey_server

import cef_trio
from cef_trio.checkpoint.redis.keys import Keys
from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.checkpoint.states import Status

ROOT = Path(cef_trio.__file__).parents[1]
PAGE = (ROOT / "SECURITY.md").read_text()
(ACL,) = re.findall(r"^ACL SETUSER (.*)$", PAGE, re.MULTILINE)
(POLICY,) = [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)]
PASSWORD = "correct-horse"
ACTION_OF = {
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "PutObject": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "ListParts": "s3:ListMultipartUploadParts",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "HeadBucket": "s3:ListBucket",
    "ListObjectsV2": "s3:ListBucket",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration",
    "CreateBucket": "s3:CreateBucket",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
    "DeleteBucket": "s3:DeleteBucket",
    "GetBucketLocation": "s3:GetBucketLocation",
    "ListBuckets": "s3:ListAllMyBuckets",
}
"""https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html"""

pytestmark = pytest.mark.real


def granted() -> set[str]:
    return {action for statement in POLICY["Statement"] for action in statement["Action"]}


@dataclass
class Servers:
    """A Valkey with the page's user, an S3 that grants the page's actions, and settings for both."""

    redis: ValkeyServer
    s3: Endpoint
    settings: Mapping[str, str]

    def commands_used(self) -> set[str]:
        with redis_library.Redis.from_url(self.redis.unix_url) as client:
            used = {name.removeprefix("cmdstat_") for name in client.info("commandstats")}
            entries = client.acl_log()
        assert entries == [], "refused by the ACL"
        return used - OURS

    def operations_used(self) -> set[str]:
        answer = call_log(self.s3)
        assert not [one for one in answer["outcomes"] if "AccessDenied" in one["outcome"]]
        return set(answer["calls"]) - {"Control"}


OURS = {"flushall", "acl|log", "acl|setuser", "config|resetstat", "client|setinfo", "hello", "auth"}
"""What this test does; and AUTH, which every user may."""


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    watch_dir = tmp_path / "watch"
    watch_dir.mkdir()
    with (
        valkey_server(tcp=True) as redis,
        embedded_s3_server(tmp_path, bucket="recordings", arguments=["--control"]) as s3,
    ):
        words = ["ACL", "SETUSER", *ACL.replace(">PASSWORD", f">{PASSWORD}").split()]
        assert redis.command(*words) == b"+OK\r\n"
        assert redis.command("CONFIG", "RESETSTAT") == b"+OK\r\n"
        for operation, action in ACTION_OF.items():
            if action not in granted():
                arm(s3, {"kind": "error", "operation": operation, "code": "AccessDenied", "times": None})
        url = f"redis://cef-trio:{PASSWORD}@127.0.0.1:{redis.port}/0"
        more = {"s3_create_bucket": "false", "close_grace_seconds": 0.2, "stale_check_seconds": 0.5}
        more["on_start_webhook"] = "http://127.0.0.1:9/nobody"
        yield Servers(redis, s3, settings_for(watch_dir, s3, url, **more))


def test_the_rights_that_security_md_lists_are_enough_and_none_is_too_many(servers: Servers) -> None:
    settings, folder = servers.settings, Path(servers.settings["WATCH_DIR"])
    path = folder / "a.mp4"
    trio.run(create_stream_of_an_earlier_version, servers.redis.unix_url, folder / "gone.mp4")
    with path.open("wb") as writer:
        with daemon(settings) as process:
            process.wait_for("legacy_streams_moved", streams=1)
            writer.write(os.urandom(6 << 20))
            writer.flush()
            process.wait_for("part_uploaded")
            assert process.stop() == 0
        with daemon(settings) as process:
            process.wait_for("stream_resumed")
            assert process.stop() == 0
        stream_id = stream_of(settings, path)
        command("abort", stream_id, settings=settings)
        command("retry", stream_id, settings=settings)
        with daemon(settings) as process:
            process.wait_for("upload_created")
            writer.write(b"the end")
            writer.close()
            process.wait_for("stream_completed")
            (folder / "empty.mp4").touch()
            process.wait_for("stream_completed", file=str(folder / "empty.mp4"))
            with (folder / "deleted.mp4").open("wb") as deleted:
                deleted.write(os.urandom(6 << 20))
                deleted.flush()
                process.wait_for("part_uploaded", file=str(folder / "deleted.mp4"))
                (folder / "deleted.mp4").unlink()
                process.wait_for("recording_deleted")
            assert process.stop() == 0
    assert servers.redis.command("FLUSHALL") == b"+OK\r\n"
    with daemon(settings) as process:
        process.wait_for("object_adopted", count=2)
        assert process.stop() == 0
    path.rename(folder / "b.mp4")
    assert servers.redis.command("ZADD", Keys("", OWNER).by_mtime, "1", "unknown") == b":1\r\n"
    with daemon(settings) as process:
        process.wait_for("history_mended")
        look_at_page(process.wait_for("admin_server_started")["port"])
        assert process.stop() == 0
    command("verify", stream_id[:8], settings=settings)
    key = f"streams/{OWNER}/{uuid4()}/nobody.mp4"
    servers.s3.client().create_multipart_upload(Bucket="recordings", Key=key)
    assert key in command("gc", "--older-than", "0s", settings=settings).stdout
    command("status", settings=settings)
    findings = answer("doctor", settings=settings, code=5)["findings"]
    problems = {one["subject"] for one in findings if one["severity"] == "problem"}
    assert problems <= {"redis persistence"}, findings
    assert "cannot" not in " ".join(one["says"] for one in findings if one["subject"] == "lifecycle")

    allowed = {word.removeprefix("+") for word in ACL.split() if word.startswith("+")}
    assert servers.commands_used() <= allowed
    # A daemon's report is removed after seven days: no test waits for that.
    assert "ZREM" in (ROOT / "cef_trio" / "checkpoint" / "redis" / "scripts" / "report.lua").read_text()
    assert allowed - servers.commands_used() <= {"zrem"}, "granted, and never used"
    assert {ACTION_OF[operation] for operation in servers.operations_used()} == granted()


def look_at_page(port: int) -> None:
    """Read the status page until it has what only Redis knows."""
    with httpx.stream("GET", f"http://127.0.0.1:{port}/events", trust_env=False, timeout=60) as events:
        for line in events.iter_lines():
            changed = json.loads(line[6:]) if line.startswith("data: {") else {}
            if changed.get("totals", {}).get("completed") is not None:
                return


async def test_the_rights_that_security_md_lists_are_enough_for_every_call_of_the_store(servers: Servers) -> None:
    url = f"redis://cef-trio:{PASSWORD}@127.0.0.1:{servers.redis.port}/0"
    async with RedisCheckpointStore(url, owner=OWNER, socket_timeout_seconds=10) as store:
        await store.create(examples.meta("s1"), examples.OURS, [examples.part(1), examples.part(2)])
        await store.create(examples.meta("ended", status=Status.COMPLETED), examples.OURS)
        for call in CALLS.values():
            await store.acquire("s1", examples.OURS)
            await call(store)


def test_the_rights_that_security_md_lists_are_enough_to_see_an_outage_of_writes_and_its_end(servers: Servers) -> None:
    """The probes write at keys that the rights cover. That the probe's object may not be deleted is no refusal."""
    quick = {"RETRY_ATTEMPTS": "2", "RETRY_INITIAL_SECONDS": "0.1", "RETRY_MAX_SECONDS": "0.3"}
    folder, s3, redis = Path(servers.settings["WATCH_DIR"]), servers.s3, servers.redis
    with daemon({**servers.settings, **quick}) as process:
        for number, code in enumerate(["ServiceUnavailable", "AccessDenied"], start=1):
            writes = ("CreateMultipartUpload", "UploadPart", "PutObject")
            faults = [arm(s3, {"kind": "error", "operation": one, "code": code, "times": None}) for one in writes]
            path = folder / f"s3-{number}.mp4"
            path.write_bytes(os.urandom(6 << 20))
            process.wait_for("outage_probe_failed", service="s3", count=3 * number)
            for fault in faults:
                disarm(s3, fault)
            process.wait_for("outage_ended", service="s3", count=number)
            process.wait_for("stream_completed", file=str(path))
        assert redis.command("CONFIG", "SET", "maxmemory", "1") == b"+OK\r\n"
        path = folder / "redis.mp4"
        path.write_bytes(os.urandom(6 << 20))
        process.wait_for("outage_probe_failed", service="redis", count=3)
        assert redis.command("CONFIG", "SET", "maxmemory", "0") == b"+OK\r\n"
        process.wait_for("outage_ended", service="redis")
        process.wait_for("stream_completed", file=str(path))
        assert (process.count("outage_started", service="s3"), process.count("outage_started", service="redis")) == (
            2,
            1,
        )
        assert process.count("stream_failed") == 0
        assert process.stop() == 0
    assert s3.client().head_object(Bucket="recordings", Key=f"streams/{OWNER}/cef-trio-probe")["ContentLength"] > 0
    outcomes = call_log(s3)
    assert outcomes["calls"]["DeleteObject"] == 1, "asked once, refused, and not asked again"
    assert b":1" in redis.command("EXISTS", f"{NAMESPACE}stream:cef-trio-probe")
    servers.commands_used()  # and none was refused by the ACL


async def create_stream_of_an_earlier_version(url: str, path: Path) -> None:
    async with RedisCheckpointStore(url) as store:
        record = examples.meta("earlier", path=str(path), status=Status.FAILED_S3_REFUSED)
        await store.create(record, examples.OURS, [examples.part(1)])
        await store.release(["earlier"], examples.OURS)


def streams(settings: Mapping[str, str]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = answer("list", settings=settings)["streams"]
    return found


def stream_of(settings: Mapping[str, str], path: Path) -> str:
    (found,) = [one["stream_id"] for one in streams(settings) if one["path"] == str(path)]
    return found


def test_the_user_of_security_md_can_do_nothing_else(servers: Servers) -> None:
    url = servers.settings["REDIS_URL"]
    with redis_library.Redis.from_url(url) as client:
        for command in (
            "FLUSHALL",
            "KEYS *",
            "SHUTDOWN",
            "CONFIG SET dir /tmp",
            "GET other",
            "SET other x",
            "RANDOMKEY",
        ):
            with pytest.raises(redis_library.exceptions.NoPermissionError):
                client.execute_command(*command.split())
    disarm_all(servers.s3)


def test_the_objects_that_the_policy_is_for_are_those_of_the_default_template() -> None:
    from cef_trio.settings.model import Settings

    prefix = Settings.model_fields["s3_key_template"].default.partition("{")[0]
    resources = [statement["Resource"] for statement in POLICY["Statement"]]
    assert resources == [f"arn:aws:s3:::recordings/{prefix}*", "arn:aws:s3:::recordings"]
    for statement in POLICY["Statement"]:
        assert statement["Action"] == sorted(statement["Action"])


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(tests/[\w/.]+)`", PAGE))))
def test_the_tests_that_security_md_names_are_there(path: str) -> None:
    assert (ROOT / path).exists()
