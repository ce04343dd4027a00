"""Rules of the source: which module calls which library, which handlers catch everything, and what is not used."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import cef_trio
from cef_trio import exceptions

PACKAGE = Path(cef_trio.__file__).parent
SOURCES = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
EDGES = {
    "httpx": {
        "http/client_transport.py",
        "s3/httpx_errors.py",
        "s3/response_guard.py",
        "s3/body.py",
        "s3/client.py",
        "s3/transport.py",
        "s3/download.py",
        "cli/probes.py",
        "webhook/client.py",
    },
    "httpcore": {"http/client_transport.py", "http/tunnel.py"},
    "redis": {
        "checkpoint/redis/store.py",
        "checkpoint/redis/client.py",
        "checkpoint/redis/cluster.py",
        "checkpoint/redis/connection.py",
        "checkpoint/redis/errors.py",
        "checkpoint/redis/legacy.py",
    },
    "botocore": {"s3/credentials.py"},
    "h11": {"http/server_connection.py", "http/tunnel.py"},
    "subprocess": {"media/ffprobe.py", "local/recorder.py", "local/valkey.py", "s3/credential_program.py"},
}
"""Where a library is called, and so where its exceptions are mapped: no other room can see one."""
STAND_INS = ("lab/", "s3_endpoint/")
"""The laboratory and the embedded S3 endpoint stand for servers and networks; they are not the daemon."""


def daemon_sources() -> dict[str, str]:
    return {name: source for name, source in SOURCES.items() if not name.startswith(STAND_INS)}


def imported(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_each_library_is_called_at_its_edge_and_nowhere_else() -> None:
    users = defaultdict(set)
    for name, source in daemon_sources().items():
        for library in imported(source) & set(EDGES):
            users[library].add(name)
    assert dict(users) == EDGES


def test_no_module_keeps_a_limiter_or_lock_that_outlives_a_run() -> None:
    """A thread that is abandoned when a trio run ends never gives its place back: the next run would wait for it."""
    found = {
        f"{name}:{node.lineno}"
        for name, source in SOURCES.items()
        for statement in ast.parse(source).body
        if isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(node := statement.value, ast.Call)
        if ast.unparse(node.func) in {"trio.CapacityLimiter", "trio.Semaphore", "trio.Lock", "trio.Condition"}
    }
    assert found == set()


THREADS = {"cli/slow_files.py", "daemon/exit_watchdog.py", "observability/log_writer.py"}
"""What is to work while the loop does not."""


def test_no_module_uses_asyncio_events_or_its_own_threads() -> None:
    """Cancel scopes, nurseries and trio_util's values instead; the threads are trio's workers, and three by name."""
    forbidden = {"Event", "Thread", "Timer", "ThreadPoolExecutor"}
    found = {}
    for name, source in daemon_sources().items():
        attributes = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
        if "asyncio" in imported(source) or "concurrent" in imported(source) or attributes & forbidden:
            found[name] = attributes & forbidden
    assert found == {name: {"Thread"} for name in THREADS}


def test_a_worker_thread_is_asked_for_where_one_can_be_waited_for() -> None:
    """The limit of threads is an outage of itself (``threads.py``); trio alone would raise."""
    users = {
        name
        for name, source in daemon_sources().items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and node.attr == "to_thread"
    }
    assert users == {"resilience/threads.py", "local/demo.py"}


def catch_alls(source: str) -> Iterator[tuple[ast.ExceptHandler, str]]:
    """Handlers of everything, with the text of their first line and of the line below it."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type is not None else "BaseException"
            if caught in {"Exception", "BaseException"}:
                yield node, "\n".join(lines[node.lineno - 1 : node.lineno + 1])


def raises_on(handler: ast.ExceptHandler) -> bool:
    return isinstance(handler.body[-1], ast.Raise)


def test_a_caught_base_exception_is_raised_again_or_has_a_comment() -> None:
    unsaid = [
        f"{name}:{handler.lineno}"
        for name, source in SOURCES.items()
        for handler, text in catch_alls(source)
        if not raises_on(handler) and "#" not in text
    ]
    assert unsaid == []


def test_a_caught_cancellation_is_raised_again() -> None:
    """``BaseException`` and ``Cancelled`` catch one: what swallows it makes a task that cannot be stopped."""
    swallowed = []
    for name, source in SOURCES.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ExceptHandler) and not raises_on(node):
                caught = ast.unparse(node.type) if node.type is not None else "BaseException"
                if {"BaseException", "trio.Cancelled", "Cancelled"} & set(caught.strip("()").split(", ")):
                    swallowed.append(f"{name}:{node.lineno}")
    assert swallowed == []


def test_the_checks_above_find_what_they_look_for() -> None:
    (handler, text) = next(catch_alls("try:\n    pass\nexcept:  # why\n    pass"))
    assert not raises_on(handler)
    assert "# why" in text
    (handler, _) = next(catch_alls("try:\n    pass\nexcept Exception as e:\n    log()\n    raise"))
    assert raises_on(handler)
    assert imported("import httpx._models\nfrom redis.exceptions import X") == {"httpx", "redis"}


OURS = {
    name: value
    for name, value in vars(exceptions).items()
    if isinstance(value, type) and issubclass(value, Exception) and value.__module__ == exceptions.__name__
}


def test_the_exceptions_can_be_imported_from_the_package() -> None:
    assert {name for name in OURS if getattr(cef_trio, name, None) is not OURS[name]} == set()
    assert set(OURS) <= set(cef_trio.__all__)


def test_every_exception_is_below_the_common_base_class() -> None:
    named = {
        "StreamInitializationError",
        "ChunkProcessingError",
        "StreamFinalizationError",
        "FFprobeError",
        "S3OperationError",
        "RedisOperationError",
    }
    assert named <= set(OURS)
    assert all(issubclass(value, cef_trio.CefMp4ProcessorError) for value in OURS.values())


def test_an_operation_errors_text_has_operation_and_reason_and_only_the_error_is_marked_transient() -> None:
    refused = cef_trio.S3OperationError("upload_part", "AccessDenied (HTTP 403)", code="AccessDenied", status=403)
    assert str(refused) == "S3 operation 'upload_part' failed: AccessDenied (HTTP 403)"
    assert (refused.operation, refused.code, refused.status, refused.transient) == (
        "upload_part",
        "AccessDenied",
        403,
        False,
    )
    timed_out = cef_trio.RedisOperationError("record_part", "timed out", transient=True)
    assert str(timed_out) == "Redis operation 'record_part' failed: timed out"
    assert timed_out.transient
