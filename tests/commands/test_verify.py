"""``verify``: one byte that differs anywhere is found, and a file that is gone is no difference."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers.stream_records import a_part, a_stream
from waiting import completed

from cef_trio.checkpoint.model import Checkpoint
from cef_trio.checkpoint.states import Status, StreamSet
from cef_trio.cli.object_check import Content, compare_checksums, is_proven, metadata_content, recorded_content
from cef_trio.cli.session import CommandContext
from cef_trio.cli.stream_selection import NoSuchStreamError
from cef_trio.cli.verify import verify_stream
from cef_trio.exceptions import S3OperationError
from cef_trio.exit_codes import ExitCode
from cef_trio.lab.world import BUCKET, PART, World
from cef_trio.s3.checksums import combine_crc64nvme, crc64nvme
from cef_trio.s3_endpoint import Fault, Kind, Moment
from cef_trio.settings.object_options import ObjectOptions
from cef_trio.upload.object_key import metadata_key


async def uploaded(world: World, size_bytes: int = 3 * PART + 7) -> Checkpoint:
    world.append(size_bytes)
    async with world.daemon() as daemon:
        daemon.closed()
        (checkpoint,) = await completed(world)
    return checkpoint


async def verified(
    context: CommandContext, given: str, capsys: pytest.CaptureFixture[str]
) -> tuple[ExitCode, dict[str, Any]]:
    """The exit code, and whether each comparison agrees."""
    capsys.readouterr()  # the daemon's log
    code = await verify_stream(context, given, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["finished"]
    return code, {one["subject"]: one["agrees"] for one in document["results"]}


ALL_AGREE = {"object": None, "checkpoint": True, "S3's own checksum": True, "metadata JSON": True, "file": True}


@pytest.mark.parametrize("size_bytes", [0, 1, PART, 3 * PART + 7])
async def test_an_object_as_it_was_uploaded_is_identical_by_id_and_by_file(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str], size_bytes: int
) -> None:
    checkpoint = await uploaded(world, size_bytes)
    for given in (checkpoint.meta.stream_id[:8], world.path()):
        code, agrees = await verified(context, given, capsys)
        assert (code, agrees) == (ExitCode.DONE, ALL_AGREE)


async def test_a_file_that_is_gone_is_no_difference(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = await uploaded(world)
    Path(world.path()).unlink()
    code, agrees = await verified(context, checkpoint.meta.stream_id, capsys)
    assert (code, agrees) == (ExitCode.DONE, {**ALL_AGREE, "file": None})
    world.append(5, "b.mp4")
    Path(world.path("b.mp4")).rename(world.path())  # another file of that name is none of its business
    code, agrees = await verified(context, checkpoint.meta.stream_id, capsys)
    assert (code, agrees["file"]) == (ExitCode.DONE, None)


async def test_an_object_of_which_one_byte_differs_is_found(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = await uploaded(world)
    content = bytearray(world.content())
    content[PART] ^= 1
    await context.s3.put_object(checkpoint.meta.s3_key_prefix, bytes(content), content_type="video/mp4")
    code, agrees = await verified(context, checkpoint.meta.stream_id, capsys)
    assert code is ExitCode.ANSWER_IS_NO
    assert agrees == {**ALL_AGREE, "checkpoint": False, "metadata JSON": False, "file": False}


async def test_a_file_that_was_changed_since_differs_and_the_reason_is_shown(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = await uploaded(world)
    world.patch(PART, b"changed")
    assert await verify_stream(context, checkpoint.meta.stream_id, as_json=False) is ExitCode.ANSWER_IS_NO
    assert "it was changed after it was uploaded" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["object", "metadata JSON"])
async def test_what_is_missing_is_not_proved(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    key = (await uploaded(world)).meta.s3_key_prefix
    await context.s3.delete_object(key if what == "object" else metadata_key(key))
    code, agrees = await verified(context, world.path(), capsys)
    assert (code, agrees[what]) == (ExitCode.ANSWER_IS_NO, False)


async def test_an_object_that_cannot_be_read_to_its_end_is_an_error_and_not_a_verdict(
    world: World, context: CommandContext
) -> None:
    checkpoint = await uploaded(world)
    world.endpoint.faults.arm(Fault(Kind.TRUNCATE, "GetObject", moment=Moment.REPLY, times=None))
    with pytest.raises(S3OperationError):
        await verify_stream(context, checkpoint.meta.stream_id, as_json=False)


async def test_a_stream_that_is_not_complete_is_not_proved(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    await world.store.create(a_stream(), context.lease)
    code, agrees = await verified(context, "00000001", capsys)
    assert (code, agrees) == (ExitCode.ANSWER_IS_NO, {"object": False})
    with pytest.raises(NoSuchStreamError, match="has no recording"):
        await verify_stream(context, "nothing.mp4", as_json=False)


def test_the_checkpoints_checksum_is_that_of_its_parts_or_of_the_response_of_s3() -> None:
    meta = a_stream(status=Status.COMPLETED, part_size=10, verified_size_bytes=15, object_crc64nvme=77)
    parts = {1: a_part(1, 10), 2: a_part(2, 5), 3: a_part(3, 10)}
    whole = combine_crc64nvme([(1, 10), (2, 5)])
    assert recorded_content(Checkpoint(meta, StreamSet.COMPLETED, parts)) == Content(15, whole)
    assert recorded_content(Checkpoint(meta, StreamSet.COMPLETED, {1: parts[1]})) == Content(15, 77)
    assert recorded_content(Checkpoint(meta, StreamSet.COMPLETED, {**parts, 2: a_part(2, 10)})) == Content(15, 77)


def test_witnesses_that_have_nothing_on_record_prove_nothing() -> None:
    read = Content(3, crc64nvme(b"abc"))
    silent = compare_checksums("a", read, Content(None, None))
    agreeing, disagreeing = compare_checksums("b", read, read), compare_checksums("c", read, Content(4, None))
    assert (silent.agrees, agreeing.agrees, disagreeing.agrees) == (None, True, False)
    same_size = compare_checksums("d", read, Content(3, None))
    assert same_size.agrees is None, "an equal size proves no byte"
    assert "no checksum" in same_size.says
    assert not is_proven([silent, same_size])
    assert is_proven([silent, agreeing])
    assert not is_proven([silent])
    assert not is_proven([agreeing, disagreeing])
    assert not is_proven([])


def documents() -> Iterator[tuple[bytes, str]]:
    yield b"<Error/>", "is not JSON"
    yield b"[" * 100_000, "is not JSON"
    yield b"\xff", "is not JSON"
    yield b"[]", "belongs to another stream"
    yield b'{"stream_id": "other"}', "belongs to another stream"
    yield b'{"stream_id": "s"}', "has no size or no CRC64NVME"
    yield (
        b'{"stream_id": "s", "total_size_bytes": 3, "checksum": {"algorithm": "md5", "value": "AAAAAAAAAAE="}}',
        "has no",
    )
    yield b'{"stream_id": "s", "total_size_bytes": 3, "checksum": {"algorithm": "crc64nvme", "value": 7}}', "has no"


@pytest.mark.parametrize(("document", "says"), list(documents()))
def test_a_metadata_json_that_is_not_ours_is_not_used(document: bytes, says: str) -> None:
    content = metadata_content(document, "s")
    assert isinstance(content, str)
    assert content.startswith(says)


def test_our_metadata_json_is_read() -> None:
    document = (
        b'{"stream_id": "s", "total_size_bytes": 3, "checksum": {"algorithm": "crc64nvme", "value": "AAAAAAAAAAE="}}'
    )
    assert metadata_content(document, "s") == Content(3, 1)
    lost = b'{"stream_id": "s", "total_size_bytes": 3, "checksum": null}'
    assert metadata_content(lost, "s") == Content(3, None)


@pytest.mark.parametrize("encryption", ["AES256", "aws:kms", "aws:kms:dsse"])
async def test_with_kms_an_object_is_identical_though_its_etag_is_no_md5(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str], encryption: str
) -> None:
    world.options = ObjectOptions(encryption=encryption)
    checkpoint = await uploaded(world)
    assert await verified(context, checkpoint.meta.stream_id, capsys) == (ExitCode.DONE, ALL_AGREE)


@pytest.mark.parametrize("storage_class", ["GLACIER", "DEEP_ARCHIVE"])
async def test_an_archived_object_is_not_verified_and_one_clear_line_has_the_remedy(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str], storage_class: str
) -> None:
    world.options = ObjectOptions(storage_class=storage_class)
    checkpoint = await uploaded(world)
    capsys.readouterr()
    code = await verify_stream(context, checkpoint.meta.stream_id, as_json=False)
    assert code is ExitCode.ANSWER_IS_NO
    said = " ".join(capsys.readouterr().out.split())
    assert f"restore {BUCKET}/{checkpoint.meta.s3_key_prefix} first" in said
    assert "NOT identical, or not proven" in said


async def test_metadata_that_a_lifecycle_archived_is_no_difference(
    world: World, context: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = await uploaded(world)
    key = metadata_key(checkpoint.meta.s3_key_prefix)
    world.endpoint.faults.arm(Fault(Kind.ERROR, "GetObject", key=key, code="InvalidObjectState"))
    code, agrees = await verified(context, checkpoint.meta.stream_id, capsys)
    assert (code, agrees) == (ExitCode.DONE, {**ALL_AGREE, "metadata JSON": None})
