"""The heartbeat: the daemon's periodic calls to Redis that are due together, in one round trip.

The idle checker asks every few seconds which leases have expired. What else is due by then goes along: the renewal of
the live streams' leases, and the daemon's report. Neither depends on it: what no heartbeat has done in time is done by
its own task, so that a slow disk, or a failed call of one, delays no other.
"""

from __future__ import annotations

from typing import Final

import structlog

from cef_trio.checkpoint import Beat, Expired
from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.upload.reporter import Reporter
from cef_trio.upload.services import Services
from cef_trio.upload.supervisor import StreamSupervisor

log = structlog.get_logger(__name__)

_SLACK: Final = 1.1
"""The rounds are not exact: what is due just after the next one goes along with this one."""


class Heartbeat:
    """Asks Redis for expired leases, every ``period_seconds``."""

    def __init__(
        self, services: Services, supervisor: StreamSupervisor, reporter: Reporter, *, period_seconds: float
    ) -> None:
        self._services = services
        self._supervisor = supervisor
        self._reporter = reporter
        self._period_seconds = period_seconds

    async def expired(self, since_ms: int) -> Expired:
        """See :meth:`LeaseStore.expired`; renew leases and report in the same round trip, if that is due.

        Raises:
            RedisOperationError: Redis is unavailable.
        """
        store, lease = self._services.store, self._services.lease
        renewal, report = self._supervisor.due_renewal(_SLACK * self._period_seconds), self._reporter.due_report()
        if renewal is not None or report is not None:
            renewed_ids = renewal.stream_ids if renewal is not None else ()
            try:
                reply = await store.beat(
                    Beat(lease=lease, renewed_ids=renewed_ids, expired_since_ms=since_ms, report=report)
                )
            except CefMp4ProcessorError as error:
                log.debug("heartbeat_failed", error=str(error))
            else:
                if renewal is not None and reply.lost is not None:
                    self._supervisor.renewed(renewal, reply.lost)
                if reply.reports is not None:
                    self._reporter.reported(reply.reports)
                if reply.expired is not None:
                    return reply.expired
        return await store.expired(since_ms, lease.ending_ms)
