"""A TLS server in front of a plain one, as a process of its own: Valkey's wheel speaks no TLS.

    with tls_front(tmp_path, certificate, to_port=server.port) as port:
        url = f"rediss://127.0.0.1:{port}/0"

It can ask for a client's certificate as Redis does (``client_authority``), and speak an old protocol only.
"""

from __future__ import annotations

import argparse
import contextlib
import ssl
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import trio
from servers.endpoints import free_port, running


@contextlib.contextmanager
def tls_front(
    folder: Path,
    certificate: Path,
    *,
    to_port: int,
    client_authority: Path | None = None,
    old: bool = False,
    port: int | None = None,
) -> Iterator[int]:
    """A front that listens; gives its port."""
    port = free_port() if port is None else port
    command = [sys.executable, __file__, str(port), str(to_port), str(certificate)]
    if client_authority is not None:
        command += ["--client-authority", str(client_authority)]
    if old:
        command += ["--old"]
    log = folder / f"tls-front-{port}.log"
    with running(command, ports=[port], log=log, environment={"PYTHONPATH": str(Path(__file__).parents[1])}):
        yield port


def server_context(certificate: Path, client_authority: Path | None, *, old: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    if client_authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_authority)
    if old:
        # OpenSSL 3 speaks TLS 1.1 at security level 0 only.
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


async def _serve(port: int, to_port: int, context: ssl.SSLContext) -> None:
    await trio.serve_tcp(partial(_connect, to_port, context), port, host="127.0.0.1")


async def _connect(to_port: int, context: ssl.SSLContext, accepted: trio.SocketStream) -> None:
    stream = trio.SSLStream(accepted, context, server_side=True)
    # Whoever looks whether the port answers, or refuses the certificate, is gone before it has begun.
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError:
            # trio leaves the alert that says why in its buffer; a real server sends it, and it must not be overtaken
            # by a reset.
            await accepted.send_all(stream._outgoing.read())
            await accepted.send_eof()
            while await accepted.receive_some():
                pass
            raise
        async with await trio.open_tcp_stream("127.0.0.1", to_port) as server, trio.open_nursery() as nursery:
            nursery.start_soon(_pass_on, stream, server, nursery.cancel_scope)
            nursery.start_soon(_pass_on, server, stream, nursery.cancel_scope)
    with trio.CancelScope() as scope:
        scope.cancel()  # closed at once, without a last word
        await stream.aclose()


async def _pass_on(from_: trio.abc.ReceiveStream, to: trio.abc.SendStream, scope: trio.CancelScope) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in from_:
            await to.send_all(data)
    scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("to_port", type=int)
    parser.add_argument("certificate", type=Path)
    parser.add_argument("--client-authority", type=Path)
    parser.add_argument("--old", action="store_true")
    given = parser.parse_args()
    trio.run(
        _serve, given.port, given.to_port, server_context(given.certificate, given.client_authority, old=given.old)
    )
