"""Daemons on several hosts are seen by any command: who runs, who is silent, and `status` of ten thousand streams."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py
import trio
from servers.command import answer, command
from servers.daemon import daemon, settings_for
from servers.embedded_s3 import embedded_s3_server
from servers.endpoints import Endpoint
from servers.stream_records import DAEMON, a_part, a_stream
from servers.valkey import ValkeyServer, valkey_server
from waiting import wait_until

from cef_trio.checkpoint.redis.keys import Keys
from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.checkpoint.states import StreamSet

pytestmark = pytest.mark.real


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    with valkey_server(tcp=True) as server:
        yield server


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Endpoint]:
    with embedded_s3_server(tmp_path, bucket="recordings") as running:
        yield running


def fleet(settings: Mapping[str, str], code: int = 0) -> dict[str, Any]:
    found = answer("fleet", settings=settings, code=code)
    return {one["owner"]: one for one in found["daemons"]}


def test_the_fleet_is_seen_from_any_host_and_a_silent_one_is_named(
    tmp_path: Path, valkey: ValkeyServer, endpoint: Endpoint
) -> None:
    """The age of the killed daemon's report is made by its time in the registry: no test waits for a minute."""
    hosts = []
    for name in ("north", "south"):
        (tmp_path / name).mkdir()
        more = {"owner_name": name, "instance_id": f"cam-{name}"}
        hosts.append(settings_for(tmp_path / name, endpoint, valkey.url, **more))
    anywhere = {"REDIS_URL": valkey.url, "OWNER_NAME": "desk"}
    with daemon(hosts[0]) as north, daemon(hosts[1]) as south:
        for one in (north, south):
            one.wait_for("daemon_started")
        seen: dict[str, Any] = {}

        def both_are_ready() -> bool:
            seen.update(fleet(anywhere))
            return {name: one["state"] for name, one in seen.items()} == {"north": "ready", "south": "ready"}

        wait_until(both_are_ready)
        assert seen["north"]["folder"] == str(tmp_path / "north")
        assert abs(seen["north"]["clock_ahead_seconds"]) < 5
        assert "its daemon runs" in command("fleet", "retire", "north", settings=anywhere, code=5).stdout
        north.kill()
        assert south.stop() == 0
    with redis_py.Redis.from_url(valkey.url) as raw:
        for name, entry in raw.hgetall(Keys().daemons).items():
            received, _, text = entry.partition(b" ")
            raw.hset(Keys().daemons, name, b"%d %b" % (int(received) - 70_000, text))
    assert {name: one["state"] for name, one in fleet(anywhere, 5).items()} == {"north": "silent", "south": "stopped"}
    assert [one["problem"] for one in answer("fleet", settings=anywhere, code=5)["problems"]] == ["silent"]
    findings = answer("doctor", settings=hosts[1], code=5)["findings"]
    assert any("cam-north on" in one["says"] for one in findings if one["subject"] == "fleet")
    assert "retired" in command("fleet", "retire", "north", settings=anywhere).stdout
    assert "not retired: no daemon" in command("fleet", "retire", "north", settings=anywhere, code=5).stdout
    assert set(fleet(anywhere)) == {"south"}


def test_status_of_ten_thousand_streams_asks_for_totals_and_not_for_records(valkey: ValkeyServer) -> None:
    open_streams, without_lease, completed = 10_000, 70, 3000
    now = datetime.now(UTC)
    example = replace(a_stream(), started_at_utc=now, last_activity_at_utc=now)
    keys = Keys("", "north")

    async def fill() -> None:
        async with RedisCheckpointStore(valkey.url, owner="north", socket_timeout_seconds=10) as store:
            await store.create(example, DAEMON, [a_part()])

    trio.run(fill)
    with redis_py.Redis.from_url(valkey.url) as raw:
        record, parts = raw.hgetall(keys.meta(example.stream_id)), raw.hgetall(keys.parts(example.stream_id))
        with raw.pipeline(transaction=False) as pipeline:
            for number in range(1, open_streams):
                key = str(uuid.UUID(int=number))
                pipeline.hset(keys.meta(key), mapping={**record, b"stream_id": key})
                pipeline.hset(keys.parts(key), mapping=parts)
                pipeline.sadd(keys.set(StreamSet.ACTIVE), key)
                if number > without_lease:
                    pipeline.set(keys.lease(key), DAEMON.value)
            pipeline.sadd(
                keys.set(StreamSet.COMPLETED), *(str(uuid.UUID(int=-n % 2**128)) for n in range(1, completed + 1))
            )
            pipeline.execute()
        raw.config_resetstat()
        found = answer("status", settings={"REDIS_URL": valkey.url, "OWNER_NAME": "north"})
        calls = {name.removeprefix("cmdstat_"): one["calls"] for name, one in raw.info("commandstats").items()}
    assert (found["streams"]["active"], found["streams"]["completed"]) == (open_streams, completed)
    assert found["daemons"] == {"a-daemon": open_streams - without_lease}
    assert (len(found["open_streams"]), found["open_streams_left_out"]) == (50, open_streams - 50)
    assert [one["holder"] for one in found["open_streams"]] == [None] * 50
    assert calls["mget"] == 20
    assert calls["smembers"] == 2
    shown, verification = 2 * 50, 1
    assert calls["hgetall"] <= shown + verification + 1
