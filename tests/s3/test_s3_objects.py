"""Objects, the bucket, and the connection to real sockets."""

from __future__ import annotations

import io
import logging
import ssl
import tracemalloc
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import h11
import httpx
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from s3.scripted_store import (
    CRC_HEADER,
    CREDENTIALS,
    Passes,
    Reply,
    ScriptedStore,
    client_of,
    crc64,
    error_reply,
    headers_of,
    md5,
    part_ack,
)
from structlog.testing import capture_logs

from cef_trio.exceptions import RecordingChangedError, S3OperationError
from cef_trio.s3.body import BLOCK_BYTES
from cef_trio.s3.checksums import Crc64Nvme, crc64nvme, crc64nvme_to_base64
from cef_trio.s3.client import S3Client
from cef_trio.s3.config import ChecksumMode, S3Config
from cef_trio.s3.credentials import StaticCredentials
from cef_trio.s3.model import ChecksumAlgorithm, StoredObject


async def test_bytes_are_put_with_their_type_and_metadata() -> None:
    store = ScriptedStore(part_ack(b"{}"))
    async with client_of(store) as client:
        stored = await client.put_object("k.json", b"{}", content_type="application/json", metadata={"A-b": "c"})
    assert stored == StoredObject("k.json", 2, md5(b"{}"), crc64nvme(b"{}"), {"a-b": "c"})
    request = store.requests[0]
    assert (request.method, request.target, request.body) == ("PUT", "/recordings/k.json", b"{}")
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-amz-meta-a-b"] == "c"


async def test_an_empty_object_can_be_put() -> None:
    store = ScriptedStore(part_ack(b""))
    async with client_of(store) as client:
        stored = await client.put_object("empty.mp4", b"", content_type="video/mp4")
    assert (stored.size_bytes, stored.crc64nvme) == (0, 0)
    assert store.requests[0].headers["content-length"] == "0"


async def test_a_store_that_refuses_the_checksum_of_an_object_gets_md5() -> None:
    store = ScriptedStore(error_reply(400, "InvalidRequest", "unknown header"), part_ack(b"x", crc=False))
    with capture_logs() as logs:
        async with client_of(store) as client:
            stored = await client.put_object("k", Passes(b"x"), content_type="a/b")
    assert stored.crc64nvme is None
    assert "content-md5" in store.requests[1].headers
    assert [entry["event"] for entry in logs] == ["s3_checksum_unsupported"]


async def test_head_returns_checksum_and_metadata_or_none() -> None:
    headers = {
        "content-length": "9",
        "etag": '"e-1"',
        "x-amz-meta-cef-stream-id": "s",
        CRC_HEADER: crc64(b"123456789"),
        "x-amz-checksum-type": "FULL_OBJECT",
    }
    store = ScriptedStore(
        Reply(200, headers), Reply(200, {**headers, "x-amz-checksum-type": "COMPOSITE"}), Reply(404), Reply(403)
    )
    async with client_of(store) as client:
        stored = await client.head_object("k")
        assert stored == StoredObject("k", 9, "e-1", crc64nvme(b"123456789"), {"cef-stream-id": "s"})
        composite = await client.head_object("k")
        assert composite is not None
        assert composite.crc64nvme is None
        assert await client.head_object("k") is None
        with pytest.raises(S3OperationError, match="AccessDenied"):
            await client.head_object("k")


NO_LENGTH = {"etag": '"e"', "x-amz-meta-cef-stream-id": "s"}


@pytest.mark.parametrize(
    ("ranged", "size_bytes"),
    [
        (Reply(206, {**NO_LENGTH, "content-range": "bytes 0-0/12345", "content-length": "1"}, b"x"), 12345),
        (Reply(200, {**NO_LENGTH, "content-length": "3"}, b"xyz"), 3),
        (error_reply(416, "InvalidRange"), 0),
    ],
)
async def test_p8_a_size_that_head_does_not_tell_is_asked_for_not_taken_for_0(ranged: Reply, size_bytes: int) -> None:
    store = ScriptedStore(Reply(200, NO_LENGTH), ranged)
    async with client_of(store) as client:
        assert await client.head_object("k") == StoredObject("k", size_bytes, "e", None, {"cef-stream-id": "s"})
    assert headers_of(store.requests, "range") == [None, "bytes=0-0"]


async def test_an_object_whose_size_s3_does_not_tell_at_all_is_looked_at_again() -> None:
    store = ScriptedStore(Reply(200, NO_LENGTH), Reply(206, {**NO_LENGTH, "content-range": "bytes 0-0/*"}, b"x"))
    async with client_of(store) as client:
        with pytest.raises(S3OperationError, match="size") as caught:
            await client.head_object("k")
    assert caught.value.transient


async def test_an_object_is_read_as_it_arrives() -> None:
    store = ScriptedStore(Reply(200, {"content-length": "5", "etag": '"e"'}, b"hello"))
    async with client_of(store) as client, client.get_object("k") as (stored, chunks):
        assert stored.size_bytes == 5
        assert b"".join([chunk async for chunk in chunks]) == b"hello"


async def test_an_object_that_breaks_off_or_is_missing_is_an_error() -> None:
    store = ScriptedStore(Reply(200, {}, b"he", broken_after=True), error_reply(404, "NoSuchKey"))
    async with client_of(store) as client:
        async with client.get_object("k") as (_, chunks):
            assert await anext(chunks) == b"he"
            with pytest.raises(S3OperationError) as caught:
                await anext(chunks)
        assert caught.value.transient
        with pytest.raises(S3OperationError, match="NoSuchKey"):
            async with client.get_object("k"):
                pass


async def test_the_bucket_is_looked_at_and_created() -> None:
    store = ScriptedStore(
        Reply(200),
        Reply(404),
        Reply(301, {"x-amz-bucket-region": "us-west-2"}),
        Reply(200),
        error_reply(409, "BucketAlreadyOwnedByYou"),
        error_reply(409, "BucketAlreadyExists"),
        Reply(204),
    )
    async with client_of(store) as client:
        await client.head_bucket()
        with pytest.raises(S3OperationError, match="S3_CREATE_BUCKET") as caught:
            await client.head_bucket()
        assert (caught.value.code, caught.value.status) == ("NoSuchBucket", 404)
        with pytest.raises(S3OperationError, match="S3_REGION_NAME=us-west-2"):
            await client.head_bucket()
        await client.create_bucket()
        await client.create_bucket()
        with pytest.raises(S3OperationError, match="choose another"):
            await client.create_bucket()
        await client.delete_object("k")
    assert store.requests[0].target == "/recordings"
    assert store.requests[3].body == b""


async def test_at_aws_a_bucket_is_created_in_its_region() -> None:
    store = ScriptedStore(Reply(200))
    async with client_of(store, endpoint_url=None) as client:
        await client.create_bucket()
    assert b"eu-central-1" in store.requests[0].body
    assert store.requests[0].headers["host"] == "recordings.s3.eu-central-1.amazonaws.com"


async def test_a_redirect_is_never_followed() -> None:
    store = ScriptedStore(Reply(307, {"location": "http://elsewhere.test/", "x-amz-bucket-region": "eu-west-1"}))
    async with client_of(store) as client:
        with pytest.raises(S3OperationError) as caught:
            await client.head_bucket()
    assert (caught.value.code, caught.value.transient) == ("TemporaryRedirect", True)


class SocketStore:
    """A server on a loopback socket in this process: parses with h11 what httpcore sends."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests: list[tuple[h11.Request, bytes]] = []
        self.refuses_early = False
        self.body_bytes = b""

    async def serve(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        connection = h11.Connection(h11.SERVER)
        async with stream:
            try:
                while await self._one(connection, stream):
                    connection.start_next_cycle()
            except (trio.BrokenResourceError, h11.RemoteProtocolError):
                pass

    async def _next(self, connection: h11.Connection, stream: trio.abc.Stream) -> object:
        while (event := connection.next_event()) is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some()))
        return event

    async def _one(self, connection: h11.Connection, stream: trio.abc.Stream) -> bool:
        request = await self._next(connection, stream)
        if not isinstance(request, h11.Request):
            return False
        if self.refuses_early:
            body = b"<Error><Code>AccessDenied</Code></Error>"
            head = f"HTTP/1.1 403 Forbidden\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            await stream.send_all(head.encode() + body)
            return False
        received = io.BytesIO()
        while isinstance(event := await self._next(connection, stream), h11.Data):
            received.write(bytes(event.data))
        self.requests.append((request, received.getvalue()))
        headers = [("etag", f'"{md5(received.getvalue())}"'), ("content-length", str(len(self.body_bytes)))]
        if received.getvalue():
            headers.append((CRC_HEADER, crc64(received.getvalue())))
        await stream.send_all(connection.send(h11.Response(status_code=200, headers=headers)) or b"")
        if self.body_bytes:
            await stream.send_all(connection.send(h11.Data(data=self.body_bytes)) or b"")
        await stream.send_all(connection.send(h11.EndOfMessage()) or b"")
        return True


async def serve(nursery: trio.Nursery) -> tuple[SocketStore, S3Client]:
    store = SocketStore()
    listeners = await nursery.start(trio.serve_tcp, store.serve, 0)
    config = S3Config(
        bucket="recordings",
        credentials=StaticCredentials(CREDENTIALS),
        endpoint_url=f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}",
        read_timeout_seconds=20,
    )
    return store, S3Client(config)


async def test_parts_in_a_row_share_one_connection_and_are_never_chunked(nursery: trio.Nursery) -> None:
    store, client = await serve(nursery)
    data = bytes(range(256)) * 8192
    async with client:
        for number in range(1, 4):
            await client.upload_part(
                "a/../ü %", "u", number, Passes(data, block_bytes=512 * 1024), ChecksumAlgorithm.CRC64NVME
            )
    assert store.connections == 1
    assert [body for _, body in store.requests] == [data] * 3
    request = store.requests[0][0]
    headers = dict(request.headers)
    assert request.target == b"/recordings/a/../%C3%BC%20%25?partNumber=1&uploadId=u"
    assert headers[b"content-length"] == str(len(data)).encode()
    assert b"transfer-encoding" not in headers
    nursery.cancel_scope.cancel()


async def test_a_rejection_in_the_middle_of_a_large_body_is_reported_not_a_broken_connection(
    nursery: trio.Nursery,
) -> None:
    store, client = await serve(nursery)
    store.refuses_early = True
    source = Passes(bytes(32 * 1024 * 1024), block_bytes=512 * 1024)
    async with client:
        with pytest.raises(S3OperationError) as caught:
            await client.upload_part("k", "u", 1, source, ChecksumAlgorithm.CRC64NVME)
    # The kernel may throw the answer away with the connection's reset: then it is a network error, and transient.
    assert caught.value.code in {"AccessDenied", "ReadError", "WriteError", "RemoteProtocolError"}
    assert caught.value.transient is (caught.value.code != "AccessDenied")
    assert source.open_count == 0
    nursery.cancel_scope.cancel()


async def test_a_recording_that_changes_while_it_is_sent_never_arrives_whole(nursery: trio.Nursery) -> None:
    store, client = await serve(nursery)
    data = bytes(2 * 1024 * 1024)
    async with client:
        with pytest.raises(RecordingChangedError):
            await client.upload_part(
                "k",
                "u",
                1,
                Passes(data, data[:-1] + b"?", block_bytes=512 * 1024),
                ChecksumAlgorithm.CRC64NVME,
            )
        assert store.requests == []
        await client.upload_part("k", "u", 1, Passes(data, block_bytes=512 * 1024), ChecksumAlgorithm.CRC64NVME)
    assert len(store.requests) == 1
    nursery.cancel_scope.cancel()


async def test_a_half_read_object_is_closed(nursery: trio.Nursery) -> None:
    store, client = await serve(nursery)
    store.body_bytes = bytes(8 * 1024 * 1024)
    async with client:
        async with client.get_object("k") as (_, chunks):
            assert await anext(chunks)
        with trio.CancelScope() as scope:
            async with client.get_object("k") as (_, chunks):
                await anext(chunks)
                scope.cancel()
                await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        async with client.get_object("k") as (stored, chunks):
            assert sum([len(chunk) async for chunk in chunks]) == stored.size_bytes == 8 * 1024 * 1024
    nursery.cancel_scope.cancel()


async def test_no_secret_reaches_a_log_at_any_level(nursery: trio.Nursery, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    store, client = await serve(nursery)
    async with client:
        await client.upload_part("k", "u", 1, Passes(b"data"), ChecksumAlgorithm.CRC64NVME)
    assert len(store.requests) == 1
    assert CREDENTIALS.session_token is not None
    assert "httpcore" in {record.name.partition(".")[0] for record in caplog.records}
    for secret in (CREDENTIALS.secret_access_key, CREDENTIALS.session_token, "Signature="):
        assert secret not in caplog.text
    nursery.cancel_scope.cancel()


class Zeros:
    """A large source whose bytes are generated."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes

    async def blocks(self) -> AsyncGenerator[bytes, None]:
        for _ in range(self.size_bytes // BLOCK_BYTES):
            yield bytes(BLOCK_BYTES)


async def test_memory_is_a_few_blocks_for_any_size_of_part() -> None:
    class Sink(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            assert isinstance(request.stream, httpx.AsyncByteStream)
            crc = Crc64Nvme()
            async for block in request.stream:
                crc.update(block)
            return httpx.Response(200, headers={"etag": '"e"', CRC_HEADER: crc64nvme_to_base64(crc.value)})

    async with client_of(Sink(), checksum=ChecksumMode.CRC64NVME) as client:
        await client.upload_part("k", "u", 1, Zeros(BLOCK_BYTES), ChecksumAlgorithm.CRC64NVME)
        tracemalloc.start()
        try:
            part = await client.upload_part("k", "u", 1, Zeros(256 * BLOCK_BYTES), ChecksumAlgorithm.CRC64NVME)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert part.size_bytes == 128 * 1024 * 1024
    assert peak_bytes < 8 * BLOCK_BYTES


def certificate_for_loopback(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


async def test_a_stores_own_certificate_is_trusted_once_its_ca_file_is_set(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    certificate, key = certificate_for_loopback(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    store = SocketStore()

    async def serve_tls(stream: trio.SSLStream[trio.SocketStream]) -> None:
        with suppress(trio.BrokenResourceError):  # the client did not like our certificate
            await store.serve(stream)

    listeners = await nursery.start(
        partial(trio.serve_ssl_over_tcp, serve_tls, 0, context, host="127.0.0.1", https_compatible=True)
    )
    config = S3Config(
        bucket="recordings",
        credentials=StaticCredentials(CREDENTIALS),
        endpoint_url=f"https://localhost:{listeners[0].transport_listener.socket.getsockname()[1]}",
    )
    async with S3Client(config) as client:
        with pytest.raises(S3OperationError, match="S3_CA_FILE") as caught:
            await client.head_bucket()
    assert caught.value.transient
    async with S3Client(replace(config, ca_file=certificate)) as client:
        part = await client.upload_part("k", "u", 1, Passes(b"data"), ChecksumAlgorithm.CRC64NVME)
    assert part.etag == md5(b"data")
    with pytest.raises(ValueError, match="no certificates"):
        S3Client(replace(config, ca_file=key.with_name("missing.pem")))
    nursery.cancel_scope.cancel()


async def test_a_closed_port_is_a_transient_error(nursery: trio.Nursery) -> None:
    config = S3Config(bucket="b", credentials=StaticCredentials(CREDENTIALS), endpoint_url="http://127.0.0.1:1")
    async with S3Client(config) as client:
        with pytest.raises(S3OperationError, match="ConnectError") as caught:
            await client.head_bucket()
    assert caught.value.transient
    assert isinstance(caught.value.__cause__, httpx.ConnectError)
