"""Which daemon of a shared folder begins a new file, so that all of them have about as many streams. Pure.

Streams of a daemon that died are divided by the same rule (``takeover.py``).

Each daemon decides for itself, from what all of them see alike: which daemons live (their reports in Redis), who holds
which lease, and which files have no record yet. Equal views lead to one answer. The answer is only a hint: a file that
another daemon is to begin waits a limited time, and creating a stream is conditional by path, so unequal views cost a
wait or a lost race, and never a recording (``files_without_task.py``: ``defer``).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from math import ceil, inf
from typing import Final

from cef_trio.observability import DaemonReport, Fleet, Reason

_TAKES_NONE: Final = frozenset(
    {
        Reason.S3_DOWN,
        Reason.REDIS_DOWN,
        Reason.NOT_LOOKED_UP,
        Reason.MOUNT_HUNG,
        Reason.FOLDER_UNREADABLE,
        Reason.FOLDER_LOST,
        Reason.NOT_STARTED,
    }
)
"""The risks of a daemon that may not see a new file, or cannot begin it. A failed recording is none of them."""
MAX_RESCAN_SECONDS: Final = 30.0
_SLACK_SECONDS: Final = 5.0


def wait_seconds(rescan_seconds: float) -> float:
    """Return how long a file waits at most for the daemon that is to begin it.

    Another host's write causes no event, so that daemon may see it only at its next scan. The limit keeps the file out
    of the risks, which begin at a minute (promise P10).
    """
    return min(rescan_seconds, MAX_RESCAN_SECONDS) + _SLACK_SECONDS


def work_group(folder: str, patterns: Collection[str], share: str, place: str) -> str:
    """Return what daemons have in common that divide the work on a folder: its files, and the names they give them.

    ``share``, ``place``: see :class:`~cef_trio.observability.DaemonReport`.
    """
    text = "\0".join((folder, share, place, *sorted(patterns)))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def ranked(path: str, daemons: Iterable[str]) -> list[str]:
    """Return the daemons in the order in which they are to begin a file (highest random weight).

    A daemon that leaves changes the place of no other one, so only its own files move.
    """
    return sorted(daemons, key=lambda daemon: (_weight(daemon, path), daemon), reverse=True)


def _weight(daemon: str, path: str) -> bytes:
    return hashlib.blake2b(f"{daemon}\0{path}".encode("utf-8", "surrogateescape"), digest_size=8).digest()


def divide(paths: Collection[str], loads: Mapping[str, int]) -> dict[str, str]:
    """Return the daemon that is to begin each of these files: the first in its rank that has not its share yet.

    ``loads``: the open streams of each daemon; at least one daemon. Each gets as many files as brings it to its share
    of all streams and files, rounded up, and none beyond it.
    """
    share = ceil((sum(loads.values()) + len(paths)) / len(loads))
    busy, division = dict(loads), dict[str, str]()
    for path in sorted(paths):
        chosen = next(daemon for daemon in ranked(path, loads) if busy[daemon] < share)
        busy[chosen] += 1
        division[path] = chosen
    return division


def begun_by_others(
    paths: Iterable[str],
    names: Mapping[str, str],
    *,
    process: str,
    streams: int,
    peers: Collection[str],
    held_by: Iterable[str],
    takes_files: bool = True,
) -> dict[str, str]:
    """Return which of these files another daemon is to begin, with that daemon.

    ``names``: the files that no daemon has begun yet, by path, with the path that all daemons know them by; ``paths``:
    those of them to decide about. ``process``: our daemon, which has that many ``streams``. ``held_by``: the daemon of
    each stream that is not ours. ``takes_files``: whether ours can begin files now (:func:`takes_files` of others).
    """
    loads = Counter({**dict.fromkeys(peers, 0), **({process: streams} if takes_files else {})})
    loads.update(daemon for daemon in held_by if daemon in peers)
    division = divide(list(names.values()), loads)
    return {path: division[names[path]] for path in paths if division[names[path]] != process}


class Peers:
    """The other daemons of our work group, by the token of their process. Times are ``trio.current_time()``."""

    def __init__(self) -> None:
        self.read_at = -inf
        """When their reports were last read."""
        self._lives_until: dict[str, float] = {}

    def update(self, fleet: Fleet, group: str, process: str, now: float) -> None:
        """Evaluate the reports of our owner's daemons; ``process`` is our own."""
        self.read_at = now
        self._lives_until = {
            one.process: now + one.counts_for_seconds(fleet.now)
            for one in fleet.reports
            if one.process and one.process != process and group and one.work_group == group and takes_files(one)
        }

    def living(self, now: float) -> frozenset[str]:
        """Return those that can begin a file, as far as is known."""
        return frozenset(process for process, until in self._lives_until.items() if now < until)


def takes_files(report: DaemonReport) -> bool:
    """Return whether a daemon begins new files, by its last report."""
    return not report.stopped and not report.waits_for and not any(one.reason in _TAKES_NONE for one in report.risks)
