"""TLS for S3, Redis and webhooks: trusted certificates, and messages for refused ones. Opens no connection.

Certificates and host names are always verified, with TLS 1.2 or newer; no setting disables that.

A certificate that is refused at start is most often a wrong setting, so the daemon exits with code 4. While it runs,
the same error is an outage: a certificate that has expired is renewed on the server, and no upload fails because of it.

Certificate files may be replaced while the daemon runs. Every new connection uses the current ones
(:class:`TrustedCertificates`; redis-py reads its files for every connection itself).
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Final

import certifi
import structlog
import trio

from cef_trio.exceptions import causes
from cef_trio.resilience import run_in_thread

log = structlog.get_logger(__name__)

_READ_SECONDS: Final = 1.0
"""How long a new connection waits for changed certificates to be read: the disk may hang."""
_HOST_MISMATCH: Final = frozenset({62, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_EXPIRED: Final = frozenset({9, 10})  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
_CLIENT_CERTIFICATE_ALERTS: Final = (
    "CERTIFICATE_REQUIRED",
    "ALERT_UNKNOWN_CA",
    "ALERT_BAD_CERTIFICATE",
    "ALERT_CERTIFICATE",
)
"""OpenSSL's names of the alerts with which a server refuses a missing or unknown client certificate."""


class TrustedCertificates:
    """The certificates that a client trusts: those of ``ca_file`` only, or the system's; reloaded when they change.

    ``ca_file`` is a PEM file; ``setting`` is the variable that names it, for messages.

    Raises:
        ValueError: the file contains no certificates.
    """

    def __init__(self, setting: str, ca_file: Path | None) -> None:
        self._setting = setting
        self._ca_file = ca_file
        self._loaded = _fingerprint(ca_file)
        self._not_read: object = None
        try:
            self._context = client_context(ca_file)
        except OSError as error:  # includes ssl.SSLError
            raise ValueError(f"{setting} {ca_file}: no certificates can be read from it ({error})") from error
        self._read_limiter = trio.CapacityLimiter(1)

    async def current_context(self) -> ssl.SSLContext:
        """Return the context for a new connection; the previous one until a changed file can be read."""
        with trio.move_on_after(_READ_SECONDS):
            # Safe to abandon: it only reads. One thread at a time, so that a hung disk cannot occupy all of them.
            await run_in_thread(self._read_changed, abandon_on_cancel=True, limiter=self._read_limiter)
        return self._context

    def _read_changed(self) -> None:
        state = _fingerprint(self._ca_file)  # before the read, so that a later change is noticed
        if state == self._loaded:
            return
        try:
            context = client_context(self._ca_file)
            _check_system_bundle(self._ca_file, context)
        except OSError as error:  # each new connection tries again: there may have been no descriptor
            if state != self._not_read:
                log.warning("certificates_not_read", setting=self._setting, error=str(error))
            self._not_read = state
        else:
            self._context, self._loaded = context, state
            log.info("certificates_reloaded", setting=self._setting)


def _check_system_bundle(ca_file: Path | None, context: ssl.SSLContext) -> None:
    """Raise an ``OSError`` if the system's bundle was not read: OpenSSL then reports success without certificates."""
    bundle = ssl.get_default_verify_paths().cafile
    if ca_file is None and bundle is not None and not context.cert_store_stats()["x509"]:
        raise OSError(f"{bundle} cannot be read")


def _fingerprint(ca_file: Path | None) -> list[tuple[int, ...] | None]:
    """Return a value that changes when the file, or the system's certificates, change."""
    paths = ssl.get_default_verify_paths()
    return [_stat(path) for path in ((ca_file,) if ca_file is not None else (paths.cafile, paths.capath))]


def _stat(path: str | os.PathLike[str] | None) -> tuple[int, ...] | None:
    try:
        found = os.stat(path) if path is not None else None  # noqa: PTH116  OpenSSL's paths are str
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns) if found else None


def client_context(ca_file: Path | None) -> ssl.SSLContext:
    """Return a context that verifies servers with the certificates of ``ca_file`` only, or with the system's.

    Raises:
        OSError: the file contains no certificates (``ssl.SSLError`` is an ``OSError``).
    """
    context = ssl.create_default_context(cafile=trusted_file(ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def trusted_file(ca_file: Path | None) -> Path | None:
    """Return the PEM file to trust: ``ca_file``, or certifi's if the system has none; ``None`` for the system's."""
    paths = ssl.get_default_verify_paths()
    if ca_file or paths.cafile or (paths.capath and any(Path(paths.capath).iterdir())):
        return ca_file
    return Path(certifi.where())  # an image without ca-certificates


def explain_refused_certificate(error: BaseException, *, ca_setting: str, address_setting: str) -> str | None:
    """Return why a certificate was refused and which setting to check; ``None`` for any other error.

    Searches the causes of ``error``. The two settings are names of environment variables.
    """
    for seen in causes(error):
        if isinstance(seen, ssl.SSLCertVerificationError):
            return _verification_message(seen, ca_setting, address_setting)
        # Errors that OpenSSL did not raise have no reason.
        reason = getattr(seen, "reason", None) or ""
        if isinstance(seen, ssl.SSLError) and any(alert in reason for alert in _CLIENT_CERTIFICATE_ALERTS):
            return f"the server requires a client certificate that it trusts ({reason}); see {address_setting}"
    return None


def _verification_message(error: ssl.SSLCertVerificationError, ca_setting: str, address_setting: str) -> str:
    code, message = getattr(error, "verify_code", 0), getattr(error, "verify_message", None) or str(error)
    if code in _HOST_MISMATCH:
        todo = f"{address_setting} must name the host as its certificate does"
    elif code in _EXPIRED:
        todo = "renew it on the server, and check this machine's clock"
    else:
        todo = f"set {ca_setting}"
    return f"the server's certificate is not trusted ({message}); {todo}"
