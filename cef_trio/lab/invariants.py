"""The invariants P1 to P10, checked after each daemon and when everything is at rest.

They compare the contents of S3 and of the store, and the responses recorded at the transport; nothing that the daemon
reports is used, except for P10. A violation is a sentence that begins with its promise: ``P2: …``.

To add an invariant, return its violations from :func:`after_exit` (after each daemon that was not killed) or from
:func:`at_the_end` (once, at rest). An exception for one scenario is a field of
:class:`~cef_trio.lab.scenarios.model.Scenario`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import httpx

from cef_trio.checkpoint import rules
from cef_trio.checkpoint.model import Checkpoint
from cef_trio.checkpoint.states import ENDED, Status
from cef_trio.files.file_system import file_system_named
from cef_trio.lab.crash_simulation import Acknowledgements, Life
from cef_trio.lab.fleet import EndedProcess
from cef_trio.lab.scenario_context import ScenarioContext
from cef_trio.lab.scenarios import Scenario
from cef_trio.lab.world import BUCKET, INACTIVE, NOT_OURS, OTHER_BUCKET, PART, World, is_probe
from cef_trio.observability.at_risk import Risk
from cef_trio.s3.checksums import crc64nvme, crc64nvme_to_base64
from cef_trio.s3_endpoint.records import MultipartUpload, StoredPart
from cef_trio.settings.after_upload import AfterUploadAction
from cef_trio.upload.failures import KEEPS_ITS_UPLOAD
from cef_trio.upload.object_key import metadata_key
from cef_trio.upload.part_plan import PartPlan
from cef_trio.upload.services import Services

_KEEPS_ITS_UPLOAD = {Status.failed(reason) for reason in KEEPS_ITS_UPLOAD}
_ENDED_OR_IDLE = INACTIVE | {Status.S3_COMPLETED}


def after_exit(
    world: World, services: Services, before: Collection[Checkpoint], scenario: Scenario | None = None
) -> list[str]:
    """Return the violations of a daemon that has ended, except by a crash.

    Args:
        world: its world.
        services: its services.
        before: the streams in Redis at its start; one that is unchanged since is not checked.
        scenario: the scenario, whose flags excuse some violations; ``None``: it ran without faults.
    """
    violations = _leaked_resources(world.life, services)
    unsaved = services.shutdown_flush.unsaved
    may_fail = scenario is not None and scenario.redis_may_fail
    for checkpoint in world.known():
        status = checkpoint.meta.status
        if checkpoint in before or status in _ENDED_OR_IDLE or (may_fail and checkpoint.meta.stream_id in unsaved):
            continue
        if world.rolled_back.get(checkpoint.meta.stream_id) == checkpoint:
            continue  # its status was saved, and Redis lost it; no task has worked on it since
        if world.store.is_other_owners(checkpoint.meta.stream_id, services.lease):
            continue  # another daemon works on it
        if may_fail and not world.store.is_held(checkpoint.meta.stream_id):
            continue  # its lease expired while Redis was down, so the daemon may not write
        violations.append(f"P3: stream {_short(checkpoint)} was left as {status.value}, without a state saved at exit")
    if not may_fail:
        violations += [f"P3: the state of stream {stream[:8]} was not saved" for stream in sorted(unsaved)]
    if scenario is None or not scenario.redis_silent:
        violations += _unrecorded_acknowledgements(world, world.known(), world.acknowledgements)
        pending = world.receiver.acknowledged & world.pending_webhooks
        violations += [
            f"P3: the webhook of stream {stream[:8]} was acknowledged, and is still pending"
            for stream in sorted(pending)
        ]
    return violations


def lease_violations(life: Life) -> list[str]:
    """Return the writes that the store accepted although another daemon held the stream's lease (P3)."""
    return [
        f"P3: {operation} was accepted for a stream whose lease another daemon holds"
        for operation in life.writes_without_lease
    ]


def after_exit_of_one(ended: EndedProcess) -> list[str]:
    """Return the violations of one process of a fleet that has ended, except by a crash.

    A process that was stopped or cut off may have lost its leases to another daemon, or had no Redis at its end.
    """
    world, services, life = ended.daemon.context.world, ended.services, ended.life
    violations = lease_violations(life)
    outside = sorted(key for key in life.keys if not key.startswith(world.prefix))
    violations += [
        f"P9: a request of {ended.daemon.plan.name} names the key {key!r} of another owner" for key in outside
    ]
    if life.ended:
        return violations
    violations += _leaked_resources(life, services)
    if ended.was_impaired:
        return violations
    violations += [f"P3: the state of stream {stream[:8]} was not saved" for stream in services.shutdown_flush.unsaved]
    known = world.known()
    for checkpoint in known:
        status, stream_id = checkpoint.meta.status, checkpoint.meta.stream_id
        if checkpoint in ended.before or status in _ENDED_OR_IDLE or stream_id not in life.leased:
            continue
        if not world.store.is_other_owners(stream_id, services.lease):
            violations.append(
                f"P3: stream {_short(checkpoint)} was left as {status.value}, without a state saved at exit"
            )
    return violations + _unrecorded_acknowledgements(world, known, ended.acknowledgements)


def _leaked_resources(life: Life, services: Services) -> list[str]:
    violations = []
    for name, limiter in (("streams", services.stream_slots), ("parts", services.part_slots)):
        if limiter.borrowed_tokens:
            violations.append(f"P7: {limiter.borrowed_tokens} slots of {name} were not released")
    if life.open_responses:
        violations.append(f"P7: {life.open_responses} connections were not released")
    return violations


def _unrecorded_acknowledgements(
    world: World, known: list[Checkpoint], acknowledgements: Acknowledgements
) -> list[str]:
    """Return the acknowledgements that arrived and are not recorded in Redis (P2)."""
    violations = []
    by_upload = {checkpoint.meta.s3_upload_id: checkpoint for checkpoint in known}
    for (upload_id, number), etag in acknowledgements.parts.items():
        checkpoint = by_upload.get(upload_id)
        if checkpoint is None:
            continue  # aborted, or lost with all of Redis: its upload is checked below
        if checkpoint.meta.status is Status.COMPLETED and not checkpoint.parts:
            continue  # they were in a metadata JSON that was deleted
        recorded = checkpoint.parts.get(number)
        if acknowledgements.redis_lost:
            continue  # the lease was lost too, and the stream's new owner may have started over
        # A different record is correct if S3 has that part: it was sent again, its response lost, and it was adopted.
        if recorded is None or (recorded.etag != etag and not _is_held(world, upload_id, number, recorded.etag)):
            violations.append(f"P2: part {number} was acknowledged and is not recorded")
    still_open = open_uploads(world)
    for upload_id, key in acknowledgements.uploads.items():
        if (
            upload_id in still_open
            and upload_id not in by_upload
            and not is_probe(key)  # no record names it; the next cleanup aborts it
            and not (world.redis_lost and not still_open[upload_id])
        ):
            violations.append(f"P2: upload {key[-20:]} was created and its id is not recorded")
    violations += [
        f"P2: upload {key[-20:]} was created and its id was not read"
        for key in acknowledgements.unread_upload_ids
        if not is_probe(key)
    ]
    for checkpoint in known:
        plan = PartPlan.of(checkpoint.meta)
        violations += [
            f"P2: part {number} is recorded with {part.size_bytes} bytes; its plan has {plan.part(number).size_bytes}"
            for number, part in checkpoint.parts.items()
            if part.size_bytes > plan.part(number).size_bytes
        ]
    by_key = {checkpoint.meta.s3_key_prefix: checkpoint for checkpoint in known}
    for key, etag in acknowledgements.objects.items():
        checkpoint = by_key.get(key)
        if checkpoint is not None and checkpoint.meta.object_etag != etag:
            violations.append(f"P2: object {key[-20:]} was completed and its completion is not recorded")
    return violations


def open_uploads(world: World, buckets: Collection[str] = (BUCKET, OTHER_BUCKET)) -> dict[str, int]:
    """Return the open uploads: upload id → number of parts."""
    return {upload.upload_id: len(parts) for upload, parts in _listed_parts(world, buckets)}


def _listed_parts(world: World, buckets: Collection[str]) -> Iterator[tuple[MultipartUpload, Sequence[StoredPart]]]:
    """Yield each open upload, and its parts."""
    model = world.endpoint.model
    for bucket in buckets:
        page = model.list_uploads(
            bucket, prefix=world.prefix, delimiter="", key_marker="", upload_id_marker="", limit=1000
        )
        for upload in page.uploads:
            yield upload, model.list_parts(bucket, upload.key, upload.upload_id, after=0, limit=1000).parts


Recorded = Mapping[tuple[str, int], int]
"""(key, part number) → the recorded checksum."""
Received = Mapping[tuple[str, int], int]
"""(key, part number) → bytes that S3 received of it, repetitions included."""


def recorded_parts(world: World) -> Recorded:
    """Return the recorded parts that S3 has unchanged."""
    held = _parts_held(world)
    return {
        (checkpoint.meta.s3_key_prefix, number): part.crc64nvme
        for checkpoint in world.known()
        for number, part in checkpoint.parts.items()
        # An unacknowledged upload may have replaced the part; then it may have to be sent again.
        if held.get((checkpoint.meta.s3_upload_id or "", number), part.etag) == part.etag
    }


def _parts_held(world: World) -> dict[tuple[str, int], str]:
    """Return the parts of open uploads: (upload id, part number) → ETag."""
    return {
        (upload.upload_id, part.number): part.etag.strip('"')
        for upload, parts in _listed_parts(world, (BUCKET, OTHER_BUCKET))
        for part in parts
    }


def _is_held(world: World, upload_id: str, number: int, etag: str) -> bool:
    """Return whether S3 has the part with that ETag. Of a completed upload, CompleteMultipartUpload checked it."""
    return _parts_held(world).get((upload_id, number), etag) == etag


def sent_again(world: World, recorded: Recorded, received: Received) -> list[str]:
    """Return the recorded, unchanged parts that S3 has received again (P2)."""
    contents = {}
    for checkpoint in world.known():
        path = Path(world.host.real(checkpoint.meta.current_path))
        if path.exists():
            contents[checkpoint.meta.s3_key_prefix] = (path.read_bytes(), checkpoint)
    violations = []
    for (key, number), size_bytes in world.received_parts().items():
        crc = recorded.get((key, number))
        if crc is None or key not in contents or size_bytes <= received.get((key, number), 0):
            continue
        content, checkpoint = contents[key]
        part = PartPlan.of(checkpoint.meta).part(number)
        if crc64nvme(content[part.offset : part.offset + part.size_bytes]) == crc:
            violations.append(f"P2: part {number} was recorded, is unchanged, and was sent again")
    return violations


def sends_again(world: World, services: Services, key: str, number: int) -> list[str]:
    """Return a violation if a daemon is about to send a recorded part of unchanged bytes under its lease (P2)."""
    for checkpoint in world.known():
        meta, record = checkpoint.meta, checkpoint.parts.get(number)
        path = Path(world.host.real(meta.current_path))
        if meta.s3_key_prefix != key or record is None or not path.exists():
            continue
        if world.store.is_other_owners(meta.stream_id, services.lease) or not world.store.is_held(meta.stream_id):
            continue  # its lease is lost, so another daemon may have sent the part
        part = PartPlan.of(meta).part(number)
        content = path.read_bytes()[part.offset : part.offset + record.size_bytes]
        if crc64nvme(content) == record.crc64nvme and _is_held(world, meta.s3_upload_id or "", number, record.etag):
            return [f"P2: part {number} was recorded, is unchanged, and was sent again"]
    return []


def excess_bytes_sent(context: ScenarioContext, scenario: Scenario, injections: int) -> list[str]:
    """Return a violation if S3 received more bytes than were changed (P2).

    Each changed block of ``PART`` bytes may be sent once, each injection may cost the parts in flight, and each fault
    of S3 one part.
    """
    blocks = sum(sum(writers.changed_blocks.values()) for writers in context.all_writers)
    allowed = blocks + scenario.slack_parts + (scenario.max_concurrent_parts + 1) * injections + context.fault_hits
    sent, bound = context.world.received_bytes(), allowed * PART
    return [f"P2: {sent} bytes were sent for {blocks} changed blocks of {PART}"] if sent > bound else []


def at_rest(world: World) -> bool:
    """Return whether the daemon has nothing left to do for any recording."""
    known = world.known()
    if any(checkpoint.meta.status not in ENDED for checkpoint in known) or world.pending_webhooks:
        return False
    for entry in world.folder.rglob("*.mp4"):
        of_file = [checkpoint for checkpoint in known if _is_of(world, checkpoint, entry)]
        if not any(_settled(world, checkpoint, entry) for checkpoint in of_file):
            return False
    if world.after_upload.action is AfterUploadAction.KEEP or len(world.buckets_used) > 1:
        return True  # a recording whose object is in another bucket is not deleted
    aborted = [checkpoint for checkpoint in known if checkpoint.meta.status is Status.FAILED_ABORTED]
    return all(any(_is_of(world, one, file) for one in aborted) for file in world.folder.rglob("*.mp4"))


def _is_of(world: World, checkpoint: Checkpoint, file: Path) -> bool:
    """Return whether a stream belongs to a file, by its serial number and not by its inode number."""
    if world.host.real(checkpoint.meta.current_path) != str(file):
        return False
    return _serial(world, checkpoint) == world.kernel.inode(file).serial or _is_taken_for_it(world, checkpoint, file)


def _is_taken_for_it(world: World, checkpoint: Checkpoint, file: Path) -> bool:
    """Return whether a file cannot be distinguished from the one of the stream's start, and has its bytes.

    Without inode generations, that is a later file with the same name and inode number; without stable inode numbers,
    any file with the same name. The object of a completed stream must have the file's bytes, so two files are never
    mixed; the file of an aborted stream must begin as the stream's did, or have a part that was sent.
    """
    meta, inode = checkpoint.meta, world.kernel.inode(file)
    lasting_inodes = file_system_named(inode.file_system.name).lasting_inodes
    if meta.identity.generation is not None or (
        lasting_inodes and inode.serial not in world.kernel.inodes.serials_with(meta.identity.file_ino)
    ):
        return False
    content = file.read_bytes()
    if meta.status is Status.FAILED_ABORTED:
        return _begins_alike(checkpoint, content) or _has_a_part(checkpoint, content)
    return (meta.status is Status.COMPLETED or _lacks_only_metadata(checkpoint)) and _holds(world, checkpoint, content)


def _begins_alike(checkpoint: Checkpoint, content: bytes) -> bool:
    identity = checkpoint.meta.identity
    head = content[: identity.head_size_bytes]
    return len(head) == identity.head_size_bytes > 0 and crc64nvme(head) == identity.head_crc64nvme


def _has_a_part(checkpoint: Checkpoint, content: bytes) -> bool:
    offsets = {number: PartPlan.of(checkpoint.meta).part(number).offset for number in checkpoint.parts}
    return any(
        crc64nvme(content[offsets[number] : offsets[number] + part.size_bytes]) == part.crc64nvme
        for number, part in checkpoint.parts.items()
    )


def _serial(world: World, checkpoint: Checkpoint) -> int | None:
    """Return the serial number of the file that a stream was started for, or was later identified with."""
    identity, inodes = checkpoint.meta.identity, world.kernel.inodes
    if identity.generation is not None:
        return identity.generation  # in these worlds it is the serial number
    began_ns = int(checkpoint.meta.started_at_utc.timestamp() * 1e9)
    return inodes.serial_at(identity.file_ino, began_ns) or next(iter(inodes.serials_with(identity.file_ino)), None)


def _settled(world: World, checkpoint: Checkpoint, file: Path) -> bool:
    """Return whether a file needs nothing more: S3 has its bytes, or its stream failed.

    ``failed_file_replaced`` does not count: the file then gets another stream.
    """
    status = checkpoint.meta.status
    if status is Status.COMPLETED or _lacks_only_metadata(checkpoint):
        return _holds(world, checkpoint, file.read_bytes())
    return status is not Status.FAILED_FILE_REPLACED


def at_the_end(context: ScenarioContext, scenario: Scenario) -> list[str]:
    """Return the violations of a world at rest."""
    world = context.world
    violations = list(context.violations)
    violations += [f"P8: {name} was removed before S3 had its bytes" for name in world.removed_unsaved]
    violations += [f"P8: {name} was removed while a writer had it open" for name in world.removed_while_written]
    versions = context.versions
    if any(body not in versions for body in world.completed):
        violations.append("P1: an object was completed with bytes that no file ever had")
    completed: dict[str, list[Checkpoint]] = {}
    for checkpoint in world.known():
        status = checkpoint.meta.status
        if status is Status.COMPLETED or _lacks_only_metadata(checkpoint):
            completed.setdefault(world.host.real(checkpoint.meta.current_path), []).append(checkpoint)
        if status is Status.COMPLETED:
            objects = world.objects(checkpoint.meta.s3_bucket)
            violations += _identity(context, checkpoint, objects)
            violations += _webhook_violations(world, checkpoint, objects)
        elif _may_be_new_after_abort(world, checkpoint):
            continue
        elif status not in scenario.may_end and not _is_aborted(world, checkpoint):
            violations.append(f"P6: stream {_short(checkpoint)} ended as {status.value}")
        elif not checkpoint.meta.failure_reason:
            violations.append(f"P6: stream {_short(checkpoint)} ended as {status.value} without a failure reason")
    if not scenario.faults_stay:
        violations += _missing_objects(context, scenario, completed)
    if scenario.one_object:
        violations += context.in_s3_twice()
    violations += scenario.check_end(context)
    return violations + left_uploads(world, scenario) + orphan_objects(world) + _index_violations(world)


def _missing_objects(
    context: ScenarioContext, scenario: Scenario, completed: Mapping[str, list[Checkpoint]]
) -> Iterator[str]:
    """Yield the recordings whose bytes are not an object, or are several; ``completed``: the streams by path."""
    world = context.world
    for name in context.names():
        path = Path(world.path(name))
        of_file = [one for one in completed.get(str(path), []) if _is_of(world, one, path)]
        newest = [checkpoint for checkpoint in of_file if _holds(world, checkpoint, path.read_bytes())]
        if any(_is_aborted(world, one) and _is_of(world, one, path) for one in world.known()):
            continue
        if not newest:
            yield f"P1: S3 has no object with the bytes of {name}"
        elif len(of_file) > 1 and not (world.redis_lost or scenario.starts_over or scenario.writes_again):
            yield f"P2: {name} was uploaded {len(of_file)} times"


def _is_aborted(world: World, checkpoint: Checkpoint) -> bool:
    """Return whether a stream ended as an operator wanted it."""
    return checkpoint.meta.status is Status.FAILED_ABORTED and checkpoint.meta.stream_id in world.wanted_aborted


def _may_be_new_after_abort(world: World, checkpoint: Checkpoint) -> bool:
    """Return whether a stream is of an aborted recording whose bytes changed, and nothing else shows which file it is.

    Then the file may be a new recording. The run ends once the aborted stream has ended, whatever the new one's state.
    """
    meta = checkpoint.meta
    same = [one for one in world.known() if one is not checkpoint and one.meta.current_path == meta.current_path]
    return meta.identity.generation is None and any(
        _is_aborted(world, one) and _serial(world, one) == _serial(world, checkpoint) for one in same
    )


def _index_violations(world: World) -> list[str]:
    """Return the streams that the store's indexes miss, or have without need (P7): history must cost nothing."""
    held, violations = world.store.snapshot(), []
    for stream_id, stream in held.streams.items():
        history = rules.history_of(stream.stream_set, stream.meta)
        found = held.history[stream_id][0] if stream_id in held.history else None
        if found is not history or (stream_id in held.lease_ends) is not (history is None):
            violations.append(f"P7: stream {_short(stream)} ({stream.meta.status.value}) is not in its index")
        if stream.meta.status is Status.COMPLETED and stream.parts:
            violations.append(f"P7: Redis keeps the parts of stream {_short(stream)}, which is completed")
    left = (held.history.keys() | held.lease_ends.keys()) - held.streams.keys()
    return violations + [f"P7: an index has stream {stream_id[:8]}, which does not exist" for stream_id in sorted(left)]


def _lacks_only_metadata(checkpoint: Checkpoint) -> bool:
    """Return whether a stream failed after its object was completed: the bucket setting changed, or it was aborted.

    If the file changes after that, its bytes are another recording's.
    """
    ended = {Status.FAILED_FINALIZATION, Status.FAILED_ABORTED}
    return checkpoint.meta.status in ended and checkpoint.meta.object_etag is not None


def unreported_risks(context: ScenarioContext, reported: Collection[Risk]) -> list[str]:
    """Return a violation if recordings are missing in S3 and the daemon reports no risk (P10)."""
    missing = _missing(context)
    if missing and not reported:
        return [f"P10: {' and '.join(missing)} is not in S3, and the daemon reports no risk"]
    return []


def false_risks(context: ScenarioContext, reported: Collection[Risk]) -> list[str]:
    """Return the risks that the daemon reports although every recording is in S3 (P10)."""
    if _missing(context):
        return []
    return [f"P10: every recording is in S3, and the daemon reports a risk: {risk.reason}" for risk in reported]


def _missing(context: ScenarioContext) -> list[str]:
    """Return the recordings whose bytes are not the object of a completed stream; empty files do not count."""
    world = context.world
    stored: dict[str, list[Checkpoint]] = {}
    for checkpoint in world.known():
        if checkpoint.meta.status is Status.COMPLETED:
            stored.setdefault(world.host.real(checkpoint.meta.current_path), []).append(checkpoint)
    aborted = {world.host.real(one.meta.current_path) for one in world.known() if _is_aborted(world, one)}
    names = [name for name in context.names() if world.path(name) not in aborted]
    contents = {name: Path(world.path(name)).read_bytes() for name in names}
    return [
        name
        for name, content in contents.items()
        if content and not any(_holds(world, one, content) for one in stored.get(world.path(name), []))
    ]


def left_uploads(world: World, scenario: Scenario) -> list[str]:
    """Return the open uploads of ended streams, or of no stream (P5)."""
    violations, known = [], world.known()
    known_ids = {checkpoint.meta.s3_upload_id: checkpoint.meta.status for checkpoint in known}
    elsewhere = {one.meta.s3_upload_id for one in known if "do not lead" in (one.meta.failure_reason or "")}
    armed = [one.fault for one in world.endpoint.faults.armed()]
    never_listed = any(fault.operation == "ListMultipartUploads" and fault.times is None for fault in armed)
    probes = {upload.upload_id for upload, _ in _listed_parts(world, [world.bucket]) if is_probe(upload.key)}
    # Uploads in another bucket are not touched (P9); the log names them, and `cef-trio gc` aborts them there.
    for upload_id, parts in open_uploads(world, [world.bucket]).items():
        status_of = known_ids.get(upload_id)
        if status_of is None and world.buckets_used > {world.bucket}:
            continue  # left when the bucket setting changed, and named in the log
        if status_of is None and not parts and never_listed:
            continue  # the process was killed before it recorded the id: `cef-trio gc`, once S3 lists uploads
        if status_of is None and (not parts or upload_id in probes) and len(world.templates_used) > 1:
            continue  # a lost creation below an earlier prefix: `cef-trio gc` with that template (operations.md)
        if status_of is None and world.redis_lost and (not parts or scenario.starts_over):
            continue  # it matches no file: P5 leaves it to `cef-trio gc`
        if status_of is None or status_of is Status.COMPLETED:
            violations.append(f"P5: an upload of {parts} parts is open and not in Redis")
        elif upload_id in elsewhere and len(world.templates_used) > 1:
            continue  # aborted while the settings led elsewhere, below an earlier prefix: its record names it, for gc
        elif status_of in ENDED - _KEEPS_ITS_UPLOAD:
            violations.append(f"P5: a stream that ended as {status_of.value} left its upload open")
    return violations


def _identity(context: ScenarioContext, checkpoint: Checkpoint, objects: Mapping[str, bytes]) -> list[str]:
    key = checkpoint.meta.s3_key_prefix
    body = objects.get(key)
    if body is None:
        return [f"P1: stream {_short(checkpoint)} is completed and has no object"]
    violations = []
    if body not in context.versions:
        violations.append(f"P1: the object of stream {_short(checkpoint)} has bytes that no file ever had")
    elif not _serials(context.world, checkpoint) & context.versions[body]:
        violations.append(f"P1: the object of stream {_short(checkpoint)} has the bytes of another file")
    document = objects.get(metadata_key(key))
    if document is None:
        violations.append(f"P1: stream {_short(checkpoint)} is completed and has no metadata")
        return violations
    metadata = json.loads(document)
    if metadata["total_size_bytes"] != len(body):
        violations.append(f"P1: the metadata of stream {_short(checkpoint)} has a different size")
    elif metadata["checksum"]["value"] != crc64nvme_to_base64(crc64nvme(body)):
        violations.append(f"P1: the metadata of stream {_short(checkpoint)} has a different checksum")
    return violations


def orphan_objects(world: World) -> list[str]:
    """Return the recordings in S3 that are no recorded object of a stream (P5), unless Redis lost data.

    An ended stream may name one that a store damaged: the daemon needs no permission to delete objects.
    """
    if world.redis_lost:
        return []
    keys = {
        one.meta.s3_key_prefix
        for one in world.known()
        if one.meta.object_etag is not None
        or f"may be deleted: {one.meta.s3_key_prefix}" in (one.meta.failure_reason or "")
    }
    # Of the bucket of earlier settings, which is set again: its upload was left there, and named in the log, when a
    # process had died in CompleteMultipartUpload.
    may_be_left = [one.meta.stream_id for one in world.known()] if len(world.buckets_used) > 1 else []
    return [
        f"P5: object {key[-20:]} is not recorded"
        for key, body in world.objects(world.bucket).items()
        if key not in keys and not key.endswith(metadata_key("")) and body != NOT_OURS and not is_probe(key)
        if not any(stream_id in key for stream_id in may_be_left)
    ]


def _serials(world: World, checkpoint: Checkpoint) -> set[int]:
    """Return the serial numbers of the files that a stream may belong to."""
    identity = checkpoint.meta.identity
    return (
        {identity.generation}
        if identity.generation is not None
        else world.kernel.inodes.serials_with(identity.file_ino)
    )


def _webhook_violations(world: World, checkpoint: Checkpoint, objects: Mapping[str, bytes]) -> list[str]:
    """Return violations if the webhook of a completed stream was not acknowledged, or has a different body."""
    if not world.webhook:
        return []
    document = objects.get(metadata_key(checkpoint.meta.s3_key_prefix))
    received = [one for one in world.receiver.received if one.stream_id == checkpoint.meta.stream_id]
    violations = []
    if not any(httpx.codes.is_success(one.status) for one in received):
        violations.append(f"P3: the webhook of stream {_short(checkpoint)} was never acknowledged")
    if any(one.body != document for one in received):
        violations.append(f"P1: the webhook of stream {_short(checkpoint)} differs from its metadata")
    return violations


def _holds(world: World, checkpoint: Checkpoint, content: bytes) -> bool:
    """Return whether the object of a stream has that content."""
    objects = world.objects(checkpoint.meta.s3_bucket)
    return objects.get(checkpoint.meta.s3_key_prefix) == content


def _short(checkpoint: Checkpoint) -> str:
    return checkpoint.meta.stream_id[:8]
