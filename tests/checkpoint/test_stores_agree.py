"""Whatever is done to them in whatever order, the in-process store and the one in Redis answer and hold the same.

The in-process store applies commits (``commit.py``), the other sends them to a Lua script. ``create``,
``save_interrupted``, ``forget`` and the leases are implemented twice. This test keeps the two from drifting apart.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import redis
import trio
from checkpoint.conftest import memory_subject, redis_subject
from checkpoint.examples import OUR_NEXT_PROCESS, OURS, THEIRS, Subject, later, meta
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers.valkey import ValkeyServer
from thoroughness import LONG

from cef_trio.checkpoint import rules
from cef_trio.checkpoint.commit import Change, ExitState
from cef_trio.checkpoint.model import FileIdentity, Owner, PartRecord
from cef_trio.checkpoint.protocols import CheckpointStore
from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.checkpoint.states import INTERRUPTED, History, Status, StreamSet
from cef_trio.exceptions import LeaseLostError

FAR = 10**13
IDS = ["s1", "s2", "s3"]
OWNERS = [Owner("a", "uuid:a", "/rec /"), Owner("b", "uuid:b", "/rec /")]
PATHS = ["/rec/a.mp4", "/rec/\udcff\n.mp4", "/rec/ä.mp4"]

Step = Callable[[Subject], Coroutine[Any, Any, object]]

ids = st.sampled_from(IDS)
paths = st.sampled_from(PATHS)
leases = st.sampled_from([OURS] * 12 + [OUR_NEXT_PROCESS, THEIRS])  # most steps should have an effect to compare
statuses = st.sampled_from(Status)
moments = st.integers(0, 3).map(later)
parts = st.builds(
    PartRecord,
    part_number=st.integers(1, 4),
    etag=st.sampled_from(["a", "b"]),
    size_bytes=st.integers(1, 3),
    crc64nvme=st.integers(0, 1),
    uploaded_at_utc=moments,
    checksum=st.sampled_from([None, "x"]),
)
changes = st.fixed_dictionaries(
    {},
    optional={
        "part_size": st.integers(1, 9),
        "identity": st.builds(FileIdentity, st.integers(1, 2), st.integers(1, 2)),
        "failure_reason": st.sampled_from([None, "why", "\udcff"]),
        "s3_upload_id": st.sampled_from([None, "u1", "u2"]),
        "retry_at_utc": st.none() | moments,
        "retry_attempts": st.none() | st.integers(0, 9),
        "owner": st.sampled_from([None, *OWNERS]),
        "next_part_to_upload": st.integers(1, 5),
        "object_crc64nvme": st.none() | st.integers(0, 9),
        "duration_seconds": st.none() | st.floats(0, 9),
        "let_go_at_utc": st.none() | moments,
    },
).map(Change)
metas = st.builds(
    lambda stream_id, path, status, following, owner: meta(
        stream_id,
        path=path,
        status=status,
        next_part_to_upload=following,
        s3_upload_id="u0",
        object_etag="e",
        owner=owner,
    ),
    ids,
    paths,
    statuses,
    st.integers(1, 3),
    st.sampled_from([None, *OWNERS]),
)


def call(name: str, *arguments: st.SearchStrategy[Any], **named: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """The method of the store, with drawn arguments, as something to run and to read in a failure."""
    return st.tuples(st.just(name), st.tuples(*arguments), st.fixed_dictionaries(named))


steps = st.one_of(
    call(
        "create",
        metas,
        leases,
        st.lists(parts, max_size=3),
        replaced_stream_id=st.none() | ids,
        other_owner_stream_id=st.none() | ids,
    ),
    call("acquire", ids, leases),
    call("renew", st.lists(ids), leases),
    call("release", st.lists(ids), leases),
    call("update", ids, leases, changes),
    call("record_part", ids, leases, parts, rewritten=st.booleans()),
    call("adopt_parts", ids, leases, st.lists(parts, max_size=3)),
    call("record_put", ids, leases, parts, changes),
    call("cut_parts", ids, leases, st.integers(0, 3)),
    call("start_over", ids, leases, changes),
    call("transition", ids, leases, statuses, changes, enqueue_webhook=st.booleans()),
    call("ack_webhook", ids),
    call("rename", ids, leases, paths),
    call(
        "save_interrupted",
        st.lists(st.builds(ExitState, ids, st.sampled_from(sorted(INTERRUPTED)), moments), max_size=4),
        leases,
    ),
    call("forget", ids),
    call("holders", st.lists(ids)),
    call("expire", ids),
    call("date", st.sampled_from(History), ids, st.integers(0, 9)),
)


async def run(subject: Subject, name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> object:
    """The answer, or the error as text."""
    if name == "expire":
        subject.expire(*arguments)
        return None
    try:
        return await getattr(subject.store, name)(*arguments, **named)
    except (LeaseLostError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


async def everything(store: CheckpointStore) -> object:
    """All that can be seen through the interface."""
    return (
        {stream_id: await store.load(stream_id) for stream_id in IDS},
        await store.load_metas(IDS),
        {stream_set: await store.members(stream_set) for stream_set in StreamSet},
        await store.find_by_path(PATHS),
        [await store.find_by_path(PATHS, owner=dict.fromkeys(PATHS, owner.name).__getitem__) for owner in OWNERS],
        await store.pending_webhooks(),
        await store.count(),
        await store.count_ended(),
        [await store.ended(history, before_ms=FAR) for history in History],
        [await store.latest(history, 2) for history in History],
        await store.completed_like([1234, 1], []),
        await store.completed_like([], [0]),
        (await store.expired(0)).stream_ids,
    )


@pytest.mark.real
@settings(
    max_examples=300 if LONG else 50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(commands=st.lists(steps, min_size=5, max_size=40))
def test_both_stores_answer_and_hold_the_same_after_any_commands(
    valkey: ValkeyServer, commands: list[tuple[str, tuple[Any, ...], dict[str, Any]]]
) -> None:
    async def compare() -> None:
        with redis.Redis(unix_socket_path=str(valkey.socket_path)) as client:
            client.flushall()
            async with RedisCheckpointStore(valkey.unix_url, socket_timeout_seconds=10) as store:
                real, model = redis_subject(store, client), memory_subject()
                begun: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
                    ("create", (meta(IDS[n], path=PATHS[n]), OURS, []), {}) for n in range(2)
                ]
                for name, arguments, named in [*begun, *commands]:
                    told = await run(real, name, arguments, named)
                    assert told == await run(model, name, arguments, named)
                    assert await everything(real.store) == await everything(model.store)
                for stream_id in IDS:  # the leases, which no method reads
                    assert await real.store.acquire(stream_id, THEIRS) == await model.store.acquire(stream_id, THEIRS)

    trio.run(compare)


def test_the_pure_modules_import_no_trio_and_no_redis() -> None:
    room = Path(rules.__file__).parent
    names = [
        "model",
        "commit",
        "states",
        "schema",
        "rules",
        "protocols",
        "redis/keys",
        "redis/codec",
        "redis/address",
        "redis/scripts/arguments",
    ]
    pure = {f"cef_trio.checkpoint.{name.replace('/', '.')}" for name in names}
    pure |= {"cef_trio.exceptions", "cef_trio.checkpoint.unreadable"}
    for name in names:
        for node in ast.walk(ast.parse((room / f"{name}.py").read_text())):
            if isinstance(node, ast.ImportFrom):
                whole = {node.module, *(f"{node.module}.{one.name}" for one in node.names)}
                assert whole & pure or str(node.module).partition(".")[0] in sys.stdlib_module_names, (name, whole)
            elif isinstance(node, ast.Import):
                assert {one.name.partition(".")[0] for one in node.names} <= sys.stdlib_module_names, name
