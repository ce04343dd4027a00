"""Scenarios of several hosts and folders, of other programs (P9), and of settings that change between two daemons."""

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
from cef_trio.lab.scenarios.streams import interrupted_recording, recording_continues
from cef_trio.lab.world import AUTO_PART_SIZE, OTHER_BUCKET, PART
from cef_trio.s3_endpoint import Fault, Kind, Moment


async def _same_names(context: ScenarioContext) -> None:
    """Recordings with the same name in several folders; Redis loses everything while all are open."""
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


async def _watch_two_folders(context: ScenarioContext) -> None:
    """Make the daemons watch two folders, as with ``WATCH_DIR=x:y``."""
    context.world.watched_below = ("x", "y")
    for name in context.world.watched_below:
        (context.world.folder / name).mkdir()
    await trio.lowlevel.checkpoint()


async def _two_folders(context: ScenarioContext) -> None:
    """Equal names in two folders, a rename from one to the other, and a folder that is away for a while."""
    for folder in ("x", "y"):
        context.append(2 * PART + 10, f"{folder}/a.mp4")
    context.append(PART + 10, "x/b.mp4")
    await trio.sleep(0.5)
    context.rename("x/b.mp4", "y/c.mp4")
    context.append(PART, "y/c.mp4")
    await trio.sleep(0.5)
    context.writers.rename_folder("y", "away")
    context.append(PART, "x/a.mp4")
    await trio.sleep(5)
    context.writers.rename_folder("away", "y")
    context.append(PART, "y/a.mp4")
    await trio.sleep(0.5)
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


async def _inotify_overflow(context: ScenarioContext) -> None:
    """The queue of inotify overflows; only the next scan sees the changes."""
    context.append(2 * PART + 10, "a.mp4")
    await trio.sleep(0.5)
    context.append(PART, "a.mp4")
    context.rename("a.mp4", "b.mp4")
    context.append(PART + 5, "c.mp4")
    context.world.kernel.queues.overflow()
    context.close_all()
    await trio.sleep(40)


async def _inotify_watches_exhausted(context: ScenarioContext) -> None:
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


async def _start_second_daemon(context: ScenarioContext) -> None:
    """Start a second daemon that watches the same folder."""
    await context.start_other()


async def _two_daemons_one_folder(context: ScenarioContext) -> None:
    for number in range(4):
        context.append(PART + number, f"{number}.mp4")
    await trio.sleep(0.5)
    context.close_all()
    await trio.sleep(15)
    context.end_other()


async def _other_host_uploads(context: ScenarioContext) -> None:
    """Two hosts have the same watch folder path, device and inode numbers.

    The daemon of this host has stopped in the middle of a recording. That of the other host uploads a recording with
    the same name.
    """
    await interrupted_recording(context)
    before = context.world.known()
    host = context.world.add_host("elsewhere")
    writers = context.writers_of(host)
    await trio.sleep(60)  # until every lease has expired
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
            context.violations.append("P9: a daemon of another host changed the record of this host's recording")
    if writers.content("a.mp4") not in context.world.recordings():
        context.violations.append("P6: the other host's recording is not in S3")


async def _two_hosts_at_once(context: ScenarioContext) -> None:
    """Both hosts record under the same names; the daemon of the other host crashes, restarts, and is stopped."""
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


async def _set_file_system_id(context: ScenarioContext) -> None:
    context.file_system.fsid = b"the one!"
    await trio.lowlevel.checkpoint()


async def _two_containers_at_once(context: ScenarioContext) -> None:
    """Two containers of one machine, with one host name and different disks, record under the same names."""
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


def _check_each_uploaded_once(context: ScenarioContext) -> list[str]:
    """Return violations for recordings that are not in S3 exactly once."""
    recordings, violations = context.world.recordings(), []
    for writers in context.all_writers:
        for name in writers.names():
            times = recordings.count(writers.content(name))
            if times != 1:
                violations.append(f"P9: {name} of one host is in S3 {times} times")
    return violations


async def _interrupt_and_change_bucket(context: ScenarioContext) -> None:
    await interrupted_recording(context)
    context.world.bucket = OTHER_BUCKET


async def _interrupt_and_change_part_size(context: ScenarioContext) -> None:
    await interrupted_recording(context)
    context.world.part_size = PART // 2


async def _auto_part_size(context: ScenarioContext) -> None:
    context.world.auto_part_size = AUTO_PART_SIZE


async def _recording_at_a_steady_rate(context: ScenarioContext) -> None:
    """The size is chosen after two seconds, and its first part is full later."""
    for _ in range(6):
        context.append(PART // 5)
        await trio.sleep(1.1)
    for _ in range(2):
        context.append(2 * PART)
        await trio.sleep(0.5)
    context.close()
    await trio.sleep(8)


async def _foreign_stream(context: ScenarioContext) -> None:
    """Redis has a stream of another host's folder, whose file has the same device and inode; no daemon works on it."""
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
    held = world.store.snapshot()
    if held.streams[theirs.stream_id].meta != theirs:
        context.violations.append("P9: a stream of another folder was changed")
    # With its index entries, or the end of the run would ask for its completion.
    world.store.restore(
        replace(
            held,
            streams={key: stream for key, stream in held.streams.items() if key != theirs.stream_id},
            by_path={path: key for path, key in held.by_path.items() if key != theirs.stream_id},
            history={key: ended for key, ended in held.history.items() if key != theirs.stream_id},
            lease_ends={key: end for key, end in held.lease_ends.items() if key != theirs.stream_id},
        )
    )


async def _foreign_uploads(context: ScenarioContext) -> None:
    """Another program and another daemon upload to the same bucket, the latter below our prefix.

    Open uploads are listed after our upload, because its creation is repeated, and one minute after the start.
    """
    world, keys = context.world, ["backup/a.mp4", f"streams/{UUID(int=2, version=4)}/b.mp4"]
    async with world.foreign_client() as s3:
        theirs = {key: (await s3.create_multipart_upload(key, metadata={})).upload_id for key in keys}
        context.arm(Fault(Kind.RESET, "CreateMultipartUpload", Moment.REPLY))
        context.append(2 * PART + 10)
        await trio.sleep(0.5)
        context.close()
        await context.completes(within=60)
        await trio.sleep(70)
        left = {upload.upload_id for upload in await s3.list_multipart_uploads()}
        for key, upload_id in theirs.items():
            if upload_id not in left:
                context.violations.append(f"P9: the upload of {key} by another program was aborted")
            await s3.abort_multipart_upload(key, upload_id)


async def _temporary_name(context: ScenarioContext) -> None:
    """The recording has a temporary name until its first part is full."""
    context.append(PART // 2, "tmp.mp4")
    await trio.sleep(0.5)
    context.rename("tmp.mp4", "final.mp4")
    await trio.sleep(0.5)
    context.append(2 * PART, "final.mp4")
    await trio.sleep(0.5)
    context.close("final.mp4")
    await trio.sleep(8)


def _check_key_has_final_name(context: ScenarioContext) -> list[str]:
    keys = [checkpoint.meta.s3_key_prefix for checkpoint in context.world.known()]
    return [f"P1: the key {key[-9:]} has a temporary name" for key in keys if not key.endswith("final.mp4")]


SCENARIOS: Final = (
    Scenario(
        "two-folders",
        "two watch folders with equal names, a rename from one to the other, and one folder that is away for a while",
        _two_folders,
        _watch_two_folders,
    ),
    Scenario(
        "two-hosts", "two hosts with the same folder path and inode numbers", recording_continues, _other_host_uploads
    ),
    Scenario(
        "two-hosts-at-once",
        "two hosts record under the same names at once",
        _two_hosts_at_once,
        check_end=_check_each_uploaded_once,
        script_spans_lives=True,
    ),
    Scenario(
        "two-containers-at-once",
        "two containers of one machine record under the same names",
        _two_containers_at_once,
        _set_file_system_id,
        check_end=_check_each_uploaded_once,
        script_spans_lives=True,
    ),
    Scenario(
        "bucket-changes",
        "S3_BUCKET_NAME changes before the next daemon",
        recording_continues,
        _interrupt_and_change_bucket,
        starts_over=True,
    ),
    Scenario(
        "part-size-changes",
        "CHUNK_SIZE_BYTES changes before the next daemon",
        recording_continues,
        _interrupt_and_change_part_size,
    ),
    Scenario(
        "part-size-auto",
        "CHUNK_SIZE_BYTES=auto: the part size follows the rate of the recording",
        _recording_at_a_steady_rate,
        _auto_part_size,
        bounded_bytes=True,
    ),
    Scenario(
        "temporary-name",
        "a recording is renamed before its first part is full",
        _temporary_name,
        check_end=_check_key_has_final_name,
    ),
    Scenario("same-names", "recordings with one name in three folders; Redis loses everything", _same_names),
    Scenario("folder-renamed", "a folder with open recordings is renamed", _folder_renamed),
    Scenario("inotify-overflow", "the queue of inotify overflows", _inotify_overflow),
    Scenario("inotify-watches-exhausted", "the limit of inotify watches is reached", _inotify_watches_exhausted),
    Scenario("foreign-stream", "a stream of another folder has the inode number of a file here", _foreign_stream),
    Scenario("foreign-uploads", "another program uploads to the bucket", _foreign_uploads),
    Scenario(
        "two-daemons-one-folder",
        "two daemons watch one folder",
        _two_daemons_one_folder,
        _start_second_daemon,
    ),
)
