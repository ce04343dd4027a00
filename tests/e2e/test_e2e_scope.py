"""What of the watch folder is uploaded: ``WATCH_EXCLUDE``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from servers.daemon import daemon, settings_for
from servers.store import Store
from servers.valkey import ValkeyServer

pytestmark = pytest.mark.real
MIB = 1024 * 1024
PART = 5 * MIB


@pytest.fixture
def settings(watch_dir: Path, store: Store, valkey: ValkeyServer) -> Mapping[str, str]:
    return settings_for(watch_dir, store.endpoint, valkey.url, stream_timeout_seconds=3, close_grace_seconds=0.3)


def test_p3_excluded_files_stay_here_and_one_that_is_excluded_after_its_start_goes_on_to_its_end(
    settings: Mapping[str, str], watch_dir: Path, store: Store
) -> None:
    (watch_dir / ".Trash-1000").mkdir()
    (watch_dir / ".Trash-1000" / "old.mp4").write_bytes(os.urandom(100))
    (watch_dir / "._a.mp4").write_bytes(os.urandom(100))
    live, later = watch_dir / "live.mp4", watch_dir / "cam" / "later.mp4"
    later.parent.mkdir()
    with live.open("wb", buffering=0) as file, daemon(settings) as process:
        file.write(os.urandom(PART))
        process.wait_for("part_uploaded")
        live.rename(watch_dir / ".live.mp4")
        file.write(os.urandom(PART + 1))
        process.wait_for("stream_completed")
        with later.open("wb", buffering=0) as other:
            other.write(os.urandom(PART))
            process.wait_for("part_uploaded", file=str(later))
            assert process.stop() == 0
            other.write(os.urandom(PART + 2))
    with daemon({**settings, "WATCH_EXCLUDE": "default,cam/**"}) as process:
        process.wait_for("stream_completed")
        assert process.stop() == 0
    store.assert_identical(later)
    assert len(store.recordings()) == 2
