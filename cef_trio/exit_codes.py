"""What the exit codes of every command mean."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The process's exit code; a service manager and a script may rely on it."""

    DONE = 0
    BUG = 1
    BAD_SETTINGS = 2
    """A setting or an argument is wrong; one line says which and what it takes."""
    NOT_SAVED = 3
    """Something could not be saved on the way out; it is said which streams. Their last checkpoints are still true."""
    REFUSED = 4
    """S3 or Redis refused us: wrong credentials, no such bucket. A command that looks or mends does not wait for them
    as the daemon does, so to it this is also what a service means that cannot be reached."""
    ANSWER_IS_NO = 5
    """A command did its work, and its answer is bad news: not identical, a problem found, a stream not retried."""
