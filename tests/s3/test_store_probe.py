"""P5: the trial upload of a probe leaves no open upload, even if it is cancelled or refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio

from cef_trio.exceptions import S3OperationError
from cef_trio.resilience import CircuitBreaker, ProbeKind, RetryPolicy
from cef_trio.s3.store_probe import StoreProbe


class Store:
    """A store that denies the probe's key alone, and accepts a part when the test allows it."""

    def __init__(self, *, part_error: S3OperationError | None = None) -> None:
        self.open: set[str] = set()
        self.part_asked, self.take_part = trio.Event(), trio.Event()
        self.part_error = part_error
        self.options = SimpleNamespace(content_type_of=lambda _: "video/mp4", for_recording=dict)

    def renew_connections(self) -> None:
        pass

    async def put_object(self, *_arguments: Any, **_options: Any) -> None:
        raise S3OperationError("put_object", "denied", code="AccessDenied", status=403, transient=False)

    async def create_multipart_upload(self, key: str, **_options: Any) -> Any:
        await trio.lowlevel.checkpoint()
        self.open.add(key)
        return SimpleNamespace(upload_id="trial", checksum=None)

    async def upload_part(self, *_arguments: Any) -> None:
        self.part_asked.set()
        await self.take_part.wait()
        if self.part_error is not None:
            raise self.part_error

    async def abort_multipart_upload(self, key: str, _upload_id: str) -> None:
        await trio.lowlevel.checkpoint()
        self.open.remove(key)


def probe(store: Any) -> StoreProbe:
    return StoreProbe(store, "probe", "streams/trial/recording.mp4")


async def test_p5_a_cancelled_trial_is_aborted() -> None:
    store = Store()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(probe(store), ProbeKind.WRITE)
        await store.part_asked.wait()
        assert store.open
        nursery.cancel_scope.cancel()
    assert not store.open


@pytest.mark.parametrize("how", ["cancelled", "no response"])
async def test_p5_a_trial_that_s3_created_and_nobody_read_of_is_aborted(how: str) -> None:
    class Silent(Store):
        async def create_multipart_upload(self, key: str, **options: Any) -> Any:
            await super().create_multipart_upload(key, **options)
            if how == "no response":
                raise S3OperationError("create_multipart_upload", "no response", transient=True)
            self.part_asked.set()
            await trio.sleep_forever()

        async def list_multipart_uploads(self, prefix: str) -> list[Any]:
            await trio.lowlevel.checkpoint()
            return [SimpleNamespace(key=key, upload_id="trial") for key in (*self.open, f"{prefix}-of-another")]

    store = Silent()
    if how == "no response":
        with pytest.raises(S3OperationError):
            await probe(store)(ProbeKind.WRITE)
    else:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(probe(store), ProbeKind.WRITE)
            await store.part_asked.wait()
            nursery.cancel_scope.cancel()
    assert not store.open


async def test_p5_a_denied_trial_is_aborted_and_its_error_raised() -> None:
    store = Store(
        part_error=S3OperationError("upload_part", "denied", code="AccessDenied", status=403, transient=False)
    )
    store.take_part.set()
    with pytest.raises(S3OperationError):
        await probe(store)(ProbeKind.WRITE)
    assert not store.open


class WithoutConditions(Store):
    """A store that denies the probe's key alone, and ignores conditions."""

    def __init__(self) -> None:
        super().__init__()
        self.take_part.set()
        self.objects: set[str] = set()

    async def put_object(self, key: str, *_arguments: Any, headers: dict[str, str], **_options: Any) -> None:
        if key == "probe":
            await super().put_object()
        assert "if-match" in headers
        self.objects.add(key)

    async def delete_object(self, key: str) -> None:
        self.objects.remove(key)


async def test_p9_a_trial_leaves_no_object_in_a_store_that_ignores_conditions() -> None:
    store = WithoutConditions()
    await probe(store)(ProbeKind.WRITE)
    assert not store.objects
    assert not store.open


class OnlyItsOwnKey(Store):
    """A store that accepts the probe's key, and denies those of recordings at some step."""

    def __init__(self, denied_at: str) -> None:
        super().__init__()
        self.take_part.set()
        self.denied_at = denied_at

    def judge(self, operation: str, key: str) -> None:
        if (operation, key) == (self.denied_at, "streams/trial/recording.mp4"):
            raise S3OperationError(operation, "denied", code="AccessDenied", status=403, transient=False)

    async def put_object(self, key: str, *_arguments: Any, **_options: Any) -> None:
        assert key == "probe", "a store that ignores conditions would keep it"

    async def delete_object(self, _key: str) -> None:
        pass

    async def create_multipart_upload(self, key: str, **options: Any) -> Any:
        self.judge("create_multipart_upload", key)
        return await super().create_multipart_upload(key, **options)

    async def upload_part(self, key: str, *_arguments: Any) -> Any:
        self.judge("upload_part", key)
        if key not in self.open:
            raise S3OperationError("upload_part", "gone", code="NoSuchUpload", status=404, transient=False)
        return SimpleNamespace(etag="e", size_bytes=1, crc64nvme=None, checksum=None)

    async def complete_multipart_upload(self, key: str, *_arguments: Any, **_options: Any) -> None:
        self.open.remove(key)


@pytest.mark.parametrize("denied_at", ["create_multipart_upload", "upload_part", ""])
async def test_p6_a_probe_of_uploads_tries_a_recordings_key_too_and_leaves_nothing_there(denied_at: str) -> None:
    store = OnlyItsOwnKey(denied_at)
    await probe(store)(ProbeKind.WRITE)
    if denied_at:
        with pytest.raises(S3OperationError, match="denied"):
            await probe(store)(ProbeKind.UPLOAD)
    else:
        await probe(store)(ProbeKind.UPLOAD)
    assert not store.open


@pytest.mark.parametrize("is_gone", [False, True])
async def test_p5_a_probe_whose_upload_could_not_be_aborted_goes_on_with_it_unless_it_is_gone(is_gone: bool) -> None:
    """A proxy that resets all that has an upload id left an open upload every three seconds."""

    class WithoutAborts(OnlyItsOwnKey):
        created = 0

        async def create_multipart_upload(self, key: str, **options: Any) -> Any:
            self.created += 1
            return await super().create_multipart_upload(key, **options)

        async def abort_multipart_upload(self, key: str, _upload_id: str) -> None:
            if self.denied_at:
                raise S3OperationError("abort_multipart_upload", "reset", transient=True)
            self.open.discard(key)

    store = WithoutAborts("upload_part")
    probing = probe(store)
    for _ in range(10):
        with pytest.raises(S3OperationError, match="denied"):
            await probing(ProbeKind.UPLOAD)
    assert store.open == {"streams/trial/recording.mp4"}
    assert store.created == 10 + 1, "at the probe's own key each is completed"
    if is_gone:
        store.open.clear()
    store.denied_at = ""
    await probing(ProbeKind.UPLOAD)
    assert not store.open


def unavailable(operation: str) -> S3OperationError:
    return S3OperationError(operation, "no quorum", code="SlowDownWrite", status=503, transient=True)


class Quorum(Store):
    """A store that lost its quorum: it begins uploads, and fails all else of them, even afterwards."""

    aborts_broken = False

    def __init__(self, *, abort_seconds: float = 0.0) -> None:
        super().__init__()
        self.has_quorum = False
        self.broken: set[str] = set()
        self.created = 0
        self.abort_seconds = abort_seconds

    async def put_object(self, *_arguments: Any, **_options: Any) -> None:
        await trio.sleep(0.01)

    async def delete_object(self, _key: str) -> None:
        await trio.sleep(0.01)

    async def create_multipart_upload(self, key: str, **_options: Any) -> Any:
        await trio.sleep(0.01)
        self.created += 1
        upload_id = f"{key} {self.created}"
        self.open.add(upload_id)
        if not self.has_quorum:
            self.broken.add(upload_id)
        return SimpleNamespace(upload_id=upload_id, checksum=None)

    async def upload_part(self, _key: str, upload_id: str, *_arguments: Any) -> Any:
        await trio.sleep(0.01)
        if upload_id in self.broken:
            raise unavailable("upload_part")
        if upload_id not in self.open:
            raise S3OperationError("upload_part", "gone", code="NoSuchUpload", status=404, transient=False)
        return SimpleNamespace(etag="e", size_bytes=1, crc64nvme=None, checksum=None)

    async def complete_multipart_upload(self, _key: str, upload_id: str, *_arguments: Any, **_options: Any) -> None:
        await trio.sleep(0.01)
        self.open.remove(upload_id)

    async def abort_multipart_upload(self, _key: str, upload_id: str) -> None:
        await trio.sleep(self.abort_seconds)
        if upload_id in self.broken and not self.aborts_broken:
            raise unavailable("abort_multipart_upload")
        self.open.discard(upload_id)


POLICY = RetryPolicy(attempts=3, initial_seconds=1.0, max_seconds=300.0)


@pytest.mark.usefixtures("autojump_clock")
async def test_p6_an_upload_of_the_probe_that_an_outage_broke_for_good_does_not_keep_it_open() -> None:
    """Every probe went on with the upload that was left, so all calls waited until a restart."""
    store = Quorum()
    breaker = CircuitBreaker("s3", probe(store), POLICY)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(breaker.run)
        breaker.trip(unavailable("upload_part"), ProbeKind.UPLOAD)
        await trio.sleep(3600)
        assert not breaker.up.value
        assert store.created <= 3600 / 30 + 1, "P5: an outage leaves few"
        store.has_quorum = True
        with trio.fail_after(35):
            await breaker.wait_up()
        assert not store.open - store.broken
        with trio.fail_after(1):  # the next trouble is not judged by what was left either
            assert not await breaker.affects_all_calls(unavailable("upload_part"), ProbeKind.UPLOAD)
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("autojump_clock")
async def test_p6_a_probe_during_the_slow_abort_of_another_ends_nothing() -> None:
    """One of them had removed what the other one was about to remove: KeyError."""
    store = Quorum(abort_seconds=1.0)
    store.has_quorum = True
    probing = probe(store)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(probing, ProbeKind.UPLOAD)
            await trio.sleep(0.2)
    assert not store.open


@pytest.mark.usefixtures("autojump_clock")
async def test_p6_a_stream_that_gets_no_response_while_another_ones_error_is_probed_ends_no_daemon() -> None:
    class FirstIsBroken(Quorum):
        aborts_broken = True

        async def create_multipart_upload(self, key: str, **options: Any) -> Any:
            created = await super().create_multipart_upload(key, **options)
            self.has_quorum = True
            return created

    breaker = CircuitBreaker("s3", probe(FirstIsBroken(abort_seconds=1.0)), POLICY)
    silent = S3OperationError("upload_part", "no response", transient=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(breaker.run)
        nursery.start_soon(breaker.affects_all_calls, unavailable("upload_part"), ProbeKind.UPLOAD)
        await trio.sleep(0.03)
        assert await breaker.affects_all_calls(silent, ProbeKind.UPLOAD)
        with trio.fail_after(60):
            await breaker.wait_up()
        nursery.cancel_scope.cancel()
