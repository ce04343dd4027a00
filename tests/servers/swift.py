"""OpenStack Swift with its S3 API: the strictest S3 server that pip alone can bring.

    with swift_server(tmp_path) as endpoint:
        client = endpoint.client()

One proxy, one account, one container and one object server, one replica, on free ports of the loopback; data and open
uploads stay in the folder, so a second ``swift_server`` over it finds them. Swift wants old versions of its libraries,
so it has a virtual environment of its own: ``CEF_TRIO_SWIFT_VENV`` if set, else made once by pip under
``CEF_TRIO_CACHE`` (default ``~/.cache/cef-trio``), serialised between processes by a file lock. If pip cannot bring it,
that is an error with a clear line, never a skip.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from servers.endpoints import Endpoint, free_port, running

VERSION = "2.38.3"
REQUIREMENTS = (f"swift=={VERSION}", "setuptools<81")
ACCESS_KEY = "test:tester"
SECRET_KEY = "testing"
REGION = "us-east-1"
INSTALL_SECONDS = 600
_KINDS = ("object", "container", "account")

_PATIENCE = """\
node_timeout = 60
conn_timeout = 60
container_update_timeout = 60
"""
"""How long one server waits for another. By default that is half a second for a connection, and a second for an object
to be in its listing: on a busy machine a listing would lack an object, for ever, as no updater runs here."""

_STORAGE_CONF = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
devices = {devices}
mount_check = false
user = {user}
swift_dir = {etc}
workers = 0
fallocate_reserve = 0
log_address = /dev/null
log_level = WARNING
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
replication_server = false
{patience}
"""
_PROXY_CONF = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
user = {user}
swift_dir = {etc}
workers = 0
log_address = /dev/null
log_level = WARNING
[pipeline:main]
pipeline = catch_errors gatekeeper proxy-logging listing_formats bulk s3api tempauth slo dlo versioned_writes symlink \
proxy-logging proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
{patience}
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:proxy-logging]
use = egg:swift#proxy_logging
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
max_manifest_segments = 10000
[filter:dlo]
use = egg:swift#dlo
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
[filter:symlink]
use = egg:swift#symlink
[filter:tempauth]
use = egg:swift#tempauth
user_{user_key} = {secret} .admin
[filter:s3api]
use = egg:swift#s3api
location = {region}
s3_acl = false
dns_compliant_bucket_names = true
check_bucket_owner = false
allow_multipart_uploads = true
max_upload_part_num = 10000
min_segment_size = 5242880
"""


@contextlib.contextmanager
def swift_server(folder: Path, *, bucket: str = "cef-trio-test") -> Iterator[Endpoint]:
    """Swift over ``folder``, ready, with a bucket in it."""
    programs = swift_environment() / "bin"
    etc = _configured(folder, programs)
    ports: dict[str, int] = json.loads((folder / "ports.json").read_text())
    proxy_port = free_port()
    (etc / "proxy.conf").write_text(
        _PROXY_CONF.format(
            port=proxy_port,
            user=_user(),
            etc=etc,
            patience=_PATIENCE,
            user_key=ACCESS_KEY.replace(":", "_"),
            secret=SECRET_KEY,
            region=REGION,
        )
    )
    environment = {"SWIFT_DIR": str(etc), "SWIFT_TEST_DIR": ""}
    with contextlib.ExitStack() as servers:
        for kind, port in (*ports.items(), ("proxy", proxy_port)):
            command = [str(programs / f"swift-{kind}-server"), str(etc / f"{kind}.conf")]
            log = folder / f"{kind}.log"
            servers.enter_context(running(command, ports=[port], log=log, environment=environment))
        endpoint = Endpoint(f"http://127.0.0.1:{proxy_port}", ACCESS_KEY, SECRET_KEY, REGION, bucket)
        with contextlib.closing(endpoint.client()) as client:
            if bucket not in [each["Name"] for each in client.list_buckets()["Buckets"]]:
                client.create_bucket(Bucket=bucket)
        yield endpoint


def swift_environment() -> Path:
    """Swift's virtual environment, made now if it is not there.

    Raises:
        RuntimeError: pip could not bring it.
    """
    given = os.environ.get("CEF_TRIO_SWIFT_VENV")
    if given:
        return Path(given)
    cache = Path(os.environ.get("CEF_TRIO_CACHE") or Path.home() / ".cache" / "cef-trio")
    cache.mkdir(parents=True, exist_ok=True)
    environment = cache / f"swift-{VERSION}"
    finished = environment / "finished"
    with (cache / f"swift-{VERSION}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.exists():
            shutil.rmtree(environment, ignore_errors=True)
            _install([sys.executable, "-m", "venv", str(environment)])
            _install([str(environment / "bin" / "pip"), "install", "--quiet", *REQUIREMENTS])
            finished.touch()
    return environment


def _install(command: list[str]) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
    )
    if done.returncode:
        raise RuntimeError(
            f"Swift {VERSION}, which the tests compare with, could not be installed by pip. Give a virtual environment "
            f"that has it in CEF_TRIO_SWIFT_VENV. {' '.join(command)}:\n{done.stderr[-2000:]}"
        )


def _configured(folder: Path, programs: Path) -> Path:
    etc, devices = folder / "etc", folder / "srv"
    etc.mkdir(parents=True, exist_ok=True)
    (devices / "sdb1").mkdir(parents=True, exist_ok=True)
    (etc / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_prefix = cef-trio\nswift_hash_path_suffix = cef-trio\n"
        "[storage-policy:0]\nname = Policy-0\ndefault = yes\n"
    )
    # Rings hold the ports of the storage servers, so these are fixed when the folder is first used.
    if not (folder / "ports.json").exists():
        ports = {kind: free_port() for kind in _KINDS}
        for kind, port in ports.items():
            _ring(programs, etc, kind, "create", "4", "1", "1")
            _ring(programs, etc, kind, "add", f"r1z1-127.0.0.1:{port}/sdb1", "1")
            _ring(programs, etc, kind, "rebalance")
        (folder / "ports.json").write_text(json.dumps(ports))
    for kind, port in json.loads((folder / "ports.json").read_text()).items():
        conf = _STORAGE_CONF.format(kind=kind, port=port, devices=devices, user=_user(), etc=etc, patience=_PATIENCE)
        (etc / f"{kind}.conf").write_text(conf)
    return etc


def _ring(programs: Path, etc: Path, kind: str, *arguments: str) -> None:
    command = [str(programs / "swift-ring-builder"), f"{kind}.builder", *arguments]
    done = subprocess.run(command, cwd=etc, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    # 1 is a warning here: one zone is not redundant, which is the point.
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")


def _user() -> str:

    return pwd.getpwuid(os.getuid()).pw_name
