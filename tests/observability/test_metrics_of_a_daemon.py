"""The whole daemon, with a real Valkey and an S3 endpoint, shows what a world cannot: its watcher, a real survey."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import trio
from prometheus_client import generate_latest
from servers.valkey import valkey_server
from waiting import until

from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.checkpoint.states import StreamSet
from cef_trio.daemon.main import RunningDaemon, run_daemon
from cef_trio.local.run import settings_for
from cef_trio.local.servers import local_servers

MIB = 1024 * 1024


@pytest.mark.real
async def test_a_daemon_that_uploads_a_recording_shows_it(tmp_path: Path) -> None:
    watch = tmp_path / "watch"
    watch.mkdir()
    (watch / "a.mp4").write_bytes(bytes(6 * MIB))
    async with local_servers(tmp_path / "data") as servers, trio.open_nursery() as nursery:
        settings = settings_for(servers, watch, chunk_size_bytes=5 * MIB, prom_port=0)

        async def run(*, task_status: trio.TaskStatus[RunningDaemon]) -> None:
            await run_daemon(settings, task_status=task_status)

        daemon = await nursery.start(run)
        value = daemon.services.metrics.registry.get_sample_value
        await until(lambda: value("cef_trio_streams_ended_total", {"outcome": "completed"}) == 1)
        await until(lambda: value("cef_trio_known_streams", {"set": "active"}) is not None)
        await until(lambda: value("cef_trio_redis_persistent") is not None)  # a survey asks a slow Redis again
        assert value("cef_trio_uploaded_parts_total") == 2
        assert value("cef_trio_uploaded_bytes_total") == 6 * MIB
        assert value("cef_trio_redis_persistent") == 1
        assert abs(value("cef_trio_watcher_last_run_timestamp_seconds") - time.time()) < 60
        assert abs(value("cef_trio_idle_checker_last_run_timestamp_seconds") - time.time()) < 60
        assert b"cef_trio_build_info{" in generate_latest(daemon.services.metrics.registry)
        daemon.shutdown.request()
    assert value("cef_trio_known_streams", {"set": "active"}) is None
    assert value("cef_trio_shutdown_seconds") > 0


@pytest.mark.real
@pytest.mark.parametrize("append_only", [True, False])
async def test_a_server_reports_whether_it_keeps_what_it_acknowledges(append_only: bool) -> None:
    with valkey_server(append_only=append_only) as server:
        async with RedisCheckpointStore(server.url, socket_timeout_seconds=10) as store:
            assert await store.is_persistent() is append_only
            assert await store.count() == dict.fromkeys(StreamSet, 0)
