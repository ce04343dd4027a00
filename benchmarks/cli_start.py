"""CPU seconds of `cef-trio list` and its like, on a real Valkey: `python benchmarks/cli_start.py [STREAMS]`.

CPU time of the process (user and system), the least of ten runs, which take turns, so that a busy moment meets all of
them; and the ratio to importing the libraries that a command which reads Redis cannot do without. The first line is
Python alone. `-X` and `-I` are not used. Modules are compiled before (`PYTHONDONTWRITEBYTECODE` would add that to every
run).
"""

from __future__ import annotations

import compileall
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from math import inf
from pathlib import Path

import trio

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

from servers.stream_records import DAEMON, a_stream, stream_id
from servers.valkey import valkey_server

from cef_trio.checkpoint.commit import Change
from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.checkpoint.states import Status

OWNER = "benchmark"
RUNS = 10
COMMANDS: Sequence[Sequence[str]] = (
    ["list"],
    ["list", "--json"],
    ["list", "--limit", "20"],
    ["list", "--failed"],
    ["show", "00000001"],
    ["status"],
    ["fleet"],
    ["--help"],
    ["--version"],
)
LIBRARIES = "import trio, redis.asyncio, pydantic_settings"


async def fill(url: str, streams: int) -> None:
    limiter = trio.CapacityLimiter(16)

    async def one(store: RedisCheckpointStore, number: int) -> None:
        async with limiter:
            path = f"/srv/recordings/camera-{number % 50}/{number}.mp4"
            await store.create(a_stream(number, path, status=Status.S3_COMPLETED), DAEMON)
            await store.transition(stream_id(number), DAEMON, Status.COMPLETED, Change({}))

    async with RedisCheckpointStore(url, owner=OWNER) as store, trio.open_nursery() as nursery:
        for number in range(1, streams + 1):
            nursery.start_soon(one, store, number)


def cpu_seconds(command: Sequence[str], environment: dict[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


def main() -> None:
    streams = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with valkey_server(tcp=True) as server:
        trio.run(fill, server.url, streams)
        root = str(Path(__file__).parents[1])
        environment = {"PATH": os.environ["PATH"], "REDIS_URL": server.url, "OWNER_NAME": OWNER, "PYTHONPATH": root}
        commands = {
            "python": [sys.executable, "-c", "pass"],
            LIBRARIES: [sys.executable, "-c", LIBRARIES],
            **{" ".join(words): [sys.executable, "-m", "cef_trio", *words] for words in COMMANDS},
        }
        compileall.compile_dir(Path(root, "cef_trio"), quiet=1)
        least = dict.fromkeys(commands, inf)
        for name, command in [*commands.items()] * RUNS:
            least[name] = min(least[name], cpu_seconds(command, environment))
    for name, seconds in least.items():
        print(f"{seconds:6.3f} s {seconds / least[LIBRARIES]:5.2f}  {name}")


if __name__ == "__main__":
    main()
