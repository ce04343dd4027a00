"""`cef-trio run --local` and `cef-trio demo`: embedded Valkey and S3, and a recorder.

Open `run.py`, `demo.py`; `servers.py` and `valkey.py` for the embedded servers; `recorder.py` for test recordings.
"""

from cef_trio.local.demo import run_demo
from cef_trio.local.run import run_local

__all__ = ["run_demo", "run_local"]
