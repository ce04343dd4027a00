"""What the admin server shows of a daemon that cannot begin yet, as the mount of its watch folder does not respond.

There are no services and no streams yet, and nothing is known of Redis and S3.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cef_trio import __version__
from cef_trio.admin.status_page import Detail, HealthFacts, HistoryPage, Phase, ReadyFacts, StatusPage, Totals
from cef_trio.observability import HISTORY_PERIOD_SECONDS, Facts, Judgement, Snapshot, Waiting, find_risks, judge
from cef_trio.settings import Settings, rate_at

WAITS_FOR: Final = "the mount of the watch folder does not respond"
"""Public: without the folder's name."""


@dataclass(frozen=True, slots=True)
class WaitingSource:
    """See :class:`cef_trio.admin.page_source.PageSource`."""

    settings: Settings
    waits_for: str
    """The folders whose mounts may be the cause; shown to operators only."""
    since: float
    """Unix time."""

    def snapshot(self) -> Snapshot:
        """Return the state from which the metrics are made."""
        return Snapshot(at=time.time(), judgement=self._judgement(), hung_mounts=1)

    def page(self) -> StatusPage:
        """See :class:`PageSource`."""
        return StatusPage(
            phase=Phase.STARTING,
            version=__version__,
            instance=self.settings.instance_id,
            folder=str(self.settings.watch_dir),
            started_at=self.since,
            totals=Totals(
                working=0,
                slots=self.settings.max_concurrent_streams,
                active_streams=0,
                lag_bytes=0,
                bytes_per_second=0.0,
                completed=None,
                failed=None,
                upload_limit_bytes_per_second=rate_at(self.settings.max_upload_rate, datetime.now(UTC).astimezone()),
            ),
            streams=(),
            streams_left_out=0,
            failed=(),
            outages=(),
            unhealthy=(),
            at_risk=self._judgement().risks,
        )

    def health(self) -> HealthFacts:
        """See :class:`PageSource`. A restart would not help."""
        return HealthFacts(
            watcher_silent_seconds=None,
            watcher_period_seconds=0.0,
            checker_silent_seconds=None,
            checker_period_seconds=0.0,
        )

    def ready(self) -> ReadyFacts:
        """See :class:`PageSource`."""
        return ReadyFacts(
            phase=Phase.STARTING,
            redis_up=None,
            s3_up=None,
            at_risk=self._judgement().risks,
            now=time.time(),
            waits_for=WAITS_FOR,
        )

    def detail(self, stream_id: str) -> Detail:
        """See :class:`PageSource`."""
        return Detail(stream_id=stream_id, file=None)

    def history(self) -> HistoryPage:
        """See :class:`PageSource`."""
        return HistoryPage(period_seconds=HISTORY_PERIOD_SECONDS, at=(), bytes_per_second=(), lag_bytes=())

    def sparklines(self) -> Mapping[str, Sequence[int]]:
        """See :class:`PageSource`."""
        return {}

    def fleet(self) -> str | None:
        """See :class:`PageSource`."""
        return None

    def _judgement(self) -> Judgement:
        hung = Facts(outages={}, hung_mounts=(Waiting(self.since, why=self.waits_for),))
        return judge(find_risks(hung, time.time()), starting=True)
