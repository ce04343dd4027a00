"""The program of a profile's ``credential_process``, with a time limit.

botocore waits for such a program without a limit, so one that hangs would stop every call to S3 for ever. Here it is
killed with its whole process group at the limit, or once nobody waits for its result. It has no terminal: one that asks
for a password fails, instead of waiting for an answer.
"""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final

PROGRAM_SECONDS: Final = 30.0
_KILL_SECONDS: Final = 0.5
"""How long to wait for a killed program before it is abandoned."""


class Programs:
    """The programs that are started for one fetch of credentials: by its thread, and ended by the task that waits."""

    def __init__(self) -> None:
        self._running: CredentialProgram | None = None
        self._ended = False

    def started(self, program: CredentialProgram) -> None:
        """Note a program. One that is started too late is killed at once."""
        self._running = program
        if self._ended:  # read after the program was noted, and set before it is read: one of both sees it
            program.end()

    def end(self) -> None:
        """Kill what still runs: its result is not waited for any more. Never blocks; the thread reaps it."""
        self._ended = True
        if self._running is not None:
            self._running.end()


of_this_fetch: Final[ContextVar[Programs | None]] = ContextVar("of_this_fetch", default=None)
"""Those of this task's fetch; a worker thread has the context of its task."""


class CredentialProgram(subprocess.Popen[bytes]):
    """What botocore starts in place of ``subprocess.Popen``, and then asks for its output and exit code."""

    def __init__(self, command: list[str], **pipes: Any) -> None:
        """Start the program."""
        super().__init__(command, stdin=subprocess.DEVNULL, start_new_session=True, **pipes)
        if (fetch := of_this_fetch.get()) is not None:
            fetch.started(self)

    def communicate(self, *_: Any, **__: Any) -> tuple[bytes, bytes]:
        """Return the output, once the program has ended.

        Raises:
            TimeoutError: it did not end in time, and was killed.
        """
        try:
            return super().communicate(timeout=PROGRAM_SECONDS)
        except subprocess.TimeoutExpired:
            self.end()
            with suppress(subprocess.TimeoutExpired):  # what left the group may hold the pipes
                super().communicate(timeout=_KILL_SECONDS)
            for pipe in (self.stdout, self.stderr):
                if pipe is not None:
                    pipe.close()
        name = self.args[0] if isinstance(self.args, list) else self.args  # the arguments may be secret
        raise TimeoutError(
            f"the profile's credential_process {name!r} did not end within {PROGRAM_SECONDS:g} seconds, and was killed"
        )

    def end(self) -> None:
        """Kill the program and its group, unless it was reaped: then its number may be another's."""
        if self.returncode is None:
            with suppress(ProcessLookupError, PermissionError):  # macOS: PermissionError if it has just ended
                os.killpg(self.pid, signal.SIGKILL)
