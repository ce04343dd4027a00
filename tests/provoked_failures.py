"""Failures for good: for each reason of :class:`FailureReason`, what is done to ``bad.mp4`` so that it fails for it.

``PROVOKED`` is the table. ``aborted`` is not in it: only the command gives that reason; nor is ``file_unreadable``,
which only earlier versions recorded.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from cef_trio.checkpoint.memory import MemoryCheckpointStore
from cef_trio.checkpoint.model import Checkpoint
from cef_trio.checkpoint.states import FailureReason, Status
from cef_trio.exceptions import RedisOperationError
from cef_trio.lab.world import PART, World, WorldDaemon
from cef_trio.s3_endpoint import CallInfo, Fault, Kind
from cef_trio.upload import part_plan

BAD, GOOD = "bad.mp4", "good.mp4"


@dataclass(frozen=True, slots=True)
class Scene:
    """The arguments of a provocation."""

    world: World
    daemon: WorldDaemon
    patch: pytest.MonkeyPatch


Provoke = Callable[[Scene], Awaitable[None]]


def of_recording(name: str = "a.mp4") -> Callable[[CallInfo], bool]:
    """Return the predicate of a fault that concerns this recording alone: of every one, it would be an outage."""
    return lambda call: (call.key or "").endswith(f"/{name}")


def refuse(operation: str, code: str) -> Provoke:
    """S3 refuses a call for the bad recording permanently."""

    async def provoke(scene: Scene) -> None:
        fault = Fault(Kind.ERROR, operation, code=code, times=None, predicate=of_recording(BAD))
        scene.world.endpoint.faults.arm(fault)
        scene.daemon.closed(BAD)

    return provoke


def fail_to_record_a_part(error: Exception) -> Provoke:
    async def provoke(scene: Scene) -> None:
        record = MemoryCheckpointStore.record_part

        async def failing(store: MemoryCheckpointStore, stream_id: str, *args: Any, **named: Any) -> None:
            if store.snapshot().streams[stream_id].meta.original_path.endswith(BAD):
                raise error
            await record(store, stream_id, *args, **named)

        scene.patch.setattr(MemoryCheckpointStore, "record_part", failing)
        scene.daemon.closed(BAD)

    return provoke


async def delete_while_nobody_looks(scene: Scene) -> None:
    """The daemon of the test is the second one; the first parked the stream."""
    del scene


async def replace(scene: Scene) -> None:
    await trio.sleep(1)
    scene.world.append(2 * PART, "other.tmp")
    Path(scene.world.path("other.tmp")).replace(scene.world.path(BAD))
    scene.daemon.closed(BAD)


async def outgrow_the_plan(scene: Scene) -> None:
    scene.patch.setattr(part_plan, "MAX_PARTS", 3)
    scene.daemon.closed(BAD)


async def lose_the_upload_again_and_again(scene: Scene) -> None:
    for _ in range(6):
        scene.world.append(PART, BAD)
        scene.daemon.seen(BAD)
        await trio.sleep(5)
        model = scene.world.endpoint.model
        for upload in [one.upload for one in model._uploads.values() if one.upload.key.endswith(f"/{BAD}")]:
            await model.abort("recordings", upload.key, upload.upload_id)
    scene.daemon.closed(BAD)


PROVOKED: dict[FailureReason, Provoke] = {
    FailureReason.S3_UPLOAD: refuse("UploadPart", "KeyTooLongError"),
    FailureReason.S3_REFUSED: refuse("CreateMultipartUpload", "KeyTooLongError"),
    FailureReason.ACCESS_DENIED: refuse("UploadPart", "AccessDenied"),
    FailureReason.NO_SUCH_BUCKET: refuse("CreateMultipartUpload", "NoSuchBucket"),
    FailureReason.REDIS_UPDATE: fail_to_record_a_part(
        RedisOperationError("record_part", "WRONGTYPE Operation against a key of another kind")
    ),
    FailureReason.FILE_MISSING_ON_RESUME: delete_while_nobody_looks,
    FailureReason.FILE_REPLACED: replace,
    FailureReason.FILE_TOO_LARGE: outgrow_the_plan,
    FailureReason.UPLOAD_LOST: lose_the_upload_again_and_again,
    FailureReason.FINALIZATION: refuse("CompleteMultipartUpload", "EntityTooSmall"),
    FailureReason.UNEXPECTED: fail_to_record_a_part(ZeroDivisionError("a bug")),
}


async def ended(world: World, status: Status, name: str) -> Checkpoint:
    """Return the recording's stream that has that status."""
    with trio.move_on_after(600):
        while True:
            for checkpoint in world.known():
                if checkpoint.meta.status is status and checkpoint.meta.original_path == world.path(name):
                    return checkpoint
            await trio.sleep(0.5)
    raise AssertionError([(one.meta.original_path, one.meta.status, one.meta.failure_reason) for one in world.known()])
