"""TLS to S3, Redis and webhooks: what is trusted, and what is said when it is not. Nothing here connects to anything.

Certificates are always verified, with the host's name, by TLS 1.2 or newer; no setting turns that off.

A certificate that is refused does not mend itself within a second, and most often our own setting is wrong: at the
start the daemon says so and ends (exit code 4). Once it runs, the same refusal is an outage like any other, since a
certificate that has run out is the server's to mend, and no recording may be given up for it.

Certificates are renewed while daemons run: whoever opens a connection takes them as they are at that moment
(:class:`Trust`; redis-py reads its files for each connection by itself).
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Final

import certifi
import structlog
import trio

from cef_trio.resilience import run_in_thread

log = structlog.get_logger(__name__)

_READ_SECONDS: Final = 1.0
"""How long a new connection waits for certificates to be read again: their disk may hang."""
_MAX_CAUSES: Final = 8
_HOST_MISMATCH: Final = frozenset({62, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_EXPIRED: Final = frozenset({9, 10})  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
_CLIENT_CERTIFICATE_ALERTS: Final = (
    "CERTIFICATE_REQUIRED",
    "ALERT_UNKNOWN_CA",
    "ALERT_BAD_CERTIFICATE",
    "ALERT_CERTIFICATE",
)
"""What OpenSSL calls the alerts by which a server refuses a client's certificate, or its absence."""


class Trust:
    """Whom a client trusts: by the certificates of ``ca_file`` alone, else by the system's; as they are now.

    Args:
        setting: the variable that names the file, for texts.
        ca_file: what it names.

    Raises:
        ValueError: the file holds no certificates.
    """

    def __init__(self, setting: str, ca_file: Path | None) -> None:
        self._setting = setting
        self._ca_file = ca_file
        self._loaded = _fingerprint(ca_file)
        try:
            self._context = client_context(ca_file)
        except OSError as error:  # ssl.SSLError is one too
            raise ValueError(f"{setting} {ca_file}: no certificates can be read from it ({error})") from error
        self._read_limiter = trio.CapacityLimiter(1)

    async def now(self) -> ssl.SSLContext:
        """For a new connection. The last one where the file cannot be read now, as while somebody replaces it."""
        with trio.move_on_after(_READ_SECONDS):
            # Abandoned, it has read in vain. One thread, so that a disk that hangs does not take all there are.
            await run_in_thread(self._read_changed, abandon_on_cancel=True, limiter=self._read_limiter)
        return self._context

    def _read_changed(self) -> None:
        state = _fingerprint(self._ca_file)  # before the reading: what changes meanwhile is read the next time
        if state == self._loaded:
            return
        self._loaded = state
        try:
            self._context = client_context(self._ca_file)
        except OSError as error:
            log.warning("certificates_not_read", setting=self._setting, error=str(error))
        else:
            log.info("certificates_reloaded", setting=self._setting)


def _fingerprint(ca_file: Path | None) -> list[tuple[int, ...] | None]:
    """What is other whenever the file, or the system's certificates, are."""
    paths = ssl.get_default_verify_paths()
    return [_stat(path) for path in ((ca_file,) if ca_file is not None else (paths.cafile, paths.capath))]


def _stat(path: str | os.PathLike[str] | None) -> tuple[int, ...] | None:
    try:
        found = os.stat(path) if path is not None else None  # noqa: PTH116  paths of OpenSSL's are text
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns) if found else None


def client_context(ca_file: Path | None) -> ssl.SSLContext:
    """How a client verifies: by the certificates of ``ca_file`` alone, else by the system's.

    Raises:
        OSError: the file holds no certificates (``ssl.SSLError`` is one too).
    """
    context = ssl.create_default_context(cafile=ca_file)
    if ca_file is None and not _system_has_certificates():
        context.load_verify_locations(certifi.where())  # an image without ca-certificates
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _system_has_certificates() -> bool:
    paths = ssl.get_default_verify_paths()
    return paths.cafile is not None or (paths.capath is not None and any(Path(paths.capath).iterdir()))


def refusal(error: BaseException, *, ca_setting: str, address_setting: str) -> str | None:
    """Why no TLS connection came about, if a certificate was refused, and which setting to look at; else ``None``.

    Looks through the exceptions that lie beneath ``error``. The two settings are the names of variables.
    """
    seen: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if isinstance(seen, BaseExceptionGroup):  # one for each address of a host
            seen = seen.exceptions[0]
        if isinstance(seen, ssl.SSLCertVerificationError):
            return _verification_message(seen, ca_setting, address_setting)
        # An error that was made by hand, as in a test, has no reason.
        reason = getattr(seen, "reason", None) or ""
        if isinstance(seen, ssl.SSLError) and any(alert in reason for alert in _CLIENT_CERTIFICATE_ALERTS):
            return f"the server asks for a client's certificate that it trusts ({reason}); see {address_setting}"
        if seen is None:
            break
        seen = seen.__cause__ or seen.__context__
    return None


def _verification_message(error: ssl.SSLCertVerificationError, ca_setting: str, address_setting: str) -> str:
    code, message = getattr(error, "verify_code", 0), getattr(error, "verify_message", None) or str(error)
    if code in _HOST_MISMATCH:
        todo = f"{address_setting} is to name the host as its certificate does"
    elif code in _EXPIRED:
        todo = "it is the server's to renew; look at this machine's clock too"
    else:
        todo = f"set {ca_setting}"
    return f"the server's certificate is not trusted ({message}); {todo}"
