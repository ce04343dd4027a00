"""The demo's progress at any moment, drawn and as a line."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from cef_trio.local.progress import DemoView, line, mib, render

MIB = 1024 * 1024
views = st.builds(
    DemoView,
    phase=st.sampled_from(["recording", "verifying every byte and completing"]),
    elapsed_seconds=st.floats(0, 10_000),
    duration_seconds=st.floats(1, 3_600),
    recorded_bytes=st.integers(0, 2**45),
    uploaded_bytes=st.integers(0, 2**45),
    parts_uploaded=st.integers(0, 10_000),
)


def drawn(view: DemoView, *, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, record=True, force_terminal=True)
    console.print(render(view))
    return console.export_text()


@given(views, st.integers(20, 200))
@settings(deadline=None)
def test_any_moment_can_be_drawn_on_any_terminal(view: DemoView, width: int) -> None:
    text = drawn(view, width=width)
    assert all(len(row) <= width for row in text.splitlines())


@given(views)
def test_the_upload_is_never_ahead_and_never_further_behind_than_the_recording_is_long(view: DemoView) -> None:
    assert 0 <= view.behind_bytes <= view.recorded_bytes
    assert 0 <= view.behind_seconds <= min(view.elapsed_seconds, view.duration_seconds)
    assert view.expected_bytes >= 1


@given(views)
def test_a_line_is_one_line_without_escapes_and_has_every_number(view: DemoView) -> None:
    text = line(view)
    assert text.isprintable()
    for expected in (view.phase, mib(view.recorded_bytes), mib(view.uploaded_bytes), mib(view.behind_bytes)):
        assert expected in text


def test_the_progress_half_way() -> None:
    rows = [row.rstrip() for row in drawn(DemoView("recording", 7.5, 15.0, 20 * MIB, 15 * MIB, 3)).splitlines()]
    assert rows[0].split()[0] == "Recording"
    assert rows[0].endswith("20.0 MiB  8 of 15 s")
    assert rows[1].startswith("In S3")
    assert rows[1].endswith("15.0 MiB  3 parts")
    assert rows[2] == "Behind by 5.0 MiB (1.9 s). recording"


@pytest.mark.parametrize(("parts", "words"), [(0, "0 parts"), (1, "1 part"), (2, "2 parts")])
def test_the_number_of_parts_has_a_plural(parts: int, words: str) -> None:
    view = DemoView("recording", 5.0, 15.0, 20 * MIB, 15 * MIB, parts)
    assert drawn(view).splitlines()[1].rstrip().endswith(f"  {words}")
    assert f"({words})" in line(view)
