"""Parts that change while they are sent: a recorder that patches its header all the time.

Such a part costs its bytes at each attempt, and S3 gets nothing, as the last block of a body that changed is withheld
(``s3/body.py``). So it is left out, and the other parts go on. It is only read now and then, with growing pauses, and
sent again once two looks have found the same bytes. The verification at the end of the recording sends it in any case.

Its bytes are not in S3: they count as lag, and after a minute as a risk (``risks.py``).

A recording that has ended may be changed all the same, for ever: by a tool that opens, writes and closes it, or through
a mapping, which its time stamp may not show. Each pass of its verification reads every byte, and sends what changed. So
passes have growing pauses, too (:class:`ChangingRecording`), and it is a risk until it is left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import trio

from cef_trio.files import OpenRecording
from cef_trio.upload.part_matching import crc_of
from cef_trio.upload.part_plan import Part


@dataclass(slots=True)
class _Changing:
    since: float
    look_at: float
    looks: int = 1
    crc64nvme: int | None = None
    """What the last look found."""


class ChangingParts:
    """The parts of one stream that changed while they were sent. Times are ``trio.current_time()``."""

    def __init__(self, pause_seconds: Callable[[int], float]) -> None:
        """``pause_seconds``: the pause after the first, second, … look."""
        self._pause_seconds = pause_seconds
        self._parts: dict[int, _Changing] = {}

    def __bool__(self) -> bool:
        return bool(self._parts)

    @property
    def first(self) -> tuple[int, float] | None:
        """The part that has been changing for longest, and since when."""
        times = ((number, one.since) for number, one in self._parts.items())
        return min(times, key=lambda found: found[1], default=None)

    @property
    def look_at(self) -> float:
        """When the next look is due."""
        return min((one.look_at for one in self._parts.values()), default=inf)

    def changed(self, number: int) -> None:
        """Leave a part out: it changed while it was sent."""
        now = trio.current_time()
        self._parts.setdefault(number, _Changing(now, now + self._pause_seconds(1)))

    def is_left_out(self, number: int) -> bool:
        """Return whether a part is left out, and not to be looked at yet."""
        one = self._parts.get(number)
        return one is not None and trio.current_time() < one.look_at

    async def is_quiet(self, recording: OpenRecording, part: Part) -> bool:
        """Return whether a part may be sent: it did not change since the last look. Others are not read."""
        one = self._parts.get(part.number)
        if one is None:
            return True
        before, one.crc64nvme = one.crc64nvme, await crc_of(recording, part.offset, part.size_bytes)
        one.looks += 1
        one.look_at = trio.current_time() + self._pause_seconds(one.looks)
        return one.crc64nvme == before

    def forget(self, number: int) -> None:
        """S3 has the part."""
        self._parts.pop(number, None)

    def keep(self, is_missing: Callable[[int], bool]) -> None:
        """Forget all but these: others were found in S3, or are no full parts any more."""
        self._parts = {number: one for number, one in self._parts.items() if is_missing(number)}

    def clear(self) -> None:
        """Forget all: the file was cut, or the upload begins anew."""
        self._parts.clear()


class ChangingRecording:
    """An ended recording, and how often its verification was in vain because it was changed meanwhile."""

    def __init__(self, pause_seconds: Callable[[int], float]) -> None:
        """``pause_seconds``: the pause after the first, second, … time."""
        self._pause_seconds = pause_seconds
        self._times = 0
        self._size_bytes = -1
        self._began = inf
        self.verify_at = -inf
        """When the next verification is due."""

    @property
    def since(self) -> float | None:
        """Since when it is changed each time; ``None``: not so, as after one change, which is usual after a close."""
        return self._began if self._times > 1 else None

    def changed(self, size_bytes: int) -> None:
        """A verification was in vain. One that has grown meanwhile is recorded again: that begins anew."""
        now = trio.current_time()
        if size_bytes != self._size_bytes:
            self._times, self._size_bytes, self._began = 0, size_bytes, now
        self._times += 1
        self.verify_at = now + self._pause_seconds(self._times)
