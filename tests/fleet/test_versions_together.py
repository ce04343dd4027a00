"""The last version of schema 1 before, after and beside the present one: nothing is lost, nothing is sent twice."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py
from fleet.record_checkpoints import BUCKET, OWNER
from fleet.stored_checkpoints import QUICK, restore
from fleet.versions import LAST_OF_SCHEMA_1, NoHistoryError, source_of
from servers.daemon import daemon, settings_for
from servers.embedded_s3 import embedded_s3_server
from servers.endpoints import Endpoint
from servers.s3_control import call_log
from servers.store import look_into, sha256_of
from servers.valkey import ValkeyServer
from thoroughness import only_long
from waiting import wait_until

from cef_trio.checkpoint.redis.keys import Keys

pytestmark = pytest.mark.real
NAMESPACE = Keys("", OWNER).prefix
OLD = {"REDIS_KEY_PREFIX": NAMESPACE, "S3_KEY_TEMPLATE": f"streams/{OWNER}/{{stream_id}}/{{file_name}}"}
"""The settings by which an older version works on an owner's namespace (docs/operations.md)."""


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Endpoint]:
    with embedded_s3_server(tmp_path, bucket=BUCKET, arguments=["--control"]) as running:
        yield running


@pytest.fixture(scope="session")
def old_version(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a daemon of the last version of schema 1."""
    try:
        return {"PYTHONPATH": str(source_of(LAST_OF_SCHEMA_1, tmp_path_factory.mktemp("old")))}
    except NoHistoryError as error:
        pytest.skip(str(error))


def statuses(raw: Any, prefix: str, watch: Path) -> dict[str, str]:
    found = (raw.hmget(key, "current_path", "status") for key in raw.keys(f"{prefix}stream:*:meta"))
    return {str(Path(path.decode()).relative_to(watch)): status.decode() for path, status in found}


def parts_sent(endpoint: Endpoint, since: int = 0) -> Counter[tuple[str, int]]:
    calls = [call for call in call_log(endpoint)["journal"][since:] if call["operation"] == "UploadPart"]
    return Counter((call["key"], call["part_number"]) for call in calls)


@only_long("takes long")
def test_the_way_back_and_forward_again_sends_no_part_twice(
    tmp_path: Path, endpoint: Endpoint, valkey: ValkeyServer, old_version: dict[str, str]
) -> None:
    """An older version with the owner's prefix resumes records of schema 2, and this one takes them back."""
    watch = tmp_path / "watch"
    settings = settings_for(
        watch,
        endpoint,
        valkey.url,
        owner_name=OWNER,
        **QUICK,
    )
    with redis_py.Redis.from_url(valkey.url) as raw:
        restored = restore("schema-2.json", watch, endpoint, raw)
        before = len(call_log(endpoint)["journal"])
        expected = {
            path: meta["status"] if meta["status"].startswith("failed_") else "completed"
            for path, meta in restored.metas.items()
        }
        with daemon({**settings, **OLD, **old_version}) as process:
            wait_until(lambda: statuses(raw, NAMESPACE, watch) == expected, otherwise=process.tail)
            (watch / "by the old version.mp4").write_bytes(b"\1" * (6 << 20))
            expected["by the old version.mp4"] = "completed"
            wait_until(lambda: statuses(raw, NAMESPACE, watch) == expected, otherwise=process.tail)
            assert process.count("checkpoint_unreadable") == 0
            assert process.stop() == 0
        after = len(call_log(endpoint)["journal"])
        with daemon(settings) as process:
            process.wait_for_rounds(3)
            assert process.count("stream_started") == process.count("object_adopted") == 0
            assert statuses(raw, NAMESPACE, watch) == expected
            assert raw.scard(f"{NAMESPACE}streams:completed") == raw.zcard(f"{NAMESPACE}streams:completed_at")
            assert raw.scard(f"{NAMESPACE}streams:failed") == raw.zcard(f"{NAMESPACE}streams:failed_at")
            assert process.stop() == 0
    sent = parts_sent(endpoint, before)
    assert not parts_sent(endpoint, after)
    new = {one: count for one, count in sent.items() if one not in restored.missing_parts()}
    assert set(sent) - set(new) == restored.missing_parts()
    assert set(sent.values()) == {1}
    assert {key.rpartition("/")[2] for key, _ in new} == {"by the old version.mp4"}
    store = look_into(endpoint)
    for path, meta in restored.metas.items():
        if expected[path] == "completed":
            assert store.sha256(meta["s3_key_prefix"]) == sha256_of(watch / path)


class Folder:
    """A watch folder of one of several hosts, with what its recorder writes."""

    def __init__(self, path: Path, settings: dict[str, str]) -> None:
        self.path = path
        self.path.mkdir()
        self.settings = {**settings, "WATCH_DIR": str(path)}
        self._open = (path / "open.mp4").open("ab")

    def write(self, name: str) -> None:
        (self.path / name).write_bytes(random.Random(f"{self.path}/{name}").randbytes(6 << 20))

    def append(self, size: int) -> None:
        self._open.write(random.Random(f"{self.path} {self._open.tell()}").randbytes(size))
        self._open.flush()

    def close(self) -> None:
        self._open.close()


def test_p9_hosts_are_upgraded_one_after_the_other_and_each_recording_is_uploaded_once(
    tmp_path: Path, endpoint: Endpoint, valkey: ValkeyServer, old_version: dict[str, str]
) -> None:
    """One Redis, one bucket, equal file names. One host has the old version, then the new one, in mid-recording."""
    given = {
        "close_grace_seconds": 0.2,
        "stale_check_seconds": 0.3,
        "rescan_seconds": 0.5,
        "stream_timeout_seconds": 600,  # what is held open through the upgrade does not end before
    }
    settings = settings_for(tmp_path, endpoint, valkey.url, **given)
    late = Folder(tmp_path / "late", {**settings, "OWNER_NAME": "late", "INSTANCE_ID": "late"})
    early = Folder(tmp_path / "early", {**settings, "OWNER_NAME": "early", "INSTANCE_ID": "early"})
    with redis_py.Redis.from_url(valkey.url) as raw, ExitStack() as both:
        old = both.enter_context(daemon({**late.settings, **old_version}))
        for folder in (late, early):
            folder.write("0.mp4")
            folder.append(6 << 20)
        old.wait_for("part_uploaded", count=3)
        new = both.enter_context(daemon(early.settings))
        for folder in (late, early):
            folder.write("1.mp4")
        old.wait_for("stream_completed", count=2)
        new.wait_for("stream_completed", count=2)
        assert set(statuses(raw, "", tmp_path)) == {f"late/{name}.mp4" for name in ("0", "1", "open")}
        assert set(statuses(raw, "{early}:", tmp_path)) == {f"early/{name}.mp4" for name in ("0", "1", "open")}
        assert old.stop() == 0, old.tail()
        upgraded = both.enter_context(daemon(late.settings))
        for folder in (late, early):
            folder.append(5 << 20)
            folder.close()
            folder.write("2.mp4")
        upgraded.wait_for("stream_completed", count=2)
        new.wait_for("stream_completed", count=4)
        for process in (upgraded, new):
            process.wait_for_rounds(2)
            assert process.count("stream_failed") == process.count("lease_lost") == process.count("object_adopted") == 0
            assert process.stop() == 0
        assert new.count("stream_started") == 4
        assert upgraded.count("stream_started") == 1
        expected = {f"{name}.mp4": "completed" for name in ("0", "1", "2", "open")}
        for owner in ("late", "early"):
            assert statuses(raw, f"{{{owner}}}:", tmp_path / owner) == expected
        assert not raw.keys("stream:*")
    sent = parts_sent(endpoint)
    assert set(sent.values()) == {1}
    store = look_into(endpoint)
    files = sorted(sha256_of(path) for folder in (late, early) for path in folder.path.iterdir())
    assert sorted(store.sha256(key) for key in store.recordings()) == files
    assert not store.open_uploads()
