"""Scenarios of S3 and Redis: proxies, refusals, lost data, late and stale responses, absurd dates, failovers.

Each fault ends by itself, or affects only optional calls. So every recording must be in S3 at the end, without an
operator.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import trio

from cef_trio.checkpoint import schema
from cef_trio.checkpoint.redis.keys import Keys
from cef_trio.lab.journal import Lane
from cef_trio.lab.proxy import Interference, Rule
from cef_trio.lab.redis_faults import RedisFaults
from cef_trio.lab.scenario_context import ScenarioContext, no_probe
from cef_trio.lab.scenarios.model import GONE, Scenario
from cef_trio.lab.scenarios.streams import interrupted_recording
from cef_trio.lab.world import PART
from cef_trio.observability.at_risk import Reason
from cef_trio.s3_endpoint import Fault, Kind, Moment
from cef_trio.upload.risks import RiskObserver


async def _proxy_page(context: ScenarioContext, *operations: str, status: int, title: str) -> None:
    """A proxy returns a page for some calls for eight seconds, in the middle of a recording and at its end."""
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
    await _proxy_page(context, *operations, status=404, title="404 Not Found")


async def _page_403(context: ScenarioContext) -> None:
    await _proxy_page(context, "*", status=403, title="403 Forbidden")


async def _page_413(context: ScenarioContext) -> None:
    await _proxy_page(context, "UploadPart", status=413, title="413 Request Entity Too Large")


async def _page_200(context: ScenarioContext) -> None:
    operations = "UploadPart", "CompleteMultipartUpload", "CreateMultipartUpload", "ListParts"
    await _proxy_page(context, *operations, status=200, title="Welcome to nginx!")


async def _access_denied_for_a_while(context: ScenarioContext) -> None:
    """S3 refuses every call for eight seconds, as during a change of policy, quota or keys."""
    context.append(2 * PART + 10)
    await trio.sleep(0.5)
    refused = context.refuse("*", "AccessDenied")
    context.append(2 * PART)
    await trio.sleep(1)
    context.close()
    await trio.sleep(7)
    context.world.endpoint.faults.disarm(refused)
    await context.completes(within=330)


async def _over_quota(context: ScenarioContext) -> None:
    """For a while a quota has no room for a part; a small body still finds some."""
    context.append(PART + 10)
    await trio.sleep(0.5)
    refused = context.refuse_parts_over_quota()
    context.append(2 * PART)
    await trio.sleep(1)
    context.close()
    await trio.sleep(40)
    context.world.endpoint.faults.disarm(refused)
    await context.completes(within=330)


async def _part_lost(context: ScenarioContext) -> None:
    """S3 loses an acknowledged part."""
    context.append(3 * PART + 10)
    await trio.sleep(0.5)
    context.lose_part(2)
    context.close()
    await context.completes(within=120)


async def _list_uploads_fails(context: ScenarioContext) -> None:
    """ListMultipartUploads fails; all other calls work."""
    context.arm(Fault(Kind.ERROR, "ListMultipartUploads", times=None, code="InternalError"))
    context.append(2 * PART + 10)
    await trio.sleep(0.5)
    context.close()
    await context.completes(within=200)


async def _list_parts_unsupported(context: ScenarioContext) -> None:
    """ListParts is not implemented, and UploadPart fails for a while, so that the stream resumes without it."""
    context.arm(Fault(Kind.ERROR, "ListParts", times=None, code="NotImplemented", status=501))
    context.append(2 * PART + 10)
    await trio.sleep(0.5)
    reset = context.arm(Fault(Kind.RESET, "UploadPart", times=None))
    context.append(2 * PART + 10)
    await trio.sleep(20)
    context.world.endpoint.faults.disarm(reset)
    context.close()
    await context.completes(within=330)


async def _late_requests(context: ScenarioContext) -> None:
    """CreateMultipartUpload and UploadPart take effect after the daemon has stopped waiting for them."""
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
    """CreateMultipartUpload takes effect after its stream has ended."""
    context.world.proxy.add(Rule(Interference.LATE, "CreateMultipartUpload", times=1, seconds=6.0))
    context.append(PART + 10)
    await trio.sleep(1.5)
    context.delete()
    await trio.sleep(6)


async def _late_put(context: ScenarioContext) -> None:
    """PutObject of a small recording takes effect after the recording was changed and stored again."""
    context.world.proxy.add(Rule(Interference.LATE, "PutObject", times=1, seconds=12.0))
    context.arm(Fault(Kind.ERROR, "PutObject", times=2))
    context.append(PART // 2)
    context.close()
    await trio.sleep(3)
    context.patch(5, b"patched meanwhile")
    context.close()
    await trio.sleep(20)


async def _stale_responses(context: ScenarioContext) -> None:
    """HeadObject and ListParts return stale responses when the daemon checks a completion."""
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
    """Redis does not respond for twenty seconds."""
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


async def _redis_failover(context: ScenarioContext) -> None:
    """Redis refuses writes and serves reads; then it fails over to a replica that lags behind."""
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
        _check_outage_continues(context)
    redis.fail_over(replica)
    await trio.sleep(3)
    context.close()
    await context.completes(within=120)


async def _redis_rolled_back(context: ScenarioContext) -> None:
    """Redis loses the completion of a recording: its stream has an earlier state."""
    context.append(2 * PART + 10)
    await trio.sleep(0.5)
    replica = context.world.store.snapshot()
    context.close()
    await context.completes(within=30)
    await trio.sleep(1)
    context.world.lose_redis(down_to=replica)
    context.append(PART + 10, "b.mp4")  # gives the explorers steps before the daemon checks the first recording
    context.close("b.mp4")
    await trio.sleep(8)


def _check_outage_continues(context: ScenarioContext) -> None:
    """Record a violation if the daemon reported the end of an outage of Redis that still refused writes (P10)."""
    since = next(entry.began for entry in context.world.journal.entries if entry.text == "Redis refuses writes")
    ended = [
        entry
        for entry in context.world.journal.entries
        if entry.lane is Lane.DAEMON and entry.began >= since and entry.text.startswith("outage_ended")
    ]
    if ended:
        context.violations.append("P10: the end of an outage of Redis was reported while Redis refused every write")


_YEAR_9999: Final = "Fri, 31 Dec 9999 23:59:59 GMT"


async def _date_in_year_9999(context: ScenarioContext) -> None:
    """S3 refuses requests with RequestTimeTooSkewed and a Date of the year 9999."""
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


async def _retry_after_in_year_9999(context: ScenarioContext) -> None:
    """S3 returns Retry-After with the year 9999 for both parts, and once to the last daemon."""
    context.arm(Fault(Kind.ERROR, "UploadPart", times=3, code="SlowDown", retry_after=_YEAR_9999, predicate=no_probe))
    context.append(2 * PART)
    await trio.sleep(0.5)
    context.close()
    await trio.sleep(5)


async def _initiated_in_year_9999(context: ScenarioContext) -> None:
    """A listed upload of another program has an Initiated that Python cannot convert to UTC."""
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


async def _make_record_unreadable(context: ScenarioContext) -> None:
    """Make the record of an open stream unreadable."""
    await interrupted_recording(context)
    for known in context.world.known():
        context.world.store.corrupt(Keys().meta(known.meta.stream_id))


async def _record_unreadable(context: ScenarioContext) -> None:
    """Another recording is uploaded, the risk is reported, and the record is repaired."""
    daemon = context.daemon
    context.append(PART + 10, "b.mp4")
    await trio.sleep(0.5)
    context.close("b.mp4")
    await context.completes("b.mp4", within=30)
    await trio.sleep(60)
    if daemon is not None and daemon is context.daemon and daemon.accepts_events:
        risks = RiskObserver(daemon.services, daemon.supervisor)()
        if Reason.RECORD_UNREADABLE not in {risk.reason for risk in risks}:
            context.violations.append("P10: a recording with an unreadable record is not reported as at risk")
    for known in context.world.known():
        context.world.store.repair(Keys().meta(known.meta.stream_id))
    context.close()
    await context.completes(within=200)


async def _make_record_newer(context: ScenarioContext) -> None:
    """Make the record of an open stream newer than this version, as a newer daemon does."""
    await interrupted_recording(context)
    for known in context.world.known():
        context.world.store.set_schema(known.meta.stream_id, schema.CURRENT + 1)


async def _record_newer(context: ScenarioContext) -> None:
    """Another recording is uploaded, the newer record is left alone, and then becomes readable."""
    store = context.world.store
    newer = {key: one for key, one in store.snapshot().streams.items() if schema.is_newer(one.meta.schema)}
    context.append(PART + 10, "b.mp4")
    await trio.sleep(0.5)
    context.close("b.mp4")
    await context.completes("b.mp4", within=30)
    context.append(PART)
    await trio.sleep(70)
    now = store.snapshot().streams
    if any(now.get(stream_id) != one for stream_id, one in newer.items()):
        context.violations.append("P9: a record of a newer version was changed")
    at_path = Counter(one.meta.current_path for one in now.values())
    if any(at_path[one.meta.current_path] > 1 for one in newer.values()):
        context.violations.append("P2: a recording whose record is of a newer version was begun anew")
    for stream_id in newer:
        store.set_schema(stream_id, 1)
    context.close()
    await context.completes(within=200)


SCENARIOS: Final = (
    Scenario("page-404", "a proxy returns 404 with a page for a while", _page_404, bounded_bytes=True),
    Scenario("page-403", "a proxy returns 403 with a page for every call, for a while", _page_403),
    Scenario("page-413", "a proxy refuses bodies of that size for a while", _page_413),
    Scenario("page-200", "a proxy returns 200 with a page for a while", _page_200),
    Scenario("access-denied-for-a-while", "S3 denies access for eight seconds", _access_denied_for_a_while),
    Scenario("over-quota", "a quota has no room for a part, for a while; a small body finds some", _over_quota),
    Scenario("part-lost", "S3 loses an acknowledged part", _part_lost, starts_over=True),
    Scenario("list-uploads-fails", "ListMultipartUploads always fails", _list_uploads_fails, faults_stay=True),
    Scenario("list-parts-unsupported", "ListParts is not implemented", _list_parts_unsupported, faults_stay=True),
    Scenario(
        "late-requests", "requests take effect after their connection was reset", _late_requests, starts_over=True
    ),
    Scenario("late-creation", "an upload is created after its stream has ended", _late_creation, may_end=GONE),
    Scenario(
        "late-put",
        "PutObject takes effect after the recording was changed and stored again",
        _late_put,
        writes_again=True,
    ),
    Scenario("date-in-year-9999", "S3's Date is absurd", _date_in_year_9999),
    Scenario("retry-after-in-year-9999", "S3's Retry-After is absurd", _retry_after_in_year_9999, faults_stay=True),
    Scenario("initiated-in-year-9999", "an upload's Initiated is absurd", _initiated_in_year_9999),
    Scenario(
        "record-unreadable",
        "the record of one stream is unreadable for a while",
        _record_unreadable,
        _make_record_unreadable,
    ),
    Scenario(
        "record-newer",
        "the record of one stream is of a newer version for a while",
        _record_newer,
        _make_record_newer,
    ),
    Scenario("stale-responses", "HeadObject and ListParts return stale responses", _stale_responses),
    Scenario(
        "redis-silent", "Redis does not respond for a while", _redis_silent, redis_may_fail=True, redis_silent=True
    ),
    Scenario(
        "redis-failover",
        "Redis refuses writes, then fails over to a replica that lags behind",
        _redis_failover,
        redis_may_fail=True,
        redis_silent=True,
    ),
    Scenario("redis-rolled-back", "Redis loses the completion of a recording", _redis_rolled_back, starts_over=True),
)
