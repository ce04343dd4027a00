"""HTTP/1.1 and TLS for S3, webhooks and the servers, independent of what is requested.

Open `tls.py` for certificates and which of them are trusted; `client_transport.py` for clients and their connections;
`proxy.py` for their proxy, `tunnel.py` for connecting through it;
`server_connection.py` for the server side of HTTP/1.1, with h11; `headers.py` for dates and `Retry-After`.
"""

from typing import TYPE_CHECKING

from cef_trio.lazy_door import lazy_door

if TYPE_CHECKING:
    from cef_trio.http import tls
    from cef_trio.http.client_transport import HttpTransport, http_client
    from cef_trio.http.headers import parse_http_date, parse_retry_after
    from cef_trio.http.proxy import HttpProxy
    from cef_trio.http.server_connection import HTTPRequest, NotHttpError, ServerConnection
else:
    __getattr__ = lazy_door(__name__)

__all__ = [
    "HTTPRequest",
    "HttpProxy",
    "HttpTransport",
    "NotHttpError",
    "ServerConnection",
    "http_client",
    "parse_http_date",
    "parse_retry_after",
    "tls",
]
