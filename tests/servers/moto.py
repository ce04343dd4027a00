"""moto_server: knows the rules of multipart uploads, and takes any signature.

with moto_server(tmp_path) as endpoint:
    client = endpoint.client()
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from servers.endpoints import Endpoint, free_port, running


@contextlib.contextmanager
def moto_server(folder: Path, *, bucket: str = "cef-trio-test") -> Iterator[Endpoint]:
    """moto_server in memory, ready, with a bucket in it; its log is in ``folder``."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(command, ports=[port], log=folder / "moto.log"):
        endpoint = Endpoint(f"http://127.0.0.1:{port}", "test", "testing", "us-east-1", bucket)
        with contextlib.closing(endpoint.client()) as client:
            client.create_bucket(Bucket=bucket)
        yield endpoint
