"""Files as they are outside: writers that cannot be known, numbers that mean nothing, time stamps that lie.

The file system of the watched folder is turned by a story's ``before``; what the daemon's code asks of it then answers
as sshfs, FAT, a FUSE mount or another user's file does.
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


# -- what is not known is not "no" -------------------------------------------------------------------------------------


async def _before_fuse(context: ScenarioContext) -> None:
    """A FUSE mount: its leases are granted whoever writes on the other side, and inotify hears of nothing there."""
    context.file_system.name, context.file_system.leases = "fuse.bindfs", Leases.ALWAYS
    context.file_system.reports_events = False
    context.world.after_upload = AfterUploadRule(AfterUploadAction.DELETE)
    context.world.rescan_seconds = 2.0
    await trio.lowlevel.checkpoint()


async def _grows_unseen(context: ScenarioContext) -> None:
    for _ in range(6):
        context.append(PART // 2 + 7)
        await trio.sleep(5)
    context.close()
    await trio.sleep(40)


async def _before_other_user(context: ScenarioContext) -> None:
    """Another user's file, without CAP_LEASE: nobody tells whether it has a writer."""
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


async def _moved_in_a_big_tree(context: ScenarioContext) -> None:
    """The news of a new name is lost; only the next scan of all tells it, seconds after the old one is missed."""
    context.append(2 * PART + 10)
    await trio.sleep(0.5)
    context.world.kernel.queues.drops_events = True
    context.writers.move("a.mp4", "deep/down/b.mp4")
    context.world.kernel.queues.drops_events = False
    await trio.sleep(20)
    context.append(PART, "deep/down/b.mp4")
    context.close("deep/down/b.mp4")
    await trio.sleep(8)


async def _gone_under_a_new_name(context: ScenarioContext) -> None:
    """While its stream waits for another try, a recording is renamed, and then deleted: the name on record is not where
    it was last.
    """
    reset = context.arm(Fault(Kind.RESET, "UploadPart", times=None))
    context.append(2 * PART + 10)
    await trio.sleep(1.2)
    context.rename("a.mp4", "b.mp4")
    await trio.sleep(0.1)
    context.delete("b.mp4")
    context.world.endpoint.faults.disarm(reset)
    await trio.sleep(8)


async def _before_mounted(context: ScenarioContext) -> None:
    """A folder of the tree is a mount of the same device: a bind mount, or a subvolume."""
    context.world.kernel.make_folder(context.world.folder / "mnt", FileSystem(device=context.file_system.device))
    await trio.lowlevel.checkpoint()


async def _before_mounted_other(context: ScenarioContext) -> None:
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


async def _server_gone(context: ScenarioContext) -> None:
    """The mount's server dies: every call there fails, and the folder above is as it was."""
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
    """The process has no descriptor left for a while: nothing can be opened."""
    context.append(2 * PART + 10)
    await trio.sleep(0.5)
    context.file_system.open_error = errno.EMFILE
    context.append(2 * PART)
    await trio.sleep(8)
    context.file_system.open_error = None
    context.close()
    await context.completes(within=120)


# -- a number is not a file --------------------------------------------------------------------------------------------


async def _before_reused(context: ScenarioContext) -> None:
    context.file_system.numbers, context.file_system.generations = Numbers.REUSED, False
    await trio.lowlevel.checkpoint()


async def _number_reused(context: ScenarioContext) -> None:
    """A recording fails for good and is deleted; the next one of that name gets its number."""
    refused = context.refuse("UploadPart", "EntityTooLarge")
    context.append(2 * PART + 10)
    await trio.sleep(3)
    context.delete()
    context.world.endpoint.faults.disarm(refused)
    await trio.sleep(0.5)
    context.append(PART + 300)
    await trio.sleep(0.5)
    context.close()
    await trio.sleep(8)


async def _before_changing(context: ScenarioContext) -> None:
    """As on sshfs, FAT, exFAT or CIFS: numbers are made up by the client, and no generation is told."""
    context.file_system.name, context.file_system.generations = "fuse.sshfs", False
    context.file_system.leases, context.file_system.reports_events = Leases.NEVER, False
    context.world.rescan_seconds = 2.0
    await trio.lowlevel.checkpoint()


async def _numbers_change(context: ScenarioContext) -> None:
    """One recording is completed, another one open, when every number changes."""
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


async def _before_moved_away(context: ScenarioContext) -> None:
    """While no daemon runs two recordings are moved, on a file system whose numbers only propose."""
    await _before_changing(context)
    await context.recorded_by_an_earlier_daemon("a.mp4", "b.mp4")
    context.writers.move("a.mp4", "deep/a.mp4")
    context.writers.move("b.mp4", "deep/b.mp4")
    context.world.kernel.renumber(context.file_system)


async def _before_moved_and_denied(context: ScenarioContext) -> None:
    """As ``mv`` from another user's folder: the mode comes last. Redis stumbles when it is asked for streams."""
    await context.recorded_by_an_earlier_daemon("a.mp4", "b.mp4")
    for name in ("a.mp4", "b.mp4"):
        context.writers.move(name, f"deep/{name}")
        context.writers.permit(f"deep/{name}", permitted=False)
    stumbles = [True]

    async def stumble(operation: str, moment: Moment) -> None:
        if operation == "members" and moment is Moment.AFTER and stumbles:
            stumbles.clear()
            await trio.sleep(5)

    context.world.store.fault = stumble


async def _moved_away(context: ScenarioContext) -> None:
    await trio.sleep(5)
    for name in ("deep/a.mp4", "deep/b.mp4"):
        context.writers.permit(name, permitted=True)
    await trio.sleep(3)
    context.append(PART, "deep/a.mp4")
    context.close_all()
    await trio.sleep(45)


# -- metadata is not content -------------------------------------------------------------------------------------------


async def _touched_after(context: ScenarioContext) -> None:
    """A completed recording gets another time stamp, and no other byte: ``touch``, ``rsync -t``."""
    context.append(2 * PART + 10)
    context.close()
    await trio.sleep(8)
    context.writers.set_mtime("a.mp4", context.world.kernel.now_ns() + 3 * 10**9)
    await trio.sleep(30)


async def _copied_after(context: ScenarioContext) -> None:
    """``cp -a`` to a new disk and back to the old name: another file, with the same bytes and times."""
    context.append(2 * PART + 10)
    context.close()
    await trio.sleep(8)
    context.writers.copy_over("a.mp4")
    await trio.sleep(30)


async def _time_goes_back(context: ScenarioContext) -> None:
    """The clock is set back, or the time stamp: at equal size the file is younger on record than on disk."""
    context.append(2 * PART + 10)
    await trio.sleep(3)
    context.writers.set_mtime("a.mp4", context.world.kernel.now_ns() - 3600 * 10**9)
    context.close()
    await context.completes(within=100)


async def _before_coarse(context: ScenarioContext) -> None:
    context.file_system.name, context.file_system.granularity_ns = "vfat", 2 * 10**9
    await trio.lowlevel.checkpoint()


async def _same_tick(context: ScenarioContext) -> None:
    """It is changed, and not its size, within the tick of the time stamp that was verified."""
    await trio.sleep(0.1)  # stamps lag behind the clock: all that follows falls into one tick
    context.append(2 * PART + 10)
    await trio.sleep(0.1)
    context.close()
    await trio.sleep(1.3)
    context.patch(5, b"patched in the same tick")
    context.close()
    await trio.sleep(20)


def _one_stream(context: ScenarioContext) -> list[str]:
    """A change within the tick is waited for: nothing is completed before, and sent again."""
    streams = len(context.world.known())
    return [f"P2: {streams} streams were begun for one recording"] if streams > 1 else []


async def _future(context: ScenarioContext) -> None:
    """The file server's clock is an hour ahead, then set right."""
    context.file_system.skew_ns = 3600 * 10**9
    context.append(2 * PART + 10)
    await trio.sleep(1)
    context.file_system.skew_ns = 0
    context.append(PART)
    await trio.sleep(1)
    context.close()
    await trio.sleep(10)


async def _redis_loses_completed(context: ScenarioContext) -> None:
    """Redis loses everything when a recording is completed and its file still there."""
    context.append(2 * PART + 10)
    context.close()
    await trio.sleep(8)
    context.world.lose_redis()
    await trio.sleep(30)


# -- a local change is not a new recording -----------------------------------------------------------------------------


async def _tail_cut(context: ScenarioContext) -> None:
    """A preallocated tail is cut off at the close: by one byte."""
    context.append(8 * PART)
    await trio.sleep(2)
    context.truncate(8 * PART - 1)
    context.close()
    await trio.sleep(10)


async def _full_size_first(context: ScenarioContext) -> None:
    """The recorder sets the full size, and fills it."""
    context.truncate(8 * PART + 10)
    await trio.sleep(1)
    for number in range(8):
        context.patch(number * PART, context.world.random.randbytes(PART))
        await trio.sleep(1)
    context.patch(8 * PART, b"its end...")
    context.close()
    await trio.sleep(10)


async def _append_and_close(context: ScenarioContext) -> None:
    """It is appended to and closed, every few seconds."""
    for _ in range(5):
        context.append(2 * PART)
        context.close()
        await trio.sleep(6)
    await trio.sleep(10)


async def _before_slow_disk(context: ScenarioContext) -> None:
    context.world.read_seconds = 0.3
    await trio.lowlevel.checkpoint()


async def _slow_disk(context: ScenarioContext) -> None:
    """While it is verified, block by block, a block is patched that was read already."""
    context.append(4 * PART)
    await trio.sleep(4)
    context.close()
    await trio.sleep(1.8)
    context.patch(5, b"patched")
    context.close()
    await trio.sleep(30)


# -- what a local change mends -----------------------------------------------------------------------------------------


async def _permission_passes(context: ScenarioContext) -> None:
    """``mv`` and ``cp -p`` from another file system set the mode last."""
    context.touch()
    context.writers.permit("a.mp4", permitted=False)
    context.append(2 * PART + 10)
    context.close()
    await trio.sleep(5)
    context.writers.permit("a.mp4", permitted=True)
    await trio.sleep(30)


SCENARIOS: Final = (
    Scenario(
        "fuse-remote-writer",
        "a FUSE mount grants a lease on a file that grows behind it; AFTER_UPLOAD=delete",
        _grows_unseen,
        _before_fuse,
        writes_again=True,
    ),
    Scenario(
        "touched-while-written",
        "another process touches a file whose writer nobody can know; AFTER_UPLOAD=delete",
        _touched_while_written,
        _before_other_user,
        writes_again=True,
    ),
    Scenario(
        "move-event-lost",
        "a recording is missed at its old name seconds before its new one is seen",
        _moved_in_a_big_tree,
    ),
    Scenario(
        "renamed-then-deleted",
        "a recording whose stream waits is renamed and deleted",
        _gone_under_a_new_name,
        may_end=GONE,
    ),
    Scenario("bind-unmounted", "a bind mount of the same device is gone for a while", _unmounted, _before_mounted),
    Scenario("unmounted", "a mount is gone for a while", _unmounted, _before_mounted_other),
    Scenario("no-descriptors", "no descriptor is to be had for a while", _no_descriptors),
    Scenario("mount-dead", "a mount's server is gone for a while", _server_gone, _before_mounted_other),
    Scenario(
        "inode-reused",
        "a failed recording is deleted, and the next one gets its name and its number",
        _number_reused,
        _before_reused,
        may_end=_REPLACED | {Status.FAILED_S3_UPLOAD},
    ),
    Scenario("inodes-change", "every inode number changes, and no file does", _numbers_change, _before_changing),
    Scenario(
        "moved-while-stopped",
        "recordings are moved while no daemon runs, where numbers only propose",
        _moved_away,
        _before_moved_away,
    ),
    Scenario(
        "moved-without-permission",
        "recordings are moved while no daemon runs, and may be read a while later",
        _moved_away,
        _before_moved_and_denied,
        redis_may_fail=True,
    ),
    Scenario("touched-after-upload", "a completed recording gets another time stamp", _touched_after, one_object=True),
    Scenario(
        "copied-after-upload",
        "a completed recording is copied over itself",
        _copied_after,
        may_end=_REPLACED,
        check_unharmed=ScenarioContext.in_s3_twice,
    ),
    Scenario("mtime-goes-back", "a recording's time stamp goes back", _time_goes_back, _before_changing),
    Scenario(
        "same-mtime",
        "a change of the same size, within a tick of two seconds",
        _same_tick,
        _before_coarse,
        may_end=_REPLACED,  # where no number lasts, one whose only recorded part was patched meanwhile is another one
        writes_again=True,
        check_unharmed=_one_stream,
    ),
    Scenario("mtime-in-future", "time stamps of the future, then of now", _future),
    Scenario(
        "completed-record-lost",
        "Redis loses everything when a recording is completed",
        _redis_loses_completed,
        one_object=True,
    ),
    Scenario("tail-truncated", "one byte is cut off at the close", _tail_cut, starts_over=True, bounded_bytes=True),
    Scenario(
        "preallocated", "the full size is set first, then filled", _full_size_first, bounded_bytes=True, slack_parts=4
    ),
    Scenario(
        "append-after-close",
        "appended to and closed, again and again",
        _append_and_close,
        writes_again=True,
        bounded_bytes=True,
    ),
    Scenario(
        "patched-during-verification", "a block is patched behind the verification", _slow_disk, _before_slow_disk
    ),
    Scenario("permission-granted-late", "a recording may be read a few seconds after it is seen", _permission_passes),
)
