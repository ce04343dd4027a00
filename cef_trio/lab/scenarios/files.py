"""Scenarios of files: unknown writers, unstable inode numbers, wrong time stamps, mounts, permissions.

``before`` sets the properties of the watch folder's file system, so that it behaves as sshfs, FAT, a FUSE mount, or a
file of another user does.
"""

from __future__ import annotations

import errno
from typing import Final

import trio

from cef_trio.checkpoint.memory import Moment
from cef_trio.checkpoint.states import Status
from cef_trio.lab.filesystem import FileSystem, Leases, Numbers
from cef_trio.lab.scenario_context import ScenarioContext
from cef_trio.lab.scenarios.model import GONE, Scenario
from cef_trio.lab.world import PART
from cef_trio.s3_endpoint import Fault, Kind
from cef_trio.settings.after_upload import AfterUploadAction, AfterUploadRule

_REPLACED: Final = GONE | {Status.FAILED_FILE_REPLACED}


# -- unknown writers, mounts, descriptors ------------------------------------------------------------------------------


async def _on_fuse(context: ScenarioContext) -> None:
    """A FUSE mount: it grants leases despite writers on the other side, and inotify reports nothing."""
    context.file_system.name, context.file_system.leases = "fuse.bindfs", Leases.ALWAYS
    context.file_system.reports_events = False
    context.world.after_upload = AfterUploadRule(AfterUploadAction.DELETE)
    context.world.rescan_seconds = 2.0
    await trio.lowlevel.checkpoint()


async def _remote_writer(context: ScenarioContext) -> None:
    for _ in range(6):
        context.append(PART // 2 + 7)
        await trio.sleep(5)
    context.close()
    await trio.sleep(40)


async def _of_another_user(context: ScenarioContext) -> None:
    """A file of another user, without CAP_LEASE: whether it has a writer is unknown."""
    context.file_system.leases = Leases.NEVER
    context.world.after_upload = AfterUploadRule(AfterUploadAction.DELETE)
    await trio.lowlevel.checkpoint()


async def _touched_while_written(context: ScenarioContext) -> None:
    context.append(PART + 10)
    await trio.sleep(1)
    context.writers.open_and_close("a.mp4")
    await trio.sleep(5)
    context.append(PART)
    await trio.sleep(1)
    context.close()
    await trio.sleep(40)


async def _move_event_lost(context: ScenarioContext) -> None:
    """The event of a move is lost; the next full scan sees the new name seconds after the old one is missing."""
    context.append(2 * PART + 10)
    await trio.sleep(0.5)
    context.world.kernel.queues.drops_events = True
    context.writers.move("a.mp4", "deep/down/b.mp4")
    context.world.kernel.queues.drops_events = False
    await trio.sleep(20)
    context.append(PART, "deep/down/b.mp4")
    context.close("deep/down/b.mp4")
    await trio.sleep(8)


async def _renamed_then_deleted(context: ScenarioContext) -> None:
    """While its stream waits for a retry, a recording is renamed and then deleted; Redis has its old name."""
    reset = context.arm(Fault(Kind.RESET, "UploadPart", times=None))
    context.append(2 * PART + 10)
    await trio.sleep(1.2)
    context.rename("a.mp4", "b.mp4")
    await trio.sleep(0.1)
    context.delete("b.mp4")
    context.world.endpoint.faults.disarm(reset)
    await trio.sleep(8)


async def _bind_mount(context: ScenarioContext) -> None:
    """A sub-folder is a mount of the same device: a bind mount, or a subvolume."""
    context.world.kernel.make_folder(context.world.folder / "mnt", FileSystem(device=context.file_system.device))
    await trio.lowlevel.checkpoint()


async def _other_mount(context: ScenarioContext) -> None:
    context.world.kernel.make_folder(context.world.folder / "mnt", FileSystem("xfs", device=99))
    await trio.lowlevel.checkpoint()


async def _unmounted(context: ScenarioContext) -> None:
    context.append(2 * PART + 10, "mnt/a.mp4")
    context.append(PART + 10, "b.mp4")
    await trio.sleep(0.5)
    away = context.world.kernel.unmount(context.world.folder / "mnt")
    context.close("b.mp4")
    await trio.sleep(30)
    context.world.kernel.remount(context.world.folder / "mnt", away)
    await trio.sleep(0.1)
    context.append(PART, "mnt/a.mp4")
    context.close("mnt/a.mp4")
    await trio.sleep(30)


async def _mount_dead(context: ScenarioContext) -> None:
    """The server of a mount is down: every call below the mount fails."""
    context.append(2 * PART + 10, "mnt/a.mp4")
    context.append(PART + 10, "b.mp4")
    await trio.sleep(0.5)
    system = context.world.kernel.file_system(context.world.folder / "mnt")
    system.error = errno.ENOTCONN
    context.close("b.mp4")
    await trio.sleep(30)
    system.error = None
    context.append(PART, "mnt/a.mp4")
    context.close("mnt/a.mp4")
    await trio.sleep(30)


async def _no_descriptors(context: ScenarioContext) -> None:
    """The process has no descriptor left for eight seconds: no file can be opened."""
    context.append(2 * PART + 10)
    await trio.sleep(0.5)
    context.file_system.open_error = errno.EMFILE
    context.append(2 * PART)
    await trio.sleep(8)
    context.file_system.open_error = None
    context.close()
    await context.completes(within=120)


# -- inode numbers -----------------------------------------------------------------------------------------------------


async def _reused_inode_numbers(context: ScenarioContext) -> None:
    context.file_system.numbers, context.file_system.generations = Numbers.REUSED, False
    await trio.lowlevel.checkpoint()


async def _inode_reused(context: ScenarioContext) -> None:
    """A recording fails permanently and is deleted; the next one with its name gets its inode number."""
    refused = context.refuse("UploadPart", "KeyTooLongError")
    context.append(2 * PART + 10)
    await trio.sleep(3)
    context.delete()
    context.world.endpoint.faults.disarm(refused)
    await trio.sleep(0.5)
    context.append(PART + 300)
    await trio.sleep(0.5)
    context.close()
    await trio.sleep(8)


async def _network_file_system(context: ScenarioContext) -> None:
    """As NFS: a deleted file's number goes to the next one, nothing else tells them apart, and there are no events."""
    await _reused_inode_numbers(context)
    context.file_system.name, context.file_system.reports_events = "nfs", False
    context.file_system.leases = Leases.NEVER
    context.world.rescan_seconds = 2.0


async def _number_under_another_name(context: ScenarioContext) -> None:
    """A recording is deleted, and one of another name gets its inode number, between two scans."""
    context.append(2 * PART + 10, "a.mp4")
    await trio.sleep(4.5)
    context.delete("a.mp4")
    context.append(PART + 10, "b.mp4")
    await trio.sleep(4)
    context.append(PART, "b.mp4")
    context.close("b.mp4")
    await trio.sleep(45)


def _each_has_its_own_object(context: ScenarioContext) -> list[str]:
    """Return a violation if a recording's object has the name of another one, which numbers do not tell."""
    streams = [one.meta for one in context.world.known() if one.meta.status is Status.COMPLETED]
    return [
        f"P1: the object {one.s3_key_prefix} has the bytes of {one.current_path}"
        for one in streams
        if one.s3_key_prefix.rpartition("/")[2] != one.current_path.rpartition("/")[2]
    ]


async def _unstable_inode_numbers(context: ScenarioContext) -> None:
    """As on sshfs, FAT, exFAT or CIFS: the client invents inode numbers, and there are no generations."""
    context.file_system.name, context.file_system.generations = "fuse.sshfs", False
    context.file_system.leases, context.file_system.reports_events = Leases.NEVER, False
    context.world.rescan_seconds = 2.0
    await trio.lowlevel.checkpoint()


async def _inodes_change(context: ScenarioContext) -> None:
    """Every inode number changes while one recording is completed and another one is open."""
    context.append(PART + 10, "a.mp4")
    context.close("a.mp4")
    await trio.sleep(40)
    context.append(2 * PART + 10, "b.mp4")
    await trio.sleep(5)
    context.world.kernel.renumber(context.file_system)
    await trio.sleep(5)
    context.append(PART, "b.mp4")
    context.close("b.mp4")
    await trio.sleep(45)


async def _moved_while_stopped(context: ScenarioContext) -> None:
    """Two recordings are moved while no daemon runs, on a file system with unstable inode numbers."""
    await _unstable_inode_numbers(context)
    await context.recorded_by_an_earlier_daemon("a.mp4", "b.mp4")
    context.writers.move("a.mp4", "deep/a.mp4")
    context.writers.move("b.mp4", "deep/b.mp4")
    context.world.kernel.renumber(context.file_system)


async def _moved_without_permission(context: ScenarioContext) -> None:
    """Two recordings are moved and not yet readable, as ``mv`` sets the mode last; a response of Redis is lost."""
    await context.recorded_by_an_earlier_daemon("a.mp4", "b.mp4")
    for name in ("a.mp4", "b.mp4"):
        context.writers.move(name, f"deep/{name}")
        context.writers.permit(f"deep/{name}", permitted=False)
    pending = [True]

    async def lose_response(operation: str, moment: Moment) -> None:
        if operation == "members" and moment is Moment.AFTER and pending:
            pending.clear()
            await trio.sleep(5)

    context.world.store.fault = lose_response


async def _continues_after_move(context: ScenarioContext) -> None:
    await trio.sleep(5)
    for name in ("deep/a.mp4", "deep/b.mp4"):
        context.writers.permit(name, permitted=True)
    await trio.sleep(3)
    context.append(PART, "deep/a.mp4")
    context.close_all()
    await trio.sleep(45)


# -- time stamps -------------------------------------------------------------------------------------------------------


async def _touched_after_upload(context: ScenarioContext) -> None:
    """The time stamp of a completed recording changes, and no byte: ``touch``, ``rsync -t``."""
    context.append(2 * PART + 10)
    context.close()
    await trio.sleep(8)
    context.writers.set_mtime("a.mp4", context.world.kernel.now_ns() + 3 * 10**9)
    await trio.sleep(30)


async def _copied_after_upload(context: ScenarioContext) -> None:
    """A completed recording is replaced by a copy with the same bytes and times (``cp -a``)."""
    context.append(2 * PART + 10)
    context.close()
    await trio.sleep(8)
    context.writers.copy_over("a.mp4")
    await trio.sleep(30)


async def _copied_while_growing(context: ScenarioContext) -> None:
    """A growing recording is copied into the folder again and again (``rsync``), each time as a new, longer file."""
    context.append(6 * PART + 10)
    context.close()
    for _ in range(8):
        await trio.sleep(0.5)
        context.writers.copy_grown(PART, "a.mp4")
    await trio.sleep(8)


async def _mtime_goes_back(context: ScenarioContext) -> None:
    """The time stamp goes back: at equal size, the recorded one is newer than the file's."""
    context.append(2 * PART + 10)
    await trio.sleep(3)
    context.writers.set_mtime("a.mp4", context.world.kernel.now_ns() - 3600 * 10**9)
    context.close()
    await context.completes(within=100)


async def _coarse_time_stamps(context: ScenarioContext) -> None:
    context.file_system.name, context.file_system.granularity_ns = "vfat", 2 * 10**9
    await trio.lowlevel.checkpoint()


async def _same_mtime(context: ScenarioContext) -> None:
    """The recording changes, at equal size, within the granularity of the verified time stamp."""
    await trio.sleep(0.1)  # time stamps lag behind the clock: all that follows has the same one
    context.append(2 * PART + 10)
    await trio.sleep(0.1)
    context.close()
    await trio.sleep(1.3)
    context.patch(5, b"patched in the same tick")
    context.close()
    await trio.sleep(20)


def _one_stream(context: ScenarioContext) -> list[str]:
    """Return a violation if the recording was completed before the time stamp was reliable, and sent again."""
    streams = len(context.world.known())
    return [f"P2: {streams} streams were started for one recording"] if streams > 1 else []


async def _mtime_in_future(context: ScenarioContext) -> None:
    """The file server's clock is an hour ahead, and is then corrected."""
    context.file_system.skew_ns = 3600 * 10**9
    context.append(2 * PART + 10)
    await trio.sleep(1)
    context.file_system.skew_ns = 0
    context.append(PART)
    await trio.sleep(1)
    context.close()
    await trio.sleep(10)


async def _completed_record_lost(context: ScenarioContext) -> None:
    """Redis loses everything after a recording was completed; its file still exists."""
    context.append(2 * PART + 10)
    context.close()
    await trio.sleep(8)
    context.world.lose_redis()
    await trio.sleep(30)


# -- changes of parts of a file ----------------------------------------------------------------------------------------


async def _tail_truncated(context: ScenarioContext) -> None:
    """The last byte is truncated before the close."""
    context.append(8 * PART)
    await trio.sleep(2)
    context.truncate(8 * PART - 1)
    context.close()
    await trio.sleep(10)


async def _preallocated(context: ScenarioContext) -> None:
    """The recorder preallocates the full size, and fills it."""
    context.truncate(8 * PART + 10)
    await trio.sleep(1)
    for number in range(8):
        context.patch(number * PART, context.world.random.randbytes(PART))
        await trio.sleep(1)
    context.patch(8 * PART, b"its end...")
    context.close()
    await trio.sleep(10)


async def _append_after_close(context: ScenarioContext) -> None:
    """The recording is appended to and closed every few seconds."""
    for _ in range(5):
        context.append(2 * PART)
        context.close()
        await trio.sleep(6)
    await trio.sleep(10)


async def _slow_reads(context: ScenarioContext) -> None:
    context.world.read_seconds = 0.3
    await trio.lowlevel.checkpoint()


async def _patched_during_verification(context: ScenarioContext) -> None:
    """During the verification, a block is patched that was already read."""
    context.append(4 * PART)
    await trio.sleep(4)
    context.close()
    await trio.sleep(1.8)
    context.patch(5, b"patched")
    context.close()
    await trio.sleep(30)


async def _permission_granted_late(context: ScenarioContext) -> None:
    """The recording is readable five seconds after its close, as ``mv`` and ``cp -p`` set the mode last."""
    context.touch()
    context.writers.permit("a.mp4", permitted=False)
    context.append(2 * PART + 10)
    context.close()
    await trio.sleep(5)
    context.writers.permit("a.mp4", permitted=True)
    await trio.sleep(30)


async def _entry_damaged(context: ScenarioContext) -> None:
    """The disk has damaged one recording's inode; others of its folder arrive, and it does once it is repaired."""
    context.append(PART + 10)
    context.close()
    context.writers.damage("a.mp4", damaged=True)
    await trio.sleep(8)
    context.append(PART + 10, "b.mp4")
    context.close("b.mp4")
    await context.completes("b.mp4", within=60)
    context.writers.damage("a.mp4", damaged=False)
    await context.completes(within=60)


async def _renamed_unreadable(context: ScenarioContext) -> None:
    """A recording is renamed while its status cannot be read, as on a network file system with errors of its server."""
    context.append(2 * PART + 10)
    await trio.sleep(3)
    context.writers.damage("a.mp4", damaged=True)
    context.world.kernel.queues.drops_events = True
    context.writers.rename("a.mp4", "b.mp4")
    context.world.kernel.queues.drops_events = False
    await trio.sleep(20)
    context.writers.damage("b.mp4", damaged=False)
    context.append(PART, "b.mp4")
    context.close("b.mp4")
    await context.completes("b.mp4", within=60)


SCENARIOS: Final = (
    Scenario(
        "fuse-remote-writer",
        "a FUSE mount grants a lease on a file with a remote writer; AFTER_UPLOAD=delete",
        _remote_writer,
        _on_fuse,
        writes_again=True,
    ),
    Scenario(
        "touched-while-written",
        "another process touches a file whose writer is unknown; AFTER_UPLOAD=delete",
        _touched_while_written,
        _of_another_user,
        writes_again=True,
    ),
    Scenario(
        "move-event-lost",
        "a recording is moved without an event",
        _move_event_lost,
    ),
    Scenario(
        "renamed-then-deleted",
        "a recording is renamed and deleted while its stream waits for a retry",
        _renamed_then_deleted,
        may_end=GONE,
    ),
    Scenario("bind-unmounted", "a bind mount of the same device is unmounted for a while", _unmounted, _bind_mount),
    Scenario("unmounted", "a mount is unmounted for a while", _unmounted, _other_mount),
    Scenario("no-descriptors", "the process has no descriptors left for a while", _no_descriptors),
    Scenario("mount-dead", "the server of a mount is down for a while", _mount_dead, _other_mount),
    Scenario(
        "inode-reused",
        "a failed recording is deleted, and the next one gets its name and inode number",
        _inode_reused,
        _reused_inode_numbers,
        may_end=_REPLACED | {Status.FAILED_S3_UPLOAD},
    ),
    Scenario(
        "number-under-another-name",
        "a recording is deleted, and one of another name gets its inode number between two scans",
        _number_under_another_name,
        _network_file_system,
        may_end=GONE,
        check_end=_each_has_its_own_object,
    ),
    Scenario("inodes-change", "every inode number changes", _inodes_change, _unstable_inode_numbers),
    Scenario(
        "moved-while-stopped",
        "recordings are moved while no daemon runs, with unstable inode numbers",
        _continues_after_move,
        _moved_while_stopped,
    ),
    Scenario(
        "moved-without-permission",
        "recordings are moved while no daemon runs, and are readable later",
        _continues_after_move,
        _moved_without_permission,
        redis_may_fail=True,
    ),
    Scenario(
        "touched-after-upload",
        "the time stamp of a completed recording changes",
        _touched_after_upload,
        one_object=True,
    ),
    Scenario(
        "copied-after-upload",
        "a completed recording is replaced by a copy",
        _copied_after_upload,
        may_end=_REPLACED,
        check_unharmed=ScenarioContext.in_s3_twice,
    ),
    Scenario(
        "copied-while-growing",
        "a growing recording is replaced by longer copies",
        _copied_while_growing,
        may_end=_REPLACED,
        bounded_bytes=True,
    ),
    Scenario("mtime-goes-back", "the time stamp of a recording goes back", _mtime_goes_back, _unstable_inode_numbers),
    Scenario(
        "same-mtime",
        "a change at equal size that does not change the time stamp",
        _same_mtime,
        _coarse_time_stamps,
        may_end=_REPLACED,  # no stable inode number, and the only recorded part was patched: taken for another file
        writes_again=True,
        check_unharmed=_one_stream,
    ),
    Scenario("mtime-in-future", "time stamps are in the future for a while", _mtime_in_future),
    Scenario(
        "completed-record-lost",
        "Redis loses everything after a recording was completed",
        _completed_record_lost,
        one_object=True,
    ),
    Scenario(
        "tail-truncated",
        "the last byte is truncated before the close",
        _tail_truncated,
        starts_over=True,
        bounded_bytes=True,
    ),
    Scenario("preallocated", "the file is preallocated, then filled", _preallocated, bounded_bytes=True, slack_parts=4),
    Scenario(
        "append-after-close",
        "the recording is appended to and closed again and again",
        _append_after_close,
        writes_again=True,
        bounded_bytes=True,
    ),
    Scenario(
        "patched-during-verification",
        "a block is patched after the verification has read it",
        _patched_during_verification,
        _slow_reads,
    ),
    Scenario(
        "permission-granted-late", "a recording is readable a few seconds after it is seen", _permission_granted_late
    ),
    Scenario("entry-damaged", "the disk has damaged the inode of one recording, for a while", _entry_damaged),
    Scenario("renamed-unreadable", "a recording is renamed while its status cannot be read", _renamed_unreadable),
)
