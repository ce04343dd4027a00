"""HTTP and TLS below S3, webhooks and the servers: nothing here knows what is asked for.

Open `tls.py` for certificates and which of them are trusted; `client_transport.py` for the connections of clients;
`server_connection.py` for HTTP/1.1 as a server, by h11.
"""

from cef_trio.http import tls
from cef_trio.http.client_transport import HttpTransport
from cef_trio.http.server_connection import NotHttpError, Request, ServerConnection

__all__ = ["HttpTransport", "NotHttpError", "Request", "ServerConnection", "tls"]
