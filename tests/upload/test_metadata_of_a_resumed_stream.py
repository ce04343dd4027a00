"""P1, P3: the metadata JSON of a stream that was resumed after its object was complete is of that object alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from waiting import completed, until

from cef_trio.checkpoint.states import Status
from cef_trio.lab.world import PART, World
from cef_trio.s3 import crc64nvme, crc64nvme_to_base64
from cef_trio.s3_endpoint import Fault, Kind
from cef_trio.upload.object_key import metadata_key

SIZE = 3 * PART + 7


async def killed_before_its_metadata(world: World) -> tuple[str, bytes]:
    """A daemon is killed when the object is recorded, and its metadata is not written; the object's key and content."""
    world.append(SIZE)
    armed = world.endpoint.faults.arm(Fault(Kind.FREEZE, "PutObject", times=None))
    async with world.killed_daemon() as daemon:
        daemon.closed()
        await until(lambda: bool(armed.hits))
    world.endpoint.faults.disarm(armed)
    (checkpoint,) = await world.checkpoints()
    assert checkpoint.meta.status is Status.S3_COMPLETED
    return checkpoint.meta.s3_key_prefix, world.content()


async def resumed(world: World, key: str) -> dict[str, Any]:
    """Let another daemon finish all streams; return the metadata of the first object."""
    async with world.daemon() as daemon:
        if Path(world.path()).exists():
            daemon.closed()
        await completed(world)
    document: dict[str, Any] = json.loads(world.objects()[metadata_key(key)])
    return document


def replace_by_another(path: Path, content: bytes) -> None:
    path.rename(path.with_suffix(".old"))
    path.write_bytes(bytes(len(content)))
    path.with_suffix(".old").unlink()


def replace_with_equal_numbers(path: Path, content: bytes) -> None:
    stat = path.stat()
    replace_by_another(path, content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def grow(path: Path, _content: bytes) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def delete(path: Path, _content: bytes) -> None:
    path.unlink()


def leave(_path: Path, _content: bytes) -> None:
    pass


def touch(path: Path, _content: bytes) -> None:
    os.utime(path)


def copy_over(path: Path, content: bytes) -> None:
    replace_by_another(path, content)
    path.write_bytes(content)


@pytest.mark.parametrize("change", [leave, touch, copy_over])
async def test_the_file_of_the_object_is_probed(world: World, change: Callable[[Path, bytes], None]) -> None:
    key, content = await killed_before_its_metadata(world)
    change(Path(world.path()), content)
    document = await resumed(world, key)
    assert document["duration_seconds"] is not None
    assert document["total_size_bytes"] == SIZE


@pytest.mark.parametrize("change", [replace_by_another, replace_with_equal_numbers, grow, delete])
async def test_p1_another_file_that_took_the_name_is_not_probed(
    world: World, change: Callable[[Path, bytes], None]
) -> None:
    key, content = await killed_before_its_metadata(world)
    change(Path(world.path()), content)
    document = await resumed(world, key)
    assert (document["duration_seconds"], document["media"]) == (None, None)
    assert document["total_size_bytes"] == SIZE
    assert document["checksum"]["value"] == crc64nvme_to_base64(crc64nvme(content))


async def test_p1_a_file_that_is_replaced_while_it_is_probed_is_not_described(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, content = await killed_before_its_metadata(world)
    probe = World._probe

    async def replaces(self: World, host: Any, path: str) -> Any:
        media = await probe(self, host, path)
        if not Path(path).with_suffix(".done").exists():
            replace_by_another(Path(path), content)
            Path(path).with_suffix(".done").touch()
        return media

    monkeypatch.setattr(World, "_probe", replaces)
    document = await resumed(world, key)
    assert document["duration_seconds"] is None


@pytest.mark.parametrize("ignores", [False, True], ids=["crc64nvme", "no checksums"])
@pytest.mark.parametrize("change", [leave, delete])
async def test_p3_parts_that_redis_lost_do_not_make_the_object_smaller(
    world: World, change: Callable[[Path, bytes], None], ignores: bool
) -> None:
    if ignores:
        world.endpoint.faults.arm(Fault(Kind.IGNORE_CHECKSUMS, times=None))
    key, content = await killed_before_its_metadata(world)
    ((stream_id, held),) = world.store._streams.items()
    kept = {number: part for number, part in held.parts.items() if number != 2}
    world.store._streams[stream_id] = replace(held, parts=kept)
    change(Path(world.path()), content)
    document = await resumed(world, key)
    assert document["total_size_bytes"] == SIZE
    assert document["chunks"] == []
    expected = {"algorithm": "crc64nvme", "value": crc64nvme_to_base64(crc64nvme(content))}
    assert document["checksum"] == (None if ignores and change is delete else expected)
    (checkpoint,) = await world.checkpoints()
    assert checkpoint.meta.object_crc64nvme == (None if ignores and change is delete else crc64nvme(content))
