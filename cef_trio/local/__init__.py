"""`cef-trio run --local` and `cef-trio demo`: the daemon with an embedded Valkey and S3 endpoint.

Open `run.py` and `demo.py` for the commands, `progress.py` for the demo's display; `servers.py` for the data folder and
both servers; `valkey.py` for a Valkey that does not start or is left over; `recorder.py`, `fmp4.py` and `h264.py` for
the demo's recording. The room `s3_endpoint/` is the S3 server, also where its disk is full.
"""

from cef_trio.local.demo import run_demo
from cef_trio.local.run import run_local

__all__ = ["run_demo", "run_local"]
