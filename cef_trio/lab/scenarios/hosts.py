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
from cef_trio.lab.scenario_context import Stage
from cef_trio.lab.scenarios.model import Scenario
from cef_trio.lab.scenarios.streams import goes_on, interrupted
from cef_trio.lab.world import OTHER_BUCKET, PART


async def _same_names(stage: Stage) -> None:
    """Recordings of one base name in several folders; Redis loses everything while all are open."""
    for folder in ("x", "y", "z"):
        stage.append(2 * PART + 10, f"{folder}/a.mp4")
    await trio.sleep(0.5)
    stage.world.lose_redis()
    await trio.sleep(0.2)
    for folder in ("x", "y", "z"):
        stage.append(PART, f"{folder}/a.mp4")
    await trio.sleep(0.3)
    stage.close_all()
    await trio.sleep(40)


async def _folder_renamed(stage: Stage) -> None:
    stage.append(2 * PART + 10, "x/a.mp4")
    stage.append(PART + 10, "x/b.mp4")
    await trio.sleep(0.5)
    stage.writers.rename_folder("x", "y")
    stage.append(PART, "y/a.mp4")
    await trio.sleep(0.5)
    stage.close_all()
    await trio.sleep(10)


async def _overflow(stage: Stage) -> None:
    """The kernel's queue overflows: what happened is told by the next scan only."""
    stage.append(2 * PART + 10, "a.mp4")
    await trio.sleep(0.5)
    stage.append(PART, "a.mp4")
    stage.rename("a.mp4", "b.mp4")
    stage.append(PART + 5, "c.mp4")
    stage.world.kernel.queues.overflow()
    stage.close_all()
    await trio.sleep(40)


async def _no_more_watches(stage: Stage) -> None:
    """The limit of inotify watches is reached while the daemon runs."""
    stage.append(PART + 10, "a.mp4")
    await trio.sleep(0.5)
    stage.world.kernel.queues.watches_left = 0
    stage.append(PART + 10, "deep/b.mp4")
    await trio.sleep(3)
    stage.append(PART + 10, "a.mp4")
    await trio.sleep(0.5)
    stage.append(PART + 10, "deep/b.mp4")
    stage.close_all()
    await trio.sleep(40)


async def _before_two_at_once(stage: Stage) -> None:
    """Two daemons watch one shared folder, whose files no inode number and no event of this host tells apart."""
    await stage.start_other()


async def _two_at_once(stage: Stage) -> None:
    for number in range(4):
        stage.append(PART + number, f"{number}.mp4")
    await trio.sleep(0.5)
    stage.close_all()
    await trio.sleep(15)
    stage.end_other()


async def _before_two_hosts(stage: Stage) -> None:
    """Two hosts call their folders alike, and their devices and inodes have the same numbers.

    This one's daemon has stopped in the middle of a recording. The other one's uploads a recording of the same name.
    """
    await interrupted(stage)
    before = stage.world.known()
    host = stage.world.add_host("elsewhere")
    writers = stage.writers_of(host)
    await trio.sleep(60)  # whatever lease there was is over
    await stage.start_other(host)
    writers.append(PART + 10, "a.mp4")
    writers.inode("a.mp4").number = stage.writers.inode("a.mp4").number
    await trio.sleep(1)
    writers.close("a.mp4")
    await trio.sleep(40)
    stage.end_other()
    await trio.sleep(1)
    after = {checkpoint.meta.stream_id: checkpoint for checkpoint in stage.world.known()}
    for checkpoint in before:
        if after.get(checkpoint.meta.stream_id) != checkpoint:
            stage.complaints.append("P9: a daemon of another host changed the record of this one's recording")
    if writers.content("a.mp4") not in stage.world.recordings():
        stage.complaints.append("P6: the other host's recording is not in S3")


async def _hosts_at_once(stage: Stage) -> None:
    """Both hosts record under the same names at once; the other one's daemon is killed, comes again, is stopped."""
    host = stage.world.add_host("elsewhere")
    theirs = stage.writers_of(host)
    await stage.start_other(host)
    for name in ("a.mp4", "b.mp4"):
        stage.append(2 * PART + 10, name)
        theirs.append(2 * PART + 10, name)
        theirs.inode(name).number = stage.writers.inode(name).number
    await trio.sleep(0.5)
    theirs.append(PART, "a.mp4")
    await trio.sleep(0.02)
    stage.other_life.end()
    stage.close("b.mp4")
    theirs.append(PART, "b.mp4")
    await trio.sleep(3)
    await stage.start_other(host)
    theirs.close("b.mp4")
    stage.append(PART, "a.mp4")
    theirs.append(PART, "a.mp4")
    await trio.sleep(3)
    stage.end_other()
    stage.close("a.mp4")
    theirs.close("a.mp4")
    await trio.sleep(35)
    await stage.start_other(host)
    await trio.sleep(40)
    stage.end_other()


async def _before_folders_at_once(stage: Stage) -> None:
    stage.file_system.fsid = b"the one!"
    await trio.lowlevel.checkpoint()


async def _folders_at_once(stage: Stage) -> None:
    """Two containers of one machine, of one name, with disks of their own, record under the same names."""
    file_system = FileSystem(fsid=b"another!")
    host = stage.world.add_host("container", machine=stage.world.host.machine, file_system=file_system)
    theirs = stage.writers_of(host)
    await stage.start_other(host, instance="world")
    for name in ("a.mp4", "b.mp4"):
        stage.append(2 * PART + 10, name)
        theirs.append(2 * PART + 10, name)
        theirs.inode(name).number = stage.writers.inode(name).number
    await trio.sleep(0.5)
    stage.end_other()
    await trio.sleep(5)
    stage.close_all()
    await trio.sleep(35)
    await stage.start_other(host, instance="world")
    await trio.sleep(40)
    stage.end_other()


def _each_once(stage: Stage) -> list[str]:
    """What is broken if a host's recording is not in S3, or twice."""
    recordings, broken = stage.world.recordings(), []
    for writers in stage.all_writers:
        for name in writers.names():
            times = recordings.count(writers.content(name))
            if times != 1:
                broken.append(f"P9: {name} of one host is in S3 {times} times")
    return broken


async def _before_bucket_changes(stage: Stage) -> None:
    await interrupted(stage)
    stage.world.bucket = OTHER_BUCKET


async def _before_part_size_changes(stage: Stage) -> None:
    await interrupted(stage)
    stage.world.part_size = PART // 2


async def _another_folder(stage: Stage) -> None:
    """Redis has a stream of another host's folder, whose file has our file's numbers; nobody works on it."""
    world = stage.world
    stage.file_system.generations = False
    theirs = StreamMeta(
        stream_id=str(UUID(int=1, version=4)),
        original_path="/elsewhere/b.mp4",
        identity=FileIdentity(stage.file_system.device, 4242),
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
    stage.append(2 * PART + 10)
    stage.writers.inode("a.mp4").number = 4242
    await trio.sleep(1)
    stage.close()
    await stage.completes(within=60)
    snapshot = world.store.snapshot()
    streams = dict(snapshot.streams)
    if streams.pop(theirs.stream_id).meta != theirs:
        stage.complaints.append("P9: a stream of another folder was changed")
    world.store.restore(replace(snapshot, streams=streams))


async def _another_program(stage: Stage) -> None:
    """Another program, and another daemon, upload to the bucket meanwhile."""
    world, keys = stage.world, ["backup/a.mp4", f"streams/{UUID(int=2, version=4)}/b.mp4"]
    async with world.foreign_client() as s3:
        theirs = {key: (await s3.create_multipart_upload(key, metadata={})).upload_id for key in keys}
        stage.append(2 * PART + 10)
        await trio.sleep(0.5)
        stage.close()
        await stage.completes(within=60)
        await trio.sleep(30)
        left = {upload.upload_id for upload in await s3.list_multipart_uploads()}
        for key, upload_id in theirs.items():
            if upload_id not in left:
                stage.complaints.append(f"P9: the upload of {key} was aborted, which was none of ours")
            await s3.abort_multipart_upload(key, upload_id)


async def _temporary_name(stage: Stage) -> None:
    """It has a temporary name until its first part is there."""
    stage.append(PART // 2, "tmp.mp4")
    await trio.sleep(0.5)
    stage.rename("tmp.mp4", "final.mp4")
    await trio.sleep(0.5)
    stage.append(2 * PART, "final.mp4")
    await trio.sleep(0.5)
    stage.close("final.mp4")
    await trio.sleep(8)


def _key_has_final_name(stage: Stage) -> list[str]:
    keys = [checkpoint.meta.s3_key_prefix for checkpoint in stage.world.known()]
    return [f"P1: the key {key[-9:]} keeps a temporary name" for key in keys if not key.endswith("final.mp4")]


SCENARIOS: Final = (
    Scenario("two-hosts", "two hosts whose folders and inodes are called alike", goes_on, _before_two_hosts),
    Scenario(
        "hosts-at-once", "two hosts record under the same names at once", _hosts_at_once, also=_each_once, goes_on=True
    ),
    Scenario(
        "folders-at-once",
        "two containers of one machine record under the same names",
        _folders_at_once,
        _before_folders_at_once,
        also=_each_once,
        goes_on=True,
    ),
    Scenario(
        "bucket-changes",
        "S3_BUCKET_NAME is another one in the next life",
        goes_on,
        _before_bucket_changes,
        starts_over=True,
    ),
    Scenario("part-size-changes", "CHUNK_SIZE_BYTES is another one", goes_on, _before_part_size_changes),
    Scenario("temporary-name", "renamed before the first part", _temporary_name, also=_key_has_final_name),
    Scenario("same-names", "recordings of one name in three folders, and a Redis that forgets", _same_names),
    Scenario("folder-renamed", "a folder with open recordings gets another name", _folder_renamed),
    Scenario("overflow", "inotify's queue overflows", _overflow),
    Scenario("no-more-watches", "inotify gives no more watches", _no_more_watches),
    Scenario("another-folder", "a stream of another folder has our file's numbers", _another_folder),
    Scenario("another-program", "others upload to the bucket", _another_program),
    Scenario("two-at-once", "two daemons see the same files at once", _two_at_once, _before_two_at_once),
)
