"""The commands. Each module is one command: its work and its output; `parser.py` has the arguments.

Open `main.py` for the entry point; `session.py` for what a command works with and how it ends; `output.py` for tables
and safe text; else the module of the command's name.
"""

from cef_trio.cli.main import main

__all__ = ["main"]
