"""The embedded S3 endpoint as a process of its own: ``python -m cef_trio.s3_endpoint``.

    with embedded_s3_server(tmp_path, data=tmp_path / "data") as endpoint:
        client = endpoint.client()

``data=None`` keeps everything in memory. ``arguments`` go to its command line (``--control`` for faults).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from servers.endpoints import Endpoint, free_port, running

from cef_trio.s3_endpoint import DEFAULT_ACCESS_KEY_ID, DEFAULT_REGION, DEFAULT_SECRET_ACCESS_KEY


@contextlib.contextmanager
def embedded_s3_server(
    folder: Path,
    *,
    data: Path | None = None,
    bucket: str = "cef-trio-test",
    port: int | None = None,
    arguments: Sequence[str] = (),
) -> Iterator[Endpoint]:
    """The endpoint, ready, with a bucket in it; its log is in ``folder``. ``port``: of one that has ended."""
    port = port or free_port()
    command = [sys.executable, "-m", "cef_trio.s3_endpoint", "--port", str(port), "--bucket", bucket, *arguments]
    if data is not None:
        command += ["--data", str(data)]
    with running(command, ports=[port], log=folder / "embedded-s3.log", environment={"LANG": "C.UTF-8"}):
        url = f"http://127.0.0.1:{port}"
        yield Endpoint(url, DEFAULT_ACCESS_KEY_ID, DEFAULT_SECRET_ACCESS_KEY, DEFAULT_REGION, bucket)
