"""TLS to S3, Redis and webhooks: what is trusted, and what is said when it is not. Nothing here connects to anything.

Certificates are always verified, with the host's name, by TLS 1.2 or newer; no setting turns that off.

A certificate that is refused does not mend itself within a second, and most often our own setting is wrong: at the
start the daemon says so and ends (exit code 4). Once it runs, the same refusal is an outage like any other, since a
certificate that has run out is the server's to mend, and no recording may be given up for it.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

import certifi

_CAUSES: Final = 8
_HOST_MISMATCH: Final = frozenset({62, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_EXPIRED: Final = frozenset({9, 10})  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
_OURS_REFUSED: Final = ("CERTIFICATE_REQUIRED", "ALERT_UNKNOWN_CA", "ALERT_BAD_CERTIFICATE", "ALERT_CERTIFICATE")
"""What OpenSSL calls the alerts by which a server refuses a client's certificate, or its absence."""


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
    for _ in range(_CAUSES):
        if isinstance(seen, BaseExceptionGroup):  # one for each address of a host
            seen = seen.exceptions[0]
        if isinstance(seen, ssl.SSLCertVerificationError):
            return _in_words(seen, ca_setting, address_setting)
        # An error that was made by hand, as in a test, has no reason.
        reason = getattr(seen, "reason", None) or ""
        if isinstance(seen, ssl.SSLError) and any(alert in reason for alert in _OURS_REFUSED):
            return f"the server asks for a client's certificate that it trusts ({reason}); see {address_setting}"
        if seen is None:
            break
        seen = seen.__cause__ or seen.__context__
    return None


def _in_words(error: ssl.SSLCertVerificationError, ca_setting: str, address_setting: str) -> str:
    code, message = getattr(error, "verify_code", 0), getattr(error, "verify_message", None) or str(error)
    if code in _HOST_MISMATCH:
        todo = f"{address_setting} is to name the host as its certificate does"
    elif code in _EXPIRED:
        todo = "it is the server's to renew; look at this machine's clock too"
    else:
        todo = f"set {ca_setting}"
    return f"the server's certificate is not trusted ({message}); {todo}"
