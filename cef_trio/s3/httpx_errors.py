"""Mapping of httpx's exceptions to :class:`S3OperationError`; the only place for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import takewhile
from types import MappingProxyType
from typing import Final

import httpx

from cef_trio.exceptions import CefMp4ProcessorError, S3OperationError, causes
from cef_trio.http import tls

HTTPX_TRANSIENT: Final[Mapping[type[Exception], bool]] = MappingProxyType(
    {
        httpx.TransportError: True,
        httpx.UnsupportedProtocol: False,
        httpx.LocalProtocolError: False,
        httpx.RequestError: False,
        httpx.HTTPError: False,
        httpx.InvalidURL: False,
        httpx.CookieConflict: False,
        httpx.StreamError: False,
    }
)
"""Which of httpx's exceptions are transient; the most specific entry counts."""
PROXY_ERROR: Final = httpx.ProxyError.__name__
"""The code of an error of the proxy itself."""
_MAPPED: Final[Mapping[type[Exception], bool]] = MappingProxyType({**HTTPX_TRANSIENT, OSError: True, ValueError: True})
"""Also the exceptions that httpx does not wrap, for malformed responses (encodings, numbers)."""


@contextmanager
def map_httpx_errors(make_error: Callable[[str, str, bool], S3OperationError]) -> Iterator[None]:
    """Raise what ``make_error`` returns for the code, message and transience of httpx's exception in the block."""
    try:
        yield
    except CefMp4ProcessorError:
        raise
    except tuple(_MAPPED) as error:
        transient = next((_MAPPED[known] for known in type(error).__mro__ if known in _MAPPED), True)
        refused = tls.explain_refused_certificate(error, ca_setting="S3_CA_FILE", address_setting="S3_ENDPOINT_URL")
        # The proxy's own message names it; those of its causes do not.
        own = str(error) if isinstance(error, httpx.ProxyError) else _message_of(error)
        name, text = type(error).__name__, refused or own
        ours = make_error(name, f"{name}: {text}" if text else name, transient)
        ours.certificate_refused = refused is not None
        raise ours from error


def _message_of(error: BaseException) -> str:
    """Return the message of the innermost exception that has one; those of the outer ones are often empty."""
    foreign = takewhile(lambda cause: not isinstance(cause, CefMp4ProcessorError), causes(error))
    return next(filter(None, reversed([str(cause) for cause in foreign])), "")
