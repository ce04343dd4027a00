"""Checkpoints: what is recorded of each stream, and the rules by which a record changes.

Promise: a part that S3 acknowledged is recorded before anything else happens to its stream (P2), and only the holder of
a stream's lease changes its record.

Open `states.py` for a stream's states; `model.py` for the record; `rules.py` for what each write does; `protocols.py`
for the interface of a store; `redis/` for Redis, `memory.py` for the double that the tests and the laboratory use.
"""

from cef_trio.checkpoint import rules
from cef_trio.checkpoint.model import NAMELESS, SHARED, Checkpoint, FileIdentity, Lease, Owner, PartRecord, StreamMeta
from cef_trio.checkpoint.protocols import Change, CheckpointStore, KnownPath, Records, Saving
from cef_trio.checkpoint.pruning import completed_before
from cef_trio.checkpoint.rules import apply_change, count_adopted, count_part, cut_off, starting_over
from cef_trio.checkpoint.shutdown_flush import ShutdownFlush
from cef_trio.checkpoint.states import COMES_BACK, ENDED, FAILED, SENTENCES, FailureReason, Status, StreamSet

__all__ = [
    "COMES_BACK",
    "ENDED",
    "FAILED",
    "NAMELESS",
    "SENTENCES",
    "SHARED",
    "Change",
    "Checkpoint",
    "CheckpointStore",
    "FailureReason",
    "FileIdentity",
    "KnownPath",
    "Lease",
    "Owner",
    "PartRecord",
    "Records",
    "Saving",
    "ShutdownFlush",
    "Status",
    "StreamMeta",
    "StreamSet",
    "apply_change",
    "completed_before",
    "count_adopted",
    "count_part",
    "cut_off",
    "rules",
    "starting_over",
]
