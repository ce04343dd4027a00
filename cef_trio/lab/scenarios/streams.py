"""Scenarios of one recording and its servers: parts, resume, errors, outages, renames, shutdown, after-upload."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import trio

from cef_trio.checkpoint.memory import Moment as RedisMoment
from cef_trio.checkpoint.states import Status
from cef_trio.lab.crash_simulation import CrashMoment, Life
from cef_trio.lab.redis_faults import lose_responses
from cef_trio.lab.scenario_context import ScenarioContext
from cef_trio.lab.scenarios.model import GONE, Scenario
from cef_trio.lab.world import PART, WorldDaemon
from cef_trio.s3_endpoint import Fault, Kind, Moment
from cef_trio.settings.after_upload import KEEP_RECORDING, AfterUploadAction, AfterUploadRule, MinFreeSpace


async def _first_part(context: ScenarioContext) -> None:
    context.append(300)
    await trio.sleep(0.2)
    context.append(PART)
    await trio.sleep(0.2)
    context.append(400)
    context.close()
    await trio.sleep(4)


async def _many_parts(context: ScenarioContext) -> None:
    # Slow parts, so that several are in flight, each at another stage, at every moment.
    context.arm(Fault(Kind.SLOW, "UploadPart", Moment.BODY, times=None, seconds=0.15))
    context.arm(Fault(Kind.SLOW, "UploadPart", Moment.REPLY, times=None, seconds=0.1))
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        context.append(4 * PART, name)
    await trio.sleep(0.3)
    context.append(2 * PART + 100, "a.mp4")
    context.close_all()
    await trio.sleep(8)


async def _finalizing(context: ScenarioContext) -> None:
    context.append(2 * PART + 123)
    await trio.sleep(0.5)
    context.close()
    await trio.sleep(4)


async def _rewrites(context: ScenarioContext) -> None:
    context.append(3 * PART + 100)
    await trio.sleep(0.5)
    context.append(2 * PART)
    await trio.sleep(0.5)
    context.patch(5, b"patched")  # plain MP4 has its header written at the end
    context.patch(2 * PART - 3, b"across")
    context.close()
    await trio.sleep(1.0)
    context.patch(3 * PART, b"again, while it is verified")
    context.close()
    await trio.sleep(6)


async def _patch_reverted(context: ScenarioContext) -> None:
    """A patched part is sent again, slowly; meanwhile the writer reverts the patch."""
    context.append(3 * PART)
    await trio.sleep(0.5)
    before = context.world.content()[5:12]
    context.arm(Fault(Kind.SLOW, "UploadPart", Moment.REPLY, times=None, seconds=0.5))
    context.patch(5, b"patched")
    context.close()
    await trio.sleep(1.2)
    context.patch(5, before)
    context.close()
    await trio.sleep(8)


async def _empty_recording(context: ScenarioContext) -> None:
    context.touch()
    await trio.sleep(0.5)
    context.close()
    await trio.sleep(5)


async def _small(context: ScenarioContext) -> None:
    """It grows below the size of a part, and is renamed before it is closed."""
    context.append(300)
    await trio.sleep(0.3)
    context.rename("a.mp4", "b.mp4")
    context.append(400, "b.mp4")
    context.close("b.mp4")
    await trio.sleep(5)


async def _small_lost(context: ScenarioContext) -> None:
    """PutObject is refused for a moment; then its response is lost after its effect."""
    context.arm(Fault(Kind.ERROR, "PutObject", code="ServiceUnavailable"))
    context.arm(Fault(Kind.RESET, "PutObject", Moment.REPLY, nth=2))
    context.append(600)
    await trio.sleep(0.3)
    context.close()
    await trio.sleep(12)


async def _small_damaged(context: ScenarioContext) -> None:
    """S3 stores damaged bytes and returns their checksum."""
    context.arm(Fault(Kind.DAMAGE, "PutObject"))
    context.append(600)
    await trio.sleep(0.3)
    context.close()
    await trio.sleep(8)


async def _slow_redis(context: ScenarioContext) -> None:
    async def slow(operation: str, moment: RedisMoment) -> None:
        if operation == "update" and moment is RedisMoment.SENT:
            await trio.sleep(0.4)

    context.world.store.fault = slow
    await trio.lowlevel.checkpoint()


async def _small_changed(context: ScenarioContext) -> None:
    """It is patched after its verification, before it is sent; it is sent patched, and then grows beyond a part."""
    context.append(600)
    await trio.sleep(0.3)
    context.close()
    await trio.sleep(1.3)
    context.patch(5, b"patched")
    context.close()
    await trio.sleep(4)
    context.append(2 * PART)
    context.close()
    await trio.sleep(10)


async def _crashed_in_put(context: ScenarioContext) -> None:
    """Run a daemon that crashes after S3 stored a small recording and before its response arrives."""
    life = _CrashesIn(crash_call="s3 PutObject", crash_moment=CrashMoment.UNANSWERED)
    async with context.world.services(life) as services, trio.open_nursery() as nursery:
        context.daemon = daemon = WorldDaemon(context.world, services)
        life.on_end = nursery.cancel_scope.cancel
        nursery.start_soon(daemon.run)
        await trio.sleep(0.1)
        context.append(555)
        await trio.sleep(0.5)
        context.close()
        await trio.sleep(5)
        life.end()
    context.daemon = None


async def _put_then_deleted(context: ScenarioContext) -> None:
    """The recording is deleted before a daemon looks for its object."""
    context.delete()
    await trio.sleep(4)


async def _put_then_grown(context: ScenarioContext) -> None:
    """The recording grows beyond a part before its object is recorded, and is deleted."""
    context.append(2 * PART)
    await trio.sleep(2)
    context.delete()
    await trio.sleep(4)


async def _run_daemon_until(
    context: ScenarioContext, end: Callable[[WorldDaemon], None], life: Life | None = None
) -> None:
    """Run a daemon until it has sent some parts; then end it."""
    async with context.world.services(life) as services, trio.open_nursery() as nursery:
        context.daemon = daemon = WorldDaemon(context.world, services)
        if life is not None:
            life.on_end = nursery.cancel_scope.cancel
        nursery.start_soon(daemon.run)
        await trio.sleep(0.1)
        context.append(3 * PART + 500)
        await trio.sleep(0.5)
        end(daemon)
    context.daemon = None


async def interrupted_recording(context: ScenarioContext) -> None:
    """Run a daemon, and stop it in the middle of a recording."""
    await _run_daemon_until(context, lambda daemon: daemon.shutdown.request())


async def _crashed_with_unrecorded_part(context: ScenarioContext) -> None:
    """Run a daemon that crashes after S3 stored the second part and before its response arrives."""
    life = _CrashesIn(crash_call="s3 UploadPart 2", crash_moment=CrashMoment.UNANSWERED)
    await _run_daemon_until(context, lambda _daemon: life.end(), life)


@dataclass(slots=True)
class _CrashesIn(Life):
    """A process that crashes in calls of one name."""

    crash_call: str = ""
    crash_moment: CrashMoment = CrashMoment.BEFORE

    def begin_call(self, call: str) -> int:
        number = Life.begin_call(self, call)
        if call == self.crash_call:
            self.dies_at = (number, self.crash_moment)
        return number


async def _crashed_before_complete(context: ScenarioContext) -> None:
    """Run a daemon that crashes after the verification, before CompleteMultipartUpload."""
    life = _CrashesIn(crash_call="s3 CompleteMultipartUpload")
    async with context.world.services(life) as services, trio.open_nursery() as nursery:
        context.daemon = daemon = WorldDaemon(context.world, services)
        life.on_end = nursery.cancel_scope.cancel
        nursery.start_soon(daemon.run)
        await trio.sleep(0.1)
        context.append(PART + 555)
        await trio.sleep(0.5)
        context.close()
        await trio.sleep(5)
        life.end()
    context.daemon = None


async def _verified_then_grown(context: ScenarioContext) -> None:
    """A verified recording is patched, grows, is uploaded further, and is deleted."""
    await trio.sleep(0.3)
    context.patch(286, b"patched")
    context.append(2 * PART)
    await trio.sleep(1)
    context.append(PART)
    await trio.sleep(0.5)
    context.delete()
    await trio.sleep(4)


async def _redis_lost_with_open_upload(context: ScenarioContext) -> None:
    """Stop a daemon in the middle of a recording; then Redis loses everything, and S3 has the open upload."""
    await interrupted_recording(context)
    context.world.lose_redis()


async def recording_continues(context: ScenarioContext) -> None:
    """The recording grows further, and is closed."""
    await trio.sleep(0.3)
    context.append(2 * PART)
    await trio.sleep(0.5)
    context.close()
    await trio.sleep(5)


async def _transient_errors(context: ScenarioContext) -> None:
    for operation in ("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "PutObject"):
        context.arm(Fault(Kind.ERROR, operation, code="InternalError"))
        context.arm(Fault(Kind.RESET, operation, Moment.REPLY, nth=2))
    context.world.endpoint.model.complete_again = False  # NoSuchUpload after a success, as of Ceph and MinIO
    context.arm(Fault(Kind.ERROR, "UploadPart", nth=4, code="SlowDown", retry_after="1"))
    context.arm(Fault(Kind.RESET, "UploadPart", Moment.BODY, nth=5, after_bytes=300))
    context.append(3 * PART + 200)
    await trio.sleep(3)
    context.close()
    await trio.sleep(12)


async def _error_in_200(context: ScenarioContext) -> None:
    """CompleteMultipartUpload has no effect, and returns 200 with an error in its body."""
    context.arm(Fault(Kind.ERROR_IN_200, "CompleteMultipartUpload", code="InternalError"))
    context.append(2 * PART + 200)
    await trio.sleep(0.5)
    context.close()
    await trio.sleep(8)


async def _damaged_part(context: ScenarioContext) -> None:
    """S3 stores damaged bytes and returns their checksum; the response of CompleteMultipartUpload is truncated."""
    context.arm(Fault(Kind.DAMAGE, "UploadPart", nth=2))
    context.arm(Fault(Kind.TRUNCATE, "CompleteMultipartUpload", Moment.REPLY))
    context.append(2 * PART + 200)
    await trio.sleep(0.5)
    context.close()
    await trio.sleep(8)


async def _foreign_object(context: ScenarioContext) -> None:
    """A lifecycle rule aborts the upload, and another program puts an object under its key."""
    context.append(3 * PART)
    await trio.sleep(0.5)
    for key in await context.world.abort_open_uploads():
        await context.world.put_foreign(key)
    context.close()
    await trio.sleep(8)


async def _access_denied(context: ScenarioContext) -> None:
    """Of this recording alone: denied to every one, it is an outage."""
    context.arm(
        Fault(
            Kind.ERROR,
            "UploadPart",
            nth=2,
            times=None,
            code="AccessDenied",
            predicate=lambda call: (call.key or "").endswith("/a.mp4"),
        )
    )
    context.append(3 * PART)
    await trio.sleep(1)
    context.close()
    await trio.sleep(3)


async def _s3_outage(context: ScenarioContext) -> None:
    context.append(PART + 10)
    await trio.sleep(0.3)
    armed = context.arm(Fault(Kind.RESET, "*", times=None))
    context.append(2 * PART)
    await trio.sleep(20)
    context.world.endpoint.faults.disarm(armed)
    await trio.sleep(15)
    context.close()
    await trio.sleep(5)


async def _redis_responses_lost(context: ScenarioContext) -> None:
    """Three calls to Redis take effect, and their responses are lost."""
    context.world.store.fault = lose_responses({5, 9, 14}, context.hits)
    context.append(3 * PART)
    await trio.sleep(4)
    context.close()
    await trio.sleep(8)


async def _redis_frozen(context: ScenarioContext) -> None:
    context.append(2 * PART + 10)
    await trio.sleep(0.5)

    async def freeze(_operation: str, moment: RedisMoment) -> None:
        if moment is RedisMoment.SENT:
            await trio.sleep(3600)  # finite, so that a daemon that waits for it ends and is reported

    context.world.store.fault = freeze
    context.append(2 * PART)
    await trio.sleep(8)


async def _s3_frozen(context: ScenarioContext) -> None:
    context.append(PART)
    await trio.sleep(0.5)
    context.arm(Fault(Kind.FREEZE, "UploadPart", Moment.BODY, times=None))
    context.append(4 * PART)
    await trio.sleep(8)


async def _deleted(context: ScenarioContext) -> None:
    context.append(2 * PART)
    await trio.sleep(0.5)
    context.delete()
    await trio.sleep(4)


async def _truncated(context: ScenarioContext) -> None:
    context.append(3 * PART)
    await trio.sleep(0.5)
    context.truncate(PART // 2)
    await trio.sleep(1)
    context.append(2 * PART)
    await trio.sleep(0.5)
    context.close()
    await trio.sleep(5)


async def _replaced(context: ScenarioContext) -> None:
    context.append(2 * PART + 10)
    await trio.sleep(0.5)
    context.replace(PART + 300)
    await trio.sleep(3)
    context.close()
    await trio.sleep(5)


async def _replaced_without_event(context: ScenarioContext) -> None:
    """Another file replaces the recording just before its verification, without an inotify event.

    A third one replaces that one: a stream whose object has the bytes of the file at its path takes its identity.
    """
    context.append(2 * PART + 10)
    await trio.sleep(0.5)
    context.close()
    await trio.sleep(0.99)
    context.replace(4 * PART, reported=False)
    await trio.sleep(1)
    context.replace(PART + 300)
    await trio.sleep(1)
    context.close()
    await trio.sleep(8)


async def _renamed(context: ScenarioContext) -> None:
    context.append(2 * PART + 10)
    await trio.sleep(0.5)
    context.rename("a.mp4", "b.mp4")
    context.append(PART, "b.mp4")
    await trio.sleep(0.5)
    context.close("b.mp4")
    await trio.sleep(5)


async def _shutdown(context: ScenarioContext) -> None:
    context.arm(Fault(Kind.SLOW, "UploadPart", Moment.REPLY, times=None, seconds=0.3))
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        context.append(3 * PART, name)
    await trio.sleep(0.4)
    if context.daemon is not None and context.daemon.shutdown.signals == 0:
        context.daemon.shutdown.request()
    await trio.sleep(8)


async def _redis_data_lost(context: ScenarioContext) -> None:
    """Redis loses everything, including the lease, while the daemon uploads."""
    context.append(2 * PART + 10)
    await trio.sleep(0.5)
    context.world.lose_redis()
    context.append(PART)
    await trio.sleep(3)
    context.close()
    await trio.sleep(12)


async def _partition_other_daemon(context: ScenarioContext) -> None:
    """A daemon on another machine holds the stream's lease, and is cut off in the middle of a part."""
    context.daemon = await context.start_other()
    context.arm(Fault(Kind.SLOW, "UploadPart", Moment.REPLY, nth=4, seconds=0.2))
    context.append(3 * PART)
    await trio.sleep(0.5)
    context.append(2 * PART)
    await trio.sleep(0.1)
    context.other_life.cut_off.value = True
    context.daemon = None


async def _partitioned(context: ScenarioContext) -> None:
    """Its lease expires; it is connected again when its stream has another owner, or is completed."""
    await trio.sleep(36)
    context.append(PART)
    await trio.sleep(0.2)
    context.patch(10, b"patched")
    context.other_life.cut_off.value = False
    await trio.sleep(0.3)
    context.append(PART + 7)
    await trio.sleep(0.5)
    context.close()
    await trio.sleep(12)
    context.end_other()


async def _delete_after_upload(context: ScenarioContext) -> None:
    context.world.after_upload = AfterUploadRule(AfterUploadAction.DELETE)
    # A slow HeadObject gives the writer time to write between the check and the deletion.
    context.arm(Fault(Kind.SLOW, "HeadObject", Moment.REPLY, times=None, seconds=1.5))
    await trio.lowlevel.checkpoint()


async def _deleted_after_upload(context: ScenarioContext) -> None:
    """Two recordings are written again just before the first of them is deleted."""
    context.append(PART + 10, "a.mp4")
    context.touch("b.mp4")
    await trio.sleep(0.5)
    context.close_all()
    await trio.sleep(2.7)
    for name in context.names():
        context.patch(3, b"once more", name)
        context.close(name)  # so that no read lease detects it
    await trio.sleep(1)
    context.close_all()
    await trio.sleep(9)


def _watch_space(context: ScenarioContext, *, frees: bool = True) -> None:
    """Half of the disk is to be free, which it is at first."""
    context.world.after_upload = replace(KEEP_RECORDING, min_free=MinFreeSpace(percent=50))
    context.world.disk_bytes = 1 << 30
    context.world.frees_space = frees


def _run_short(context: ScenarioContext) -> None:
    """Use nearly the whole disk by the recordings."""
    context.world.disk_bytes = context.world.used_bytes() * 10 // 9


async def _short_of_space(context: ScenarioContext) -> None:
    _watch_space(context)
    context.arm(Fault(Kind.SLOW, "HeadObject", Moment.REPLY, times=None, seconds=1.5))
    await trio.lowlevel.checkpoint()


async def _written_when_short(context: ScenarioContext) -> None:
    """The disk is short of space; its recordings are written again while S3 is asked for their objects."""
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        context.append(PART + 10, name)
        await trio.sleep(0.5)
        context.close(name)
    await trio.sleep(6)
    calls = context.world.endpoint.log.calls
    asked = calls["HeadObject"]
    _run_short(context)
    for _ in range(150):
        if calls["HeadObject"] > asked:
            break
        await trio.sleep(0.1)
    await trio.sleep(1.2)  # too late to be uploaded before the deletion
    for name in context.names():
        context.patch(3, b"once more", name)
        context.close(name)  # so that no read lease detects it
    await trio.sleep(30)


async def _short_under_snapshots(context: ScenarioContext) -> None:
    _watch_space(context, frees=False)
    await trio.lowlevel.checkpoint()


async def _deletions_free_nothing(context: ScenarioContext) -> None:
    for number in range(6):
        context.append(PART, f"{number}.mp4")
        context.close(f"{number}.mp4")
    await trio.sleep(5)
    _run_short(context)
    await trio.sleep(90)


def _one_a_daemon(context: ScenarioContext) -> list[str]:
    gone = 6 - len(context.names())
    return [f"P7: {gone} recordings were deleted, and freed nothing"] if gone > context.world.daemons_started else []


async def _use_webhook(context: ScenarioContext) -> None:
    context.world.webhook = True
    context.world.receiver.statuses.extend([500, 0])
    await trio.lowlevel.checkpoint()


async def _webhook(context: ScenarioContext) -> None:
    """The receiver returns an error, then nothing, then acknowledges."""
    context.append(PART + 10)
    await trio.sleep(0.5)
    context.close()
    await trio.sleep(30)


SCENARIOS: Final = (
    Scenario("first-part", "a recording starts, fills its first part, and is closed", _first_part),
    Scenario("many-parts", "three recordings, with four parts in flight at each moment", _many_parts),
    Scenario("finalizing", "a recording is verified, completed, probed; its metadata is written", _finalizing),
    Scenario("rewrites", "the writer patches sent parts, also during the verification", _rewrites),
    Scenario("patch-reverted", "a part is patched, sent again, and the patch is reverted", _patch_reverted),
    Scenario("empty", "an empty recording becomes a plain object", _empty_recording),
    Scenario("small", "a recording that is smaller than a part becomes an object by one PutObject", _small),
    Scenario("small-lost", "PutObject fails, then its response is lost", _small_lost),
    Scenario("small-damaged", "S3 stores a damaged recording", _small_damaged),
    Scenario(
        "small-changed",
        "a small recording changes between its verification and its PutObject",
        _small_changed,
        _slow_redis,
        writes_again=True,
    ),
    Scenario(
        "small-unrecorded",
        "a crash between the effect and the response of PutObject; then the recording is deleted",
        _put_then_deleted,
        _crashed_in_put,
        may_end=GONE,
    ),
    Scenario(
        "small-grown",
        "a crash between the effect and the response of PutObject; then the recording grows, and is deleted",
        _put_then_grown,
        _crashed_in_put,
        may_end=GONE,
        writes_again=True,
    ),
    Scenario(
        "resume",
        "a daemon restarts while the recording grows",
        recording_continues,
        interrupted_recording,
    ),
    Scenario(
        "unrecorded-part",
        "a daemon restarts after a crash between the effect and the response of UploadPart",
        recording_continues,
        _crashed_with_unrecorded_part,
    ),
    Scenario(
        "verified-then-grown",
        "a crash before CompleteMultipartUpload; then the recording is patched, grows, and is deleted",
        _verified_then_grown,
        _crashed_before_complete,
        may_end=GONE,
    ),
    Scenario(
        "adoption", "Redis lost everything; S3 has the open upload", recording_continues, _redis_lost_with_open_upload
    ),
    Scenario("transient-errors", "every kind of call fails once before and once after its effect", _transient_errors),
    Scenario("error-in-200", "CompleteMultipartUpload returns 200 with an error in the body", _error_in_200),
    Scenario("damaged-part", "S3 stores a damaged part; the response of Complete is truncated", _damaged_part),
    Scenario(
        "foreign-object",
        "the upload is aborted, and another program puts an object under its key",
        _foreign_object,
        starts_over=True,
    ),
    Scenario(
        "access-denied",
        "S3 denies access permanently",
        _access_denied,
        may_end=frozenset({Status.FAILED_ACCESS_DENIED}),
        faults_stay=True,
    ),
    Scenario("s3-outage", "S3 is down for twenty seconds", _s3_outage),
    Scenario(
        "redis-responses-lost",
        "responses of Redis are lost after their effect",
        _redis_responses_lost,
        redis_may_fail=True,
    ),
    Scenario(
        "redis-frozen",
        "Redis accepts connections and never responds",
        _redis_frozen,
        redis_may_fail=True,
        redis_silent=True,
    ),
    Scenario("s3-frozen", "S3 stops reading in the middle of parts", _s3_frozen),
    Scenario("deleted", "the recording is deleted while it is uploaded", _deleted, may_end=GONE),
    Scenario("truncated", "the writer truncates the recording and starts over", _truncated, starts_over=True),
    Scenario(
        "replaced",
        "another file replaces the recording",
        _replaced,
        may_end=GONE | {Status.FAILED_FILE_REPLACED},
    ),
    Scenario(
        "replaced-without-event",
        "another file replaces the recording just before its verification, without an event",
        _replaced_without_event,
        may_end=GONE | {Status.FAILED_FILE_REPLACED},
    ),
    Scenario("renamed", "the recording is renamed while it is uploaded", _renamed),
    Scenario("shutdown", "the first signal, with parts of three recordings in flight", _shutdown),
    Scenario(
        "partition",
        "a daemon is cut off until its lease has expired, and returns while another works on its stream",
        _partitioned,
        _partition_other_daemon,
    ),
    Scenario(
        "deleted-after-upload",
        "AFTER_UPLOAD=delete, and a writer that writes again just before the deletion",
        _deleted_after_upload,
        _delete_after_upload,
        writes_again=True,
    ),
    Scenario(
        "short-of-space",
        "MIN_FREE_SPACE, a disk that is nearly full, and a writer that writes again just before the deletions",
        _written_when_short,
        _short_of_space,
        writes_again=True,
    ),
    Scenario(
        "space-not-freed",
        "MIN_FREE_SPACE, and a disk whose snapshots keep what is deleted",
        _deletions_free_nothing,
        _short_under_snapshots,
        check_unharmed=_one_a_daemon,
    ),
    Scenario("webhook", "the webhook receiver fails at first", _webhook, _use_webhook),
    Scenario("redis-data-lost", "Redis loses everything while the daemon uploads", _redis_data_lost),
)
