"""P10: what ``doctor`` advises is right. Each drill breaks one thing on real servers, reads the problem, does what its
advice says, and is well again."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from servers.command import answer
from servers.endpoints import Endpoint
from servers.stream_records import DAEMON, a_stream, stream_id
from servers.valkey import ValkeyServer, valkey_server
from thoroughness import only_long

from cef_trio.checkpoint.redis import RedisCheckpointStore

pytestmark = pytest.mark.real

Mend = Callable[[str], None]
"""Does what the advice says."""


@dataclass
class Machine:
    """The operator's machine: its settings and servers."""

    settings: dict[str, str]
    folder: Path
    server: ValkeyServer
    endpoint: Endpoint
    stack: ExitStack = field(default_factory=ExitStack)

    def redis(self, *words: str) -> Any:
        with redis.Redis.from_url(self.server.url) as client:
            return client.execute_command(*words)

    def problems(self) -> dict[str, tuple[str, str]]:
        found = answer("doctor", settings=self.settings, code=None)["findings"]
        return {one["subject"]: (one["says"], one["todo"]) for one in found if one["severity"] != "ok"}


@pytest.fixture
def machine(healthy_settings: dict[str, str], tmp_path: Path, healthy_endpoint: Endpoint) -> Iterator[Machine]:
    watched = tmp_path / "watched"
    watched.mkdir()
    with ExitStack() as stack:
        server = stack.enter_context(valkey_server(tcp=True, append_only=True))
        yield Machine(
            {**healthy_settings, "WATCH_DIR": str(watched), "REDIS_URL": server.url},
            tmp_path,
            server,
            healthy_endpoint,
            stack,
        )


def follows(replica: ValkeyServer) -> None:
    """Wait until a replica has its primary's data; there is nothing to wait on but the question itself."""
    with redis.Redis.from_url(replica.url) as client:
        while client.info("replication")["master_link_status"] != "up":
            pass


def secret_for_all(machine: Machine) -> Mend:
    folder = Path(machine.stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))  # others may enter it
    folder.chmod(0o755)
    file = folder / "secret"
    file.write_text(machine.settings.pop("S3_SECRET_ACCESS_KEY"))
    file.chmod(0o644)
    machine.settings["S3_SECRET_ACCESS_KEY_FILE"] = str(file)

    def run(todo: str) -> None:
        subprocess.run(todo, shell=True, check=True)

    return run


def no_folder(machine: Machine) -> Mend:
    shutil.rmtree(machine.settings["WATCH_DIR"])
    return lambda _: Path(machine.settings["WATCH_DIR"]).mkdir()


def wrong_setting(machine: Machine) -> Mend:
    machine.settings["LOG_LEVEL"] = "loud"
    return lambda _: machine.settings.update(LOG_LEVEL="INFO")


def redis_is_down(machine: Machine) -> Mend:
    machine.server.kill()
    return lambda _: machine.server.start()


def redis_is_a_replica(machine: Machine) -> Mend:
    primary = machine.stack.enter_context(valkey_server(tcp=True, append_only=True))
    machine.redis("REPLICAOF", "127.0.0.1", str(primary.port))
    follows(machine.server)
    return lambda _: machine.settings.update(REDIS_URL=primary.url)


def redis_has_no_memory(machine: Machine) -> Mend:
    machine.redis("CONFIG", "SET", "maxmemory", "1")
    return lambda _: machine.redis("CONFIG", "SET", "maxmemory", "0")


def redis_is_nearly_full(machine: Machine) -> Mend:
    used = int(machine.redis("INFO", "memory")["used_memory"])
    machine.redis("CONFIG", "SET", "maxmemory", str(int(used * 1.25)))
    return lambda _: machine.redis("CONFIG", "SET", "maxmemory", "0")


def redis_has_no_replica(machine: Machine) -> Mend:
    machine.redis("CONFIG", "SET", "min-replicas-to-write", "1")

    def start_a_replica(_: str) -> None:
        replica = ["--replicaof", "127.0.0.1", str(machine.server.port)]
        follows(machine.stack.enter_context(valkey_server(tcp=True, append_only=True, arguments=replica)))
        while not machine.redis("INFO", "replication").get("min_slaves_good_slaves"):
            pass

    return start_a_replica


def redis_evicts(machine: Machine) -> Mend:
    machine.redis("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    return lambda todo: machine.redis("CONFIG", "SET", *todo.removeprefix("set ").split())


def redis_does_not_persist(machine: Machine) -> Mend:
    machine.redis("CONFIG", "SET", "appendonly", "no")

    def set_them(todo: str) -> None:
        for name, value in re.findall(r"(append\w+) (\w+)", todo):
            machine.redis("CONFIG", "SET", name, value)

    return set_them


def namespace(machine: Machine) -> str:
    owner = answer("check", settings=machine.settings)["settings"]
    name = next(one["value"] for one in owner if one["name"] == "OWNER_NAME")
    return f"{{{name}}}:"


def the_verification_is_broken(machine: Machine) -> Mend:
    rename = broken(machine, "verification")

    def run(todo: str) -> None:
        found = answer("status", settings=machine.settings)["unreadable"]
        assert [one["key"] for one in found] == [f"{namespace(machine)}verification"]
        rename(todo)

    return run


def a_key_is_broken(machine: Machine) -> Mend:
    return broken(machine, "streams:by_path")


def broken(machine: Machine, name: str) -> Mend:
    machine.redis("SET", f"{namespace(machine)}{name}", "not a hash")

    def run(todo: str) -> None:
        command = re.search(r"`redis-cli (.*)`", todo)
        assert command is not None
        machine.redis(*command[1].split())

    return run


def no_credentials(machine: Machine) -> Mend:
    del machine.settings["S3_ACCESS_KEY_ID"], machine.settings["S3_SECRET_ACCESS_KEY"]
    machine.settings |= {"HOME": str(machine.folder), "AWS_EC2_METADATA_DISABLED": "true"}
    keys = {"S3_ACCESS_KEY_ID": machine.endpoint.access_key, "S3_SECRET_ACCESS_KEY": machine.endpoint.secret_key}
    return lambda _: machine.settings.update(keys)


def wrong_key(machine: Machine) -> Mend:
    machine.settings["S3_SECRET_ACCESS_KEY"] = "wrong"
    return lambda _: machine.settings.update(S3_SECRET_ACCESS_KEY=machine.endpoint.secret_key)


def no_bucket(machine: Machine) -> Mend:
    machine.settings["S3_BUCKET_NAME"] = "not-there"

    def create(todo: str) -> None:
        assert todo
        machine.endpoint.client().create_bucket(Bucket="not-there")

    return create


def s3_is_elsewhere(machine: Machine) -> Mend:
    machine.settings["S3_ENDPOINT_URL"] = "http://127.0.0.1:9"
    return lambda _: machine.settings.update(S3_ENDPOINT_URL=machine.endpoint.url)


def a_short_lifecycle_rule(machine: Machine) -> Mend:
    client = machine.endpoint.client()

    def put(days: int) -> None:
        rule = {
            "ID": "x",
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": days},
        }
        client.put_bucket_lifecycle_configuration(Bucket="recordings", LifecycleConfiguration={"Rules": [rule]})

    put(1)
    machine.stack.callback(client.delete_bucket_lifecycle, Bucket="recordings")

    def wait_longer(todo: str) -> None:
        days = re.search(r"wait (\d+) days or more", todo)
        assert days is not None
        put(int(days[1]))

    return wait_longer


def no_ffprobe(machine: Machine) -> Mend:
    path = machine.settings["FFPROBE_PATH"]
    machine.settings["FFPROBE_PATH"] = "/no/such/ffprobe"
    return lambda _: machine.settings.update(FFPROBE_PATH=path)


DRILLS = {
    "settings": [wrong_setting],
    "secrets": [secret_for_all],
    "watch folder": [no_folder],
    "redis": [redis_is_down, redis_is_a_replica, redis_has_no_memory],
    "redis memory": [redis_evicts, redis_is_nearly_full],
    "redis replication": [redis_has_no_replica],
    "redis persistence": [redis_does_not_persist],
    "records": [a_key_is_broken, the_verification_is_broken],
    "s3": [no_credentials, wrong_key, no_bucket, s3_is_elsewhere],
    "lifecycle": [a_short_lifecycle_rule],
    "ffprobe": [no_ffprobe],
}


SHORT = {
    secret_for_all,
    redis_has_no_memory,
    redis_has_no_replica,
    a_key_is_broken,
    the_verification_is_broken,
    no_credentials,
}
LONGER = only_long("takes long")


@pytest.mark.parametrize(
    ("subject", "drill"),
    [
        pytest.param(subject, one, id=one.__name__, marks=() if one in SHORT else LONGER)
        for subject in DRILLS
        for one in DRILLS[subject]
    ],
)
def test_p10_the_advice_of_doctor_mends_what_it_found(
    machine: Machine, subject: str, drill: Callable[[Machine], Mend]
) -> None:
    mend = drill(machine)
    broken = machine.problems()
    assert subject in broken
    mend(broken[subject][1])
    assert machine.problems() == {}


async def test_p10_doctor_names_the_parts_for_which_no_daemon_works_on_a_stream(machine: Machine) -> None:
    name = namespace(machine)
    async with RedisCheckpointStore(machine.server.url, owner=name[1:-2], socket_timeout_seconds=10) as store:
        await store.create(a_stream(), DAEMON)
        await store.release([stream_id(1)], DAEMON)
    assert "no daemon works on 1 open stream" in machine.problems()["daemon"][0]
    parts = f"{name}stream:{stream_id(1)}:parts"
    machine.redis("SET", parts, "not a hash")
    problems = machine.problems()
    assert parts in problems["records"][0]
    assert "delete that key" in problems["records"][1]
    assert "daemon" not in problems, "starting one would not help"
