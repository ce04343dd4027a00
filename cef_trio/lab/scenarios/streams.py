"""One recording and its servers: a part, a resume, errors, outages, names, the shutdown, what follows an upload."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from cef_trio.checkpoint.memory import Moment as RedisMoment
from cef_trio.checkpoint.states import Status
from cef_trio.lab.crash_simulation import CrashMoment, Life
from cef_trio.lab.scenario_context import ScenarioContext
from cef_trio.lab.scenarios.model import GONE, Scenario
from cef_trio.lab.world import PART, WorldDaemon
from cef_trio.s3_endpoint import Fault, Kind, Moment
from cef_trio.settings.after_upload import AfterUploadAction, AfterUploadRule


async def _first_part(context: ScenarioContext) -> None:
    context.append(300)
    await trio.sleep(0.2)
    context.append(PART)
    await trio.sleep(0.2)
    context.append(400)
    context.close()
    await trio.sleep(4)


async def _many_parts(context: ScenarioContext) -> None:
    # Each part takes a while, so that several are on their way, in every stage of it, at each moment.
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
    context.patch(5, b"patched")  # plain MP4 patches its head at the end
    context.patch(2 * PART - 3, b"across")
    context.close()
    await trio.sleep(1.0)
    context.patch(3 * PART, b"again, while it is verified")
    context.close()
    await trio.sleep(6)


async def _bytes_go_back(context: ScenarioContext) -> None:
    """A patched part is sent again, slowly; meanwhile the writer takes the patch back."""
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


async def _empty(context: ScenarioContext) -> None:
    context.touch()
    await trio.sleep(0.5)
    context.close()
    await trio.sleep(5)


async def _interrupted_recording(
    context: ScenarioContext, end: Callable[[WorldDaemon], None], life: Life | None = None
) -> None:
    """A daemon that had sent some parts, and was ended."""
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


async def interrupted(context: ScenarioContext) -> None:
    """A daemon that was stopped in the middle of a recording."""
    await _interrupted_recording(context, lambda daemon: daemon.shutdown.request())


async def _before_unrecorded(context: ScenarioContext) -> None:
    """Killed when S3 had taken the second part and nobody had heard of it."""
    dying = _DiesAtSecondPart()
    await _interrupted_recording(context, lambda _daemon: dying.end(), dying)


class _DiesAtSecondPart(Life):
    def begin_call(self, call: str) -> int:
        number = Life.begin_call(self, call)
        if call == "s3 UploadPart 2":
            self.dies_at = (number, CrashMoment.UNANSWERED)
        return number


class _DiesBeforeComplete(Life):
    def begin_call(self, call: str) -> int:
        number = Life.begin_call(self, call)
        if call == "s3 CompleteMultipartUpload":
            self.dies_at = (number, CrashMoment.BEFORE)
        return number


async def _before_verified(context: ScenarioContext) -> None:
    """Killed when the recording was verified, and S3 not yet asked to complete it."""
    dying = _DiesBeforeComplete()
    async with context.world.services(dying) as services, trio.open_nursery() as nursery:
        context.daemon = daemon = WorldDaemon(context.world, services)
        dying.on_end = nursery.cancel_scope.cancel
        nursery.start_soon(daemon.run)
        await trio.sleep(0.1)
        context.append(PART + 555)
        await trio.sleep(0.5)
        context.close()
        await trio.sleep(5)
        dying.end()
    context.daemon = None


async def _verified_then_grown(context: ScenarioContext) -> None:
    """What was verified is patched and grows, is uploaded on, and is deleted."""
    await trio.sleep(0.3)
    context.patch(286, b"patched")
    context.append(2 * PART)
    await trio.sleep(1)
    context.append(PART)
    await trio.sleep(0.5)
    context.delete()
    await trio.sleep(4)


async def _before_adoption(context: ScenarioContext) -> None:
    """Redis lost everything; S3 has the open upload and its parts."""
    await interrupted(context)
    context.world.lose_redis()


async def keeps_growing(context: ScenarioContext) -> None:
    """The recording grows on, and ends."""
    await trio.sleep(0.3)
    context.append(2 * PART)
    await trio.sleep(0.5)
    context.close()
    await trio.sleep(5)


async def _passing_errors(context: ScenarioContext) -> None:
    for operation in ("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "PutObject"):
        context.arm(Fault(Kind.ERROR, operation, code="InternalError"))
        context.arm(Fault(Kind.RESET, operation, Moment.REPLY, nth=2))
    context.world.endpoint.model.complete_again = False  # as Ceph and MinIO have it: NoSuchUpload after a success
    context.arm(Fault(Kind.ERROR, "UploadPart", nth=4, code="SlowDown", retry_after="1"))
    context.arm(Fault(Kind.RESET, "UploadPart", Moment.BODY, nth=5, after_bytes=300))
    context.append(3 * PART + 200)
    await trio.sleep(3)
    context.close()
    await trio.sleep(12)


async def _error_in_200(context: ScenarioContext) -> None:
    """Complete answers 200 with an error, having done nothing."""
    context.arm(Fault(Kind.ERROR_IN_200, "CompleteMultipartUpload", code="InternalError"))
    context.append(2 * PART + 200)
    await trio.sleep(0.5)
    context.close()
    await trio.sleep(8)


async def _damaged(context: ScenarioContext) -> None:
    """S3 stores other bytes than it was sent, and says so by the checksum it answers with; and a cut-off Complete."""
    context.arm(Fault(Kind.DAMAGE, "UploadPart", nth=2))
    context.arm(Fault(Kind.TRUNCATE, "CompleteMultipartUpload", Moment.REPLY))
    context.append(2 * PART + 200)
    await trio.sleep(0.5)
    context.close()
    await trio.sleep(8)


async def _foreign_object(context: ScenarioContext) -> None:
    """A lifecycle rule aborts our upload, and somebody puts an object of their own under our key."""
    context.append(3 * PART)
    await trio.sleep(0.5)
    for key in await context.world.abort_open_uploads():
        await context.world.put_foreign(key)
    context.close()
    await trio.sleep(8)


async def _refused(context: ScenarioContext) -> None:
    context.arm(Fault(Kind.ERROR, "UploadPart", nth=2, times=None, code="AccessDenied"))
    context.append(3 * PART)
    await trio.sleep(1)
    context.close()
    await trio.sleep(3)


async def _outage(context: ScenarioContext) -> None:
    context.append(PART + 10)
    await trio.sleep(0.3)
    armed = context.arm(Fault(Kind.RESET, "*", times=None))
    context.append(2 * PART)
    await trio.sleep(20)
    context.world.endpoint.faults.disarm(armed)
    await trio.sleep(15)
    context.close()
    await trio.sleep(5)


async def _redis_stumbles(context: ScenarioContext) -> None:
    """Redis is slow to answer three calls: each has had its effect, and its answer is lost."""
    stumbles = {5, 9, 14}
    calls = 0

    async def stumble(operation: str, moment: RedisMoment) -> None:
        nonlocal calls
        # Last words are tried once: what a Redis that is silent then costs is another scenario's story.
        if moment is RedisMoment.AFTER and operation != "save_interrupted":
            calls += 1
            if calls in stumbles:
                await trio.sleep(5)

    context.world.store.fault = stumble
    context.append(3 * PART)
    await trio.sleep(4)
    context.close()
    await trio.sleep(8)


async def _redis_frozen(context: ScenarioContext) -> None:
    context.append(2 * PART + 10)
    await trio.sleep(0.5)

    async def freeze(_operation: str, moment: RedisMoment) -> None:
        if moment is RedisMoment.SENT:
            await trio.sleep(3600)  # an end there must be, so that a daemon that waits for it can be told so

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


async def _replaced_unheard(context: ScenarioContext) -> None:
    """Another file takes the name just before the recording is read to be verified; there is no news of that yet."""
    context.append(2 * PART + 10)
    await trio.sleep(0.5)
    context.close()
    await trio.sleep(0.99)
    context.replace(4 * PART, reported=False)
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


async def _lease_lost(context: ScenarioContext) -> None:
    """Redis forgets under the daemon's hands: its lease is gone with everything else."""
    context.append(2 * PART + 10)
    await trio.sleep(0.5)
    context.world.lose_redis()
    context.append(PART)
    await trio.sleep(3)
    context.close()
    await trio.sleep(12)


async def _before_partition(context: ScenarioContext) -> None:
    """A daemon on another machine was cut off in the middle of a part, its stream's lease in its hands."""
    context.daemon = await context.start_other()
    context.arm(Fault(Kind.SLOW, "UploadPart", Moment.REPLY, nth=4, seconds=0.2))
    context.append(3 * PART)
    await trio.sleep(0.5)
    context.append(2 * PART)
    await trio.sleep(0.1)
    context.other_life.cut_off.value = True
    context.daemon = None


async def _partitioned(context: ScenarioContext) -> None:
    """It is taken for dead after its lease, and comes back when its stream has another owner, or is done."""
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


async def _before_deleting(context: ScenarioContext) -> None:
    context.world.after_upload = AfterUploadRule(AfterUploadAction.DELETE)
    # The object is asked for slowly, so that a writer has time to come between the question and the deletion.
    context.arm(Fault(Kind.SLOW, "HeadObject", Moment.REPLY, times=None, seconds=1.5))
    await trio.lowlevel.checkpoint()


async def _deleted_after_upload(context: ScenarioContext) -> None:
    """Two recordings; they are written again just when the first of them is to be deleted."""
    context.append(PART + 10, "a.mp4")
    context.touch("b.mp4")
    await trio.sleep(0.5)
    context.close_all()
    await trio.sleep(2.7)
    for name in context.names():
        context.patch(3, b"once more", name)
        context.close(name)  # so that no lease tells of it
    await trio.sleep(1)
    context.close_all()
    await trio.sleep(9)


async def _before_webhook(context: ScenarioContext) -> None:
    context.world.webhook = True
    context.world.receiver.answers.extend([500, 0])
    await trio.lowlevel.checkpoint()


async def _webhook(context: ScenarioContext) -> None:
    """The receiver fails, then is silent, then takes it."""
    context.append(PART + 10)
    await trio.sleep(0.5)
    context.close()
    await trio.sleep(30)


SCENARIOS: Final = (
    Scenario("first-part", "a recording begins, its first part fills up, it ends", _first_part),
    Scenario("many-parts", "three recordings, four parts on their way at each moment", _many_parts),
    Scenario("finalizing", "a recording is verified, completed, probed; its metadata is written", _finalizing),
    Scenario("rewrites", "the writer patches parts that were sent, until the last moment", _rewrites),
    Scenario("patch-reverted", "a part is patched, sent again, and the patch taken back", _bytes_go_back),
    Scenario("empty", "an empty recording becomes a plain object", _empty),
    Scenario("resume", "a daemon that was stopped comes back, the recording still growing", keeps_growing, interrupted),
    Scenario(
        "unrecorded-part",
        "a daemon that was killed between S3's effect and its answer comes back",
        keeps_growing,
        _before_unrecorded,
    ),
    Scenario(
        "verified-then-grown",
        "killed before Complete; then the recording is patched, grows, and is deleted",
        _verified_then_grown,
        _before_verified,
        may_end=GONE,
    ),
    Scenario("adoption", "Redis lost everything; S3 has the open upload", keeps_growing, _before_adoption),
    Scenario("transient-errors", "every kind of call fails once before and once after its effect", _passing_errors),
    Scenario("error-in-200", "Complete answers 200, and an error in the body", _error_in_200),
    Scenario("damaged-part", "S3 stores other bytes than it was sent, and Complete's answer is cut off", _damaged),
    Scenario(
        "foreign-object",
        "our upload is aborted, and another object put under its key",
        _foreign_object,
        starts_over=True,
    ),
    Scenario(
        "access-denied",
        "S3 denies access for good",
        _refused,
        may_end=frozenset({Status.FAILED_ACCESS_DENIED}),
        faults_stay=True,
    ),
    Scenario("s3-outage", "S3 is gone for twenty seconds", _outage),
    Scenario(
        "redis-responses-lost",
        "Redis has done what it was asked, and its answer is lost",
        _redis_stumbles,
        redis_may_fail=True,
    ),
    Scenario("redis-frozen", "Redis accepts and never answers", _redis_frozen, redis_may_fail=True, redis_silent=True),
    Scenario("s3-frozen", "S3 stops reading in the middle of parts", _s3_frozen),
    Scenario("deleted", "the recording is deleted while it is uploaded", _deleted, may_end=GONE),
    Scenario("truncated", "the writer cuts the recording off and starts over", _truncated, starts_over=True),
    Scenario(
        "replaced",
        "another file takes the recording's name",
        _replaced,
        may_end=GONE | {Status.FAILED_FILE_REPLACED},
    ),
    Scenario(
        "replaced-without-event",
        "another file takes the recording's name just before it is verified",
        _replaced_unheard,
        may_end=GONE | {Status.FAILED_FILE_REPLACED},
    ),
    Scenario("renamed", "the recording gets another name while it is uploaded", _renamed),
    Scenario("shutdown", "the first signal, with parts of three recordings on their way", _shutdown),
    Scenario(
        "partition",
        "a daemon that was cut off past its lease comes back while another works on its stream",
        _partitioned,
        _before_partition,
    ),
    Scenario(
        "deleted-after-upload",
        "AFTER_UPLOAD=delete, and a writer that comes back at the last moment",
        _deleted_after_upload,
        _before_deleting,
        writes_again=True,
    ),
    Scenario("webhook", "a completed recording is told to a receiver that fails at first", _webhook, _before_webhook),
    Scenario("redis-data-lost", "Redis loses everything under the daemon's hands", _lease_lost),
)
