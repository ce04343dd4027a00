"""`cef-trio run --local` and `cef-trio demo`: the daemon with an embedded Valkey and S3 endpoint.

`run.py` and `demo.py` have the commands, `servers.py` and `valkey.py` the embedded servers, `recorder.py` the demo's
recording.
"""

from cef_trio.local.demo import run_demo
from cef_trio.local.run import run_local

__all__ = ["run_demo", "run_local"]
