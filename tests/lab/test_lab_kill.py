"""``kill -9`` of the real daemon violates nothing, and the oracle detects altered objects and open uploads."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from cef_trio.checkpoint.model import PartRecord
from cef_trio.cli.main import main
from cef_trio.exit_codes import ExitCode
from cef_trio.lab import command
from cef_trio.lab.kill import KillCycle, KillTally, kill_campaign
from cef_trio.lab.kill_oracle import Checkpointed, Patch, object_violations, parts_sent_again, uploads_unknown
from cef_trio.local.servers import BUCKET
from cef_trio.s3_endpoint import DiskStorage, LoggedCall, S3Endpoint
from cef_trio.upload.object_key import METADATA_SUFFIX
from cef_trio.upload.part_plan import MIB, PartPlan

PATH = Path("/watch/a.mp4")
KEY = "streams/1/a.mp4"
SIZE = 12 * MIB
RECORD = PartRecord(2, "etag", 5 * MIB, 0, datetime.fromtimestamp(105.0, UTC))
SENT = LoggedCall(100.0, "UploadPart", BUCKET, KEY, "upload", 2)
AGAIN = LoggedCall(200.0, "UploadPart", BUCKET, KEY, "upload", 2)


def sent_again(*patches: Patch, record: PartRecord = RECORD, again: LoggedCall = AGAIN) -> list[str]:
    before = Checkpointed(KEY, PATH, PartPlan(5 * MIB), {record.part_number: record})
    return list(parts_sent_again([before], [SENT, again], 1, {PATH: patches}, {PATH: SIZE}))


def test_a_recorded_part_that_is_sent_again_unchanged_is_a_violation() -> None:
    assert sent_again() == ["part 2 of a.mp4 was recorded, unchanged, and sent again"]


@pytest.mark.parametrize(
    "patch",
    [
        pytest.param(Patch(150.0, 5 * MIB - 1, 5 * MIB), id="of the part before"),
        pytest.param(Patch(150.0, 10 * MIB, 10 * MIB + 1), id="of the part behind"),
        pytest.param(Patch(50.0, 6 * MIB, 6 * MIB + 1), id="long before it was read"),
    ],
)
def test_a_patch_of_other_bytes_or_of_earlier_does_not_excuse_a_repetition(patch: Patch) -> None:
    assert sent_again(patch)


@pytest.mark.parametrize("offset", [5 * MIB, 10 * MIB - 1])
def test_a_part_that_was_patched_may_be_sent_again(offset: int) -> None:
    assert sent_again(Patch(150.0, offset, offset + 1)) == []


def test_a_short_last_part_that_has_grown_may_be_sent_again() -> None:
    short = PartRecord(3, "etag", 1 * MIB, 0, RECORD.uploaded_at_utc)
    assert sent_again(record=short, again=LoggedCall(200.0, "UploadPart", BUCKET, KEY, "upload", 3)) == []


def test_a_part_that_was_not_recorded_may_be_sent_again() -> None:
    assert sent_again(again=LoggedCall(200.0, "UploadPart", BUCKET, KEY, "upload", 1)) == []


@pytest.mark.real
@pytest.mark.slow
async def test_five_kills_cause_no_violation_and_altered_objects_are_detected(tmp_path: Path) -> None:
    lives: list[KillCycle] = []
    tally = await kill_campaign(tmp_path / "lab", cycles=5, seed=1, on_cycle=lives.append)
    assert tally.violations == []
    assert [life.number for life in lives] == [1, 2, 3, 4, 5]
    assert tally.kills.total() == tally.cycles == 5
    assert tally.files >= 1
    assert tally.size_bytes >= tally.file_bytes > 0

    endpoint = S3Endpoint(DiskStorage(tmp_path / "lab/servers/objects"))
    keys = [
        each.key for each in endpoint.model.list_objects(BUCKET, prefix="", delimiter="", after="", limit=99).objects
    ]
    paths = {key: tmp_path / "lab/watch" / Path(key).name for key in keys if not key.endswith(METADATA_SUFFIX)}
    assert len(paths) == tally.files
    assert await object_violations(endpoint.model, paths) == []
    key, path = next(iter(paths.items()))

    blob = tmp_path / "lab/servers/objects/blobs" / endpoint.model.object(BUCKET, key).blob
    whole = blob.read_bytes()
    for altered in (bytes([whole[0] ^ 1]) + whole[1:], whole[:-1], whole + b"\0"):
        blob.write_bytes(altered)
        assert await object_violations(endpoint.model, paths) == [f"the object of {path.name} differs from its file"]
    blob.write_bytes(whole)
    assert f"object {key} belongs to no completed stream" in await object_violations(endpoint.model, {})

    upload = endpoint.model.create_upload(BUCKET, "streams/x/b.mp4", headers={}, algorithm=None, checksum_type=None)
    assert uploads_unknown(endpoint.model, set()) == ["upload of streams/x/b.mp4 is open and not in Redis"]
    assert uploads_unknown(endpoint.model, {upload.upload_id}) == []

    endpoint.model.delete_object(BUCKET, key + METADATA_SUFFIX)
    endpoint.model.delete_object(BUCKET, key)
    assert await object_violations(endpoint.model, paths) == [
        f"{path.name} is completed and has no object",
        f"{path.name} is completed and has no metadata",
    ]


def test_violations_are_printed_and_set_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def campaign(_folder: Path, *, cycles: int, **_: object) -> KillTally:
        return KillTally(cycles=cycles, violations=["a part was lost"])

    monkeypatch.setattr(command, "kill_campaign", campaign)
    assert main(["lab", "kill", "--cycles", "3"]) == ExitCode.ANSWER_IS_NO
    assert "a part was lost" in capsys.readouterr().out
