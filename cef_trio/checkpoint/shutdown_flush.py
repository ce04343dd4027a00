"""Saving the final states of all streams at shutdown, many in one round trip.

At shutdown every stream's task saves its state, all at the same moment and within ``SHUTDOWN_SAVE_SECONDS`` together
(promise P4). Concurrent savings are batched. After the first failure of Redis since the shutdown began, no further call
is made, so 200 streams do not queue behind a dead server. ``unsaved`` has the streams that could not be saved; they
resume from their last checkpoint, which is still valid (P3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import structlog
import trio
from trio_util import AsyncBool

from cef_trio.checkpoint.commit import ExitState
from cef_trio.checkpoint.model import Lease
from cef_trio.checkpoint.protocols import CheckpointStore
from cef_trio.exceptions import RedisOperationError
from cef_trio.resilience import CircuitBreaker

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Batch:
    exit_states: list[ExitState] = field(default_factory=list)
    done: AsyncBool = field(default_factory=lambda: AsyncBool(False))


class ShutdownFlush:
    """Saves the final states of streams in batches."""

    def __init__(self, store: CheckpointStore, lease: Lease, breaker: CircuitBreaker) -> None:
        self._store = store
        self._lease = lease
        self._breaker = breaker
        self._leaving_since = math.inf
        self._open_batch: _Batch | None = None
        self._write_lock = trio.Lock()
        self.unsaved: set[str] = set()
        """Ids of the streams whose last state could not be saved."""

    def leave(self) -> None:
        """Mark the beginning of the shutdown: after the first failure of Redis from now on, stop calling it."""
        self._leaving_since = min(self._leaving_since, trio.current_time())

    async def save(self, exit_state: ExitState) -> None:
        """Save one stream's state, in a batch with concurrent calls. Call it in a shield with a time limit.

        A failure of Redis is not raised: the stream stays in ``unsaved``, as it does when the call is cancelled before
        its state is known to be saved.
        """
        batch = self._open_batch
        self.unsaved.add(exit_state.stream_id)
        if batch is not None:
            batch.exit_states.append(exit_state)
            await batch.done.wait_value(True)
            return
        batch = self._open_batch = _Batch([exit_state])
        try:
            await trio.lowlevel.checkpoint()  # concurrent calls join this batch
            async with self._write_lock:
                self._open_batch = None
                await self._write(batch)
        finally:
            if self._open_batch is batch:
                self._open_batch = None
            batch.done.value = True

    async def _write(self, batch: _Batch) -> None:
        if self._breaker.last_failure_time >= self._leaving_since:
            return
        try:
            owned_elsewhere = await self._store.save_interrupted(batch.exit_states, self._lease)
        except RedisOperationError as error:
            log.exception("states_not_saved", streams=len(batch.exit_states), error=str(error))
            return
        # A stream under another daemon's lease is not saved here: that daemon writes its state.
        self.unsaved -= {exit_state.stream_id for exit_state in batch.exit_states}
        if owned_elsewhere:
            log.warning("states_owned_elsewhere", streams=sorted(owned_elsewhere))
