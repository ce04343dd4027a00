"""Asks Redis, now and then, for what only Redis knows: how many streams are in each set, and whether it keeps them.

Never at a scrape, which must not wait for anybody. What cannot be asked is absent until it can: an old answer would be
a wrong one. Each question is asked once and has an end; the next round is its retry.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Final, TypeVar

import structlog
import trio
from trio_util import periodic

from cef_trio.checkpoint import CheckpointStore
from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.observability.gauge_values import RedisSurvey
from cef_trio.observability.metrics import Metrics

T = TypeVar("T")
log = structlog.get_logger(__name__)

PERIOD_SECONDS: Final = 15.0
_ANSWER_SECONDS: Final = 5.0


async def survey_redis(store: CheckpointStore, metrics: Metrics, *, period_seconds: float = PERIOD_SECONDS) -> None:
    """Ask for ever, every ``period_seconds``. Cancelled, it leaves nothing behind that could grow old."""
    try:
        async with aclosing(periodic(period_seconds)) as rounds:
            async for _ in rounds:
                known_streams, persistent = await _ask(store.count), await _ask(store.is_persistent)
                metrics.survey = RedisSurvey(known_streams=known_streams or {}, persistent=persistent)
    finally:
        metrics.survey = RedisSurvey()


async def _ask(question: Callable[[], Awaitable[T]]) -> T | None:
    with trio.move_on_after(_ANSWER_SECONDS):
        try:
            return await question()
        except CefMp4ProcessorError as error:
            log.debug("redis_survey_failed", error=str(error))
    return None
