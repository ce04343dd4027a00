"""The laboratory: whole daemons on a virtual clock, interrupted at every step, judged by one oracle.

Open `scenarios/` for the stories; `simulation.py` for random worlds; `invariants.py` for the oracle; `mutations/` for
defects that must be noticed; `run.py` for one run.
"""

from cef_trio.lab.command import run_lab

__all__ = ["run_lab"]
