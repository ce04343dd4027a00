"""The admin server: status page, metrics, health and readiness over HTTP/1.1.

Open `app.py` for the paths; `page_events.py` for what `/events` sends; `status_page.py` for what is shown and judged;
`page_source.py` for where it comes from (`waiting_source.py`: while the start waits for the watch folder);
`server.py`, `connection_limits.py` and `origins.py` for connections, limits and cross-site requests;
`page.html` and `page.js` for the page, `fleet.html` for that of the fleet, `pages.css` and `pages.js` for both.
"""

from cef_trio.admin.page_source import DaemonSource, IntakeTask
from cef_trio.admin.server import AdminPortError, serve_admin
from cef_trio.admin.waiting_source import WaitingSource

__all__ = ["AdminPortError", "DaemonSource", "IntakeTask", "WaitingSource", "serve_admin"]
