"""Checkpoints: the record of each stream, and the rules by which it changes.

Promise: a part that S3 acknowledged is recorded before anything else happens to its stream (P2), and only the holder of
a stream's lease changes its record.

Open `states.py` for a stream's states; `model.py` for the record; `rules.py` and `commit.py` for what each write
changes; `protocols.py` for the interface of a store; `redis/` for Redis; `memory.py` for the in-process store of the
tests and the laboratory; `shutdown_flush.py` for saving states at shutdown; `pruning.py` for finding old streams;
`unreadable.py` for records that cannot be decoded; `schema.py` for the versions of records; `claim_wait.py` for when a
waiting system may claim an owner's name; `verification.py` for when objects were last verified. The room `upload/` has
what a stream does when Redis refuses a write (`upload/failures.py`) or has lost data (`upload/recovery.py`).
"""

from cef_trio.checkpoint import rules, schema
from cef_trio.checkpoint.claim_wait import RENEWALS, Claimant, ClaimWait, Vacancy
from cef_trio.checkpoint.commit import Change, ExitState
from cef_trio.checkpoint.model import (
    ENDING_MS,
    NAMELESS,
    SHARED,
    Checkpoint,
    FileIdentity,
    Lease,
    Owner,
    PartRecord,
    StreamMeta,
    WebhookEvent,
)
from cef_trio.checkpoint.protocols import (
    Beat,
    CheckpointStore,
    DaemonRegistry,
    Expired,
    LeaseStore,
    Records,
    StoredReport,
    StoredReports,
    StreamStore,
    StreamSummary,
    WebhookOutbox,
)
from cef_trio.checkpoint.pruning import OldStreams, ended_streams
from cef_trio.checkpoint.schema import NewerRecord
from cef_trio.checkpoint.shutdown_flush import ShutdownFlush
from cef_trio.checkpoint.states import (
    COMES_BACK,
    ENDED,
    FAILED,
    SENTENCES,
    FailureReason,
    History,
    Status,
    StreamSet,
    advice_on,
    count_known,
)
from cef_trio.checkpoint.verification import FIRST_TURN, VerificationTotals, Verified, turn_of

__all__ = [
    "COMES_BACK",
    "ENDED",
    "ENDING_MS",
    "FAILED",
    "FIRST_TURN",
    "NAMELESS",
    "RENEWALS",
    "SENTENCES",
    "SHARED",
    "Beat",
    "Change",
    "Checkpoint",
    "CheckpointStore",
    "ClaimWait",
    "Claimant",
    "DaemonRegistry",
    "ExitState",
    "Expired",
    "FailureReason",
    "FileIdentity",
    "History",
    "Lease",
    "LeaseStore",
    "NewerRecord",
    "OldStreams",
    "Owner",
    "PartRecord",
    "Records",
    "ShutdownFlush",
    "Status",
    "StoredReport",
    "StoredReports",
    "StreamMeta",
    "StreamSet",
    "StreamStore",
    "StreamSummary",
    "Vacancy",
    "VerificationTotals",
    "Verified",
    "WebhookEvent",
    "WebhookOutbox",
    "advice_on",
    "count_known",
    "ended_streams",
    "rules",
    "schema",
    "turn_of",
]
