"""Access keys from the settings, or from the credential chain of AWS's own tools.

The chain (shared profiles, container and instance metadata, web identity, SSO) is botocore's, of the extra ``aws``; it
is imported on first use. botocore does blocking I/O, so it runs in worker threads. Its own time-outs are for single
reads and attempts, and it has none for a program (``credential_program.py``), so each fetch has a time limit here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import structlog
import trio

from cef_trio.exceptions import S3OperationError
from cef_trio.resilience import read_in_time, run_in_thread
from cef_trio.s3.credential_program import CredentialProgram, Programs, of_this_fetch
from cef_trio.s3.signing import Credentials

log = structlog.get_logger(__name__)

_OPERATION: Final = "get_credentials"
_PLACES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "env": "AWS_ACCESS_KEY_ID",
        "assume-role": "the profile's role",
        "assume-role-with-web-identity": "AWS_WEB_IDENTITY_TOKEN_FILE",
        "sso": "the profile's SSO",
        "login": "the profile's login",
        "custom-process": "the profile's credential_process",
        "ec2-credentials-file": "AWS_CREDENTIAL_FILE",
        "boto-config": "boto's configuration",
        "container-role": "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "iam-role": "the instance's metadata service",
    }
)
"""Each provider of botocore's chain by its ``METHOD``, as an operator knows it."""
_REUSE_SECONDS: Final = 60.0
"""How long credentials are cached; botocore itself renews them 10 to 15 minutes before they expire."""

_FETCH_SECONDS: Final = 60.0
"""How long a fetch is waited for: twice the time of a program, for a role whose keys a program has."""


class StaticCredentials:
    """Credentials from the settings. After a rejection ``read`` is called, since secret files may have been replaced.

    ``read`` may block; it returns ``None`` to keep the current credentials.
    """

    __slots__ = ("_credentials", "_limiter", "_read", "_rejected", "_turn")

    def __init__(self, credentials: Credentials, read: Callable[[], Credentials | None] | None = None) -> None:
        self._credentials = credentials
        self._read = read
        self._rejected = False
        self._turn = trio.Lock()
        self._limiter = trio.CapacityLimiter(1)

    async def get(self) -> Credentials:
        """Return the credentials. No checkpoint unless they were rejected; a cancelled read changes nothing.

        While they cannot be read, as their disk hangs, those of before stay in use: most rejections concern one object.
        """
        if self._rejected and self._read is not None:
            async with self._turn:  # those rejected together wait for one read
                if self._rejected:
                    await self._read_again(self._read)
        return self._credentials

    async def _read_again(self, read: Callable[[], Credentials | None]) -> None:
        with suppress(trio.TooSlowError):  # still to be read, at the next request
            found = await read_in_time(read, self._limiter)
            self._rejected = False
            if found is not None:
                self.renew(found)

    def renew(self, credentials: Credentials) -> None:
        """Replace the credentials."""
        if credentials != self._credentials:
            self._credentials = credentials
            log.info("credentials_renewed", service="s3")

    def rejected(self) -> bool:
        """Read them again before the next request; ``False``, since they may turn out to be the same."""
        self._rejected = True
        return False


class ChainCredentials:
    """Credentials from botocore's chain, renewed before they expire.

    A fetch only reads, so a cancellation abandons its thread at once: a metadata service that does not respond cannot
    delay the shutdown (promise P4). One task fetches; others wait for its result, or its error: each with a time limit
    of its own, they would be told one after the other. An abandoned thread is waited for before another one begins.
    """

    def __init__(self, *, profile: str | None = None, session: Any = None) -> None:
        """Prepare the chain; nothing is fetched yet.

        ``profile`` is one of the shared configuration, by default ``AWS_PROFILE``; ``session`` replaces botocore's own.
        """
        self._profile = profile
        self._session = session
        self._lock = trio.Lock()
        self._limiter = trio.CapacityLimiter(1)
        self._failure: S3OperationError | None = None
        """The error of the last fetch that failed."""
        self._failures = 0
        self._resolved: Any = None
        self._credentials: Credentials | None = None
        self._reuse_until = 0.0
        self._found_before = False

    async def get(self) -> Credentials:
        """Return credentials that are valid for at least some minutes.

        Raises:
            S3OperationError: permanent if the chain never had credentials or botocore is not installed; transient if it
                had some before, failed, or took too long.
        """
        failures = self._failures
        async with self._lock:
            if self._failure is not None and self._failures != failures:  # while this waited for the lock
                failed = self._failure  # a new one, as the callers change theirs
                raise S3OperationError(_OPERATION, failed.message, transient=failed.transient, code=failed.code)
            if self._credentials is None or trio.current_time() >= self._reuse_until:
                try:
                    self._credentials = await self._fetch_in_time()
                except S3OperationError as error:
                    self._failure, self._failures = error, self._failures + 1
                    raise
                self._reuse_until = trio.current_time() + _REUSE_SECONDS
            return self._credentials

    async def _fetch_in_time(self) -> Credentials:
        started = Programs()
        before = of_this_fetch.set(started)  # for the thread, which has this task's context
        try:
            with trio.fail_after(_FETCH_SECONDS):
                return await run_in_thread(self._fetch, abandon_on_cancel=True, limiter=self._limiter)
        except trio.TooSlowError as error:
            place = _PLACES.get(getattr(self._resolved, "method", ""), "its shared files, STS, SSO, metadata services")
            raise S3OperationError(
                _OPERATION,
                f"the AWS credential chain ({place}) did not respond within {_FETCH_SECONDS:g} seconds",
                transient=True,
                code="CredentialsTimeout",
            ) from error
        finally:  # without a checkpoint: also if this was cancelled
            of_this_fetch.reset(before)
            started.end()

    def rejected(self) -> bool:
        """Restart the chain next time: keys in files and at metadata services may have been replaced."""
        self._credentials = None
        self._resolved = None
        return True

    def _fetch(self) -> Credentials:
        # Created on first use: commands that only read Redis need neither botocore nor credentials.
        if self._session is None:
            self._session = _botocore_session(self._profile)
        try:
            # A new resolver after each rejection, since the session caches its credentials.
            resolved = self._resolved or self._session.get_component("credential_provider").load_credentials()
            frozen = resolved.get_frozen_credentials() if resolved is not None else None
        except Exception as error:
            # All of these may be temporary: truncated JSON of a credential_process (ValueError), an unexpected response
            # of a metadata service (KeyError), keys that expired meanwhile (RuntimeError).
            raise S3OperationError(
                _OPERATION, f"the AWS credential chain failed: {error}", transient=True, code=type(error).__name__
            ) from error
        if frozen is None or not frozen.access_key or not frozen.secret_key:
            raise S3OperationError(
                _OPERATION,
                "there are no credentials: S3_ACCESS_KEY_ID is not set, and AWS's credential chain found none in "
                f"{_places(self._session)}",
                transient=self._found_before,  # botocore skips an unreachable metadata service silently
                code="NoCredentials",
            )
        self._found_before = True
        self._resolved = resolved
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token or None)


def _places(session: Any) -> str:
    """Return where the chain looked, in its order."""
    names: list[str] = []
    for one in getattr(session.get_component("credential_provider"), "providers", ()):
        files = (getattr(one, name, None) for name in ("_creds_filename", "_config_filename"))
        file = next((os.path.expanduser(file) for file in files if isinstance(file, str)), "")  # noqa: PTH111 - text
        names.append(file or _PLACES.get(one.METHOD, one.METHOD))
    return ", ".join(dict.fromkeys(names))


def _botocore_session(profile: str | None) -> Any:
    try:
        from botocore import credentials
        from botocore.session import Session
    except ImportError as error:
        raise S3OperationError(
            _OPERATION,
            "there are no credentials: S3_ACCESS_KEY_ID is not set, and AWS's credential chain needs botocore (pip "
            "install 'cef-trio[aws]')",
            code="MissingExtra",
        ) from error
    # A role's source profile has a provider of its own. botocore makes each one where nothing can be passed to it.
    if not isinstance(credentials.ProcessProvider, partial):
        credentials.ProcessProvider = partial(credentials.ProcessProvider, popen=CredentialProgram)
    make: Callable[..., Any] = Session
    return make(profile=profile)
