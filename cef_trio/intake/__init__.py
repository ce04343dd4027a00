"""How recordings come in: the watcher, its scans, and what it tells."""
