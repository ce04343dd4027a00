"""The keys of ``cef-trio status --watch``: q, p, s, f and ?. What a key does is pure; the rest reads the terminal.

The terminal is set so that keys arrive one by one, without an echo, and is restored however the block ends. Ctrl-C
still is a signal.
"""

from __future__ import annotations

import os
import re
import sys
import termios
import tty
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, TypeVar

import trio

from cef_trio.checkpoint import Status
from cef_trio.cli.status_model import OpenStream

EnumT = TypeVar("EnumT", bound=Enum)

HELP: Final = "q quit   p pause   s sort: {sort}   f filter: {filter}   ? help"
_MOST_BYTES: Final = 64
_ESCAPES: Final = re.compile(rb"\x1b(\[[0-9;?]*[ -/]*[@-~]|O.|)")
"""What arrows and function keys send: no letters."""


class Order(Enum):
    """The order of the streams."""

    STARTED = "started"
    LAG = "lag"
    RATE = "rate"
    FILE = "file"


class Filter(Enum):
    """Which streams are shown."""

    ALL = "all"
    AT_RISK = "no daemon, or retrying"
    BEHIND = "behind"


_KEYS: Final[Mapping[Order, Callable[[OpenStream], Any]]] = MappingProxyType(
    {
        Order.STARTED: lambda one: one.meta.started_at_utc,
        Order.LAG: lambda one: -(one.lag_bytes or 0),
        Order.RATE: lambda one: -one.bytes_per_second,
        Order.FILE: lambda one: one.meta.current_path,
    }
)


@dataclass(frozen=True, slots=True)
class View:
    """What the watcher of the screen has chosen."""

    order: Order = Order.STARTED
    filter: Filter = Filter.ALL
    paused: bool = False
    help: bool = False

    def press(self, key: str) -> View | None:
        """Return the view after a key; ``None``: quit. Other keys change nothing. Pure."""
        match key:
            case "q" | "Q":
                return None
            case "p" | "P" | " ":
                return replace(self, paused=not self.paused)
            case "s" | "S":
                return replace(self, order=_next(self.order))
            case "f" | "F":
                return replace(self, filter=_next(self.filter))
            case "?" | "h":
                return replace(self, help=not self.help)
            case _:
                return self

    def select(self, streams: Sequence[OpenStream]) -> list[OpenStream]:
        """Return the streams to show, in order. Pure."""
        return sorted(filter(self._shows, streams), key=_KEYS[self.order])

    def _shows(self, one: OpenStream) -> bool:
        match self.filter:
            case Filter.ALL:
                return True
            case Filter.AT_RISK:
                return one.holder is None or one.meta.status is Status.RETRYING
            case Filter.BEHIND:
                return (one.lag_bytes or 0) > 0

    @property
    def says(self) -> str:
        """The line below the streams; empty if everything is as at the beginning."""
        if self.help:
            return HELP.format(sort=self.order.value, filter=self.filter.value)
        chosen = [f"sort: {self.order.value}"] if self.order is not Order.STARTED else []
        chosen += [f"filter: {self.filter.value}"] if self.filter is not Filter.ALL else []
        return "   ".join([*(["PAUSED (p goes on)"] if self.paused else []), *chosen])


def _next(one: EnumT) -> EnumT:
    """Return the member after this one, in turn."""
    members: list[EnumT] = list(type(one))
    return members[(members.index(one) + 1) % len(members)]


def has_keys() -> bool:
    """Whether keys can be read: standard input and output are a terminal, and this process is in its foreground."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:
        return False


@contextmanager
def single_keys() -> Iterator[int]:
    """Have the terminal pass on each key at once; yield its descriptor, and restore the terminal in any case."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield descriptor
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


async def keys(descriptor: int) -> AsyncIterator[str]:
    """Iterate over the keys that are pressed, until the terminal is closed."""
    while True:
        await trio.lowlevel.wait_readable(descriptor)
        try:
            pressed = os.read(descriptor, _MOST_BYTES)
        except OSError:  # the terminal is gone
            return
        if not pressed:
            return
        for key in _ESCAPES.sub(b"", pressed).decode(errors="replace"):
            yield key
