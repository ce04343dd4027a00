"""The checks of ``doctor``: from facts to findings. Pure; ``probes.py`` gathers the facts.

A problem keeps recordings from S3 or may lose them. A warning may become a problem later. Both name the setting,
permission or command that is the remedy.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from cef_trio.checkpoint import VerificationTotals
from cef_trio.checkpoint.redis import UNKNOWN_POLICY, Keys, ServerInfo
from cef_trio.cli.output import count, duration, size
from cef_trio.daemon import LET_READ_BOOT_ID
from cef_trio.exceptions import RedisOperationError, S3OperationError
from cef_trio.observability import NEW_MACHINE_ID, Fleet, State, describe_problems, judge_fleet
from cef_trio.s3 import HINTS, AbortRule, ChecksumAlgorithm


class Severity(StrEnum):
    """The severity of a finding."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: its subject, severity, text (``says``) and remedy (``todo``, empty if ok)."""

    subject: str
    severity: Severity
    says: str
    todo: str = ""


def ok(subject: str, says: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding(subject, Severity.OK, says)


def warning(subject: str, says: str, todo: str) -> Finding:
    """Return a finding that may become a problem."""
    return Finding(subject, Severity.WARNING, says, todo)


def problem(subject: str, says: str, todo: str) -> Finding:
    """Return a finding that must be fixed."""
    return Finding(subject, Severity.PROBLEM, says, todo)


# ---- the watch folder ----------------------------------------------------------------------------------------------

NETWORK_FILE_SYSTEMS: Final = frozenset(
    {
        *("9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"),
        *("fuse.ceph", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "vboxsf", "virtiofs"),
    }
)
_NEARLY: Final = 0.8
_SHOWN_LINKS: Final = 5
_SHOWN_FOLDERS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderFacts:
    """The watch folder as found on this machine; ``None`` for what is unknown here."""

    path: str
    is_folder: bool
    readable: bool = True
    file_system: str | None = None
    local: bool = True
    """Whether every writer is a process of this kernel, so that a read lease detects it (``file_system.py``)."""
    knows_writers: bool = True
    """Whether a read lease detects every writer: the folder is local, and not exported by NFS (``nfs_server.py``)."""
    may_lease_all: bool = True
    """Whether this process may take a lease on other users' files too (``CAP_LEASE``)."""
    folders: int = 0
    unreadable_folders: int = 0
    """And single entries of readable ones."""
    recordings: int = 0
    """Files that ``WATCH_PATTERNS`` names, and ``WATCH_EXCLUDE`` does not."""
    small_recordings: int = 0
    """Of these, smaller than ``WATCH_MIN_SIZE_BYTES``."""
    links: Sequence[str] = ()
    """Symbolic links that are not followed."""
    excluded_folders: int = 0
    excluded_recordings: int = 0
    max_user_watches: int | None = None
    inotify_error: str | None = None
    user: str = ""
    """Who asked, if not the daemon's own user or this command's: ``root``, or the user of the installed service."""
    is_empty: bool = False
    unmounted: Sequence[str] = ()
    """The mount points of ``/etc/fstab`` at, above or below the folder at which nothing is mounted."""
    not_writable: Sequence[str] = ()
    """The folders with recordings that may not be written; without any recording this folder stands for theirs."""
    sticky: Sequence[str] = ()
    """Those that may be written, but in which other users' recordings may not be deleted (``chmod +t``)."""


def judge_folder(facts: FolderFacts) -> list[Finding]:
    """Check the folder, its file system, and whether inotify can watch it."""
    subject = "watch folder"
    if not facts.is_folder:
        return [problem(subject, f"{facts.path!r} is no folder here", "create or mount it, or set WATCH_DIR")]
    user = f"the user {facts.user}" if facts.user else "this user"
    unmounted = [
        problem(subject, f"/etc/fstab has {point!r}, and nothing is mounted there", f"mount {point}")
        for point in facts.unmounted
    ]
    if not facts.readable:
        return [
            *unmounted,
            problem(subject, f"{facts.path!r} may not be read by {user}", f"give {user} r and x on it"),
        ]
    says = f"{facts.path!r} can be read by {user}; {count(facts.folders, 'folder')} in all"
    if facts.is_empty:
        says += ", and it is empty"
    if facts.user == "root":
        says += "; root may read more than the daemon's user: run doctor as that one"
    found = [*unmounted, ok(subject, says)]
    if facts.unreadable_folders:
        says = f"{facts.unreadable_folders} folders or single files in it cannot be read: recordings are not seen"
        todo = f"give {user} r and x on the folders; for a single file check its disk (`dmesg`)"
        found.append(warning(subject, says, todo))
    excluded = count(facts.excluded_folders, "folder") + " and " + count(facts.excluded_recordings, "recording")
    small = f", {facts.small_recordings} of them smaller than WATCH_MIN_SIZE_BYTES" if facts.small_recordings else ""
    found.append(ok("excluded", f"{excluded} by WATCH_EXCLUDE; {count(facts.recordings, 'recording')} left{small}"))
    if facts.links:
        shown = ", ".join(map(repr, facts.links[:_SHOWN_LINKS]))
        says = f"{count(len(facts.links), 'symbolic link')} in it not followed: {shown}"
        todo = (
            "if they lead to recordings, name the folders that they lead to in WATCH_LINK_ROOTS, or WATCH_EXCLUDE them"
        )
        found.append(warning("links", says, todo))
    return [*found, _judge_file_system(facts), _judge_writers(facts), _judge_inotify(facts)]


def judge_deletions(facts: FolderFacts, wishes: str, *, unit: str, read_only: Sequence[str]) -> Finding:
    """Check that recordings may be deleted or moved. ``wishes``: the settings that ask for it.

    ``unit``: the installed service, if there is one; ``read_only``: the folders that it keeps its daemon from writing.
    """
    subject = "after upload"
    user = f"the user {facts.user}" if facts.user else "this user"
    if facts.not_writable:
        says = f"{wishes}: {user} may not write {_named(facts.not_writable)}, so nothing is deleted or moved there"
        return problem(subject, says, f"give {user} w and x on it, and mount it without `ro`")
    if facts.sticky:
        says = f"{wishes}: {user} may not delete or move other users' recordings in {_named(facts.sticky)} (sticky)"
        return problem(subject, says, "`chmod -t` it, or have its recordings written by the daemon's user")
    if read_only:
        says = f"{wishes}: {unit} has ProtectSystem=strict, so its daemon may not write {_named(read_only)}"
        return problem(subject, says, f"`systemctl edit cef-trio`: [Service] ReadWritePaths={' '.join(read_only)}")
    if unit:
        seen = f"{unit} allows it, as far as its ProtectSystem and ReadWritePaths tell"
        return ok(subject, f"{wishes}: {user} may write where the recordings are, and {seen}")
    unseen = "what a container or a unit (ReadWritePaths=) keeps its daemon from writing is seen only from inside"
    return ok(subject, f"{wishes}: {user} may write where the recordings are; {unseen}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessFacts:
    """What the daemon's user may not use of what the settings name."""

    unreadable: Mapping[str, str] = field(default_factory=dict)
    """The files, and why."""
    not_writable: str | None = None
    """The folder that keeps it from writing to ``DIR`` of ``AFTER_UPLOAD=move:DIR``: that one, or one above it."""


def judge_access(facts: AccessFacts, variables: Mapping[str, str], user: str) -> list[Finding]:
    """Report what ends the daemon's start at once, again and again, although root may use all of it.

    ``variables``: the settings that name the files, by file.
    """
    found = [
        problem(
            "settings",
            f"{variables[file]}: the user {user} may not read {file!r} ({why}), so its daemon does not start",
            f"give {user} r on it, and x on the folders above it",
        )
        for file, why in facts.unreadable.items()
    ]
    if facts.not_writable is not None:
        says = f"AFTER_UPLOAD: the user {user} may not write {facts.not_writable!r}, so its daemon does not start"
        found.append(problem("after upload", says, f"give {user} w and x on it"))
    return found


def _named(folders: Sequence[str]) -> str:
    more = f" and {len(folders) - _SHOWN_FOLDERS} more" if len(folders) > _SHOWN_FOLDERS else ""
    return ", ".join(map(repr, folders[:_SHOWN_FOLDERS])) + more


def _judge_file_system(facts: FolderFacts) -> Finding:
    subject, kind = "file system", facts.file_system
    if kind is None:
        return warning(subject, "its type is unknown here", "make sure that it is not a network mount")
    if kind in NETWORK_FILE_SYSTEMS:
        says = f"{kind}: writes of other hosts are not seen at once; a recording ends by silence, not by its close"
        return warning(
            subject, says, "watch on the host that records, or lower RESCAN_SECONDS; see STREAM_TIMEOUT_SECONDS too"
        )
    if not facts.local:
        return ok(subject, f"{kind}: what is written on the other side of the mount is found by rescans")
    return ok(subject, f"{kind}: local, closes are seen at once")


def _judge_writers(facts: FolderFacts) -> Finding:
    """Report how the end of a recording is detected: by its last close, or by silence."""
    subject, silence = "writers", "STREAM_TIMEOUT_SECONDS of silence end a recording"
    if not facts.local:
        says = f"cannot be known on this file system: only {silence}, and again before it is deleted or moved"
        return ok(subject, says)
    if not facts.knows_writers:
        says = "cannot be known, as this machine exports the folder by NFS, or may do so"
        return ok(subject, f"{says}: only {silence}, and again before it is deleted or moved")
    if not facts.may_lease_all:
        says = f"known by leases for this user's own files; without CAP_LEASE, of other users' files only {silence}"
        return ok(subject, says)
    return ok(subject, "known by leases: a recording ends when no process has it open for writing")


def _judge_inotify(facts: FolderFacts) -> Finding:
    subject = "inotify"
    if facts.inotify_error is not None:
        todo = "raise fs.inotify.max_user_instances and fs.inotify.max_user_watches (sysctl)"
        return problem(subject, f"the folder cannot be watched: {facts.inotify_error}", todo)
    limit = facts.max_user_watches
    if limit is None:
        return warning(subject, "its limits cannot be read here", "look at /proc/sys/fs/inotify on the daemon's host")
    todo = f"sysctl fs.inotify.max_user_watches={max(2 * limit, 4 * facts.folders, 65536)}"
    text = f"{count(facts.folders, 'folder')}, and this user may watch {limit}"
    if facts.folders >= limit:
        return problem(subject, f"{text}: new recordings in the others are found by rescans only", todo)
    if facts.folders >= _NEARLY * limit:
        return warning(subject, f"{text}: that is nearly all", todo)
    return ok(subject, text)


# ---- Redis ---------------------------------------------------------------------------------------------------------


def judge_redis_failure(error: RedisOperationError, address: str) -> Finding:
    """Explain a failure of Redis; ``address`` is ``REDIS_URL`` without its secrets."""
    if error.transient:
        todo = f"start it; or is {address} not where it is (REDIS_URL, DNS, firewall)? A daemon waits for it"
    elif "NOPERM" in str(error):
        todo = _WRITES_REFUSED["NOPERM"]
    else:
        todo = f"correct REDIS_URL (user, password, database) or the access rules of {address}"
    return problem("redis", str(error), todo)


_WRITES_REFUSED: Final = MappingProxyType(
    {
        "OOM": "give it more memory (maxmemory), or lower COMPLETED_RETENTION_DAYS",
        "NOREPLICAS": "start its replicas, or lower its min-replicas-to-write",
        "READONLY": "set REDIS_URL to the primary",
        "MISCONF": "look at its log and at the free space of its disk",
        "NOPERM": "give this user the rights of SECURITY.md, Redis",
    }
)
"""What to do by the first word of the reply."""


def judge_refused_write(error: RedisOperationError, address: str) -> Finding:
    """Explain why a server that answers a PING refuses a write: uploads wait, since nothing can be recorded."""
    todo = next((todo for word, todo in _WRITES_REFUSED.items() if re.search(rf"\b{word}\b", str(error))), None)
    if todo is None:
        return judge_redis_failure(error, address)
    return problem("redis", f"it refuses writes, so that uploads wait: {error}", todo)


_PERSIST: Final = "set appendonly yes and appendfsync everysec in its configuration (CONFIG SET, then CONFIG REWRITE)"
_LOST: Final = (
    "Open uploads are found again in S3 by comparing bytes; completed recordings that are still in the folder are "
    "read and compared with their objects, and why streams failed is forgotten"
)


def judge_redis(facts: ServerInfo, address: str) -> list[Finding]:
    """Check the server, what a crash or a failover would lose, its memory, and whether it may evict checkpoints."""
    found = [_judge_version(facts, address)]
    if facts.is_replica:
        found += [problem("redis", "this server is a replica and takes no writes", "set REDIS_URL to the primary")]
    if not facts.last_save_ok:
        says = "its last write to its disk failed; it may refuse writes (MISCONF)"
        found.append(problem("redis disk", says, "look at its log and at the free space of its disk"))
    return [*found, judge_persistence(facts), *judge_replication(facts), *_judge_memory(facts)]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFacts:
    """Facts about the streams in Redis."""

    daemons: Mapping[str, int]
    """Open streams by the daemon that works on them."""
    without_task: int
    """The number of open streams without a lease."""
    starting: Collection[str] = ()
    """The daemons of their owner that run, and have not begun to work."""
    stopped: Sequence[str] = ()
    """If no daemon of their owner runs: those that were stopped."""
    failed: int
    """The number of failed streams, without those that ``cef-trio abort`` aborted."""
    without_record: int = 0
    """The number of ids in the sets of open streams that have no record."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """The unreadable keys, and why."""
    newer: Mapping[str, str] = field(default_factory=dict)
    """The records of a newer schema, and their schemas."""
    of_another_disk: int = 0
    """Open streams of this machine's watch folder that were begun on another file system than is there now."""
    fleet: Fleet = field(default_factory=Fleet)


def judge_owner(name: str, source: str, template: str) -> list[Finding]:
    """Check that the owner's keys in S3 are apart from those of others."""
    found = [ok("owner", f"{name!r}, by {source}")]
    if "{owner}" not in template and "{host}" not in template:
        says = f"S3_KEY_TEMPLATE {template!r} has no {{owner}}: listings and gc meet the uploads of other owners"
        found.append(
            warning("owner", says, "put {owner}/ in front of {stream_id}, unless this bucket has one owner only")
        )
    return found


def judge_host(template: str, host: str, *, is_default: bool) -> list[Finding]:
    """Check that the host in keys lasts. ``is_default``: it is the host's name, as ``INSTANCE_ID`` is not set."""
    if "{host}" not in template or not is_default or not re.fullmatch("[0-9a-f]{12}", host):
        return []
    says = f"S3_KEY_TEMPLATE has {{host}}, and {host!r} looks like the name of a container: the next has another one"
    return [warning("owner", says, "set INSTANCE_ID to a name that lasts")]


def judge_claimant(owner: str, host: str, since: str, *, is_derived: bool, is_known: bool = True) -> Finding:
    """Report another running system that has derived this owner's name, so that a daemon here waits for it.

    ``is_derived``: the name was derived here too, so that one is a clone of the other; else it is this ``OWNER_NAME``.
    ``is_known``: it has read its boot id; else it may be this system.
    """
    if not is_known:
        says = (
            f"the daemon of host {host} has the name {owner!r}, and could not read its boot id: clones are not noticed"
        )
        return warning("owner", says, LET_READ_BOOT_ID)
    if is_derived:
        says = f"the running host {host} has the name {owner!r} too, since {since}: one is a clone"
        todo = f"give one a machine-id of its own ({NEW_MACHINE_ID}), or an OWNER_NAME, and restart its daemon"
    else:
        says = f"the running host {host} has derived the name {owner!r}, since {since}: a daemon here waits for it"
        todo = (
            "give this one another OWNER_NAME; if both are to share one folder, set this OWNER_NAME on that host too "
            "and restart its daemon"
        )
    return problem("owner", says, todo)


def judge_legacy(number: int, whose: Mapping[str, int]) -> list[Finding]:
    """Report streams at the keys of earlier versions. ``whose``: numbers by owner; empty: none is recorded."""
    if not number:
        return []
    named = [f"{count(n, 'stream')} of {name or 'no recorded machine'}" for name, n in sorted(whose.items())]
    says = f"{count(number, 'stream')} at the keys of an earlier version: {', '.join(named[:_MOST_RECORDS]) or '?'}"
    todo = "the daemon of that owner moves its own into its namespace when it is upgraded and starts"
    return [warning("earlier version", says, todo)]


def judge_streams(facts: StreamFacts) -> list[Finding]:
    """Check that a daemon works on the open streams, and that none has failed."""
    without_task, failed = facts.without_task, facts.failed
    names = ", ".join(f"{name} works on {count(number, 'stream')}" for name, number in sorted(facts.daemons.items()))
    if without_task:
        says = f"no daemon works on {count(without_task, 'open stream')}{f'; {names}' if names else ''}"
        todo = "start the daemon that watches their folder; one that was killed resumes within its LEASE_SECONDS"
        if facts.starting:
            says += f"; {', '.join(sorted(facts.starting))} is still starting"
            todo = "it resumes them once it has started; what it waits for is `at risk` after a minute, and in its log"
        found = [warning("daemon", says, todo)]
    elif facts.stopped and not facts.daemons:
        more = f" and {len(facts.stopped) - _MOST_RECORDS} more" if len(facts.stopped) > _MOST_RECORDS else ""
        says = f"stopped, so that nothing is uploaded: {', '.join(facts.stopped[:_MOST_RECORDS])}{more}"
        found = [warning("daemon", says, "start it; of a host that is gone for good, `cef-trio fleet retire OWNER`")]
    else:
        found = [
            ok("daemon", names or "no stream is open; `cef-trio health` on a daemon's machine shows whether it runs")
        ]
    if facts.of_another_disk:
        says = (
            f"{count(facts.of_another_disk, 'open recording')} of this folder began on another file system than is "
            "there now: is their disk not mounted?"
        )
        found.append(problem("watch folder", says, "mount it; if it is gone for good, `cef-trio abort` them"))
    if failed:
        says = f"{count(failed, 'recording')} failed"
        found.append(warning("failed", says, "`cef-trio list --state failed` shows why, `cef-trio retry` retries them"))
    return found + judge_fleet_reports(facts.fleet) + _judge_records(facts)


def judge_verification(totals: VerificationTotals | None, now: datetime) -> Finding:
    """Report what `cef-trio verify --all` found."""
    if totals is None:
        return ok("verification", "no object was read again yet; `cef-trio verify --all` does")
    ago = duration(max(0.0, now.timestamp() - totals.at_ms / 1000))
    if not totals.mismatches:
        return ok("verification", f"{count(totals.objects, 'object')} as recorded, the last verified {ago} ago")
    return problem(
        "verification",
        f"{count(totals.mismatches, 'object')} missing or not as recorded: {', '.join(totals.mismatched)}",
        "`cef-trio verify ID` shows the difference; upload the recording again if it is still there, or restore the "
        "object, then repeat `cef-trio verify --all`",
    )


def judge_fleet_reports(fleet: Fleet) -> list[Finding]:
    """Report what is wrong with the daemons together, and what each reports as at risk (promise P10)."""
    return _judge_fleet(fleet) + _judge_risks(fleet)


def _judge_fleet(fleet: Fleet) -> list[Finding]:
    return [(problem if one.is_urgent else warning)("fleet", one.says, one.todo) for one in judge_fleet(fleet)]


def _judge_risks(fleet: Fleet) -> list[Finding]:
    at_risk = [one for one in fleet.needing_attention() if one.risks]  # of a silent one, what it reported last
    found = [
        problem(
            "at risk",
            f"{report.instance_id} ({report.folder}): {one.says}",
            one.advice,
        )
        for report in at_risk[:_MOST_DAEMONS]
        for one in describe_problems(report, fleet.now)
    ]
    found += [
        warning("at risk", f"{report.instance_id} ({report.folder}): {report.judgement.describe()}", _PASSING)
        for report in fleet.living
        if report.judgement.state is State.WAITS
    ][:_MOST_DAEMONS]
    if len(at_risk) > _MOST_DAEMONS:
        more = count(len(at_risk) - _MOST_DAEMONS, "more daemon")
        found.append(problem("at risk", more, "`cef-trio fleet --json` has all"))
    return found


def _judge_records(facts: StreamFacts) -> list[Finding]:
    """Report unreadable records, and ids without a record. Daemons and commands skip both."""
    found = [
        problem("records", f"cannot be read, skipped: {why}", _repair_hint(key))
        for key, why in list(facts.unreadable.items())[:_MOST_RECORDS]
    ]
    if left_out := len(facts.unreadable) - len(found):
        found.append(problem("records", f"{left_out} more cannot be read", "`cef-trio list` names them"))
    if facts.newer:
        says = f"{count(len(facts.newer), 'record')} left alone: {next(iter(facts.newer.values()))}"
        found.append(warning("schema", says, "upgrade this version, or let the newer daemon work on them"))
    if facts.without_record:
        says = f"{count(facts.without_record, 'name')} in streams:active or streams:pending_completion have no record"
        found.append(warning("records", says, "nothing is lost; remove them with SREM"))
    return found


def _repair_hint(key: str) -> str:
    """Return the remedy. A key of many streams is only renamed: the daemon rebuilds it."""
    if key.endswith(_OF_MANY):
        return f"`redis-cli RENAME {key} {key}.broken`: the daemon continues by itself"
    return "repair or delete that key (redis-cli)"


_PASSING: Final = "nothing yet: it is at risk if it lasts for more than a minute"
_OF_MANY: Final = tuple(Keys().types)
_MOST_DAEMONS: Final = 20
_MOST_RECORDS: Final = 5
"""At most this many are listed one by one."""

_OLDEST: Final = 4
"""HSET, as our scripts use it, takes several fields since Redis 4.0 (https://redis.io/docs/latest/commands/hset/)."""
_OLD: Final = 6
"""Older versions have no users (ACL) and no TLS."""


def _judge_version(facts: ServerInfo, address: str) -> Finding:
    text = f"{facts.product} {facts.version} answers at {address}"
    major = re.match(r"\d+", facts.version)
    if facts.product != "redis" or major is None or int(major[0]) >= _OLD:
        return ok("redis", text)
    if int(major[0]) < _OLDEST:
        return problem("redis", f"{text}: it is too old to keep checkpoints", "install Redis 7 or Valkey")
    return warning("redis", f"{text}: it is old, and has neither users nor TLS", "install Redis 7 or Valkey")


_PERSISTENCE: Final = "redis persistence"
_FSYNC: Final[Mapping[str | None, Finding]] = {
    "always": ok(_PERSISTENCE, "append-only file, synced always: a crash loses nothing that was recorded"),
    "everysec": ok(
        _PERSISTENCE,
        "append-only file, synced every second: a crash of the machine loses at most about a second, which is "
        "recovered from S3",
    ),
    "no": warning(
        _PERSISTENCE,
        "append-only file, never synced: a crash of the machine loses about the last 30 seconds",
        "set appendfsync everysec",
    ),
    None: ok(_PERSISTENCE, "append-only file; how often it is synced cannot be read (CONFIG is not permitted)"),
}
"""With an append-only file: by ``appendfsync``."""


def judge_persistence(facts: ServerInfo) -> Finding:
    """Report what a crash of the server, or of its machine, would lose."""
    subject = _PERSISTENCE
    if facts.append_only:
        return _FSYNC.get(facts.append_fsync, _FSYNC[None])
    if facts.save is None:
        says = "no append-only file, and whether it saves snapshots cannot be read (CONFIG is not permitted)"
        return warning(subject, says, _PERSIST)
    seconds = snapshot_seconds(facts.save)
    if seconds is None:
        return problem(subject, f"none at all: a restart of Redis loses every checkpoint. {_LOST}", _PERSIST)
    says = f"snapshots only: a crash loses up to {seconds} seconds or more of checkpoints. {_LOST}"
    return warning(subject, says, _PERSIST)


def snapshot_seconds(save: str) -> int | None:
    """Return the longest wait for a snapshot, in seconds, by the ``save`` setting; ``None`` without snapshots."""
    numbers = [int(number) for number in re.findall(r"\d+", save)]
    return max(numbers[::2], default=None)


_FULL: Final = 0.9
_NEARLY_FULL: Final = 0.75


def _judge_memory(facts: ServerInfo) -> list[Finding]:
    subject = "redis memory"
    policy, used = facts.eviction_policy, size(facts.used_memory_bytes)
    if policy == UNKNOWN_POLICY:
        found = warning(subject, "its eviction policy cannot be read", "make sure that it is noeviction")
    elif policy != "noeviction":
        todo = "set maxmemory-policy noeviction"
        if facts.max_memory_bytes:
            says = f"{policy}: it evicts checkpoints when its {facts.max_memory_bytes} bytes are full"
            return [problem(subject, says, todo)]
        found = warning(subject, f"{policy}: it would evict checkpoints if maxmemory were set", todo)
    else:
        found = ok(subject, f"noeviction: no checkpoint is evicted; {used} in use")
    limit, what = facts.max_memory_bytes, "maxmemory"
    if not limit:
        limit, what = facts.system_memory_bytes, "its machine's memory"
    share = facts.used_memory_bytes / limit if limit else 0.0
    if share < _NEARLY_FULL:
        return [found]
    says = f"{used} in use: {share:.0%} of {what}; without memory it refuses writes (OOM), or is killed"
    todo = "give it more memory, or lower COMPLETED_RETENTION_DAYS"
    return [(problem if share >= _FULL else warning)(subject, says, todo)]


_MAX_REPLICA_LAG_SECONDS: Final = 10
"""Default of ``min-replicas-max-lag``."""


def judge_replication(facts: ServerInfo) -> list[Finding]:
    """Report whether writes that Redis acknowledged survive a failover, and whether replicas follow."""
    subject, least = "redis replication", facts.min_replicas_to_write
    max_lag = facts.min_replicas_max_lag_seconds or _MAX_REPLICA_LAG_SECONDS
    following = [one for one in facts.replicas if one.online and one.lag_seconds <= max_lag]
    number = count(len(following), "following replica")
    if least and len(following) < least:
        says = f"{number}, and it takes writes with {least} only: it refuses them"
        return [problem(subject, says, "start its replicas; a daemon waits and continues by itself")]
    if not facts.replicas:
        return [ok(subject, "no replica: nothing is recorded while its machine is down")]
    if least:
        says = f"{number}; a failover loses the acknowledged writes of {max_lag} seconds at most, recovered from S3"
        found = [ok(subject, says)]
    elif least is None:
        says = f"{number}; min-replicas-to-write cannot be read (CONFIG is not permitted)"
        found = [warning(subject, says, "make sure that it is 1 or more")]
    elif len(facts.replicas) == 1:
        # With min-replicas-to-write 1 the promoted replica would refuse writes until the failed server is back.
        says = (
            f"{number}, and min-replicas-to-write is 0: acknowledged writes that a failover loses are recovered from S3"
        )
        found = [ok(subject, says)]
    else:
        says = f"{number}, but min-replicas-to-write is 0: a primary that is cut off goes on to acknowledge writes"
        todo = "set min-replicas-to-write 1 and min-replicas-max-lag 10 on all nodes (CONFIG SET, CONFIG REWRITE)"
        found = [warning(subject, f"{says}, which a failover then loses", todo)]
    late = [one for one in facts.replicas if one not in following]
    if late:
        named = ", ".join(
            f"{one.address} ({f'{one.lag_seconds} s behind' if one.online else 'does not follow'})" for one in late[:5]
        )
        says = f"{count(len(late), 'replica')} would lose acknowledged writes at a failover: {named}"
        found.append(warning(subject, says, "look at the replica's log and at the network between them"))
    return found


# ---- S3 ------------------------------------------------------------------------------------------------------------


def judge_s3_failure(error: S3OperationError, endpoint: str) -> Finding:
    """Explain a failure of S3 at ``endpoint``."""
    if error.operation == "get_credentials":
        todo = (
            "set S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY (or each as …_FILE), or for AWS a profile (AWS_PROFILE) of "
            "the daemon's user, or run where a role is attached"
        )
    elif error.code == "ProxyError":
        todo = "start that proxy, or correct S3_PROXY_URL; a daemon waits for it"
    elif error.status is None:
        todo = (
            f"start it; or is {endpoint} not where it is (S3_ENDPOINT_URL, DNS, firewall, proxy)? A daemon waits for it"
        )
    elif error.transient:
        todo = "look at the store's own health; a daemon waits and continues by itself"
    elif error.code in HINTS:
        todo = "do that, then retry the streams that failed for it: `cef-trio retry --all`"
    else:
        todo = "look that code up in the store's documentation, then retry: `cef-trio retry --all`"
    return problem("s3", str(error), todo)


_SKEW_WARNING_SECONDS: Final = 60.0
_SKEW_PROBLEM_SECONDS: Final = 15 * 60.0
"""More, and S3 refuses every request (https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html)."""
_SHORT_DAYS: Final = 7


def judge_clock(skew_seconds: float | None) -> Finding:
    """Compare the clocks; ``skew_seconds`` is how far S3's is ahead, within two seconds."""
    subject = "clock"
    if skew_seconds is None:
        return warning(subject, "S3 sends no Date", "make sure that this machine's clock is synchronised")
    side = "ahead of" if skew_seconds < 0 else "behind"
    text = f"this machine is {abs(skew_seconds):.0f} seconds {side} S3"
    todo = "synchronise this machine's clock (chrony, systemd-timesyncd)"
    if abs(skew_seconds) >= _SKEW_PROBLEM_SECONDS:
        return problem(subject, f"{text}: requests are refused until the daemon has corrected for it", todo)
    if abs(skew_seconds) >= _SKEW_WARNING_SECONDS:
        return warning(subject, text, todo)
    return ok(subject, "agrees with S3's")


def judge_checksum(used: ChecksumAlgorithm, *, listed_with_crc: bool, chosen: str) -> Finding:
    """Report how parts are verified; ``chosen`` is ``S3_CHECKSUM``, ``listed_with_crc`` whether ListParts has a CRC."""
    subject = "checksum"
    if used is ChecksumAlgorithm.CRC64NVME and listed_with_crc:
        return ok(subject, "crc64nvme: the store verifies every part and the whole object")
    if used is ChecksumAlgorithm.CRC64NVME and chosen == "crc64nvme":
        says = "crc64nvme was chosen, but ListParts does not return it"
        return warning(subject, says, "set S3_CHECKSUM=auto, unless you know that the store checks it")
    if used is ChecksumAlgorithm.CRC64NVME:
        return ok(subject, "crc64nvme is accepted, but not returned by ListParts; ETags verify parts too")
    if used is ChecksumAlgorithm.MD5:
        return ok(subject, "md5: parts are verified by Content-MD5, objects by their ETag")
    return ok(subject, f"{used.value}, as set by S3_CHECKSUM")


def judge_lifecycle(rules: Sequence[AbortRule], prefix: str) -> Finding:
    """Check that no lifecycle rule aborts uploads of recordings that are still being written."""
    subject = "lifecycle"
    ours = [rule for rule in rules if rule.prefix.startswith(prefix) or prefix.startswith(rule.prefix)]
    if not ours:
        return ok(subject, "no rule aborts open uploads; `cef-trio gc` aborts those that no stream owns")
    days = min(rule.days for rule in ours)
    says = f"a rule aborts uploads {days} days after they began: recordings that take longer lose what was uploaded"
    todo = f"let AbortIncompleteMultipartUpload under {prefix!r} wait {_SHORT_DAYS} days or more, or use `cef-trio gc`"
    if days <= 1:
        return problem(subject, says, todo)
    if days < _SHORT_DAYS:
        return warning(subject, f"{says}, and so do failed streams that wait for `cef-trio retry`", todo)
    return ok(subject, f"uploads are aborted {days} days after they began: longer than any recording should take")


# ---- ffprobe -------------------------------------------------------------------------------------------------------


def judge_ffprobe(path: str, version: str | None, error: str | None) -> Finding:
    """Check that ffprobe works, for durations and codecs."""
    if version is not None:
        return ok("ffprobe", version)
    says = f"{error or path}; recordings are uploaded all the same, their durations and codecs are null"
    return warning("ffprobe", says, "install ffmpeg, or set FFPROBE_PATH")
