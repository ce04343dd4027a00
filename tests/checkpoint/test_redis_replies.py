"""Replies that are not Redis's: a proxy's page, another server's, bytes that were damaged on the way.

They show nothing about a stream, so no call may end one with them, nor the daemon: they are transient, and the probe
finds out whether they concern all calls.
"""

from __future__ import annotations

import re
import socket

import pytest
from checkpoint.test_checkpoint_cancellation import CALLS
from servers.scripted import scripted_server

from cef_trio.checkpoint.redis import scripts
from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.exceptions import RedisOperationError

REPLIES = {
    "a page": b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/html\r\n\r\n<html>no server</html>",
    "an alert of TLS": b"\x15\x03\x03\x00\x02\x02F\r\n",
    "OK to everything": b"+OK\r\n",
    "a number": b":1\r\n",
    "no number": b":one\r\n",
    "no length": b"$one\r\n",
    "nothing": b"$-1\r\n",
    "no array": b"*-1\r\n",
    "an empty array": b"*0\r\n",
    "a nested array": b"*2\r\n*1\r\n:3\r\n$1\r\nx\r\n",
    "a deep array": b"*1\r\n" * 5000 + b":1\r\n",
    "another word": b"*1\r\n$2\r\nhi\r\n",
    "a short reply": b"*1\r\n$2\r\nok\r\n",
}
NOTICED = frozenset(
    {"ping", "check_writable", "create", "acquire", "load", "find_by_path", "record_part", "renew", "beat"}
)
"""Calls that must not take any of these for their reply; ``ok`` alone is the right one of some."""


@pytest.mark.real
@pytest.mark.parametrize("reply", REPLIES)
async def test_p6_a_reply_that_is_not_one_of_redis_is_transient_and_no_other_exception(reply: str) -> None:
    def serve(connection: socket.socket, _number: int) -> None:
        while connection.recv(65536):
            connection.sendall(REPLIES[reply])
            if REPLIES[reply].startswith(b"HTTP"):
                return

    noticed: set[str] = set()
    with scripted_server(serve) as server:
        for name, call in CALLS.items():
            async with RedisCheckpointStore(server.url, socket_timeout_seconds=0.2) as store:
                try:
                    await call(store)
                except RedisOperationError as error:
                    noticed.add(name)
                    assert (error.transient, error.rejected) == (True, False), name
    assert noticed >= NOTICED or reply == "a short reply"


def test_the_words_that_scripts_reply_with_are_known() -> None:
    from cef_trio.checkpoint.redis.client import _FIRST_WORDS

    used = {word for script in scripts.ALL for word in re.findall(r"^ *return \{'(\w+)'", script.source, re.MULTILINE)}
    assert {word.encode() for word in used} == _FIRST_WORDS
