"""Options of objects: they reach S3, survive restarts, and ETags that are no MD5s are handled (P1, P2)."""

from __future__ import annotations

import pytest
import trio
from store_faults import KilledAt
from waiting import completed, until_idle, uploaded

from cef_trio.checkpoint.states import Status
from cef_trio.lab.world import BUCKET, PART, World
from cef_trio.s3.config import ChecksumMode
from cef_trio.s3_endpoint import Fault, Kind, Moment
from cef_trio.settings.object_options import ObjectOptions
from cef_trio.upload.object_key import metadata_key

ALL = ObjectOptions(
    storage_class="STANDARD_IA",
    encryption="aws:kms",
    kms_key_id="alias/recordings",
    bucket_key=True,
    tags=(("team", "a b"), ("ü/x", "")),
    acl="bucket-owner-full-control",
    content_type="video/quicktime",
)
KMS = ["aws:kms", "aws:kms:dsse"]
BESIDE_THE_CLASS = {
    "x-amz-server-side-encryption": "aws:kms",
    "x-amz-server-side-encryption-aws-kms-key-id": "alias/recordings",
    "x-amz-server-side-encryption-bucket-key-enabled": "true",
    "x-amz-tagging": "team=a%20b&%C3%BC%2Fx=",
    "x-amz-acl": "bucket-owner-full-control",
}


def headers(world: World, key: str) -> dict[str, str]:
    kept = world.endpoint.model.object(BUCKET, key).headers
    return {name: value for name, value in kept.items() if not name.startswith("x-amz-meta-")}


@pytest.mark.parametrize("size_bytes", [0, 1, 3 * PART + 1])
async def test_all_options_arrive_at_a_recording_of_any_size_and_all_but_the_class_at_its_metadata(
    world: World, size_bytes: int
) -> None:
    world.options = ALL
    world.append(size_bytes)
    key = (await uploaded(world)).meta.s3_key_prefix
    recording = {"x-amz-storage-class": "STANDARD_IA", "content-type": "video/quicktime", **BESIDE_THE_CLASS}
    assert headers(world, key) == recording
    assert headers(world, metadata_key(key)) == {"content-type": "application/json", **BESIDE_THE_CLASS}


async def test_without_options_nothing_is_asked_for(world: World) -> None:
    world.append(PART)
    key = (await uploaded(world)).meta.s3_key_prefix
    assert headers(world, key) == {"content-type": "video/mp4", "x-amz-server-side-encryption": "AES256"}


async def test_an_upload_keeps_the_options_it_was_created_with(world: World) -> None:
    world.options = ALL
    world.append(2 * PART)
    async with world.daemon():
        await trio.sleep(1)
    world.options = ObjectOptions(storage_class="GLACIER_IR")
    world.append(2 * PART)
    key = (await uploaded(world)).meta.s3_key_prefix
    assert headers(world, key)["x-amz-storage-class"] == "STANDARD_IA"
    assert headers(world, key)["x-amz-server-side-encryption"] == "aws:kms"
    assert "x-amz-tagging" not in headers(world, metadata_key(key))
    assert world.received_bytes() == 4 * PART


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (ObjectOptions(storage_class="NO_SUCH_CLASS"), "InvalidStorageClass"),
        (ObjectOptions(acl="public-read"), "AccessControlListNotSupported"),
        (ObjectOptions(tags=(("aws:mine", "x"),)), "InvalidTag"),
    ],
)
async def test_p6_options_that_the_store_refuses_are_an_outage_with_its_words_and_fail_no_recording(
    world: World, options: ObjectOptions, code: str
) -> None:
    """They affect every recording: after a correction, no failed recordings have to be retried."""
    world.options = options
    world.append(2 * PART)
    async with world.daemon() as daemon:
        await trio.sleep(30)
        outage = daemon.services.s3_breaker.outage
        assert outage is not None
        assert outage.refused
        assert code in outage.error
        assert world.open_uploads() == []
    world.options = ObjectOptions()
    async with world.daemon() as daemon:
        daemon.closed()
        await until_idle(world, Status.COMPLETED)


# ---- ETags that are no MD5s ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encryption", KMS)
@pytest.mark.parametrize("checksum", ChecksumMode)
async def test_p1_with_kms_a_recording_is_proved_whatever_proves_its_parts(
    world: World, checksum: ChecksumMode, encryption: str
) -> None:
    world.options, world.checksum = ObjectOptions(encryption=encryption), checksum
    world.append(3 * PART + 1)
    async with world.daemon() as daemon:
        await trio.sleep(1)
        world.patch(PART + 5, b"rewritten")
        daemon.closed()
        (checkpoint,) = await completed(world)
    assert world.recordings() == [world.content()]
    assert checkpoint.meta.parts_rewritten == 1
    assert world.received_bytes() == 4 * PART + 1  # nothing was sent again for an ETag's sake


@pytest.mark.parametrize("checksum", [ChecksumMode.AUTO, ChecksumMode.MD5])
async def test_p2_with_kms_no_recorded_part_is_sent_again_after_a_kill(world: World, checksum: ChecksumMode) -> None:
    world.options, world.checksum = ObjectOptions(encryption="aws:kms"), checksum
    world.append(4 * PART)
    async with world.killed_daemon():
        await trio.sleep(1)
    await uploaded(world)
    assert world.received_bytes() == 4 * PART


@pytest.mark.parametrize(
    ("checksum", "sent_again"),
    [(ChecksumMode.AUTO, 0), (ChecksumMode.CRC32C, 0), (ChecksumMode.SHA256, 0), (ChecksumMode.MD5, 4)],
)
async def test_with_kms_a_part_whose_record_was_lost_is_adopted_by_its_checksum_and_never_by_its_etag(
    world: World, checksum: ChecksumMode, sent_again: int
) -> None:
    world.options, world.checksum = ObjectOptions(encryption="aws:kms"), checksum
    world.append(4 * PART)
    async with world.killed_daemon():
        world.store.fault = KilledAt(world, "record_part")
        await trio.sleep(1)
    world.store.fault = None
    assert world.received_bytes() == 4 * PART
    await uploaded(world)
    assert world.received_bytes() == (4 + sent_again) * PART


async def test_p5_with_kms_and_md5_an_upload_that_redis_forgot_is_left_to_gc_and_never_guessed_at(world: World) -> None:
    world.options, world.checksum = ObjectOptions(encryption="aws:kms"), ChecksumMode.MD5
    world.append(3 * PART)
    async with world.killed_daemon():
        await trio.sleep(1)
    (left,) = world.open_uploads()
    world.lose_redis()
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
    assert world.recordings() == [world.content()]
    assert world.open_uploads() == [left]


@pytest.mark.parametrize("encryption", [None, "aws:kms"])
@pytest.mark.parametrize("checksum", [mode for mode in ChecksumMode if mode is not ChecksumMode.MD5])
async def test_an_upload_that_redis_forgot_is_adopted_by_any_checksum_and_completed_with_it(
    world: World, checksum: ChecksumMode, encryption: str | None
) -> None:
    world.options, world.checksum = ObjectOptions(encryption=encryption), checksum
    world.append(3 * PART)
    async with world.killed_daemon():
        await trio.sleep(1)
    world.lose_redis()
    await uploaded(world)
    assert world.received_bytes() == 3 * PART
    assert world.endpoint.log.calls["CreateMultipartUpload"] == 1


@pytest.mark.parametrize("checksum", ChecksumMode)
async def test_p1_with_kms_a_completion_whose_answer_was_lost_is_found_and_proved(
    world: World, checksum: ChecksumMode
) -> None:
    world.options, world.checksum = ObjectOptions(encryption="aws:kms"), checksum
    world.endpoint.model.complete_again = False
    world.endpoint.faults.arm(Fault(Kind.RESET, "CompleteMultipartUpload", Moment.REPLY))
    world.append(3 * PART)
    await uploaded(world)
    assert world.endpoint.log.calls["CreateMultipartUpload"] == 1


async def test_an_archived_recording_is_completed_without_reading_it(world: World) -> None:
    world.options = ObjectOptions(storage_class="DEEP_ARCHIVE", encryption="aws:kms")
    world.append(3 * PART)
    async with world.daemon() as daemon:
        daemon.closed()
        (checkpoint,) = await completed(world)
    assert world.endpoint.log.calls["GetObject"] == 0
    assert headers(world, checkpoint.meta.s3_key_prefix)["x-amz-storage-class"] == "DEEP_ARCHIVE"
