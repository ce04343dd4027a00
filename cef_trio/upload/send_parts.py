"""Send parts of one stream concurrently, within the daemon's limit. A slot is acquired before any byte is read."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import trio

from cef_trio.files import OpenRecording
from cef_trio.upload.part_plan import Part
from cef_trio.upload.services import Services
from cef_trio.upload.session import StreamUpload


async def send_all(
    services: Services,
    upload: StreamUpload,
    recording: OpenRecording,
    parts: AsyncGenerator[Part, None],
    *,
    stop: Callable[[], bool],
) -> bool:
    """Send and record the parts; return whether there were any.

    After a failure, or once ``stop()`` is true, no further part starts; parts in flight are finished and recorded
    before this returns or raises. On cancellation each part is either recorded or was in flight.

    Raises:
        CefMp4ProcessorError: the first failure.
    """
    slots = services.part_slots
    failures: list[Exception] = []
    started: list[int] = []

    async def send_one(part: Part, capacity: object) -> None:
        try:
            await upload.send(recording, part)
        except Exception as error:  # noqa: BLE001 - raised below, once the other parts are finished
            failures.append(error)
        finally:
            slots.release_on_behalf_of(capacity)

    async def start_each() -> None:
        async with aclosing(parts):
            async for part in parts:
                capacity = object()
                await slots.acquire_on_behalf_of(capacity)
                # No checkpoint from here to the start of the task, so the slot cannot leak.
                if failures or stop():
                    slots.release_on_behalf_of(capacity)
                    return
                upload.reserve(part.number)
                started.append(part.number)
                nursery.start_soon(send_one, part, capacity)

    async with trio.open_nursery() as nursery:
        try:
            await start_each()
        except Exception as error:  # noqa: BLE001 - as above: a nursery whose body raises cancels its children
            failures.append(error)
    if failures:
        raise failures[0]
    return bool(started)
