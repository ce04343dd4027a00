"""What the daemon did once, when the world it was tried in was kinder than the one outside."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any, Final

from cef_trio.checkpoint.memory import MemoryCheckpointStore
from cef_trio.checkpoint.model import Lease, PartRecord, StreamMeta
from cef_trio.lab.mutations.model import Mutation, replace_in
from cef_trio.s3.answer_origin import AnswerOrigin
from cef_trio.stream.best_effort import BestEffort


def _any_answer_is_s3s(stack: ExitStack) -> None:
    """Kind 5: what an ingress answers is taken for the store's own word."""

    def never(_self: object, *_: object, **__: object) -> bool:
        return False

    replace_in(stack, AnswerOrigin, "foreign_error", never)
    replace_in(stack, AnswerOrigin, "foreign_success", never)


def _listings_are_waited_for(stack: ExitStack) -> None:
    """Kind 8: a call that the next step could do without is waited for."""

    async def insist(_self: BestEffort, _operation: str, call: Callable[[], Awaitable[Any]], *, reach: object) -> Any:
        del reach
        return await call()

    replace_in(stack, BestEffort, "attempt", insist)


def _created_unasked(stack: ExitStack) -> None:
    """Kind 12: a stream is created although its path has led to another one since it was looked up."""
    create = MemoryCheckpointStore.create

    async def anyhow(
        self: MemoryCheckpointStore,
        meta: StreamMeta,
        lease: Lease,
        parts: tuple[PartRecord, ...] = (),
        *,
        instead_of: str | None = None,
    ) -> None:
        del instead_of
        known = self.snapshot().by_path.get(meta.current_path)
        await create(self, meta, lease, parts, instead_of=known)

    replace_in(stack, MemoryCheckpointStore, "create", anyhow)


MUTATIONS: Final = (
    Mutation(
        "unchecked: who answered",
        "a page of an ingress is taken for S3's word",
        _any_answer_is_s3s,
        "page-403",
        ("P1", "P2", "P6"),
        None,
    ),
    Mutation(
        "unbounded: what is optional",
        "a listing that fails for good is waited for",
        _listings_are_waited_for,
        "no-uploads-listed",
        ("P6",),
        None,
    ),
    Mutation(
        "unchecked: whose path it is by now",
        "a stream is created whoever was first",
        _created_unasked,
        "two-at-once",
        ("P2",),
        None,
    ),
)
