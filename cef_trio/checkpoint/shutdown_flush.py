"""The last words of many streams, said in one breath.

When the daemon leaves, every stream's task has a state to save, all at the same moment and with a second or two for all
of them together (promise P4). So those that come together go in one round trip, and once Redis has failed on the way
out, nobody waits for it again: 200 streams do not queue behind a dead server. What could not be saved is remembered in
``unsaved``; the streams' last checkpoints are still true, so they resume all the same (P3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import structlog
import trio
from trio_util import AsyncBool

from cef_trio.checkpoint.model import Lease
from cef_trio.checkpoint.protocols import CheckpointStore, Saving
from cef_trio.exceptions import RedisOperationError
from cef_trio.resilience import CircuitBreaker

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Batch:
    savings: list[Saving] = field(default_factory=list)
    done: AsyncBool = field(default_factory=lambda: AsyncBool(False))


class ShutdownFlush:
    """Saves how streams' tasks ended, many in one round trip."""

    def __init__(self, store: CheckpointStore, lease: Lease, breaker: CircuitBreaker) -> None:
        self._store = store
        self._lease = lease
        self._breaker = breaker
        self._leaving_since = math.inf
        self._joining: _Batch | None = None
        self._one_at_a_time = trio.Lock()
        self.unsaved: set[str] = set()
        """Ids of the streams whose last state could not be saved."""

    def leave(self) -> None:
        """The daemon begins to leave: from now on one failure of Redis is enough."""
        self._leaving_since = min(self._leaving_since, trio.current_time())

    async def save(self, saving: Saving) -> None:
        """Save one stream's state, together with whatever else is to be saved now. Call it shielded, with a limit.

        Never raises for Redis: what cannot be saved is in ``unsaved``. If the time is over, Cancelled is raised and the
        stream is in ``unsaved`` unless its state is known to be saved.
        """
        batch = self._joining
        self.unsaved.add(saving.stream_id)
        if batch is not None:
            batch.savings.append(saving)
            await batch.done.wait_value(True)
            return
        batch = self._joining = _Batch([saving])
        try:
            await trio.lowlevel.checkpoint()  # whoever leaves at this moment joins
            async with self._one_at_a_time:
                self._joining = None
                await self._write(batch)
        finally:
            if self._joining is batch:
                self._joining = None
            batch.done.value = True

    async def _write(self, batch: _Batch) -> None:
        if self._breaker.last_failure_time >= self._leaving_since:
            return
        try:
            not_ours = await self._store.save_interrupted(batch.savings, self._lease)
        except RedisOperationError as error:
            log.exception("states_not_saved", streams=len(batch.savings), error=str(error))
            return
        # A stream that another daemon owns by now is not ours to save: its state is true, and theirs.
        self.unsaved -= {saving.stream_id for saving in batch.savings}
        if not_ours:
            log.warning("states_owned_elsewhere", streams=sorted(not_ours))
