"""The commands. Each module is one command: its arguments, its work, its output.

Open `main.py` for the entry point and the table of commands; `session.py` for what a command works with and how it
ends; `arguments.py` and `output.py` for what the commands share; else the module of the command's name.
"""

from cef_trio.cli.main import main

__all__ = ["main"]
