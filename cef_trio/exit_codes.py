"""Exit codes of all commands."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit code of the process; stable for service managers and scripts."""

    DONE = 0
    BUG = 1
    BAD_SETTINGS = 2
    """A setting or an argument is wrong; one line names it and states what it takes."""
    NOT_SAVED = 3
    """State could not be saved during shutdown; the streams are logged. Their last checkpoints remain valid."""
    REFUSED = 4
    """S3 or Redis refused access (credentials, no such bucket). For commands other than the daemon, which do not wait,
    also: S3 or Redis cannot be reached."""
    ANSWER_IS_NO = 5
    """The command worked, and its result is negative: not identical, a problem found, a stream not retried."""
