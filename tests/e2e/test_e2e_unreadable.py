"""P6 on a real file system: a file whose rights are set last is waited for, and taken up when they are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from servers.daemon import daemon, settings_for
from servers.endpoints import Endpoint
from servers.ordinary_user import ORDINARY
from servers.valkey import ValkeyServer

pytestmark = pytest.mark.real


@pytest.mark.skipif(bool(ORDINARY) and shutil.which("setpriv") is None, reason="root needs setpriv (util-linux)")
@pytest.mark.parametrize("where", ["the file", "its folder"])
def test_p6_a_file_that_gets_its_rights_last_is_uploaded_as_soon_as_it_has_them(
    watch_dir: Path, endpoint: Endpoint, valkey: ValkeyServer, where: str
) -> None:
    """As ``mv`` and ``cp -p`` do it from another file system. Neither a scan nor a time-out helps here."""
    given = settings_for(
        watch_dir, endpoint, valkey.url, close_grace_seconds=0.2, rescan_seconds=600, stream_timeout_seconds=600
    )
    folder = watch_dir / "camera"
    folder.mkdir()
    path = folder / "a.mp4"
    with daemon(given, under=ORDINARY) as process:
        if where == "the file":
            descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0)
            os.write(descriptor, b"recording")
            os.close(descriptor)
            process.wait_for("stream_retrying")
            path.chmod(0o600)
        else:
            folder.chmod(0)
            (watch_dir / "elsewhere.mp4").write_bytes(b"recording")
            process.wait_for("stream_completed")
            folder.chmod(0o700)
            path.write_bytes(b"recording")
        process.wait_for("stream_completed", file=str(path))
        assert process.count("stream_failed") == 0
        assert process.stop() == 0
