"""Tests that mostly wait, run at once: each in a thread, begun before the first of them is asked for its end.

    @pytest.fixture(scope="module")
    def stories(request: pytest.FixtureRequest) -> Iterator[Stories]:
        with side_by_side(request, "place", lambda place: tell(place)) as stories:
            yield stories

    @pytest.mark.parametrize("place", PLACES)
    def test_it(place: str, stories: Stories) -> None:
        stories[place].result()

A failure or a skip in a thread is that test's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

Stories = Mapping[str, Future[None]]


@contextmanager
def side_by_side(request: pytest.FixtureRequest, parameter: str, tell: Callable[[str], None]) -> Iterator[Stories]:
    """Call ``tell`` with each value of that parameter for which a test of the module was chosen, all at once."""
    chosen = [
        str(item.callspec.params[parameter])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path and hasattr(item, "callspec")
    ]
    with ThreadPoolExecutor(max(1, len(chosen))) as threads:
        yield {value: threads.submit(tell, value) for value in chosen}
