"""The daemon: the nursery tree, its start, its end, and its wiring.

Promise P4: from the first signal to the exit takes at most `SHUTDOWN_GRACE_SECONDS + SHUTDOWN_SAVE_SECONDS + 1` (9 s by
default: 6 + 2 + 1).

Open `main.py` for the nursery tree and the order of start and end; `start_checks.py` for a start that is refused or
waits; `watch_folder.py` for the lock of the watch folder, and a start while its mount hangs; `wiring.py` for which
class implements which interface, `redis_store.py` for the checkpoint store; `intake_tasks.py` for the objects and tasks
that the laboratory shares; `exit_watchdog.py` for an exit that hangs; `reload.py` for SIGHUP; `machine.py` for the
identity of the machine; `owner_name.py` for the owner's name and where it comes from; `owner_claim.py` for clones;
`upgrade.py` for streams of earlier versions; `systemd.py` for the service manager.
"""

from typing import TYPE_CHECKING

from cef_trio.lazy_door import lazy_door

if TYPE_CHECKING:
    from cef_trio.daemon.exit_watchdog import ExitWatchdog
    from cef_trio.daemon.machine import LET_READ_BOOT_ID, UNKNOWN_BOOT, boot_id, machine_id
    from cef_trio.daemon.main import RunningDaemon, main_daemon, run_daemon
    from cef_trio.daemon.owner_name import OwnerName, OwnerSource, find_owner, owner_of_machine
    from cef_trio.daemon.redis_store import checkpoint_store
    from cef_trio.daemon.reload import SettingsSource
    from cef_trio.daemon.start_checks import warn_of_world_readable_secrets
    from cef_trio.daemon.wiring import key_template, s3_client, s3_config, s3_proxy, webhook_clients
else:
    __getattr__ = lazy_door(__name__)

__all__ = [
    "LET_READ_BOOT_ID",
    "UNKNOWN_BOOT",
    "ExitWatchdog",
    "OwnerName",
    "OwnerSource",
    "RunningDaemon",
    "SettingsSource",
    "boot_id",
    "checkpoint_store",
    "find_owner",
    "key_template",
    "machine_id",
    "main_daemon",
    "owner_of_machine",
    "run_daemon",
    "s3_client",
    "s3_config",
    "s3_proxy",
    "warn_of_world_readable_secrets",
    "webhook_clients",
]
