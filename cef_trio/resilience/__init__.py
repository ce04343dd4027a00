"""Retries, outages, and the shield: what stands between a call and its failure.

Promise: a transient failure never ends a stream (P6), an outage is one outage, and a cancellation never comes between
an effect and its record (P2).

Open `retry.py` for how often a call is repeated; `backoff.py` for the delays (their limits are settings, `RETRY_*`);
`outage.py` for the circuit breaker and its probe; `best_effort.py` for calls that a stream can do without; `shield.py`
for the one shield; `stall.py` for streams that do not progress; `periodic.py` for loops at a fixed period; `threads.py`
for worker threads and what happens when there are none.
"""

from cef_trio.resilience import stall
from cef_trio.resilience.backoff import RetryPolicy, at_least_retry_after
from cef_trio.resilience.best_effort import PAUSE_SECONDS, BestEffort
from cef_trio.resilience.outage import IDLE_SECONDS, CircuitBreaker, ProbeKind, is_outage
from cef_trio.resilience.periodic import Periodic
from cef_trio.resilience.retry import FailedAttempt, Retrier, ServiceRetrier, SingleAttempt, is_transient
from cef_trio.resilience.shield import shielded, shielded_at_first
from cef_trio.resilience.stall import Progress
from cef_trio.resilience.threads import ThreadedResolver, read_in_time, run_in_thread, until_thread

__all__ = [
    "IDLE_SECONDS",
    "PAUSE_SECONDS",
    "BestEffort",
    "CircuitBreaker",
    "FailedAttempt",
    "Periodic",
    "ProbeKind",
    "Progress",
    "Retrier",
    "RetryPolicy",
    "ServiceRetrier",
    "SingleAttempt",
    "ThreadedResolver",
    "at_least_retry_after",
    "is_outage",
    "is_transient",
    "read_in_time",
    "run_in_thread",
    "shielded",
    "shielded_at_first",
    "stall",
    "until_thread",
]
