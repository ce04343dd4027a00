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
from cef_trio.lab.scenario_context import Stage
from cef_trio.lab.scenarios.model import GONE, Scenario
from cef_trio.lab.world import PART
from cef_trio.postprocess.after_upload_rules import AfterUploadAction, AfterUploadRule
from cef_trio.s3_endpoint import Fault, Kind

_REPLACED: Final = GONE | {Status.FAILED_FILE_REPLACED}


# -- what is not known is not "no" -------------------------------------------------------------------------------------


async def _before_fuse(stage: Stage) -> None:
    """A FUSE mount: its leases are granted whoever writes on the other side, and inotify hears of nothing there."""
    stage.file_system.name, stage.file_system.leases = "fuse.bindfs", Leases.ALWAYS
    stage.file_system.heard = False
    stage.world.after_upload = AfterUploadRule(AfterUploadAction.DELETE)
    stage.world.rescan_seconds = 2.0
    await trio.lowlevel.checkpoint()


async def _grows_unseen(stage: Stage) -> None:
    for _ in range(6):
        stage.append(PART // 2 + 7)
        await trio.sleep(5)
    stage.close()
    await trio.sleep(40)


async def _before_other_user(stage: Stage) -> None:
    """Another user's file, without CAP_LEASE: nobody tells whether it has a writer."""
    stage.file_system.leases = Leases.NEVER
    stage.world.after_upload = AfterUploadRule(AfterUploadAction.DELETE)
    await trio.lowlevel.checkpoint()


async def _touched_while_written(stage: Stage) -> None:
    stage.append(PART + 10)
    await trio.sleep(1)
    stage.writers.open_and_close("a.mp4")
    await trio.sleep(5)
    stage.append(PART)
    await trio.sleep(1)
    stage.close()
    await trio.sleep(40)


async def _moved_in_a_big_tree(stage: Stage) -> None:
    """The news of a new name is lost; only the next scan of all tells it, seconds after the old one is missed."""
    stage.append(2 * PART + 10)
    await trio.sleep(0.5)
    stage.world.kernel.queues.deaf = True
    stage.writers.move("a.mp4", "deep/down/b.mp4")
    stage.world.kernel.queues.deaf = False
    await trio.sleep(20)
    stage.append(PART, "deep/down/b.mp4")
    stage.close("deep/down/b.mp4")
    await trio.sleep(8)


async def _gone_under_a_new_name(stage: Stage) -> None:
    """While its stream waits for another try, a recording is renamed, and then deleted: the name on record is not where
    it was last.
    """
    reset = stage.arm(Fault(Kind.RESET, "UploadPart", times=None))
    stage.append(2 * PART + 10)
    await trio.sleep(1.2)
    stage.rename("a.mp4", "b.mp4")
    await trio.sleep(0.1)
    stage.delete("b.mp4")
    stage.world.endpoint.faults.disarm(reset)
    await trio.sleep(8)


async def _before_mounted(stage: Stage) -> None:
    """A folder of the tree is a mount of the same device: a bind mount, or a subvolume."""
    stage.world.kernel.make_folder(stage.world.folder / "mnt", FileSystem(device=stage.file_system.device))
    await trio.lowlevel.checkpoint()


async def _before_mounted_other(stage: Stage) -> None:
    stage.world.kernel.make_folder(stage.world.folder / "mnt", FileSystem("xfs", device=99))
    await trio.lowlevel.checkpoint()


async def _unmounted(stage: Stage) -> None:
    stage.append(2 * PART + 10, "mnt/a.mp4")
    stage.append(PART + 10, "b.mp4")
    await trio.sleep(0.5)
    away = stage.world.kernel.unmount(stage.world.folder / "mnt")
    stage.close("b.mp4")
    await trio.sleep(30)
    stage.world.kernel.remount(stage.world.folder / "mnt", away)
    await trio.sleep(0.1)
    stage.append(PART, "mnt/a.mp4")
    stage.close("mnt/a.mp4")
    await trio.sleep(30)


async def _server_gone(stage: Stage) -> None:
    """The mount's server dies: every call there fails, and the folder above is as it was."""
    stage.append(2 * PART + 10, "mnt/a.mp4")
    stage.append(PART + 10, "b.mp4")
    await trio.sleep(0.5)
    system = stage.world.kernel.file_system(stage.world.folder / "mnt")
    system.error = errno.ENOTCONN
    stage.close("b.mp4")
    await trio.sleep(30)
    system.error = None
    stage.append(PART, "mnt/a.mp4")
    stage.close("mnt/a.mp4")
    await trio.sleep(30)


async def _no_descriptors(stage: Stage) -> None:
    """The process has no descriptor left for a while: nothing can be opened."""
    stage.append(2 * PART + 10)
    await trio.sleep(0.5)
    stage.file_system.open_error = errno.EMFILE
    stage.append(2 * PART)
    await trio.sleep(8)
    stage.file_system.open_error = None
    stage.close()
    await stage.completes(within=120)


# -- a number is not a file --------------------------------------------------------------------------------------------


async def _before_reused(stage: Stage) -> None:
    stage.file_system.numbers, stage.file_system.generations = Numbers.REUSED, False
    await trio.lowlevel.checkpoint()


async def _number_reused(stage: Stage) -> None:
    """A recording fails for good and is deleted; the next one of that name gets its number."""
    refused = stage.refuse("UploadPart", "EntityTooLarge")
    stage.append(2 * PART + 10)
    await trio.sleep(3)
    stage.delete()
    stage.world.endpoint.faults.disarm(refused)
    await trio.sleep(0.5)
    stage.append(PART + 300)
    await trio.sleep(0.5)
    stage.close()
    await trio.sleep(8)


async def _before_changing(stage: Stage) -> None:
    """As on sshfs, FAT, exFAT or CIFS: numbers are made up by the client, and no generation is told."""
    stage.file_system.name, stage.file_system.generations = "fuse.sshfs", False
    stage.file_system.leases, stage.file_system.heard = Leases.NEVER, False
    stage.world.rescan_seconds = 2.0
    await trio.lowlevel.checkpoint()


async def _numbers_change(stage: Stage) -> None:
    """One recording is completed, another one open, when every number changes."""
    stage.append(PART + 10, "a.mp4")
    stage.close("a.mp4")
    await trio.sleep(40)
    stage.append(2 * PART + 10, "b.mp4")
    await trio.sleep(5)
    stage.world.kernel.renumber(stage.file_system)
    await trio.sleep(5)
    stage.append(PART, "b.mp4")
    stage.close("b.mp4")
    await trio.sleep(45)


async def _before_moved_away(stage: Stage) -> None:
    """While no daemon runs two recordings are moved, on a file system whose numbers only propose."""
    await _before_changing(stage)
    await stage.recorded_by_an_earlier_daemon("a.mp4", "b.mp4")
    stage.writers.move("a.mp4", "deep/a.mp4")
    stage.writers.move("b.mp4", "deep/b.mp4")
    stage.world.kernel.renumber(stage.file_system)


async def _before_moved_and_denied(stage: Stage) -> None:
    """As ``mv`` from another user's folder: the mode comes last. Redis stumbles when it is asked for streams."""
    await stage.recorded_by_an_earlier_daemon("a.mp4", "b.mp4")
    for name in ("a.mp4", "b.mp4"):
        stage.writers.move(name, f"deep/{name}")
        stage.writers.permit(f"deep/{name}", permitted=False)
    stumbles = [True]

    async def stumble(operation: str, moment: Moment) -> None:
        if operation == "members" and moment is Moment.AFTER and stumbles:
            stumbles.clear()
            await trio.sleep(5)

    stage.world.store.fault = stumble


async def _moved_away(stage: Stage) -> None:
    await trio.sleep(5)
    for name in ("deep/a.mp4", "deep/b.mp4"):
        stage.writers.permit(name, permitted=True)
    await trio.sleep(3)
    stage.append(PART, "deep/a.mp4")
    stage.close_all()
    await trio.sleep(45)


# -- metadata is not content -------------------------------------------------------------------------------------------


async def _touched_after(stage: Stage) -> None:
    """A completed recording gets another time stamp, and no other byte: ``touch``, ``rsync -t``."""
    stage.append(2 * PART + 10)
    stage.close()
    await trio.sleep(8)
    stage.writers.set_mtime("a.mp4", stage.world.kernel.now_ns() + 3 * 10**9)
    await trio.sleep(30)


async def _copied_after(stage: Stage) -> None:
    """``cp -a`` to a new disk and back to the old name: another file, with the same bytes and times."""
    stage.append(2 * PART + 10)
    stage.close()
    await trio.sleep(8)
    stage.writers.copy_over("a.mp4")
    await trio.sleep(30)


async def _time_goes_back(stage: Stage) -> None:
    """The clock is set back, or the time stamp: at equal size the file is younger on record than on disk."""
    stage.append(2 * PART + 10)
    await trio.sleep(3)
    stage.writers.set_mtime("a.mp4", stage.world.kernel.now_ns() - 3600 * 10**9)
    stage.close()
    await stage.completes(within=100)


async def _before_coarse(stage: Stage) -> None:
    stage.file_system.name, stage.file_system.tick_ns = "vfat", 2 * 10**9
    await trio.lowlevel.checkpoint()


async def _same_tick(stage: Stage) -> None:
    """It is changed, and not its size, within the tick of the time stamp that was verified."""
    await trio.sleep(0.1)  # stamps lag behind the clock: all that follows falls into one tick
    stage.append(2 * PART + 10)
    await trio.sleep(0.1)
    stage.close()
    await trio.sleep(1.3)
    stage.patch(5, b"patched in the same tick")
    stage.close()
    await trio.sleep(20)


def _one_stream(stage: Stage) -> list[str]:
    """A change within the tick is waited for: nothing is completed before, and sent again."""
    streams = len(stage.world.known())
    return [f"P2: {streams} streams were begun for one recording"] if streams > 1 else []


async def _future(stage: Stage) -> None:
    """The file server's clock is an hour ahead, then set right."""
    stage.file_system.skew_ns = 3600 * 10**9
    stage.append(2 * PART + 10)
    await trio.sleep(1)
    stage.file_system.skew_ns = 0
    stage.append(PART)
    await trio.sleep(1)
    stage.close()
    await trio.sleep(10)


async def _redis_loses_completed(stage: Stage) -> None:
    """Redis loses everything when a recording is completed and its file still there."""
    stage.append(2 * PART + 10)
    stage.close()
    await trio.sleep(8)
    stage.world.lose_redis()
    await trio.sleep(30)


# -- a local change is not a new recording -----------------------------------------------------------------------------


async def _tail_cut(stage: Stage) -> None:
    """A preallocated tail is cut off at the close: by one byte."""
    stage.append(8 * PART)
    await trio.sleep(2)
    stage.truncate(8 * PART - 1)
    stage.close()
    await trio.sleep(10)


async def _full_size_first(stage: Stage) -> None:
    """The recorder sets the full size, and fills it."""
    stage.truncate(8 * PART + 10)
    await trio.sleep(1)
    for number in range(8):
        stage.patch(number * PART, stage.world.random.randbytes(PART))
        await trio.sleep(1)
    stage.patch(8 * PART, b"its end...")
    stage.close()
    await trio.sleep(10)


async def _append_and_close(stage: Stage) -> None:
    """It is appended to and closed, every few seconds."""
    for _ in range(5):
        stage.append(2 * PART)
        stage.close()
        await trio.sleep(6)
    await trio.sleep(10)


async def _before_slow_disk(stage: Stage) -> None:
    stage.world.read_seconds = 0.3
    await trio.lowlevel.checkpoint()


async def _slow_disk(stage: Stage) -> None:
    """While it is verified, block by block, a block is patched that was read already."""
    stage.append(4 * PART)
    await trio.sleep(4)
    stage.close()
    await trio.sleep(1.8)
    stage.patch(5, b"patched")
    stage.close()
    await trio.sleep(30)


# -- what a local change mends -----------------------------------------------------------------------------------------


async def _permission_passes(stage: Stage) -> None:
    """``mv`` and ``cp -p`` from another file system set the mode last."""
    stage.touch()
    stage.writers.permit("a.mp4", permitted=False)
    stage.append(2 * PART + 10)
    stage.close()
    await trio.sleep(5)
    stage.writers.permit("a.mp4", permitted=True)
    await trio.sleep(30)


SCENARIOS: Final = (
    Scenario(
        "fuse-grows",
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
        "moved-in-a-big-tree",
        "a recording is missed at its old name seconds before its new one is seen",
        _moved_in_a_big_tree,
    ),
    Scenario(
        "gone-under-a-new-name",
        "a recording whose stream waits is renamed and deleted",
        _gone_under_a_new_name,
        may_end=GONE,
    ),
    Scenario("bind-unmounted", "a bind mount of the same device is gone for a while", _unmounted, _before_mounted),
    Scenario("unmounted", "a mount is gone for a while", _unmounted, _before_mounted_other),
    Scenario("no-descriptors", "no descriptor is to be had for a while", _no_descriptors),
    Scenario("mount-dead", "a mount's server is gone for a while", _server_gone, _before_mounted_other),
    Scenario(
        "number-reused",
        "a failed recording is deleted, and the next one gets its name and its number",
        _number_reused,
        _before_reused,
        may_end=_REPLACED | {Status.FAILED_S3_UPLOAD},
    ),
    Scenario("numbers-change", "every inode number changes, and no file does", _numbers_change, _before_changing),
    Scenario(
        "moved-while-away",
        "recordings are moved while no daemon runs, where numbers only propose",
        _moved_away,
        _before_moved_away,
    ),
    Scenario(
        "moved-and-denied",
        "recordings are moved while no daemon runs, and may be read a while later",
        _moved_away,
        _before_moved_and_denied,
        redis_may_fail=True,
    ),
    Scenario("touched-after", "a completed recording gets another time stamp", _touched_after, one_object=True),
    Scenario(
        "copied-after",
        "a completed recording is copied over itself",
        _copied_after,
        may_end=_REPLACED,
        when_unharmed=Stage.in_s3_twice,
    ),
    Scenario("time-goes-back", "a recording's time stamp goes back", _time_goes_back, _before_changing),
    Scenario(
        "same-tick",
        "a change of the same size, within a tick of two seconds",
        _same_tick,
        _before_coarse,
        may_end=_REPLACED,  # where no number lasts, one whose only recorded part was patched meanwhile is another one
        writes_again=True,
        when_unharmed=_one_stream,
    ),
    Scenario("future", "time stamps of the future, then of now", _future),
    Scenario(
        "redis-loses-completed",
        "Redis loses everything when a recording is completed",
        _redis_loses_completed,
        one_object=True,
    ),
    Scenario("tail-cut", "one byte is cut off at the close", _tail_cut, starts_over=True, cheap=True),
    Scenario("full-size-first", "the full size is set first, then filled", _full_size_first, cheap=True, slack_parts=4),
    Scenario(
        "append-and-close", "appended to and closed, again and again", _append_and_close, writes_again=True, cheap=True
    ),
    Scenario("slow-disk", "a block is patched behind the verification", _slow_disk, _before_slow_disk),
    Scenario("permission-passes", "a recording may be read a few seconds after it is seen", _permission_passes),
)
