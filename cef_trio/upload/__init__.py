"""The heart: one task for each stream, from a recording's first byte to its completed object.

Decisions are pure functions that tests enumerate: `part_plan.py`, `object_key.py`, `file_state.py`, `next_action.py`,
`file_triage.py`, `failures.py`. The shell carries them out: `supervisor.py` (which file belongs to which stream),
`processor.py` (a stream's loop), `session.py` (one multipart upload and its checkpoint), `send_parts.py`, `finalize.py`
(verify, complete, write metadata), `recovery.py` (start and resume), `orphan_uploads.py` (uploads that Redis does not
know), `moved_files.py` (renames), `idle_checker.py` (what the watcher cannot see).
"""

from cef_trio.upload.correction import correct_if_unchanged
from cef_trio.upload.failures import KEEPS_ITS_UPLOAD
from cef_trio.upload.held_lease import HeldLease, hold_lease
from cef_trio.upload.idle_checker import IdleChecker
from cef_trio.upload.object_key import MAX_METADATA_BYTES, KeyTemplate, metadata_key
from cef_trio.upload.observer import Observer
from cef_trio.upload.orphan_cleanup import abort_orphan_uploads, is_orphan
from cef_trio.upload.ownership import Ownership
from cef_trio.upload.ownership_rules import Claim
from cef_trio.upload.part_plan import MIN_PART_BYTES, PartPlan
from cef_trio.upload.predecessor import ContentMatch
from cef_trio.upload.recognition import identify, recognize
from cef_trio.upload.reporter import report_for_ever
from cef_trio.upload.risks import RiskObserver
from cef_trio.upload.services import Services, StreamRules
from cef_trio.upload.session import STREAM_ID_METADATA, abort_uploads
from cef_trio.upload.supervisor import StreamSupervisor

__all__ = [
    "KEEPS_ITS_UPLOAD",
    "MAX_METADATA_BYTES",
    "MIN_PART_BYTES",
    "STREAM_ID_METADATA",
    "Claim",
    "ContentMatch",
    "HeldLease",
    "IdleChecker",
    "KeyTemplate",
    "Observer",
    "Ownership",
    "PartPlan",
    "RiskObserver",
    "Services",
    "StreamRules",
    "StreamSupervisor",
    "abort_orphan_uploads",
    "abort_uploads",
    "correct_if_unchanged",
    "hold_lease",
    "identify",
    "is_orphan",
    "metadata_key",
    "recognize",
    "report_for_ever",
]
