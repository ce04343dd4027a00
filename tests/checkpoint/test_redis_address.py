"""``REDIS_URL`` is understood or refused with a sentence; a password gets into no text."""

from __future__ import annotations

import pytest

from cef_trio.checkpoint.redis.address import RedisAddress, Topology, parse_address
from cef_trio.checkpoint.redis.store import RedisCheckpointStore

SINGLE, UNIX, SENTINEL, CLUSTER = Topology.SINGLE, Topology.UNIX, Topology.SENTINEL, Topology.CLUSTER


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", RedisAddress(SINGLE, (("localhost", 6379),))),
        ("redis://h", RedisAddress(SINGLE, (("h", 6379),))),
        ("redis://h.example.:1", RedisAddress(SINGLE, (("h.example.", 1),))),
        ("redis://h:1/", RedisAddress(SINGLE, (("h", 1),))),
        ("redis://h:1/3", RedisAddress(SINGLE, (("h", 1),), db=3)),
        ("redis://h?db=3", RedisAddress(SINGLE, (("h", 6379),), db=3)),
        ("redis://[::1]:7", RedisAddress(SINGLE, (("::1", 7),))),
        ("redis://[::1]", RedisAddress(SINGLE, (("::1", 6379),))),
        ("redis+cluster://[::1]:1,[::2]", RedisAddress(CLUSTER, (("::1", 1), ("::2", 6379)))),
        ("rediss://:p%40ss@h", RedisAddress(SINGLE, (("h", 6379),), tls=True, password="p@ss")),
        ("redis://u@h", RedisAddress(SINGLE, (("h", 6379),), username="u")),
        ("redis://u:p:q@h", RedisAddress(SINGLE, (("h", 6379),), username="u", password="p:q")),
        ("unix:///run/redis%20a.sock", RedisAddress(UNIX, socket_path="/run/redis a.sock")),
        ("unix://u:p@/s?db=2", RedisAddress(UNIX, socket_path="/s", db=2, username="u", password="p")),
        (
            "redis+sentinel://:p@a:1,b,[::1]:2/main/4?sentinel_username=su&sentinel_password=sp",
            RedisAddress(
                SENTINEL,
                (("a", 1), ("b", 26379), ("::1", 2)),
                master="main",
                db=4,
                password="p",
                sentinel_username="su",
                sentinel_password="sp",
            ),
        ),
        ("rediss+sentinel://a/main", RedisAddress(SENTINEL, (("a", 26379),), master="main", tls=True)),
        ("redis+cluster://a,b:2", RedisAddress(CLUSTER, (("a", 6379), ("b", 2)))),
        ("rediss+cluster://u:p@a/0", RedisAddress(CLUSTER, (("a", 6379),), tls=True, username="u", password="p")),
    ],
)
def test_a_url_is_understood(url: str, address: RedisAddress) -> None:
    assert parse_address(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "//h",
        "http://:hunter2@h",
        "redis+unix:///x",
        "redis://:hunter2@h:port",
        "redis://:hunter2@h:0",
        "redis://:hunter2@h:65536",
        "redis://:hunter2@h/x",
        "redis://:hunter2@h/0/1",
        "redis://:hunter2@a,b",
        "redis://:hun/ter2@h",
        "redis://:hun#ter2@h",
        "redis://:12/ter2@h",
        "redis://u:12?hun&ter2@h",
        "redis://u:a@b?ter2@h",
        "redis+cluster://u:12/hunter2@h",
        "redis://:hunter2@::1",
        "redis://:hunter2@[::1",
        "redis://:hunter2@h?socket_timeout=100",
        "redis://:hunter2@h?db=-1",
        "unix://:hunter2@host/s",
        "unix://",
        "redis+sentinel://:hunter2@a",
        "redis+sentinel://:hunter2@/main",
        "redis+sentinel://:hunter2@a/main/0/1",
        "redis+sentinel://:hunter2@a/main?sentinel_pass=hunter2",
        "redis+cluster://:hunter2@a/1",
        "redis+cluster://:hunter2@a,",
        "redis://:hunter2@redis..example",
        "redis://:hunter2@.redis",
        "redis+sentinel://:hunter2@a," + "b" * 64 + ".example/main",
    ],
)
def test_any_other_url_is_refused_in_a_sentence_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="REDIS_URL") as caught:
        parse_address(url)
    assert "ter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("password", "right"),
    [
        ("pa/ss", "'/' is written as %2F"),
        ("12/3", "%2F"),
        ("pa#ss", "'#' must be written as %23"),
        ("pa[ss", "%5B"),
        ("pa?ss", "'?' as %3F"),
        ("12?34&5", "%3F"),
    ],
)
@pytest.mark.parametrize("url", ["redis://user:{}@host", "redis://:{}@host:1/2", "redis+cluster://u:{}@a,b"])
def test_a_password_that_is_not_escaped_is_told_and_how_it_is_written(url: str, password: str, right: str) -> None:
    with pytest.raises(ValueError, match="REDIS_URL") as caught:
        parse_address(url.format(password))
    assert right in str(caught.value)
    assert password not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://u:hunter2@h/3", "redis://h:6379/3"),
        ("rediss://:hunter2@[::1]", "rediss://[::1]:6379/0"),
        ("unix://:hunter2@/run/s", "unix:///run/s"),
        ("redis+sentinel://:hunter2@a,b/main?sentinel_password=hunter2", "redis+sentinel://a:26379,b:26379/main/0"),
        ("rediss+cluster://:hunter2@a", "rediss+cluster://a:6379"),
    ],
)
def test_an_address_is_shown_without_its_credentials(url: str, text: str) -> None:
    address = parse_address(url)
    assert str(address) == text
    assert "hunter2" not in repr(address)
    assert "hunter2" in address.secrets


@pytest.mark.parametrize(("prefix", "owner"), [("", ""), ("cef:", ""), ("{}:", ""), ("{}:", "node-7")])
def test_a_cluster_needs_a_hash_tag(prefix: str, owner: str) -> None:
    with pytest.raises(ValueError, match="must be in one slot"):
        RedisCheckpointStore("redis+cluster://a", key_prefix=prefix, owner=owner)


def test_in_a_cluster_the_owners_name_is_the_hash_tag() -> None:
    assert RedisCheckpointStore("redis+cluster://a", owner="node-7").keys.hash_tag == "node-7"


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_a_socket_time_out_has_an_end(seconds: float) -> None:
    with pytest.raises(ValueError, match="time-out"):
        RedisCheckpointStore("redis://a", socket_timeout_seconds=seconds)
