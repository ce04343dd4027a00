"""S3 and Redis as they are outside: who answered, what passes, what is refused for a while, what is lost.

Each of these ends by itself, or is not in the way of what the daemon wants: so every recording must be in S3 in the
end, and no person must have been needed.
"""

from __future__ import annotations

from typing import Final

import trio

from cef_trio.checkpoint.redis.keys import Keys
from cef_trio.lab.journal import Lane
from cef_trio.lab.proxy import Interference, Rule
from cef_trio.lab.redis_faults import RedisFaults
from cef_trio.lab.scenario_context import ScenarioContext
from cef_trio.lab.scenarios.model import GONE, Scenario
from cef_trio.lab.scenarios.streams import interrupted
from cef_trio.lab.world import PART
from cef_trio.observability.at_risk import Reason
from cef_trio.s3_endpoint import Fault, Kind, Moment
from cef_trio.upload.risks import RiskObserver


async def _page_for_a_while(context: ScenarioContext, *operations: str, status: int, title: str) -> None:
    """An ingress answers some calls itself for eight seconds, in the middle of a recording and at its end."""
    context.append(2 * PART + 10)
    await trio.sleep(0.5)
    rules = [
        context.world.proxy.add(Rule(Interference.PAGE, operation, status=status, title=title))
        for operation in operations
    ]
    context.append(2 * PART)
    await trio.sleep(1)
    context.close()
    await trio.sleep(7)
    for rule in rules:
        context.world.proxy.remove(rule)
    await context.completes(within=330)


async def _page_404(context: ScenarioContext) -> None:
    operations = "UploadPart", "ListParts", "CompleteMultipartUpload", "HeadBucket", "HeadObject"
    await _page_for_a_while(context, *operations, status=404, title="404 Not Found")


async def _page_403(context: ScenarioContext) -> None:
    await _page_for_a_while(context, "*", status=403, title="403 Forbidden")


async def _page_413(context: ScenarioContext) -> None:
    await _page_for_a_while(context, "UploadPart", status=413, title="413 Request Entity Too Large")


async def _page_200(context: ScenarioContext) -> None:
    operations = "UploadPart", "CompleteMultipartUpload", "CreateMultipartUpload", "ListParts"
    await _page_for_a_while(context, *operations, status=200, title="Welcome to nginx!")


async def _refused_for_a_while(context: ScenarioContext) -> None:
    """S3 refuses everything for eight seconds: a policy that is being changed, a quota, a key that is rotated."""
    context.append(2 * PART + 10)
    await trio.sleep(0.5)
    refused = context.refuse("*", "AccessDenied")
    context.append(2 * PART)
    await trio.sleep(1)
    context.close()
    await trio.sleep(7)
    context.world.endpoint.faults.disarm(refused)
    await context.completes(within=330)


async def _part_lost(context: ScenarioContext) -> None:
    """The store loses a part that it has acknowledged."""
    context.append(3 * PART + 10)
    await trio.sleep(0.5)
    context.lose_part(2)
    context.close()
    await context.completes(within=120)


async def _no_uploads_listed(context: ScenarioContext) -> None:
    """ListMultipartUploads fails, and all else is fine."""
    context.arm(Fault(Kind.ERROR, "ListMultipartUploads", times=None, code="InternalError"))
    context.append(2 * PART + 10)
    await trio.sleep(0.5)
    context.close()
    await context.completes(within=200)


async def _no_parts_listed(context: ScenarioContext) -> None:
    """ListParts is not implemented, and Redis is away for a moment, so that every stream comes back through it."""
    context.arm(Fault(Kind.ERROR, "ListParts", times=None, code="NotImplemented", status=501))
    context.append(2 * PART + 10)
    await trio.sleep(0.5)
    reset = context.arm(Fault(Kind.RESET, "UploadPart", times=None))
    context.append(2 * PART + 10)
    await trio.sleep(20)
    context.world.endpoint.faults.disarm(reset)
    context.close()
    await context.completes(within=330)


async def _late_request(context: ScenarioContext) -> None:
    """A part, and an upload's creation, take effect after who asked for them is gone."""
    context.world.proxy.add(Rule(Interference.LATE, "CreateMultipartUpload", times=1, seconds=3.0))
    context.world.proxy.add(Rule(Interference.LATE, "UploadPart", times=1, seconds=4.0))
    context.append(PART + 10)
    await trio.sleep(2)
    context.patch(5, b"patched meanwhile")
    await trio.sleep(0.5)
    context.close()
    await context.completes(within=60)
    await trio.sleep(5)


async def _late_creation(context: ScenarioContext) -> None:
    """An upload's creation takes effect when its stream has ended."""
    context.world.proxy.add(Rule(Interference.LATE, "CreateMultipartUpload", times=1, seconds=6.0))
    context.append(PART + 10)
    await trio.sleep(1.5)
    context.delete()
    await trio.sleep(6)


async def _stale_answers(context: ScenarioContext) -> None:
    """HEAD and listings answer as things stood a while ago, when completions are asked about."""
    context.arm(Fault(Kind.RESET, "CompleteMultipartUpload", Moment.REPLY))
    context.world.endpoint.model.complete_again = False
    context.arm(Fault(Kind.STALE_PARTS, "ListParts", times=5))
    rule = context.world.proxy.add(Rule(Interference.STALE, "HeadObject", times=3))
    context.append(3 * PART + 10)
    await trio.sleep(0.5)
    context.close()
    await trio.sleep(20)
    context.world.proxy.remove(rule)
    await context.completes(within=300)


async def _redis_silent(context: ScenarioContext) -> None:
    """Redis takes nothing for twenty seconds, then goes on as if nothing had been."""
    redis = RedisFaults(context.world)
    context.append(PART + 10)
    await trio.sleep(0.5)
    redis.silent.value = True
    context.append(2 * PART)
    await trio.sleep(20)
    redis.silent.value = False
    await trio.sleep(3)
    context.close()
    await context.completes(within=120)


async def _redis_fails_over(context: ScenarioContext) -> None:
    """Redis refuses writes and can be read; then a replica takes over that never had the last second."""
    redis = RedisFaults(context.world)
    context.append(PART + 10)
    await trio.sleep(0.5)
    replica = redis.keep()
    context.append(PART)
    await trio.sleep(0.3)
    daemon = context.daemon
    redis.turn_read_only()
    context.append(PART)
    await trio.sleep(31)
    if daemon is not None and daemon is context.daemon and daemon.accepts_events and not context.world.life.ended:
        _tell_flapping(context)
    redis.fail_over(replica)
    await trio.sleep(3)
    context.close()
    await context.completes(within=120)


async def _redis_set_back(context: ScenarioContext) -> None:
    """Redis loses that a recording was completed, and knows its stream as it was before."""
    context.append(2 * PART + 10)
    await trio.sleep(0.5)
    replica = context.world.store.snapshot()
    context.close()
    await context.completes(within=30)
    await trio.sleep(1)
    context.world.lose_redis(down_to=replica)
    context.append(PART + 10, "b.mp4")  # so that there are moments before anybody looks after the first one
    context.close("b.mp4")
    await trio.sleep(8)


def _tell_flapping(context: ScenarioContext) -> None:
    """An outage that was called over while what had failed still failed (promise P10)."""
    since = next(entry.began for entry in context.world.journal.entries if entry.text == "Redis refuses writes")
    ended = [
        entry
        for entry in context.world.journal.entries
        if entry.lane is Lane.DAEMON and entry.began >= since and entry.text.startswith("outage_ended")
    ]
    if ended:
        context.violations.append("P10: an outage of Redis was called over while it refused every write")


_YEAR_9999: Final = "Fri, 31 Dec 9999 23:59:59 GMT"


async def _clock_of_year_9999(context: ScenarioContext) -> None:
    """The store says that our clock is wrong, and that it is the year 9999."""
    skewed = "<Error><Code>RequestTimeTooSkewed</Code></Error>"
    rule = Rule(Interference.ANSWER, "*", status=403, headers={"date": _YEAR_9999}, body=skewed)
    context.append(PART // 2)
    await trio.sleep(0.5)
    context.world.proxy.add(rule)
    context.append(2 * PART)
    await trio.sleep(8)
    context.world.proxy.remove(rule)
    context.close()
    await context.completes(within=330)


async def _retry_after_year_9999(context: ScenarioContext) -> None:
    """The store asks for patience until the year 9999: of both parts' senders, and of the daemon that comes last."""
    busy = "<Error><Code>SlowDown</Code></Error>"
    rule = Rule(Interference.ANSWER, "UploadPart", 3, status=503, headers={"retry-after": _YEAR_9999}, body=busy)
    context.world.proxy.add(rule)
    context.append(2 * PART)
    await trio.sleep(0.5)
    context.close()
    await trio.sleep(5)


async def _listing_of_year_9999(context: ScenarioContext) -> None:
    """Somebody's upload was begun on a day that no calendar has; Redis forgets, so that uploads are looked for."""
    upload = (
        "<ListMultipartUploadsResult><Upload><Key>backup/a</Key><UploadId>1</UploadId>"
        "<Initiated>9999-12-31T23:59:59-23:59</Initiated></Upload></ListMultipartUploadsResult>"
    )
    rule = context.world.proxy.add(Rule(Interference.ANSWER, "ListMultipartUploads", status=200, body=upload))
    context.append(2 * PART)
    await trio.sleep(0.5)
    context.close()
    await context.completes(within=60)
    context.world.proxy.remove(rule)


async def _before_record_unreadable(context: ScenarioContext) -> None:
    """Of an open stream Redis has a record that cannot be read."""
    await interrupted(context)
    for known in context.world.known():
        context.world.store.spoil(Keys().meta(known.meta.stream_id))


async def _record_unreadable(context: ScenarioContext) -> None:
    """Others are recorded meanwhile; what is wrong is told; then a person mends the record."""
    daemon = context.daemon
    context.append(PART + 10, "b.mp4")
    await trio.sleep(0.5)
    context.close("b.mp4")
    await context.completes("b.mp4", within=30)
    await trio.sleep(60)
    if daemon is not None and daemon is context.daemon and daemon.accepts_events:
        risks = RiskObserver(daemon.services, daemon.supervisor)()
        if Reason.RECORD_UNREADABLE not in {risk.reason for risk in risks}:
            context.violations.append("P10: a recording whose record cannot be read is not named as at risk")
    for known in context.world.known():
        context.world.store.mend(Keys().meta(known.meta.stream_id))
    context.close()
    await context.completes(within=200)


SCENARIOS: Final = (
    Scenario("page-404", "an ingress answers 404 with a page, for a while", _page_404, bounded_bytes=True),
    Scenario("page-403", "a proxy answers everything with 403 and a page, for a while", _page_403),
    Scenario("page-413", "a proxy takes no body of that size, for a while", _page_413),
    Scenario("page-200", "something answers 200 with a page, for a while", _page_200),
    Scenario("access-denied-for-a-while", "S3 denies access for eight seconds", _refused_for_a_while),
    Scenario("part-lost", "the store loses an acknowledged part", _part_lost, starts_over=True),
    Scenario("list-uploads-fails", "ListMultipartUploads fails for good", _no_uploads_listed, faults_stay=True),
    Scenario("list-parts-unsupported", "ListParts is not implemented", _no_parts_listed, faults_stay=True),
    Scenario("late-requests", "requests take effect after their client is gone", _late_request, starts_over=True),
    Scenario("late-creation", "an upload is created after its stream's end", _late_creation, may_end=GONE),
    Scenario("date-in-year-9999", "S3's Date is absurd", _clock_of_year_9999),
    Scenario("retry-after-in-year-9999", "S3's Retry-After is absurd", _retry_after_year_9999, faults_stay=True),
    Scenario("initiated-in-year-9999", "an upload's Initiated is absurd", _listing_of_year_9999),
    Scenario(
        "record-unreadable",
        "one stream's record cannot be read, for a while",
        _record_unreadable,
        _before_record_unreadable,
    ),
    Scenario("stale-responses", "HEAD and listings answer as things were", _stale_answers),
    Scenario("redis-silent", "Redis is silent, and comes back", _redis_silent, redis_may_fail=True, redis_silent=True),
    Scenario(
        "redis-failover",
        "Redis refuses writes, and then knows less",
        _redis_fails_over,
        redis_may_fail=True,
        redis_silent=True,
    ),
    Scenario("redis-rolled-back", "Redis loses a completion, and not the stream", _redis_set_back, starts_over=True),
)
