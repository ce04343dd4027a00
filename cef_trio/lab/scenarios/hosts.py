"""More than one host, folder or life: what belongs to another is never changed (P9), and settings differ."""

from __future__ import annotations

from dataclasses import replace
from typing import Final
from uuid import UUID

import trio

from cef_trio.checkpoint.memory import MemoryCheckpointStore
from cef_trio.checkpoint.model import FileIdentity, Lease, StreamMeta
from cef_trio.checkpoint.states import Status
from cef_trio.lab.filesystem import FileSystem
from cef_trio.lab.scenario_context import ScenarioContext
from cef_trio.lab.scenarios.model import Scenario
from cef_trio.lab.scenarios.streams import interrupted, keeps_growing
from cef_trio.lab.world import OTHER_BUCKET, PART


async def _same_names(context: ScenarioContext) -> None:
    """Recordings of one base name in several folders; Redis loses everything while all are open."""
    for folder in ("x", "y", "z"):
        context.append(2 * PART + 10, f"{folder}/a.mp4")
    await trio.sleep(0.5)
    context.world.lose_redis()
    await trio.sleep(0.2)
    for folder in ("x", "y", "z"):
        context.append(PART, f"{folder}/a.mp4")
    await trio.sleep(0.3)
    context.close_all()
    await trio.sleep(40)


async def _folder_renamed(context: ScenarioContext) -> None:
    context.append(2 * PART + 10, "x/a.mp4")
    context.append(PART + 10, "x/b.mp4")
    await trio.sleep(0.5)
    context.writers.rename_folder("x", "y")
    context.append(PART, "y/a.mp4")
    await trio.sleep(0.5)
    context.close_all()
    await trio.sleep(10)


async def _overflow(context: ScenarioContext) -> None:
    """The kernel's queue overflows: what happened is told by the next scan only."""
    context.append(2 * PART + 10, "a.mp4")
    await trio.sleep(0.5)
    context.append(PART, "a.mp4")
    context.rename("a.mp4", "b.mp4")
    context.append(PART + 5, "c.mp4")
    context.world.kernel.queues.overflow()
    context.close_all()
    await trio.sleep(40)


async def _no_more_watches(context: ScenarioContext) -> None:
    """The limit of inotify watches is reached while the daemon runs."""
    context.append(PART + 10, "a.mp4")
    await trio.sleep(0.5)
    context.world.kernel.queues.watches_left = 0
    context.append(PART + 10, "deep/b.mp4")
    await trio.sleep(3)
    context.append(PART + 10, "a.mp4")
    await trio.sleep(0.5)
    context.append(PART + 10, "deep/b.mp4")
    context.close_all()
    await trio.sleep(40)


async def _before_two_at_once(context: ScenarioContext) -> None:
    """Two daemons watch one shared folder, whose files no inode number and no event of this host tells apart."""
    await context.start_other()


async def _two_at_once(context: ScenarioContext) -> None:
    for number in range(4):
        context.append(PART + number, f"{number}.mp4")
    await trio.sleep(0.5)
    context.close_all()
    await trio.sleep(15)
    context.end_other()


async def _before_two_hosts(context: ScenarioContext) -> None:
    """Two hosts call their folders alike, and their devices and inodes have the same numbers.

    This one's daemon has stopped in the middle of a recording. The other one's uploads a recording of the same name.
    """
    await interrupted(context)
    before = context.world.known()
    host = context.world.add_host("elsewhere")
    writers = context.writers_of(host)
    await trio.sleep(60)  # whatever lease there was is over
    await context.start_other(host)
    writers.append(PART + 10, "a.mp4")
    writers.inode("a.mp4").number = context.writers.inode("a.mp4").number
    await trio.sleep(1)
    writers.close("a.mp4")
    await trio.sleep(40)
    context.end_other()
    await trio.sleep(1)
    after = {checkpoint.meta.stream_id: checkpoint for checkpoint in context.world.known()}
    for checkpoint in before:
        if after.get(checkpoint.meta.stream_id) != checkpoint:
            context.violations.append("P9: a daemon of another host changed the record of this one's recording")
    if writers.content("a.mp4") not in context.world.recordings():
        context.violations.append("P6: the other host's recording is not in S3")


async def _hosts_at_once(context: ScenarioContext) -> None:
    """Both hosts record under the same names at once; the other one's daemon is killed, comes again, is stopped."""
    host = context.world.add_host("elsewhere")
    theirs = context.writers_of(host)
    await context.start_other(host)
    for name in ("a.mp4", "b.mp4"):
        context.append(2 * PART + 10, name)
        theirs.append(2 * PART + 10, name)
        theirs.inode(name).number = context.writers.inode(name).number
    await trio.sleep(0.5)
    theirs.append(PART, "a.mp4")
    await trio.sleep(0.02)
    context.other_life.end()
    context.close("b.mp4")
    theirs.append(PART, "b.mp4")
    await trio.sleep(3)
    await context.start_other(host)
    theirs.close("b.mp4")
    context.append(PART, "a.mp4")
    theirs.append(PART, "a.mp4")
    await trio.sleep(3)
    context.end_other()
    context.close("a.mp4")
    theirs.close("a.mp4")
    await trio.sleep(35)
    await context.start_other(host)
    await trio.sleep(40)
    context.end_other()


async def _before_folders_at_once(context: ScenarioContext) -> None:
    context.file_system.fsid = b"the one!"
    await trio.lowlevel.checkpoint()


async def _folders_at_once(context: ScenarioContext) -> None:
    """Two containers of one machine, of one name, with disks of their own, record under the same names."""
    file_system = FileSystem(fsid=b"another!")
    host = context.world.add_host("container", machine=context.world.host.machine, file_system=file_system)
    theirs = context.writers_of(host)
    await context.start_other(host, instance="world")
    for name in ("a.mp4", "b.mp4"):
        context.append(2 * PART + 10, name)
        theirs.append(2 * PART + 10, name)
        theirs.inode(name).number = context.writers.inode(name).number
    await trio.sleep(0.5)
    context.end_other()
    await trio.sleep(5)
    context.close_all()
    await trio.sleep(35)
    await context.start_other(host, instance="world")
    await trio.sleep(40)
    context.end_other()


def _each_once(context: ScenarioContext) -> list[str]:
    """What is broken if a host's recording is not in S3, or twice."""
    recordings, broken = context.world.recordings(), []
    for writers in context.all_writers:
        for name in writers.names():
            times = recordings.count(writers.content(name))
            if times != 1:
                broken.append(f"P9: {name} of one host is in S3 {times} times")
    return broken


async def _before_bucket_changes(context: ScenarioContext) -> None:
    await interrupted(context)
    context.world.bucket = OTHER_BUCKET


async def _before_part_size_changes(context: ScenarioContext) -> None:
    await interrupted(context)
    context.world.part_size = PART // 2


async def _another_folder(context: ScenarioContext) -> None:
    """Redis has a stream of another host's folder, whose file has our file's numbers; nobody works on it."""
    world = context.world
    context.file_system.generations = False
    theirs = StreamMeta(
        stream_id=str(UUID(int=1, version=4)),
        original_path="/elsewhere/b.mp4",
        identity=FileIdentity(context.file_system.device, 4242),
        current_path="/elsewhere/b.mp4",
        s3_bucket=world.bucket,
        s3_key_prefix=f"streams/{UUID(int=1, version=4)}/b.mp4",
        part_size=PART,
        equal_parts=False,
        started_at_utc=world.utc_now(),
        last_activity_at_utc=world.utc_now(),
        status=Status.INTERRUPTED_SHUTDOWN,
    )
    await MemoryCheckpointStore.create(world.store, theirs, Lease("another host", "1", 0.001))
    await trio.sleep(1)
    context.append(2 * PART + 10)
    context.writers.inode("a.mp4").number = 4242
    await trio.sleep(1)
    context.close()
    await context.completes(within=60)
    snapshot = world.store.snapshot()
    streams = dict(snapshot.streams)
    if streams.pop(theirs.stream_id).meta != theirs:
        context.violations.append("P9: a stream of another folder was changed")
    world.store.restore(replace(snapshot, streams=streams))


async def _another_program(context: ScenarioContext) -> None:
    """Another program, and another daemon, upload to the bucket meanwhile."""
    world, keys = context.world, ["backup/a.mp4", f"streams/{UUID(int=2, version=4)}/b.mp4"]
    async with world.foreign_client() as s3:
        theirs = {key: (await s3.create_multipart_upload(key, metadata={})).upload_id for key in keys}
        context.append(2 * PART + 10)
        await trio.sleep(0.5)
        context.close()
        await context.completes(within=60)
        await trio.sleep(30)
        left = {upload.upload_id for upload in await s3.list_multipart_uploads()}
        for key, upload_id in theirs.items():
            if upload_id not in left:
                context.violations.append(f"P9: the upload of {key} was aborted, which was none of ours")
            await s3.abort_multipart_upload(key, upload_id)


async def _temporary_name(context: ScenarioContext) -> None:
    """It has a temporary name until its first part is there."""
    context.append(PART // 2, "tmp.mp4")
    await trio.sleep(0.5)
    context.rename("tmp.mp4", "final.mp4")
    await trio.sleep(0.5)
    context.append(2 * PART, "final.mp4")
    await trio.sleep(0.5)
    context.close("final.mp4")
    await trio.sleep(8)


def _key_has_final_name(context: ScenarioContext) -> list[str]:
    keys = [checkpoint.meta.s3_key_prefix for checkpoint in context.world.known()]
    return [f"P1: the key {key[-9:]} keeps a temporary name" for key in keys if not key.endswith("final.mp4")]


SCENARIOS: Final = (
    Scenario("two-hosts", "two hosts whose folders and inodes are called alike", keeps_growing, _before_two_hosts),
    Scenario(
        "two-hosts-at-once",
        "two hosts record under the same names at once",
        _hosts_at_once,
        check_end=_each_once,
        script_spans_lives=True,
    ),
    Scenario(
        "two-containers-at-once",
        "two containers of one machine record under the same names",
        _folders_at_once,
        _before_folders_at_once,
        check_end=_each_once,
        script_spans_lives=True,
    ),
    Scenario(
        "bucket-changes",
        "S3_BUCKET_NAME is another one in the next life",
        keeps_growing,
        _before_bucket_changes,
        starts_over=True,
    ),
    Scenario("part-size-changes", "CHUNK_SIZE_BYTES is another one", keeps_growing, _before_part_size_changes),
    Scenario("temporary-name", "renamed before the first part", _temporary_name, check_end=_key_has_final_name),
    Scenario("same-names", "recordings of one name in three folders, and a Redis that forgets", _same_names),
    Scenario("folder-renamed", "a folder with open recordings gets another name", _folder_renamed),
    Scenario("inotify-overflow", "inotify's queue overflows", _overflow),
    Scenario("inotify-watches-exhausted", "inotify gives no more watches", _no_more_watches),
    Scenario("foreign-stream", "a stream of another folder has our file's numbers", _another_folder),
    Scenario("foreign-uploads", "others upload to the bucket", _another_program),
    Scenario("two-daemons-one-folder", "two daemons see the same files at once", _two_at_once, _before_two_at_once),
)
