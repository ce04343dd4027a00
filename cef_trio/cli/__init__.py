"""The commands. Each module is one command: its arguments, its work, its output.

Open `main.py` for the entry point and the table of commands; `redis_session.py` for what a command works with and how
it ends, `session.py` for those that need S3 too; `arguments.py`, `stream_selection.py`, `output.py`,
`json_document.py`, `result_lines.py` and `findings.py` for what the commands share; `installed_service.py` for the
settings of the systemd unit, which they use without exports; `slow_files.py` for the line about a file that does not
respond.

The module of a command has its name: `abort.py`, `check.py`, `completion.py`, `demo.py`, `doctor.py`, `fleet.py`,
`forget.py`, `gc.py`, `health.py`, `list.py`, `retry.py`, `run.py`, `show.py`, `status.py`, `verify.py`. The decisions
of some are pure files of their own: `list_selection.py` for filters and orders of `list`, `retry_plan.py` for how a
failed stream comes back, `checks.py` for the findings of `doctor` (`probes.py` gathers the facts, `folder_probe.py`
those of the folder as another user), `object_check.py` for the comparisons of `verify`, `status_model.py` for what
`status` computes. `watch_keys.py` has the keys of `status --watch`. `superseded.py` is `gc --superseded`, `scrub.py`
is `verify --all`. `command_line.py` is the command line as data, for completion and for `man_page.py`.
"""

from cef_trio.cli.main import main

__all__ = ["main"]
