"""A command in a folder that its user may not enter (``sudo -u`` in root's home) has no ``.env``, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from servers.ordinary_user import ORDINARY

COMMAND = "from cef_trio.cli.main import main; main()"
RUN = "from cef_trio.daemon.reload import SettingsSource; SettingsSource.of_file(Path('.env')).read()"


@pytest.mark.skipif(os.geteuid() == 0 and not ORDINARY, reason="root may enter every folder")
@pytest.mark.parametrize(
    "words", [["run"], ["health"], ["check"], ["list"], ["status"], ["show", "a.mp4"], ["doctor"], ["verify", "a.mp4"]]
)
def test_a_folder_that_may_not_be_entered_has_no_settings_file(tmp_path: Path, words: list[str]) -> None:
    place = tmp_path / "root's"
    place.mkdir()
    read = RUN if words == ["run"] else COMMAND
    program = f"import os; os.chdir({str(place)!r}); os.chmod('.', 0); from pathlib import Path; {read}"
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "WATCH_DIR": str(tmp_path),
        "REDIS_URL": "redis://127.0.0.1:1",
        "S3_ENDPOINT_URL": "http://127.0.0.1:1",
        "S3_BUCKET_NAME": "recordings",
        "S3_ACCESS_KEY_ID": "key",
        "S3_SECRET_ACCESS_KEY": "secret",
    }
    ran = subprocess.run(
        [*ORDINARY, sys.executable, "-c", program, *words], check=False, capture_output=True, text=True, env=environment
    )
    place.chmod(0o700)
    assert "Traceback" not in ran.stderr
    assert "Permission denied: '.env'" not in ran.stderr
