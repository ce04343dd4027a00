"""Access keys from the settings and from AWS's chain."""

from __future__ import annotations

import builtins
import shlex
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import CredentialRetrievalError
from s3.scripted_store import CREDENTIALS, Reply, ScriptedStore, client_of, error_reply
from waiting import WAIT_SECONDS, until

from cef_trio.exceptions import S3OperationError
from cef_trio.resilience import is_outage
from cef_trio.resilience.outage import got_no_response
from cef_trio.s3 import credential_program, credentials
from cef_trio.s3.credentials import ChainCredentials, StaticCredentials
from cef_trio.s3.signing import Credentials


class Session:
    """A botocore session with a scripted chain."""

    def __init__(self, load: Any) -> None:
        self.load = load
        self.loaded = 0

    def get_component(self, name: str) -> Session:
        assert name == "credential_provider"
        return self

    def load_credentials(self) -> Any:
        self.loaded += 1
        return self.load()


@pytest.fixture(autouse=True)
def no_credentials_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


async def test_credentials_of_the_settings_are_what_they_are() -> None:
    provider = StaticCredentials(CREDENTIALS)
    assert await provider.get() is CREDENTIALS
    assert not provider.rejected()


async def test_a_profile_of_the_shared_file_is_found_by_botocores_chain(tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text(
        "[cameras]\naws_access_key_id=AK\naws_secret_access_key=SK\naws_session_token=T\n"
    )
    assert await ChainCredentials(profile="cameras").get() == Credentials("AK", "SK", "T")


async def test_the_error_of_an_empty_chain_names_the_settings() -> None:
    with pytest.raises(S3OperationError, match="S3_ACCESS_KEY_ID") as caught:
        await ChainCredentials().get()
    assert (caught.value.code, caught.value.transient) == ("NoCredentials", False)


async def test_a_chain_whose_service_does_not_answer_is_transient() -> None:
    def fail() -> Any:
        raise CredentialRetrievalError(provider="imds", error_msg="no answer")

    with pytest.raises(S3OperationError, match="no answer") as caught:
        await ChainCredentials(session=Session(fail)).get()
    assert caught.value.transient


async def test_without_botocore_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_botocore(name: str, *args: Any) -> Any:
        if name.startswith("botocore"):
            raise ImportError(name)
        return real(name, *args)

    chain = ChainCredentials()  # a command that never asks S3 gets so far
    monkeypatch.setattr(builtins, "__import__", without_botocore)
    with pytest.raises(S3OperationError, match=r"pip install 'cef-trio\[aws\]'") as caught:
        await chain.get()
    assert (caught.value.code, caught.value.transient) == ("MissingExtra", False)


async def test_credentials_are_renewed_before_they_run_out(mock_clock: trio.testing.MockClock) -> None:
    given = iter(range(10))

    def metadata() -> dict[str, str]:
        expiry = datetime.now(UTC) + timedelta(minutes=5)  # within botocore's mandatory time: renewed at every asking
        return {"access_key": f"AK{next(given)}", "secret_key": "SK", "token": "T", "expiry_time": expiry.isoformat()}

    session = Session(lambda: RefreshableCredentials.create_from_metadata(metadata(), metadata, "test"))
    chain = ChainCredentials(session=session)
    first = await chain.get()
    assert await chain.get() == first
    mock_clock.jump(61)
    assert await chain.get() != first
    assert session.loaded == 1


async def test_many_tasks_fetch_once() -> None:
    threads: list[int] = []

    def load() -> Any:
        threads.append(threading.get_ident())
        return RefreshableCredentials("AK", "SK", "T", datetime.now(UTC) + timedelta(hours=6), None, "test")

    chain = ChainCredentials(session=Session(load))
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(chain.get)
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()


async def test_a_metadata_service_that_hangs_does_not_hold_a_cancellation_back() -> None:
    release, began = threading.Event(), threading.Event()

    def hang() -> Any:
        began.set()
        release.wait(60)

    chain = ChainCredentials(session=Session(hang))
    try:
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(chain.get)
                await trio.to_thread.run_sync(began.wait)
                nursery.cancel_scope.cancel()
    finally:
        release.set()


async def test_an_expired_token_is_fetched_anew_where_that_can_help() -> None:
    tokens = iter(["old", "new"])

    def load() -> Any:
        return RefreshableCredentials("AK", "SK", next(tokens), datetime.now(UTC) + timedelta(hours=6), None, "test")

    store = ScriptedStore(error_reply(400, "ExpiredToken"), Reply(200), error_reply(400, "ExpiredToken"))
    async with client_of(store, credentials=ChainCredentials(session=Session(load))) as client:
        with pytest.raises(S3OperationError) as caught:
            await client.head_bucket()
        assert caught.value.transient
        await client.head_bucket()
    assert [request.headers["x-amz-security-token"] for request in store.requests] == ["old", "new"]
    async with client_of(store) as client:
        with pytest.raises(S3OperationError, match="S3_SESSION_TOKEN") as caught:
            await client.head_bucket()
    assert not caught.value.transient


# ---- credentials that are renewed: kind 6 ----

RENEWED = Credentials("AKRENEWED", "SK2", "T2")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (403, "ExpiredToken"),
        (403, "InvalidAccessKeyId"),
        (403, "SignatureDoesNotMatch"),
        (403, "AccessDenied"),
        (400, "TokenRefreshRequired"),
    ],
)
async def test_p6_keys_that_are_refused_are_read_again_from_their_files(status: int, code: str) -> None:
    provider = StaticCredentials(CREDENTIALS, lambda: RENEWED)
    store = ScriptedStore(error_reply(status, code), Reply(), Reply())
    async with client_of(store, credentials=provider) as s3:
        with pytest.raises(S3OperationError) as caught:
            await s3.delete_object("k")
        assert caught.value.rejected, "the breaker asks again, by a probe, before it is believed"
        await s3.delete_object("k")
    assert await provider.get() == RENEWED


async def test_p6_keys_that_cannot_be_read_again_now_stay_as_they_are() -> None:
    found: list[Credentials | None] = [None, RENEWED]
    provider = StaticCredentials(CREDENTIALS, lambda: found.pop(0))
    provider.rejected()
    assert await provider.get() == CREDENTIALS
    provider.rejected()
    assert await provider.get() == RENEWED


def hanging_read() -> tuple[Callable[[], Credentials], list[None], threading.Event]:
    """Return a read of the renewed keys that hangs until the event, the list of its calls, and the event."""
    release, reads = threading.Event(), list[None]()

    def read() -> Credentials:
        reads.append(None)
        release.wait(WAIT_SECONDS)
        return RENEWED

    return read, reads, release


async def test_p6_the_keys_stay_in_use_while_the_disk_of_their_file_hangs() -> None:
    """One refusal, as of a missing object without s3:ListBucket, must not stop all of S3; one thread hangs."""
    read, reads, release = hanging_read()
    provider = StaticCredentials(CREDENTIALS, read)
    try:
        began = trio.current_time()
        for _ in range(10):
            provider.rejected()
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(provider.get)
            assert await provider.get() == CREDENTIALS
        assert trio.current_time() - began < 2
        assert len(reads) == 1
    finally:
        release.set()

    async def renewed() -> bool:
        return await provider.get() == RENEWED

    await until(renewed)  # without another refusal


async def test_a_read_of_the_keys_that_is_cancelled_is_made_again() -> None:
    read, reads, release = hanging_read()
    provider = StaticCredentials(CREDENTIALS, read)
    provider.rejected()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(provider.get)
            await until(lambda: reads)
            nursery.cancel_scope.cancel()
        assert await provider.get() == CREDENTIALS
    finally:
        release.set()

    async def renewed() -> bool:
        return await provider.get() == RENEWED

    await until(renewed)


async def test_tasks_whose_keys_are_refused_together_wait_for_one_read() -> None:
    reads: list[None] = []

    def read() -> Credentials:
        reads.append(None)
        return RENEWED

    provider = StaticCredentials(CREDENTIALS, read)
    provider.rejected()
    found: list[Credentials] = []

    async def get() -> None:
        found.append(await provider.get())

    async with trio.open_nursery() as nursery:
        for _ in range(40):
            nursery.start_soon(get)
    assert found == [RENEWED] * 40
    assert len(reads) == 1


@pytest.mark.parametrize("error", [ValueError("half of its JSON"), KeyError("Version"), RuntimeError("still expired")])
async def test_p6_any_exception_of_the_chain_is_transient(error: Exception) -> None:
    def fail() -> Any:
        raise error

    with pytest.raises(S3OperationError) as caught:
        await ChainCredentials(session=Session(fail)).get()
    assert caught.value.transient


async def test_p6_a_chain_that_had_credentials_and_has_none_now_has_them_again_later() -> None:
    class Resolved:
        def get_frozen_credentials(self) -> Credentials:
            return Frozen()  # type: ignore[return-value]

    class Frozen:
        access_key, secret_key, token = "AK", "SK", None

    found: list[Any] = [Resolved(), None, Resolved()]
    provider = ChainCredentials(session=Session(lambda: found.pop(0)))
    await provider.get()
    provider.rejected()
    with pytest.raises(S3OperationError) as caught:
        await provider.get()
    assert (caught.value.code, caught.value.transient) == ("NoCredentials", True)
    assert (await provider.get()).access_key_id == "AK"


# ---- what hangs while the keys are fetched: kind 6 ----


class HangingProgram:
    """A ``credential_process`` that starts another program, and waits for it for ever."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "program"
        self.file.write_text('#!/bin/sh\nsleep 1000 &\necho $$ $! > "$0.tmp" && mv "$0.tmp" "$0.pids"\nwait\n')
        self.file.chmod(0o700)
        self._pids = folder / "program.pids"

    def has_started(self) -> bool:
        return self._pids.exists()

    def is_gone(self) -> bool:
        """Whether both have ended, and the program is reaped; what it started is init's to reap."""
        program, started = map(int, self._pids.read_text().split())
        return state_of(program) is None and state_of(started) in {None, "Z"}


def state_of(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return None


@pytest.fixture
def hanging(tmp_path: Path) -> HangingProgram:
    program = HangingProgram(tmp_path)
    says = f"credential_process = {shlex.quote(str(program.file))} --pass SECRET\n"
    role = "role_arn = arn:aws:iam::123456789012:role/uploads\nsource_profile = cameras\nregion = eu-central-1\n"
    (tmp_path / "config").write_text(f"[profile cameras]\n{says}[profile of-a-role]\n{role}")
    return program


@pytest.mark.parametrize("profile", ["cameras", "of-a-role"])
async def test_p6_a_credential_process_that_hangs_is_killed_with_its_group_and_told_by_its_name(
    hanging: HangingProgram, monkeypatch: pytest.MonkeyPatch, profile: str
) -> None:
    """It stopped every call to S3 for ever, without a word: botocore waits for it without a limit."""
    monkeypatch.setattr(credential_program, "PROGRAM_SECONDS", 0.5)
    chain = ChainCredentials(profile=profile)
    with trio.fail_after(WAIT_SECONDS), pytest.raises(S3OperationError) as caught:
        await chain.get()
    assert is_outage(caught.value)
    assert got_no_response(caught.value), "no probe has to confirm it"
    assert f"credential_process {str(hanging.file)!r} did not end within 0.5 seconds" in str(caught.value)
    assert "SECRET" not in str(caught.value)
    await until(hanging.is_gone)


async def test_p4_a_credential_process_is_killed_and_reaped_when_its_fetch_is_cancelled(
    hanging: HangingProgram,
) -> None:
    chain = ChainCredentials(profile="cameras")
    with trio.fail_after(WAIT_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(chain.get)
            await until(hanging.has_started)
            nursery.cancel_scope.cancel()
        await until(hanging.is_gone)
        hanging.file.write_text('#!/bin/sh\necho \'{"Version": 1, "AccessKeyId": "AK", "SecretAccessKey": "SK"}\'\n')
        assert await chain.get() == Credentials("AK", "SK", None)


async def test_p4_a_program_that_starts_after_its_fetch_was_given_up_is_killed_at_once(hanging: HangingProgram) -> None:
    started = credential_program.Programs()
    started.end()
    before = credential_program.of_this_fetch.set(started)
    try:
        with credential_program.CredentialProgram([str(hanging.file)]) as program:
            assert program.wait(WAIT_SECONDS) < 0
    finally:
        credential_program.of_this_fetch.reset(before)
    program.end()  # it is reaped: its number may be another's


async def test_p6_a_fetch_that_hangs_is_one_error_for_all_that_wait_and_holds_one_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As STS without a response, or a hung disk of the shared files; each caller would wait for its own time-out."""
    monkeypatch.setattr(credentials, "_FETCH_SECONDS", 0.5)
    release, failures = threading.Event(), list[S3OperationError]()

    def load() -> Any:
        release.wait(WAIT_SECONDS)
        return RefreshableCredentials("AK", "SK", "T", datetime.now(UTC) + timedelta(hours=6), None, "test")

    session = Session(load)
    chain = ChainCredentials(session=session)

    async def get() -> None:
        with pytest.raises(S3OperationError, match=r"STS.* did not respond within 0.5 seconds") as caught:
            await chain.get()
        failures.append(caught.value)

    try:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(get)
        assert trio.current_time() - began < 5
        assert len({id(error) for error in failures}) == 20, "callers change what they catch"
        assert all(got_no_response(error) for error in failures)
        await get()
        assert session.loaded == 1
    finally:
        release.set()

    async def works() -> bool:
        try:
            return (await chain.get()).access_key_id == "AK"
        except S3OperationError:
            return False

    await until(works)
    assert session.loaded == 1, "what the thread found in the end is used"
