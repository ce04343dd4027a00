"""The heart: one task for each stream, from a recording's first byte to its completed object.

Decisions are pure functions that tests enumerate; the other files carry them out. Open

- `supervisor.py` for which file belongs to which stream, renames while the daemon runs and lease renewal;
  `files_without_task.py` for files that wait for a stream; `file_triage.py` for what a file's record decides;
  `start_minimum.py` for its least age and size; `lost_records.py` for what is searched before a file counts as new;
  `scan_history.py` for waiting until a file is known to be gone
- `start_stream.py`, `recovery.py` for how a stream begins and resumes; `recognition.py` for whether a file is the
  stream's; `bucket_change.py` for a changed bucket or endpoint
- `processor.py` for a stream's loop, the wait after a transient error and the grace after a close; `next_action.py`
  and `file_state.py` for its decisions; `services.py` for what all streams share
- `session.py` for one multipart upload and its checkpoint; `part_plan.py` for offsets and sizes; `part_size.py` for
  `CHUNK_SIZE_BYTES=auto`; `send_parts.py` for parts in flight; `changing_parts.py` for those that change while they are
  sent; `sparse_file_lag.py` for the lag of preallocated files; `object_key.py` for keys
- `idle_checker.py`, `idle_rules.py` for what the watcher cannot see: recordings without a close, streams without a task
- `finalize.py` for verifying, completing and the metadata JSON; `webhook_events.py` for the webhooks of a start and a
  failure
- `failures.py`, `repeated_errors.py` for which error ends a stream, and when S3 lost an upload (`NoSuchUpload`)
- `missed_renames.py` for renames while no daemon ran; `completed_parts.py`, `copy_from_previous.py`,
  `unchanged_content.py` for a completed recording that changed
- `orphan_uploads.py`, `part_matching.py`, `orphan_objects.py`, `object_match.py` for uploads and objects that Redis
  does not know; `orphan_cleanup.py` for uploads that ended streams left open
- `ownership_rules.py`, `ownership.py`, `lease_context.py` for other hosts and daemons; `work_division.py` for which
  daemon of a shared folder begins a new file, `takeover.py` for which one takes the streams of a dead one
- `disk_survey.py` for the free space of the watched disks, as a metric
- `live_stream.py` for the lag and the silence of a stream; `observer.py`, `risks.py`, `reporter.py` for the daemon's
  snapshot, its risks and its report; `heartbeat.py` for periodic calls to Redis in one round trip; `setting_hints.py`
  for hints in the log
"""

from cef_trio.upload.bucket_change import bucket_changed, endpoint_changed
from cef_trio.upload.copy_from_previous import ContentMatch
from cef_trio.upload.disk_survey import survey_disks
from cef_trio.upload.failures import KEEPS_ITS_UPLOAD, aborted_because
from cef_trio.upload.file_triage import FILE_WAS_GONE
from cef_trio.upload.heartbeat import Heartbeat
from cef_trio.upload.idle_checker import IdleChecker
from cef_trio.upload.lease_context import HeldLease, hold_lease
from cef_trio.upload.object_key import EXAMPLE_BEGAN, MAX_METADATA_BYTES, KeyTemplate, metadata_key
from cef_trio.upload.observer import Observer, detail_of_record
from cef_trio.upload.orphan_cleanup import abort_orphan_uploads, is_orphan
from cef_trio.upload.ownership import Ownership
from cef_trio.upload.ownership_rules import Claim, claim_by, names_a_server
from cef_trio.upload.part_plan import MIN_PART_BYTES, PartPlan
from cef_trio.upload.part_size import AutoPartSize, known_part_size
from cef_trio.upload.recognition import identify, is_file_by_numbers, recognize
from cef_trio.upload.reporter import Reporter, WaitingReport, waiting_name, waiting_report
from cef_trio.upload.risks import RiskObserver
from cef_trio.upload.services import Services, StreamRules
from cef_trio.upload.session import STREAM_ID_METADATA, abort_uploads
from cef_trio.upload.start_minimum import StartMinimum
from cef_trio.upload.supervisor import StreamSupervisor
from cef_trio.upload.unchanged_content import correct_if_unchanged
from cef_trio.upload.webhook_events import FAILED_EVENT, STARTED_EVENT, stream_of

__all__ = [
    "EXAMPLE_BEGAN",
    "FAILED_EVENT",
    "FILE_WAS_GONE",
    "KEEPS_ITS_UPLOAD",
    "MAX_METADATA_BYTES",
    "MIN_PART_BYTES",
    "STARTED_EVENT",
    "STREAM_ID_METADATA",
    "AutoPartSize",
    "Claim",
    "ContentMatch",
    "Heartbeat",
    "HeldLease",
    "IdleChecker",
    "KeyTemplate",
    "Observer",
    "Ownership",
    "PartPlan",
    "Reporter",
    "RiskObserver",
    "Services",
    "StartMinimum",
    "StreamRules",
    "StreamSupervisor",
    "WaitingReport",
    "abort_orphan_uploads",
    "abort_uploads",
    "aborted_because",
    "bucket_changed",
    "claim_by",
    "correct_if_unchanged",
    "detail_of_record",
    "endpoint_changed",
    "hold_lease",
    "identify",
    "is_file_by_numbers",
    "is_orphan",
    "known_part_size",
    "metadata_key",
    "names_a_server",
    "recognize",
    "stream_of",
    "survey_disks",
    "waiting_name",
    "waiting_report",
]
