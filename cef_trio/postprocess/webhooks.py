"""Deliver webhooks at least once, without delaying any upload: ``ON_COMPLETE_WEBHOOK``, ``ON_START_WEBHOOK``,
``ON_FAILURE_WEBHOOK``. ``webhook_sources.py`` has where the pending ones are recorded.

The step that completes a stream, creates it or lets it fail also records its pending webhook in Redis; the record is
removed when the receiver has accepted or refused it, or after ``WEBHOOK_RETRY_HOURS``. So neither a crash nor a
shutdown loses a delivery, and no stream waits for one: tasks of the intake, one for each receiver, deliver what is
pending, a few at once.

- *At least once*: a daemon that ends between the receiver's response and its record delivers again, with the same
  ``webhook-id``. A receiver that must act once only remembers these ids.
- *One daemon delivers*: only streams of this watch folder, each under a lease, so that two daemons that share a folder
  do not both deliver, unless one is silent for longer than its lease.
- The body is read for each attempt, from S3 (the metadata object, byte for byte) or Redis, so that nothing is kept in
  memory meanwhile.
- Each failed delivery has its own growing pause, so one that the receiver rejects delays no other. A receiver that does
  not respond at all stops the round, and the next one starts after a growing pause.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Final

import structlog
import trio

from cef_trio.checkpoint.redis import job_lock_name
from cef_trio.exceptions import CefMp4ProcessorError, S3OperationError, WebhookOperationError
from cef_trio.observability import WebhookOutcome
from cef_trio.postprocess.webhook_sources import NO_BODY, Completions, Pending, Source
from cef_trio.resilience import RetryPolicy, at_least_retry_after
from cef_trio.upload import Services, hold_lease
from cef_trio.webhook import Delivery, DeliveryOutcome, WebhookClient, outcome_of_status

log = structlog.get_logger(__name__)

_JOB: Final = "webhook"
_POLICY: Final = RetryPolicy(initial_seconds=5.0, max_seconds=900.0)
"""The pauses between attempts. Their number is limited by time (``WEBHOOK_RETRY_HOURS``)."""
_MAX_CONCURRENT: Final = 4
_PERIOD_SECONDS: Final = 60.0
"""How often Redis is asked for pending webhooks of other daemons, which may have died."""
_SENDABLE_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,200}")
"""Ids that a header can carry and that keep the signed text unambiguous; a record in Redis may hold any text."""


@dataclass(frozen=True, slots=True)
class _PendingDelivery:
    """The next attempt of a pending delivery, and its failures in this process."""

    due_at: float
    """By ``trio.current_time()``."""
    failures: int = 0


class WebhookDeliverer:
    """Delivers the pending webhooks of this watch folder's streams."""

    def __init__(
        self,
        services: Services,
        client: WebhookClient,
        *,
        retry_seconds: float,
        random: Random | None = None,
        source: Source | None = None,
    ) -> None:
        """``source``: where the pending ones are recorded; by default, the completed recordings'."""
        self._services = services
        self._source: Source = source or Completions(services)
        self._client = client
        self._retry = timedelta(seconds=retry_seconds)
        self._random = random or Random()  # noqa: S311 - jitter, not a secret
        self._pending: dict[str, _PendingDelivery] = {}
        self._unreachable = self._responded = False
        """Whether an attempt of this round got no response; and whether one got a response."""
        self._failed_rounds = 0

    @property
    def pending(self) -> int:
        """How many deliveries were pending in the last round."""
        return len(self._pending)

    async def run(self) -> None:
        """Deliver until cancelled."""
        enqueued = self._source.enqueued
        while True:
            enqueued.value = self._unreachable = self._responded = False
            try:
                await self._round()
            except CefMp4ProcessorError as error:
                log.warning("webhook_queue_unavailable", error=str(error))
            if self._unreachable:
                self._failed_rounds = 1 if self._responded else self._failed_rounds + 1
                await trio.sleep(_POLICY.equal_jitter_seconds(self._failed_rounds, self._random))
                continue
            self._failed_rounds = 0
            now = trio.current_time()
            soonest = min((delivery.due_at for delivery in self._pending.values()), default=now + _PERIOD_SECONDS)
            # At least a second, so that neither an error of Redis nor a rounded clock makes a busy loop.
            with trio.move_on_at(min(max(soonest, now + 1.0), now + _PERIOD_SECONDS)):
                await enqueued.wait_value(True)

    async def _round(self) -> None:
        """Attempt each delivery that is due, in the order in which they became due."""
        found = await self._source.pending()
        now = trio.current_time()
        self._pending = {key: self._pending.get(key, _PendingDelivery(now)) for key in found}
        due = sorted((delivery.due_at, key) for key, delivery in self._pending.items() if delivery.due_at <= now)
        waiting = iter([found[key] for _, key in due])
        async with trio.open_nursery() as nursery:
            for _ in range(min(_MAX_CONCURRENT, len(due))):
                nursery.start_soon(self._deliver_next, waiting)

    async def _deliver_next(self, waiting: Iterator[Pending]) -> None:
        for one in waiting:
            if self._unreachable:
                return
            await self._attempt(one)

    async def _attempt(self, one: Pending) -> None:
        """Make one attempt, unless another daemon does. If cancelled, the delivery stays pending."""
        store, lease, name = self._services.store, self._services.lease, job_lock_name(one.key, _JOB)
        try:
            async with hold_lease(store, name, lease) as held:
                if held is None:
                    self._pending[one.key] = _PendingDelivery(trio.current_time() + lease.ttl_seconds)
                elif await self._source.is_pending(one.key):
                    await self._deliver(one)
                else:  # another daemon delivered it before this one had the lease
                    self._pending.pop(one.key, None)
        except WebhookOperationError as error:
            self._unreachable |= error.status is None
            await self._schedule_retry(one, error, error.retry_after_seconds)
        except CefMp4ProcessorError as error:  # S3 or Redis failed, not the receiver
            await self._schedule_retry(one, error, None)
        except Exception as error:  # a bug, or a record that no daemon wrote: it must not stop other deliveries (P6)
            log.exception("webhook_error", stream_id=one.stream_id)
            await self._schedule_retry(one, WebhookOperationError("deliver", repr(error)), None)

    async def _deliver(self, one: Pending) -> None:
        """Make one attempt and record its outcome.

        Raises:
            WebhookOperationError: the receiver did not response, or asks for another attempt.
            S3OperationError, RedisOperationError: the metadata could not be read, or the outcome not be recorded.
        """
        if not _SENDABLE_ID.fullmatch(one.delivery_id):
            log.warning("webhook_given_up", stream_id=one.stream_id, error="no daemon creates such a stream id")
            await self._acknowledge(one, WebhookOutcome.GIVEN_UP)
            return
        try:
            body = await one.body()
        except S3OperationError as error:
            if error.code != NO_BODY:
                raise
            log.warning("webhook_given_up", stream_id=one.stream_id, error=str(error))
            await self._acknowledge(one, WebhookOutcome.GIVEN_UP)
            return
        delivery = Delivery(one.delivery_id, one.stream_id, body)
        async with self._client.post(delivery) as response:
            # The receiver has responded: no checkpoint until that is recorded.
            self._responded = True
            match outcome_of_status(response.status, response.content_type):
                case DeliveryOutcome.DELIVERED:
                    await self._services.record_effect(
                        "webhook delivery", lambda: self._acknowledge(one, WebhookOutcome.DELIVERED)
                    )
                    log.info("webhook_delivered", stream_id=one.stream_id, status=response.status)
                case DeliveryOutcome.REFUSED:
                    log.warning(
                        "webhook_refused",
                        stream_id=one.stream_id,
                        status=response.status,
                        receiver=self._client.receiver,
                    )
                    await self._acknowledge(one, WebhookOutcome.REFUSED)
                case DeliveryOutcome.RETRY:
                    raise WebhookOperationError(
                        "deliver",
                        f"the receiver responded with HTTP {response.status} [{self._client.receiver}]",
                        transient=True,
                        status=response.status,
                        retry_after_seconds=response.retry_after_seconds,
                    )

    async def _acknowledge(self, one: Pending, outcome: WebhookOutcome) -> None:
        await self._source.acknowledge(one.key)
        self._pending.pop(one.key, None)
        self._services.metrics.webhook_attempted(outcome)

    async def _schedule_retry(
        self, one: Pending, error: CefMp4ProcessorError, retry_after_seconds: float | None
    ) -> None:
        """Schedule the next attempt, or abandon the delivery after ``WEBHOOK_RETRY_HOURS``.

        An outage of S3 or Redis never ends a delivery: it is not the receiver's failure.
        """
        delivery = self._pending.get(one.key)
        if delivery is None:
            return  # delivered; only a later step failed
        final = isinstance(error, WebhookOperationError) or not error.transient
        if final and self._services.utc_now() >= one.since_utc + self._retry:
            log.warning("webhook_given_up", stream_id=one.stream_id, error=str(error))
            try:
                await self._acknowledge(one, WebhookOutcome.GIVEN_UP)
            except CefMp4ProcessorError as unsaved:
                log.warning("webhook_queue_unavailable", error=str(unsaved))
            else:
                return
        failures = delivery.failures + 1
        pause = at_least_retry_after(_POLICY.equal_jitter_seconds(failures, self._random), retry_after_seconds)
        self._pending[one.key] = _PendingDelivery(trio.current_time() + pause, failures)
        self._services.metrics.webhook_attempted(WebhookOutcome.FAILED)
        log.warning(
            "webhook_retrying",
            stream_id=one.stream_id,
            attempt=failures,
            wait_seconds=round(pause, 3),
            error=str(error),
        )
