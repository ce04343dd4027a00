"""What one recording costs, as exact counts: ``cef-trio lab requests``, and the table in the documents."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import trio
from waiting import completed, until

from cef_trio.exit_codes import ExitCode
from cef_trio.lab.command import run_lab
from cef_trio.lab.requests import SIZES, Requests, requests_of
from cef_trio.lab.world import PART, World
from cef_trio.s3_endpoint import Fault, Kind, Moment

DOCUMENT = Path(__file__).parents[2] / "docs/operations.md"


@pytest.fixture(scope="module")
def counted() -> dict[str, Requests]:
    return {size: requests_of(size_bytes) for size, size_bytes in SIZES.items()}


def documented(title: str) -> dict[str, Counter[str]]:
    """The rows of a table in the document, by size, without zeros."""
    _, _, after = DOCUMENT.read_text().partition(f"| {title} |")
    rows = [re.findall(r"[^|]+", line) for line in after.partition("\n\n")[0].splitlines()[2:]]
    found: dict[str, Counter[str]] = {size: Counter() for size in SIZES}
    for operation, *counts in [[cell.strip() for cell in row] for row in rows]:
        for size, count in zip(SIZES, counts, strict=True):
            found[size] += Counter({operation: int(count)})
    return found


def test_the_documented_counts_are_those_of_the_command(counted: dict[str, Requests]) -> None:
    s3 = {size: found.s3 + Counter({"all": found.s3.total()}) for size, found in counted.items()}
    redis = {size: found.redis + Counter({"all": found.redis.total()}) for size, found in counted.items()}
    assert documented("requests to S3") == s3
    assert documented("calls to Redis") == redis


@pytest.mark.parametrize("size", ["1 MiB", "100 MiB"])
def test_a_recording_that_is_uploaded_while_it_is_written_costs_the_same_requests(
    size: str, counted: dict[str, Requests]
) -> None:
    grown, whole = requests_of(SIZES[size], grows=True), counted[size]
    assert grown.s3 == whole.s3
    assert grown.redis == whole.redis
    assert set(grown.more_rounds.values()) <= {1}  # it takes 13 s longer


def test_the_number_of_periodic_calls_does_not_depend_on_the_parts(counted: dict[str, Requests]) -> None:
    for found in counted.values():
        assert set(found.more_rounds.values()) <= {1}  # a round at the end of the run may be in one of the two only


@pytest.mark.parametrize("seconds", [30.0, 60.0, 90.0])  # at 60 and 90, a round of the count begins
def test_the_counts_do_not_depend_on_the_time_at_which_the_daemon_ends(
    seconds: float, counted: dict[str, Requests], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cef_trio.lab.requests._SECONDS", seconds)
    found = requests_of(SIZES["1 MiB"])
    assert (found.s3, found.redis) == (counted["1 MiB"].s3, counted["1 MiB"].redis)


def test_the_command_prints_both_tables(
    counted: dict[str, Requests], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    by_bytes = {SIZES[size]: found for size, found in counted.items()}
    monkeypatch.setattr("cef_trio.lab.command.requests_of", by_bytes.__getitem__)
    assert run_lab(["requests"]) == ExitCode.DONE
    printed = capsys.readouterr().out
    assert re.search(r"UploadPart\s*│\s*│\s*10 │\s*1012 │", printed)
    assert re.search(r"all\s*│\s*8 │\s*19 │\s*1021 │", printed)


@pytest.mark.parametrize(("moment", "after"), [(Moment.BEFORE, 1), (Moment.REPLY, 2)])  # 2: again after the abort
async def test_p5_after_a_repeated_creation_the_uploads_under_the_key_are_listed(
    world: World, moment: Moment, after: int
) -> None:
    async with world.daemon() as daemon:
        await trio.sleep(5)
        for name, listings in (("a.mp4", 1), ("b.mp4", 0), ("c.mp4", after)):
            world.endpoint.log.reset()
            if name == "c.mp4":
                world.endpoint.faults.arm(Fault(Kind.RESET, "CreateMultipartUpload", moment))
            world.append(2 * PART, name)
            daemon.closed(name)
            await until(lambda name=name: world.content(name) in world.recordings(), 600)  # type: ignore[misc]
            await completed(world)
            assert world.endpoint.log.calls["ListMultipartUploads"] == listings, name  # the daemon's first file: one
    assert world.open_uploads() == []


async def test_p5_a_resumed_stream_lists_the_uploads_under_its_key(world: World) -> None:
    world.append(2 * PART)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(5)
    world.endpoint.log.reset()
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
        await trio.sleep(5)
    listed = [call.key for call in world.endpoint.log.of("ListMultipartUploads")]
    assert len(listed) == 1
