"""The watch folder: inotify events are hints, a periodic scan is the truth.

It reports files and has no notion of streams. Events are passed to one callback (`events.py`); `upload/supervisor.py`
decides what follows from them.

Open `watcher.py` for the order of events and scans, overflows of the kernel's queue, its limits, and folders without
events (NFS, CIFS, sshfs); `inotify.py` for the translation of events to paths; `scan.py` for reading a folder tree;
`patterns.py` for which paths are recordings, and which are left out.
"""

from cef_trio.watch.events import Closed, FileEvent, Gone, Moved, Scanned, Seen
from cef_trio.watch.patterns import PathMatcher, WatchScope, matcher
from cef_trio.watch.scan import ThreadedReader, scan_now
from cef_trio.watch.watcher import Watcher

__all__ = [
    "Closed",
    "FileEvent",
    "Gone",
    "Moved",
    "PathMatcher",
    "Scanned",
    "Seen",
    "ThreadedReader",
    "WatchScope",
    "Watcher",
    "matcher",
    "scan_now",
]
