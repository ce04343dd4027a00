"""Mapping of httpx's exceptions to :class:`S3OperationError`; the only place for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import takewhile
from types import MappingProxyType
from typing import Final

import httpx

from cef_trio.exceptions import CefMp4ProcessorError, S3OperationError, causes
from cef_trio.http import tls
from cef_trio.s3.errors import describe

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
_MAPPED: Final[Mapping[type[Exception], bool]] = MappingProxyType({**HTTPX_TRANSIENT, OSError: True, ValueError: True})
"""Also the exceptions that httpx does not wrap, for malformed responses (encodings, numbers)."""


@contextmanager
def map_httpx_errors(
    operation: str, *, bucket: str, key: str | None, part_number: int | None = None, status: int | None = None
) -> Iterator[None]:
    """Raise :class:`S3OperationError` for an exception of httpx in the block; ``status``: of the response, if any."""
    try:
        yield
    except CefMp4ProcessorError:
        raise
    except tuple(_MAPPED) as error:
        transient = next((_MAPPED[known] for known in type(error).__mro__ if known in _MAPPED), True)
        refused = tls.explain_refused_certificate(error, ca_setting="S3_CA_FILE", address_setting="S3_ENDPOINT_URL")
        name, text = type(error).__name__, refused or _message_of(error)
        ours = S3OperationError(
            operation,
            (f"{name}: {text}" if text else name) + describe(bucket, key, part_number),
            transient=transient,
            code=name,
            status=status,
            bucket=bucket,
            key=key,
            part_number=part_number,
        )
        ours.certificate_refused = refused is not None
        raise ours from error


def _message_of(error: BaseException) -> str:
    """Return the message of the innermost exception that has one; those of the outer ones are often empty."""
    foreign = takewhile(lambda cause: not isinstance(cause, CefMp4ProcessorError), causes(error))
    return next(filter(None, reversed([str(cause) for cause in foreign])), "")
