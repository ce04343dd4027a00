"""The URL of a bucket and its objects: scheme, host and encoded path. Pure.

Rules: https://docs.aws.amazon.com/AmazonS3/latest/userguide/VirtualHosting.html. A bucket's name is put into the host
name only if it is valid there: dots break TLS wildcards, and host names have no upper case or underscores. Keys are
encoded once and never normalised, so ``a//b``, ``a/../b`` and ``/a`` are different keys.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from cef_trio.s3.config import Addressing
from cef_trio.s3.signing import encode_path

_HOST_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class BucketAddress:
    """Scheme, ``Host`` header and path of a bucket. ``base_path`` is encoded and does not end in a slash."""

    scheme: str
    host: str
    base_path: str

    @property
    def origin(self) -> str:
        """``scheme://host[:port]``."""
        return f"{self.scheme}://{self.host}"

    def path(self, key: str | None) -> str:
        """Return the encoded path of an object, or of the bucket if ``key`` is ``None``."""
        if key is None:
            return self.base_path or "/"
        return f"{self.base_path}/{encode_path(key)}"


def bucket_address(
    bucket: str, *, region: str, endpoint_url: str | None = None, addressing: Addressing = Addressing.AUTO
) -> BucketAddress:
    """Return the address of a bucket.

    Raises:
        ValueError: the endpoint is not ``http(s)://host[:port][/prefix]``, or virtual-hosted addressing is required for
            a bucket whose name is not valid in a host name.
    """
    if endpoint_url is None:
        scheme, host, prefix = "https", f"s3.{region}.amazonaws.com", ""
        if region.startswith("cn-"):
            host += ".cn"
    else:
        scheme, host, prefix = _split(endpoint_url)
    fits_host = _HOST_BUCKET.fullmatch(bucket) is not None
    if addressing is Addressing.VIRTUAL and not fits_host:
        raise ValueError(f"bucket {bucket!r} cannot be part of a host name; use S3_ADDRESSING=path")
    if addressing is Addressing.VIRTUAL or (addressing is Addressing.AUTO and endpoint_url is None and fits_host):
        return BucketAddress(scheme, f"{bucket}.{host}", prefix)
    return BucketAddress(scheme, host, f"{prefix}/{encode_path(bucket)}")


def _split(endpoint_url: str) -> tuple[str, str, str]:
    """Split an endpoint into scheme, ``Host`` header (without the default port) and encoded path."""
    parts = urlsplit(endpoint_url)
    port = parts.port  # raises ValueError for an invalid port
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError(
            f"S3_ENDPOINT_URL is http(s)://host[:port][/prefix], not {parts._replace(netloc='…').geturl()!r}"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if port is not None and port != _DEFAULT_PORTS[parts.scheme]:
        host += f":{port}"
    return parts.scheme, host, encode_path(parts.path.rstrip("/"))
