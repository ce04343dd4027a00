"""The promises as an oracle: what must be true when a daemon has ended, and when everything has come to rest.

Held against what S3 and the store really hold, and against what the wire bears witness to; never against the daemon's
own word. Each violation begins with the promise's name.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import httpx

from cef_trio.checkpoint.model import Checkpoint
from cef_trio.checkpoint.states import ENDED, Status
from cef_trio.files.file_system import named
from cef_trio.lab.crash_simulation import Life
from cef_trio.lab.scenario_context import ScenarioContext
from cef_trio.lab.scenarios import Scenario
from cef_trio.lab.world import BUCKET, NOBODY_WORKS, OTHER_BUCKET, PART, World
from cef_trio.observability.at_risk import Risk
from cef_trio.s3.checksums import crc64nvme
from cef_trio.settings.after_upload import AfterUploadAction
from cef_trio.upload.failures import KEEPS_ITS_UPLOAD
from cef_trio.upload.object_key import metadata_key
from cef_trio.upload.part_plan import PartPlan
from cef_trio.upload.services import Services

_KEEPS_ITS_UPLOAD = {Status.failed(reason) for reason in KEEPS_ITS_UPLOAD}
_ENDED_OR_IDLE = NOBODY_WORKS | {Status.S3_COMPLETED}


def after_exit(
    world: World, services: Services, before: Collection[Checkpoint], scenario: Scenario | None = None
) -> list[str]:
    """What must be true of a daemon that left by itself, however it was told to (not of one that was killed).

    ``before``: what Redis knew at its start; a stream that it never came to is not its to answer for. ``scenario``:
    whose servers' trouble it had, if it had any.
    """
    violations = _leaked_resources(world, services)
    unsaved = services.exit_saves.unsaved
    may_fail = scenario is not None and scenario.redis_may_fail
    for checkpoint in world.known():
        status = checkpoint.meta.status
        if checkpoint in before or status in _ENDED_OR_IDLE or (may_fail and checkpoint.meta.stream_id in unsaved):
            continue
        if world.set_back.get(checkpoint.meta.stream_id) == checkpoint:
            continue  # it was said, and Redis lost that; no task has come to it since
        if world.store.is_anothers(checkpoint.meta.stream_id, services.lease):
            continue  # another daemon works on it by now
        if may_fail and not world.store.is_held(checkpoint.meta.stream_id):
            continue  # its lease ran out while Redis could not renew it: it may write nothing
        violations.append(f"P3: stream {_short(checkpoint)} was left as {status.value}, which says not how it ended")
    if not may_fail:
        violations += [f"P3: the state of stream {stream[:8]} was not saved" for stream in sorted(unsaved)]
    if scenario is None or not scenario.redis_silent:
        violations += _unrecorded_acknowledgements(world, world.known())
        owed = world.receiver.acknowledged & world.pending_webhooks
        violations += [
            f"P3: the webhook of stream {stream[:8]} was taken, and is still owed" for stream in sorted(owed)
        ]
    return violations


def lease_violations(life: Life) -> list[str]:
    """Writes to streams whose lease was another's: whoever was paused past its lease may spoil nothing (promise P3)."""
    return [
        f"P3: {operation} was written to a stream that another daemon owned" for operation in life.writes_without_lease
    ]


def _leaked_resources(world: World, services: Services) -> list[str]:
    violations = []
    for name, limiter in (("streams", services.stream_slots), ("parts", services.part_slots)):
        if limiter.borrowed_tokens:
            violations.append(f"P7: {limiter.borrowed_tokens} slots of {name} were never given back")
    if world.life.open_answers:
        violations.append(f"P7: {world.life.open_answers} connections were never given back")
    return violations


def _unrecorded_acknowledgements(world: World, known: list[Checkpoint]) -> list[str]:
    """Acknowledgements that arrived and are not in Redis (promise P2)."""
    acknowledgements, violations = world.acknowledgements, []
    by_upload = {checkpoint.meta.s3_upload_id: checkpoint for checkpoint in known}
    for (upload_id, number), etag in acknowledgements.parts.items():
        checkpoint = by_upload.get(upload_id)
        if checkpoint is None:
            continue  # aborted, or lost with all of Redis: judged by its upload
        recorded = checkpoint.parts.get(number)
        if acknowledgements.redis_lost:
            continue  # its lease was lost with the rest, and who owns the stream now may have started it over
        # Another record is no loss where it is of what S3 has: the part was sent again, and its answer lost, and found.
        if recorded is None or (recorded.etag != etag and not _is_held(world, upload_id, number, recorded.etag)):
            violations.append(f"P2: part {number} was acknowledged, and is not recorded")
    still_open = open_uploads(world)
    for upload_id, key in acknowledgements.uploads.items():
        if (
            upload_id in still_open
            and upload_id not in by_upload
            and not (world.redis_lost and not still_open[upload_id])
        ):
            violations.append(f"P2: upload {key[-20:]} was created, and its id is not recorded")
    violations += [
        f"P2: upload {key[-20:]} was created, and its id thrown away" for key in acknowledgements.unread_upload_ids
    ]
    by_key = {checkpoint.meta.s3_key_prefix: checkpoint for checkpoint in known}
    for key, etag in acknowledgements.objects.items():
        checkpoint = by_key.get(key)
        if checkpoint is not None and checkpoint.meta.object_etag != etag:
            violations.append(f"P2: object {key[-20:]} was completed, and that is not recorded")
    return violations


def open_uploads(world: World, buckets: Collection[str] = (BUCKET, OTHER_BUCKET)) -> dict[str, int]:
    """Uploads that are neither completed nor aborted, and how many parts they have."""
    model, found = world.endpoint.model, {}
    for bucket in buckets:
        page = model.list_uploads(bucket, prefix="", delimiter="", key_marker="", upload_id_marker="", limit=1000)
        for upload in page.uploads:
            parts = model.list_parts(bucket, upload.key, upload.upload_id, after=0, limit=1000).parts
            found[upload.upload_id] = len(parts)
    return found


Recorded = Mapping[tuple[str, int], int]
"""(key, part number) → the checksum recorded for it."""
Received = Mapping[tuple[str, int], int]
"""(key, part number) → how many bytes of it came in, repetitions counted."""


def recorded_parts(world: World) -> Recorded:
    """What is recorded of the parts that S3 has as they are recorded."""
    held = _parts_held(world)
    return {
        (checkpoint.meta.s3_key_prefix, number): part.crc64nvme
        for checkpoint in world.known()
        for number, part in checkpoint.parts.items()
        # What S3 took and never acknowledged may have replaced it: then it may have to be sent again.
        if held.get((checkpoint.meta.s3_upload_id or "", number), part.etag) == part.etag
    }


def _parts_held(world: World) -> dict[tuple[str, int], str]:
    """(upload id, part number) → the ETag of what S3 has."""
    model, held = world.endpoint.model, {}
    for bucket in (BUCKET, OTHER_BUCKET):
        page = model.list_uploads(bucket, prefix="", delimiter="", key_marker="", upload_id_marker="", limit=1000)
        for upload in page.uploads:
            for part in model.list_parts(bucket, upload.key, upload.upload_id, after=0, limit=1000).parts:
                held[upload.upload_id, part.number] = part.etag.strip('"')
    return held


def _is_held(world: World, upload_id: str, number: int, etag: str) -> bool:
    """Whether S3 has that part by that ETag; of a completed upload Complete itself has asked."""
    return _parts_held(world).get((upload_id, number), etag) == etag


def sent_again(world: World, recorded: Recorded, received: Received) -> list[str]:
    """Parts that were recorded before, of which no byte changed, and of which bytes came in again (promise P2)."""
    contents = {}
    for checkpoint in world.known():
        path = Path(checkpoint.meta.current_path)
        if path.exists():
            contents[checkpoint.meta.s3_key_prefix] = (path.read_bytes(), checkpoint)
    violations = []
    for (key, number), size_bytes in world.endpoint.log.received_bytes.items():
        crc = recorded.get((key, number))
        if crc is None or key not in contents or size_bytes <= received.get((key, number), 0):
            continue
        content, checkpoint = contents[key]
        part = PartPlan.of(checkpoint.meta).part(number)
        if crc64nvme(content[part.offset : part.offset + part.size_bytes]) == crc:
            violations.append(f"P2: part {number} was recorded, did not change, and was sent again")
    return violations


def excess_bytes_sent(context: ScenarioContext, scenario: Scenario, injections: int) -> list[str]:
    """More bytes came in than were changed, by parts (promise P2: cost follows what changed).

    Each changed block may be sent once, and with it, where the object goes on from an earlier one, its neighbour; each
    strike may cost what was in flight, and each fault of S3's a part.
    """
    blocks = sum(sum(writers.changed_blocks.values()) for writers in context.all_writers)
    allowed = blocks + scenario.slack_parts + (scenario.max_concurrent_parts + 1) * injections + context.fault_hits
    sent, bound = context.world.received_bytes(), allowed * PART
    return [f"P2: {sent} bytes were sent, and {blocks} blocks of {PART} changed"] if sent > bound else []


def at_rest(world: World) -> bool:
    """Whether every recording is done with: nothing more will happen by itself."""
    known = world.known()
    if any(checkpoint.meta.status not in ENDED for checkpoint in known) or world.pending_webhooks:
        return False
    for entry in world.folder.rglob("*.mp4"):
        of_file = [checkpoint for checkpoint in known if _is_of(world, checkpoint, entry)]
        if not any(_settled(world, checkpoint, entry) for checkpoint in of_file):
            return False
    if world.after_upload.action is AfterUploadAction.KEEP or len(world.buckets_used) > 1:
        return True  # of an object in another bucket the daemon deletes nothing
    return not any(world.folder.rglob("*.mp4"))


def _is_of(world: World, checkpoint: Checkpoint, file: Path) -> bool:
    """Whether a stream is that file's: by which file it is, not by its number."""
    if checkpoint.meta.current_path != str(file):
        return False
    return _serial(world, checkpoint) == world.kernel.inode(file).serial or _completed_with(world, checkpoint, file)


def _completed_with(world: World, checkpoint: Checkpoint, file: Path) -> bool:
    """Whether a stream was completed with a file that nothing tells apart from the one it was begun for.

    Where no generation is told, that is the next file of its name and number, if nothing had been sent of the first;
    where numbers are made up, any file of its name with the bytes of its object. Nothing of the two can be mixed.
    """
    meta, inode = checkpoint.meta, world.kernel.inode(file)
    return (
        meta.status is Status.COMPLETED
        and meta.identity.generation is None
        and (
            not named(inode.file_system.name).lasting_inodes
            or inode.serial in world.kernel.inodes.bearers(meta.identity.file_ino)
        )
        and _holds(world, checkpoint, file.read_bytes())
    )


def _serial(world: World, checkpoint: Checkpoint) -> int | None:
    """Which file a stream was begun for, or was found to be of since."""
    identity, inodes = checkpoint.meta.identity, world.kernel.inodes
    if identity.generation is not None:
        return identity.generation  # a generation is a serial in these worlds
    began_ns = int(checkpoint.meta.started_at_utc.timestamp() * 1e9)
    return inodes.bore(identity.file_ino, began_ns) or next(iter(inodes.bearers(identity.file_ino)), None)


def _settled(world: World, checkpoint: Checkpoint, file: Path) -> bool:
    """Whether a file is done with: it is in S3 as it is now, or its stream failed.

    A stream that took its file for another one leaves it to the next stream.
    """
    status = checkpoint.meta.status
    if status is Status.COMPLETED or _lacks_only_metadata(checkpoint):
        return _holds(world, checkpoint, file.read_bytes())
    return status is not Status.FAILED_FILE_REPLACED


def at_the_end(context: ScenarioContext, scenario: Scenario) -> list[str]:
    """What must be true when everything has come to rest."""
    world = context.world
    violations = list(context.violations)
    violations += [f"P8: {name} was taken away, and S3 had no object with its bytes" for name in world.gone_unsaved]
    violations += [f"P8: {name} was taken away while it was written" for name in world.gone_written]
    versions = context.versions
    if any(body not in versions for body in world.completed):
        violations.append("P1: an object was completed of bytes that its file never had")
    completed: dict[str, list[Checkpoint]] = {}
    for checkpoint in world.known():
        status = checkpoint.meta.status
        if status is Status.COMPLETED or _lacks_only_metadata(checkpoint):
            completed.setdefault(checkpoint.meta.current_path, []).append(checkpoint)
        if status is Status.COMPLETED:
            objects = world.objects(checkpoint.meta.s3_bucket)
            violations += _identity(context, checkpoint, objects)
            violations += _webhook_violations(world, checkpoint, objects)
        elif status not in scenario.may_end:
            violations.append(f"P6: stream {_short(checkpoint)} ended as {status.value}")
        elif not checkpoint.meta.failure_reason:
            violations.append(f"P6: stream {_short(checkpoint)} ended as {status.value}, and does not say why")
    if not scenario.faults_stay:
        for name in context.names():
            path = Path(world.path(name))
            of_file = [one for one in completed.get(str(path), []) if _is_of(world, one, path)]
            newest = [checkpoint for checkpoint in of_file if _holds(world, checkpoint, path.read_bytes())]
            if not newest:
                violations.append(f"P1: {name} is there, and S3 has no object with its bytes")
            elif len(of_file) > 1 and not (world.redis_lost or scenario.starts_over or scenario.writes_again):
                violations.append(f"P2: {name} was uploaded {len(of_file)} times")
    if scenario.one_object:
        violations += context.in_s3_twice()
    return violations + scenario.also(context) + left_uploads(world, scenario)


def _lacks_only_metadata(checkpoint: Checkpoint) -> bool:
    """Whether a stream failed after its object was completed, as when the bucket of the settings changes in between."""
    return checkpoint.meta.status is Status.FAILED_FINALIZATION and checkpoint.meta.object_etag is not None


def unreported_risks(context: ScenarioContext, told: Collection[Risk]) -> list[str]:
    """What is not in S3 though it was long time enough, and not named as at risk by the daemon (promise P10)."""
    missing = _missing(context)
    if missing and not told:
        return [f"P10: {' and '.join(missing)} is not in S3, and the daemon says that nothing is at risk"]
    return []


def false_risks(context: ScenarioContext, told: Collection[Risk]) -> list[str]:
    """Risks that the daemon tells though everything is in S3 (promise P10)."""
    if _missing(context):
        return []
    return [f"P10: everything is in S3, and the daemon says that something is at risk: {risk.reason}" for risk in told]


def _missing(context: ScenarioContext) -> list[str]:
    """The recordings that have bytes, and no completed stream whose object has these."""
    world = context.world
    stored: dict[str, list[Checkpoint]] = {}
    for checkpoint in world.known():
        if checkpoint.meta.status is Status.COMPLETED:
            stored.setdefault(checkpoint.meta.current_path, []).append(checkpoint)
    contents = {name: Path(world.path(name)).read_bytes() for name in context.names()}
    return [
        name
        for name, content in contents.items()
        if content and not any(_holds(world, one, content) for one in stored.get(world.path(name), []))
    ]


def left_uploads(world: World, scenario: Scenario) -> list[str]:
    """Uploads that stayed open though their stream has ended, or nobody knows them (promise P5)."""
    violations = []
    known_ids = {checkpoint.meta.s3_upload_id: checkpoint.meta.status for checkpoint in world.known()}
    # Those of another bucket are not touched (P9): named in the log, and left to `cef-trio gc` there.
    for upload_id, parts in open_uploads(world, [world.bucket]).items():
        status_of = known_ids.get(upload_id)
        if status_of is None and world.buckets_used > {world.bucket}:
            continue  # it may have been left behind when the settings led to another bucket, and named in the log then
        if status_of is None and world.redis_lost and (not parts or scenario.starts_over):
            continue  # it fits no file, or nothing tells whose it is: left to `cef-trio gc`, as the promise says
        if status_of is None or status_of is Status.COMPLETED:
            violations.append(f"P5: an open upload of {parts} parts was left that nobody knows")
        elif status_of in ENDED - _KEEPS_ITS_UPLOAD:
            violations.append(f"P5: a stream that ended as {status_of.value} left its upload open")
    return violations


def _identity(context: ScenarioContext, checkpoint: Checkpoint, objects: Mapping[str, bytes]) -> list[str]:
    key = checkpoint.meta.s3_key_prefix
    body = objects.get(key)
    if body is None:
        return [f"P1: stream {_short(checkpoint)} is completed, and S3 has no object"]
    violations = []
    if body not in context.versions:
        violations.append(f"P1: the object of stream {_short(checkpoint)} is nothing that its file ever was")
    elif not _serials(context.world, checkpoint) & context.versions[body]:
        violations.append(f"P1: the object of stream {_short(checkpoint)} is another file's")
    document = objects.get(metadata_key(key))
    if document is None:
        violations.append(f"P1: stream {_short(checkpoint)} is completed, and has no metadata")
    elif json.loads(document)["total_size_bytes"] != len(body):
        violations.append(f"P1: the metadata of stream {_short(checkpoint)} tells another size")
    return violations


def _serials(world: World, checkpoint: Checkpoint) -> set[int]:
    """The files that a stream can be of."""
    identity = checkpoint.meta.identity
    return {identity.generation} if identity.generation is not None else world.kernel.inodes.bearers(identity.file_ino)


def _webhook_violations(world: World, checkpoint: Checkpoint, objects: Mapping[str, bytes]) -> list[str]:
    """Whether a completed recording was never told of, or told wrongly."""
    if not world.webhook:
        return []
    document = objects.get(metadata_key(checkpoint.meta.s3_key_prefix))
    told = [one for one in world.receiver.received if one.stream_id == checkpoint.meta.stream_id]
    violations = []
    if not any(httpx.codes.is_success(one.status) for one in told):
        violations.append(f"P3: the webhook of stream {_short(checkpoint)} was never taken")
    if any(one.body != document for one in told):
        violations.append(f"P1: the webhook of stream {_short(checkpoint)} tells something else than its metadata")
    return violations


def _holds(world: World, checkpoint: Checkpoint, content: bytes) -> bool:
    """Whether S3 has that content where the record says."""
    objects = world.objects(checkpoint.meta.s3_bucket)
    return objects.get(checkpoint.meta.s3_key_prefix) == content


def _short(checkpoint: Checkpoint) -> str:
    return checkpoint.meta.stream_id[:8]
