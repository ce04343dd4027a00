"""P1, P8: a daemon that watches a FUSE mount, and a writer on the other side of it, of whom the kernel says nothing."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from servers.daemon import Bucket, daemon, settings_for
from servers.embedded_s3 import embedded_s3_server
from servers.fuse_mount import FuseMount, fuse_mount
from servers.store import Store, look_into
from servers.valkey import ValkeyServer

pytestmark = pytest.mark.real
SILENCE_SECONDS = 2.5
PAUSE_SECONDS = 0.7
CLOSE_GRACE_SECONDS = 0.2


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[FuseMount]:
    with fuse_mount(tmp_path) as found:
        yield found


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Store]:
    with embedded_s3_server(tmp_path, data=tmp_path / "objects") as endpoint:
        looking = look_into(Bucket(endpoint.url, endpoint.access_key, endpoint.secret_key, endpoint.bucket))
        yield looking
        looking.client.close()


def test_p8_what_is_written_behind_a_mount_is_completed_and_deleted_only_after_the_silence(
    mounted: FuseMount, bucket: Store, redis: ValkeyServer
) -> None:
    path, seen = mounted.behind / "a.mp4", mounted.mount / "a.mp4"
    digest, gaps = hashlib.sha256(), [time.monotonic()]
    settings = settings_for(
        mounted.mount,
        bucket.bucket,
        redis.url,
        after_upload="delete",
        close_grace_seconds=CLOSE_GRACE_SECONDS,
        stream_timeout_seconds=SILENCE_SECONDS,
        rescan_seconds=0.3,
    )
    with daemon(settings) as process:
        with path.open("ab", buffering=0) as writer:
            for turn in range(5):
                content = os.urandom(300_000)
                writer.write(content)
                digest.update(content)
                gaps.append(time.monotonic())
                if turn == 0:
                    process.wait_for("stream_began", seconds=SILENCE_SECONDS)
                if turn == 2:
                    seen.open("ab").close()  # a close that is seen at the mount, by one who is not the writer
                time.sleep(PAUSE_SECONDS)  # the writer's own pause: longer than the grace, shorter than the silence
                assert path.exists(), process.tail()
            last_write = gaps[-1]
            if max(after - before for before, after in pairwise(gaps)) > SILENCE_SECONDS - 1:
                pytest.skip("this machine is so busy that the writer itself was silent for too long")
            assert process.count("stream_completed") == 0, process.tail()
        process.wait_for("stream_completed", seconds=SILENCE_SECONDS + 10)
        assert time.monotonic() - last_write >= SILENCE_SECONDS
        completed_at = time.monotonic()
        process.wait_for("recording_deleted_after_upload", seconds=SILENCE_SECONDS + 10)
        assert time.monotonic() - completed_at >= SILENCE_SECONDS - 1, "the silence is demanded anew"
        assert process.stop() == 0
    assert not path.exists()
    assert bucket.sha256(bucket.key_of("a.mp4")) == digest.hexdigest()
