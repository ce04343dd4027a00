"""The progress display of the demo: the recording, its upload, and the lag. Pure.

On a terminal it is drawn in place; otherwise a line is printed for each change.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_MIB = 1024 * 1024
_BAR_WIDTH = 40


@dataclass(frozen=True, slots=True)
class DemoView:
    """The state of the demo at one moment."""

    phase: str
    """``recording``, or what the daemon does after it."""
    elapsed_seconds: float
    duration_seconds: float
    recorded_bytes: int
    uploaded_bytes: int
    parts_uploaded: int

    @property
    def behind_bytes(self) -> int:
        """Bytes on disk that are not in S3 yet."""
        return max(self.recorded_bytes - self.uploaded_bytes, 0)

    @property
    def behind_seconds(self) -> float:
        """The age of the first byte that is not in S3 yet, at the mean rate of the recording."""
        if not self.recorded_bytes:
            return 0.0
        recorded_seconds = min(self.elapsed_seconds, self.duration_seconds)
        return self.behind_bytes / self.recorded_bytes * recorded_seconds

    @property
    def expected_bytes(self) -> float:
        """The expected size of the recording, at its rate so far."""
        elapsed = min(self.elapsed_seconds, self.duration_seconds)
        return max(self.recorded_bytes * self.duration_seconds / elapsed, 1.0) if elapsed > 0 else 1.0


def render(view: DemoView) -> RenderableType:
    """Return the view as two bars and a line."""
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=10)
    table.add_column()
    table.add_column(justify="right", min_width=11)
    table.add_column()
    seconds = min(view.elapsed_seconds, view.duration_seconds)
    table.add_row(
        Text("Recording", style="bold"),
        _bar(view.recorded_bytes, view.expected_bytes),
        mib(view.recorded_bytes),
        f"{seconds:.0f} of {view.duration_seconds:.0f} s",
    )
    table.add_row(
        Text("In S3", style="bold"),
        _bar(view.uploaded_bytes, view.expected_bytes),
        mib(view.uploaded_bytes),
        _parts(view),
    )
    behind = Text.assemble(
        "Behind by ", (mib(view.behind_bytes), "bold"), f" ({view.behind_seconds:.1f} s). ", (view.phase, "dim")
    )
    return Group(table, behind)


def line(view: DemoView) -> str:
    """Return the view as one line, for a log."""
    return (
        f"{view.phase}: recorded {mib(view.recorded_bytes)}, in S3 {mib(view.uploaded_bytes)} "
        f"({_parts(view)}), behind by {mib(view.behind_bytes)} ({view.behind_seconds:.1f} s)"
    )


def mib(size_bytes: float) -> str:
    """Format a size in MiB: ``12.3 MiB``."""
    return f"{size_bytes / _MIB:.1f} MiB"


def _parts(view: DemoView) -> str:
    return f"{view.parts_uploaded} part{'' if view.parts_uploaded == 1 else 's'}"


def _bar(completed: float, total: float) -> ProgressBar:
    return ProgressBar(total=total, completed=min(completed, total), width=_BAR_WIDTH)
