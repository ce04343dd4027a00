"""Gather the facts that ``checks.py`` judges. Nothing is left behind: the one upload that is opened is aborted.

The disk is read in a thread that a cancellation abandons, since it may hang. Callers set the timeouts.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from stat import S_ISVTX
from types import MappingProxyType
from typing import Any, Final
from uuid import uuid4

import httpx
import trio
from inotify_simple import INotify, flags

from cef_trio.checkpoint import FAILED, Claimant, History, Lease, Owner, Status, StreamMeta, StreamSet, ended_streams
from cef_trio.checkpoint.redis import LegacyPlace, RedisCheckpointStore
from cef_trio.cli.checks import AccessFacts, FolderFacts, StreamFacts
from cef_trio.cli.installed_service import InstalledService
from cef_trio.cli.status_model import instance_of
from cef_trio.daemon import boot_id, machine_id, owner_of_machine
from cef_trio.exceptions import CefMp4ProcessorError, RecordUnreadableError, RedisOperationError, S3OperationError
from cef_trio.files import (
    KernelDisk,
    file_system,
    is_on,
    knows_writers,
    mount_points,
    open_nofollow,
    unescape_mount_point,
)
from cef_trio.http import parse_http_date
from cef_trio.observability import read_fleet
from cef_trio.resilience import run_in_thread, shielded
from cef_trio.s3 import BytesSource, ChecksumAlgorithm, S3Client
from cef_trio.settings import Settings, SettingsError, check_folders, split_watch_dir
from cef_trio.upload import KeyTemplate, Ownership
from cef_trio.watch import WatchScope, scan_now

_ABORT_SECONDS: Final = 5.0
_INOTIFY: Final = Path("/proc/sys/fs/inotify")
_STATUS: Final = Path("/proc/self/status")
_CAP_FOWNER: Final = 3
_CAP_LEASE: Final = 28
"""``capability.h``."""
_FSTAB: Final = Path("/etc/fstab")
_MOUNTS: Final = Path("/proc/self/mountinfo")
_CONTENT: Final = b"cef-trio doctor\n"
_NAME: Final = "cef-trio-doctor"
_SAMPLED: Final = 2000
"""How many streams of each set at the keys of earlier versions are read."""
_MOST_LOADED: Final = 50
"""How many open streams without a daemon are read with their parts."""


# ---- the watch folder ------------------------------------------------------------------------------------------------


class NoSuchUserError(CefMp4ProcessorError):
    """The user of the installed service does not exist, or could not be asked."""


async def watch_folders(watch_dir: Path) -> tuple[Path, ...]:
    """Return the folders of ``WATCH_DIR``."""
    return await run_in_thread(partial(split_watch_dir, watch_dir), abandon_on_cancel=True)


async def unfit_folders(settings: Settings) -> list[str]:
    """Return a line for each folder of the settings that the daemon's start would refuse."""
    try:
        await run_in_thread(partial(check_folders, settings), abandon_on_cancel=True)
    except SettingsError as error:
        return error.lines
    return []


async def folder_facts(
    folder: Path,
    patterns: Sequence[str] = (),
    exclude: Sequence[str] = (),
    *,
    link_roots: Sequence[Path] = (),
    least_bytes: int = 0,
    service: InstalledService | None = None,
) -> FolderFacts:
    """Return the facts about the watch folder and about inotify's limits, as this process's user sees them.

    ``patterns``, ``exclude``, ``link_roots`` and ``least_bytes``: ``WATCH_PATTERNS``, ``WATCH_EXCLUDE``,
    ``WATCH_LINK_ROOTS`` and ``WATCH_MIN_SIZE_BYTES``. ``service``: as its user sees them; only root may ask.

    Raises:
        NoSuchUserError: the user of the service could not be asked.
    """
    asked = (os.fspath(folder), list(patterns), list(exclude), list(map(os.fspath, link_roots)), least_bytes)
    if service is not None and service.user != "root":
        facts = FolderFacts(**await _ask_as_user_of(service, "folder", asked))
        return replace(facts, user=service.user, may_lease_all=service.may_lease_all)
    found = await run_in_thread(partial(folder_facts_now, *asked), abandon_on_cancel=True)
    return replace(found, user="root") if os.geteuid() == 0 else found


async def access_facts(files: Iterable[str], target: str, service: InstalledService) -> AccessFacts:
    """Return what the user of the service may not use of these files, and of ``DIR`` (empty: none); only root may ask.

    Raises:
        NoSuchUserError: that user could not be asked.
    """
    return AccessFacts(**await _ask_as_user_of(service, "access", (list(files), target)))


async def _ask_as_user_of(service: InstalledService, question: str, asked: Sequence[object]) -> dict[str, Any]:
    """Return the fields of the answer to one of ``QUESTIONS``."""
    try:
        user = pwd.getpwnam(service.user)
        groups = [*os.getgrouplist(user.pw_name, user.pw_gid), *(grp.getgrnam(name).gr_gid for name in service.groups)]
    except KeyError as error:
        raise NoSuchUserError(f"{service.unit} is to run as a user or group that does not exist: {error}") from error
    numbers = [user.pw_uid, *dict.fromkeys([user.pw_gid, *groups])]
    done = await trio.run_process(
        [sys.executable, "-m", "cef_trio.cli.folder_probe", question, json.dumps(asked), *map(str, numbers)],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    if done.returncode != 0:
        why = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise NoSuchUserError(f"the user {service.user} could not be asked: {why}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def folder_facts_now(
    watched: str, patterns: Iterable[str], exclude: Iterable[str], link_roots: Iterable[str], least_bytes: int
) -> FolderFacts:
    """Return the facts about the watch folder. Blocks."""
    folder = Path(watched)
    path = str(folder)
    try:
        path = os.path.realpath(folder)
        is_folder = folder.is_dir()
    except OSError:
        is_folder = False
    unmounted = _unmounted(path)
    if not is_folder:
        return FolderFacts(path=path, is_folder=False, unmounted=unmounted)
    try:
        roots = (os.path.realpath(root) for root in link_roots)
        scan = scan_now(path, WatchScope.of(path, patterns, exclude, roots))
        with os.scandir(path) as entries:
            is_empty = next(entries, None) is None
    except OSError:
        return FolderFacts(path=path, is_folder=True, readable=False, unmounted=unmounted)
    parents = sorted({recording.rpartition("/")[0] or "/" for recording in scan.files})
    return FolderFacts(
        path=path,
        is_empty=is_empty,
        unmounted=unmounted,
        is_folder=True,
        readable=os.access(path, os.R_OK | os.X_OK),
        file_system=_file_system_of(scan.root[0]),
        local=_answers(path, lambda descriptor: file_system.statfs(descriptor)[0].local),
        knows_writers=_answers(path, knows_writers),
        may_lease_all=_may_lease_all(),
        folders=len(scan.folders),
        unreadable_folders=len(scan.unreadable),
        recordings=len(scan.files),
        small_recordings=sum(stat.size_bytes < least_bytes for stat in scan.files.values()),
        links=tuple(sorted(scan.links)),
        excluded_folders=scan.excluded.folders,
        excluded_recordings=scan.excluded.files,
        max_user_watches=_limit("max_user_watches"),
        inotify_error=_watch_error(path),
        not_writable=[one for one in parents or [path] if not os.access(one, os.W_OK | os.X_OK)],
        sticky=_keeping_others_files(scan.files),
    )


def _keeping_others_files(recordings: Iterable[str]) -> list[str]:
    """Return the sticky folders of recordings that this process may not delete: it owns neither folder nor file.

    ``access(2)`` does not tell: the folder may be written.
    """
    with suppress(OSError):
        if _effective_capabilities(_STATUS.read_text()) >> _CAP_FOWNER & 1:
            return []
    in_folders: dict[str, list[str]] = {}
    for recording in recordings:
        in_folders.setdefault(recording.rpartition("/")[0] or "/", []).append(recording)
    return sorted(folder for folder, ones in in_folders.items() if _keeps_others_files(folder, ones))


def _keeps_others_files(folder: str, recordings: Iterable[str]) -> bool:
    user = os.geteuid()
    try:
        own = Path(folder).stat()
        if not own.st_mode & S_ISVTX or own.st_uid == user:
            return False
        return any(Path(one).lstat().st_uid != user for one in recordings)
    except OSError:  # gone meanwhile
        return False


def access_facts_now(files: Iterable[str], target: str) -> AccessFacts:
    """Return what this process may not use: of the files, and of ``target``, a folder that may be missing. Blocks."""
    unreadable = {file: why for file in files if (why := _read_error(file)) is not None}
    return AccessFacts(unreadable=unreadable, not_writable=_not_writable(target) if target else None)


def _read_error(file: str) -> str | None:
    try:
        with open(file, "rb"):  # noqa: PTH123 - a name of the settings
            return None
    except OSError as error:
        return error.strerror or str(error)


def _not_writable(target: str) -> str | None:
    """Return the folder that keeps this process from writing to ``target``, or from making it: the nearest one there.

    As the daemon's start does (``settings/model.py``).
    """
    path = Path(os.path.realpath(target))
    for folder in (path, *path.parents):
        with suppress(PermissionError):  # below a folder that this user may not enter, which is asked next
            if folder.exists():
                return None if os.access(folder, os.W_OK | os.X_OK) else os.fspath(folder)
    return None


QUESTIONS: Final[Mapping[str, Callable[..., FolderFacts | AccessFacts]]] = MappingProxyType(
    {"folder": folder_facts_now, "access": access_facts_now}
)
"""What ``folder_probe.py`` may be asked."""


def _unmounted(path: str) -> list[str]:
    try:
        return unmounted_points(_FSTAB.read_text(errors="replace"), _MOUNTS.read_text(errors="replace"), path)
    except OSError:
        return []


def unmounted_points(fstab: str, mountinfo: str, folder: str) -> list[str]:
    """Return the mount points of ``/etc/fstab`` that concern a folder, and at which nothing is mounted. Pure.

    At or above the folder, also those that are mounted by hand (``noauto``); below it only those that are to be mounted
    at the start.
    """
    mounted = mount_points(mountinfo)
    found = []
    for line in fstab.splitlines():
        fields = line.split()
        if line.lstrip().startswith("#") or len(fields) < 4 or not fields[1].startswith("/"):  # noqa: PLR2004 - fstab(5)
            continue
        point = unescape_mount_point(fields[1]).rstrip("/") or "/"
        below = is_on(point, folder) and "noauto" not in fields[3].split(",")
        if (is_on(folder, point) or below) and point not in mounted:
            found.append(point)
    return found


def _answers(path: str, question: Callable[[int], bool]) -> bool:
    """Return the answer about an open folder; ``False`` if it cannot be opened."""
    try:
        descriptor = open_nofollow(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        return question(descriptor)
    finally:
        os.close(descriptor)


def _may_lease_all() -> bool:
    try:
        return has_cap_lease(_STATUS.read_text())
    except OSError:
        return False


def has_cap_lease(status: str) -> bool:
    """Return whether ``/proc/self/status`` (proc(5)) has ``CAP_LEASE``, for leases on other users' files. Pure."""
    return bool(_effective_capabilities(status) >> _CAP_LEASE & 1)


def _effective_capabilities(status: str) -> int:
    return int(next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0"), 16)


def _limit(name: str) -> int | None:
    try:
        return int((_INOTIFY / name).read_text())
    except (OSError, ValueError):
        return None


def _watch_error(path: str) -> str | None:
    """Watch the folder as the daemon does. Return the error, if any."""
    try:
        with INotify() as inotify:
            inotify.add_watch(path, flags.CREATE)
    except OSError as error:
        return str(error)
    return None


def _file_system_of(device: int) -> str | None:
    try:
        return file_system_in(_MOUNTS.read_text(errors="replace"), device)
    except OSError:
        return None


def file_system_in(mountinfo: str, device: int) -> str | None:
    """Return a device's file system type from ``/proc/self/mountinfo`` (proc(5)), or ``None``. Pure."""
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        if left.split()[2:3] == [number] and right:
            return right.split()[0]
    return None


# ---- Redis -----------------------------------------------------------------------------------------------------------


async def claimant(store: RedisCheckpointStore) -> Claimant | None:
    """Return the other running system that has the owner's name."""
    return await store.owner_claim(Lease("doctor", "1", 1.0, boot_id()), "", exclusive=False).take("")


async def legacy_facts(store: RedisCheckpointStore) -> tuple[int, Mapping[str, int]]:
    """Return how many streams are at the keys of earlier versions, and whose some of them are.

    An owner is named as it would be derived from its machine; empty: none is recorded.
    """
    whose: Counter[str] = Counter()
    try:
        number = await store.legacy.count()
        for place in set(LegacyPlace) - {LegacyPlace.BY_PATH} if number else ():
            cursor, left = 0, _SAMPLED
            while left > 0:
                cursor, found = await store.legacy.read(place, cursor)
                whose.update(owner_of_machine(one.owner.machine) if one.owner else "" for one in found)
                left -= len(found)
                if not cursor:
                    break
    except RedisOperationError as error:
        if not error.rejected:
            raise
        return 0, {}  # the user may read its namespace only
    return number, whose


def is_of_another_disk(meta: StreamMeta, folder: str, ours: Owner) -> bool:
    """Return whether a stream of this machine's folder began on another file system than is there now. Pure."""
    theirs = meta.owner
    return (
        theirs is not None
        and is_on(meta.current_path, folder)
        and (theirs.is_shared or theirs.machine == ours.machine)
        and None not in {theirs.file_system, ours.file_system}
        and theirs.file_system != ours.file_system
    )


async def stream_facts(store: RedisCheckpointStore, folder: Path | None = None) -> StreamFacts:
    """Return the facts about the streams in Redis. ``folder``: the watch folder, if it is this machine's.

    Raises:
        RedisOperationError: Redis cannot be read.
    """
    await store.check_types()
    ids = await store.members(StreamSet.ACTIVE) | await store.members(StreamSet.PENDING_COMPLETION)
    opened = await store.load_metas(ids)
    holders = await store.holders(opened)
    daemons = Counter(map(instance_of, holders.values()))
    without_task = [stream_id for stream_id in opened if stream_id not in holders]
    for stream_id in without_task[:_MOST_LOADED]:
        with suppress(RecordUnreadableError):  # its parts: noted, and why no daemon works on it
            await store.load(stream_id)
    failed = 0
    async for ended in ended_streams(store, History.FAILED):
        failed += sum(one.meta.status in FAILED - {Status.FAILED_ABORTED} for one in ended.values())
    try:
        await store.find_by_path(["/"])
    except RedisOperationError as error:
        if error.transient or store.keys.by_path not in store.unreadable.known:
            raise
    fleet = read_fleet(await store.reports())
    own = fleet.of_owner(store.keys.owner)
    ownership = Ownership(machine_id())
    if folder is not None:
        await ownership.determine(KernelDisk(), [os.fspath(folder)])
    ours = ownership.owner
    return StreamFacts(
        of_another_disk=sum(
            folder is not None and ours is not None and is_of_another_disk(one.meta, os.fspath(folder), ours)
            for one in opened.values()
        ),
        daemons=daemons,
        without_task=sum(store.unreadable.why_of(stream_id) is None for stream_id in without_task),
        starting={one.instance_id for one in own.living if one.starting},
        # One that lost its name is a problem of the fleet, with a remedy of its own.
        stopped=[f"{one.instance_id} on {one.host or 'a host'}" for one in own.shown if not one.name_taken_by]
        if own.state == "stopped"
        else [],
        failed=failed,
        without_record=len(ids) - len(opened) - len(opened.unreadable),
        unreadable={**store.unreadable.known, **{why: why for why in fleet.unreadable}},
        newer=store.unreadable.newer,
        fleet=fleet,
    )


# ---- S3 --------------------------------------------------------------------------------------------------------------


class ClockSkewTransport(httpx.AsyncBaseTransport):
    """A transport that records the clock difference from the ``Date`` of S3's first response, in seconds."""

    def __init__(self, transport: httpx.AsyncBaseTransport, now: Callable[[], datetime]) -> None:
        self.has_response = False
        self.skew_seconds: float | None = None
        self._transport = transport
        self._now = now

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Pass a request on."""
        response = await self._transport.handle_async_request(request)
        self.has_response = True
        theirs = parse_http_date(response.headers.get("date"))
        if self.skew_seconds is None and theirs is not None:
            self.skew_seconds = (theirs - self._now()).total_seconds()
        return response

    async def aclose(self) -> None:
        """Close the network."""
        await self._transport.aclose()


def utc_now() -> datetime:
    """Return this machine's time."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class UploadTried:
    """The result of the test upload."""

    checksum: ChecksumAlgorithm
    listed_with_crc: bool


async def try_upload(s3: S3Client, template: KeyTemplate) -> UploadTried:
    """Open an upload under our prefix, send a part, list it, abort it: each permission of an upload is used once.

    The upload has the recordings' options, since tags, an ACL and a KMS key need permissions of their own. Its key has
    a new stream id that is in no Redis: if the abort fails, ``cef-trio gc`` aborts it.

    Raises:
        S3OperationError: S3 refused one of the calls; the error names it.
    """
    key = template.key(str(uuid4()), _NAME, utc_now())
    options = s3.options
    created = await s3.create_multipart_upload(
        key,
        metadata={"cef-stream-id": _NAME},
        content_type=options.content_type_of(key),
        headers=options.for_recording(),
    )
    try:
        await s3.upload_part(key, created.upload_id, 1, BytesSource(_CONTENT), created.checksum)
        listed = await s3.list_parts(key, created.upload_id)
        await s3.list_multipart_uploads(key)
        await s3.head_object(key)  # it does not exist: 404, or 403 without the permission to read
    except BaseException:
        with shielded(_ABORT_SECONDS, saving="doctor's abort after a failure"), suppress(S3OperationError):
            await s3.abort_multipart_upload(key, created.upload_id)
        raise
    with shielded(_ABORT_SECONDS, saving="doctor's abort") as scope:
        await s3.abort_multipart_upload(key, created.upload_id)
    if scope.cancelled_caught:
        raise S3OperationError("abort_multipart_upload", f"no answer within {_ABORT_SECONDS:g} seconds", transient=True)
    return UploadTried(created.checksum, any(part.crc64nvme is not None for part in listed))
