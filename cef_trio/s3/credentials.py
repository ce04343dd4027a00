"""Where access keys come from: settings, or the chain that AWS's own tools use.

The chain (shared profiles, container and instance metadata, web identity, SSO) is botocore's, from the extra ``aws``;
it is imported only when asked for. botocore does blocking I/O, so it runs in trio's worker threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import structlog
import trio

from cef_trio.exceptions import S3OperationError
from cef_trio.resilience import run_in_thread
from cef_trio.s3.config import CredentialsProvider
from cef_trio.s3.signing import Credentials

log = structlog.get_logger(__name__)

__all__ = ["ChainCredentials", "CredentialsProvider", "StaticCredentials"]

_OPERATION: Final = "get_credentials"
_REUSE_SECONDS: Final = 60.0
"""How long credentials are used without asking botocore, which renews them 10 to 15 minutes before they run out."""


class StaticCredentials:
    """Credentials from the settings. Refused, they are read again where ``read`` knows how: files are renewed.

    ``read`` may block, and returns ``None`` where it finds none: those that there are stay.
    """

    __slots__ = ("_credentials", "_read", "_refused")

    def __init__(self, credentials: Credentials, read: Callable[[], Credentials | None] | None = None) -> None:
        self._credentials = credentials
        self._read = read
        self._refused = False

    async def get(self) -> Credentials:
        """The credentials. No checkpoint unless they were refused; cancelled while they are read: as before."""
        if self._refused and self._read is not None:
            # Abandoned by a cancellation: it only reads, and the disk may hang.
            found = await run_in_thread(self._read, abandon_on_cancel=True)
            self._refused = False
            if found is not None:
                self.renew(found)
        return self._credentials

    def renew(self, credentials: Credentials) -> None:
        """Use these from now on."""
        if credentials != self._credentials:
            self._credentials = credentials
            log.info("credentials_renewed", service="s3")

    def rejected(self) -> bool:
        """Read them again before the next call. The refusal stands: nobody knows yet whether they are others."""
        self._refused = True
        return False


class ChainCredentials:
    """Credentials from botocore's chain, renewed in time.

    Fetching is cancellable at once although a thread does it: it reads, so that its result may be thrown away, and a
    metadata service that does not answer must not hold an exit back (promise P4). One task fetches, others wait for it.
    """

    def __init__(self, *, profile: str | None = None, session: Any = None) -> None:
        """Prepare the chain; nothing is fetched yet.

        Args:
            profile: a profile of the shared configuration; ``None`` takes ``AWS_PROFILE`` or the default one.
            session: a botocore session to use instead of a new one.
        """
        self._profile = profile
        self._session = session
        self._lock = trio.Lock()
        self._resolved: Any = None
        self._credentials: Credentials | None = None
        self._reuse_until = 0.0
        self._had_some = False

    async def get(self) -> Credentials:
        """Credentials that are valid for some minutes at least.

        Raises:
            S3OperationError: the chain has never had any, or botocore is not installed (both permanent); or it has none
                now, or failed (transient).
        """
        async with self._lock:
            if self._credentials is None or trio.current_time() >= self._reuse_until:
                self._credentials = await run_in_thread(self._fetch, abandon_on_cancel=True)
                self._reuse_until = trio.current_time() + _REUSE_SECONDS
            return self._credentials

    def rejected(self) -> bool:
        """Begin the chain anew next time: keys in files and at metadata services may have been replaced."""
        self._credentials = None
        self._resolved = None
        return True

    def _fetch(self) -> Credentials:
        # Not before S3 is asked: commands that look at Redis alone need neither botocore nor credentials.
        if self._session is None:
            self._session = _botocore_session(self._profile)
        try:
            # A new resolver each time that S3 rejected what the last one found; the session itself caches them.
            resolved = self._resolved or self._session.get_component("credential_provider").load_credentials()
            frozen = resolved.get_frozen_credentials() if resolved is not None else None
        except Exception as error:
            # Whatever it is, it is of one moment: a credential_process that printed half of its JSON (ValueError), a
            # metadata service that answered something else (KeyError), keys that ran out meanwhile (RuntimeError).
            raise S3OperationError(
                _OPERATION, f"the AWS credential chain failed: {error}", transient=True, code=type(error).__name__
            ) from error
        if frozen is None or not frozen.access_key or not frozen.secret_key:
            raise S3OperationError(
                _OPERATION,
                "the AWS credential chain has no credentials; set S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY, "
                "a profile, or run where a role is attached",
                transient=self._had_some,  # a metadata service that cannot be reached is passed over without a word
                code="NoCredentials",
            )
        self._had_some = True
        self._resolved = resolved
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token or None)


def _botocore_session(profile: str | None) -> Any:
    try:
        from botocore.session import Session
    except ImportError as error:
        raise S3OperationError(
            _OPERATION,
            "AWS's credential chain needs botocore: pip install 'cef-trio[aws]', or set S3_ACCESS_KEY_ID and "
            "S3_SECRET_ACCESS_KEY",
            code="MissingExtra",
        ) from error
    make: Callable[..., Any] = Session
    return make(profile=profile)
