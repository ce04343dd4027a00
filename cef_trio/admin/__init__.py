"""The admin server: status page, metrics, health and readiness over HTTP/1.1.

Open `app.py` for the paths; `status_page.py` for what is shown and judged; `page_source.py` for where it comes from;
`server.py`, `connection_limits.py` and `origins.py` for connections, limits and cross-site requests;
`page.html` for the page, `fleet.html` for that of the fleet; `pages.css` and `pages.js` for what both have.
"""

from cef_trio.admin.page_source import DaemonSource, IntakeTask
from cef_trio.admin.server import AdminPortError, serve_admin

__all__ = ["AdminPortError", "DaemonSource", "IntakeTask", "serve_admin"]
