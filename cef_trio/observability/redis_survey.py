"""Periodic reads of Redis for the metrics: sizes of sets, whether Redis is persistent, verifications.

Never called during a scrape, which must not wait. A call that fails makes its value absent until the next round;
each has a time limit and is not retried.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog
import trio

from cef_trio.checkpoint import CheckpointStore, VerificationTotals, count_known
from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.observability.metrics import Metrics
from cef_trio.observability.snapshot import RedisSurvey
from cef_trio.resilience import Periodic

T = TypeVar("T")
log = structlog.get_logger(__name__)

PERIOD_SECONDS: Final = 15.0
_ANSWER_SECONDS: Final = 5.0


async def survey_redis(
    store: CheckpointStore,
    metrics: Metrics,
    verification_totals: Callable[[], Awaitable[VerificationTotals | None]] | None = None,
) -> None:
    """Ask every ``PERIOD_SECONDS`` until cancelled; the values are then absent."""
    try:
        async for _ in Periodic(PERIOD_SECONDS):
            sets, histories = await _ask(store.count), await _ask(store.count_ended)
            persistent = await _ask(store.is_persistent)
            verification = await _ask(verification_totals) if verification_totals is not None else None
            metrics.survey = RedisSurvey(
                known_streams=count_known(sets, histories) if sets is not None and histories is not None else {},
                persistent=persistent,
                verification=verification,
            )
    finally:
        metrics.survey = RedisSurvey()


async def _ask(question: Callable[[], Awaitable[T]]) -> T | None:
    with trio.move_on_after(_ANSWER_SECONDS):
        try:
            return await question()
        except CefMp4ProcessorError as error:
            log.debug("redis_survey_failed", error=str(error))
    return None
