"""A disk that can be made to hang: a file system of its own (FUSE, spoken by hand) that stops answering on demand.

    with hung_disk(tmp_path / "watch", {"a.mp4": content}) as disk:
        disk.hang(Operation.READ, from_byte=6 * MIB)

Whoever then reads waits in the kernel, as on an NFS mount whose server is gone: only a signal that kills the process
ends that wait. (FUSE alone would not let even a killed one go, as no disk need do that is asked by no network; there
is nothing that a program could do about that. So an asker that is killed is answered.)
It needs ``/dev/fuse`` and the right to mount; without them :class:`NoFuseError` is raised, for the test to be skipped.
The protocol: https://www.kernel.org/doc/html/latest/filesystems/fuse.html and ``linux/fuse.h``.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import stat
import struct
import threading
from collections.abc import Iterator, Mapping
from enum import IntEnum
from pathlib import Path

_IN_HEADER = struct.Struct("<IIQQIIIHH")
_OUT_HEADER = struct.Struct("<IiQ")
_ATTRIBUTES = struct.Struct("<6Q10I")
_ROOT = 1
_BUFFER_BYTES = 1024 * 1024 + 4096
_VALID_SECONDS = 0
"""How long the kernel may cache an answer: not at all, so each call reaches the server."""
_MNT_DETACH = 2
_FOPEN_DIRECT_IO = 1


class NoFuseError(Exception):
    """This machine refuses FUSE mounts, or refuses them to this user."""


class Operation(IntEnum):
    """What the kernel asks, by ``enum fuse_opcode``."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    OPEN = 14
    READ = 15
    STATFS = 17
    RELEASE = 18
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    INTERRUPT = 36
    BATCH_FORGET = 42


_UNANSWERED = {Operation.FORGET, Operation.BATCH_FORGET}


class HungDisk:
    """A mounted folder of read-only files."""

    def __init__(self, device: int, files: Mapping[str, bytes]) -> None:
        self._device = device
        self._names = {name: number for number, name in enumerate(files, start=_ROOT + 1)}
        self._contents = dict(enumerate(files.values(), start=_ROOT + 1))
        self._hanging: dict[int, int] = {}
        self._unanswered = 0
        self._asked = threading.Condition()
        self._stopped, self._stop = os.pipe()

    def stop(self) -> None:
        """Let :meth:`serve` return."""
        os.close(self._stop)

    def hang(self, *operations: Operation, from_byte: int = 0) -> None:
        """Answer these no more; of READ, none that reaches ``from_byte`` or beyond."""
        with self._asked:
            self._hanging.update(dict.fromkeys(operations, from_byte))

    def wait_until_hung(self, count: int = 1, seconds: float = 60.0) -> None:
        """Wait until so many have asked and got no answer."""
        with self._asked:
            assert self._asked.wait_for(lambda: self._unanswered >= count, seconds), "no call waits for the disk"

    def serve(self) -> None:
        """Answer until :meth:`stop`, or the file system is unmounted."""
        while self._stopped not in select.select([self._device, self._stopped], [], [])[0]:
            try:
                request = os.read(self._device, _BUFFER_BYTES)
            except OSError as error:
                if error.errno in {errno.EINTR, errno.EAGAIN, errno.ENOENT}:  # the last: the asker was killed
                    continue
                return
            _, operation, unique, node, *_ = _IN_HEADER.unpack_from(request)
            body = request[_IN_HEADER.size :]
            if operation in _UNANSWERED:
                continue
            if operation == Operation.INTERRUPT:
                (unique,) = struct.unpack_from("<Q", body)
                with contextlib.suppress(OSError):
                    os.write(self._device, _OUT_HEADER.pack(_OUT_HEADER.size, -errno.EINTR, unique))
                continue
            if self._hangs(operation, body):
                with self._asked:
                    self._unanswered += 1
                    self._asked.notify_all()
                continue
            answer = self._answer(operation, node, body)
            code, payload = (-answer, b"") if isinstance(answer, int) else (0, answer)
            with contextlib.suppress(OSError):  # who asked is gone
                os.write(self._device, _OUT_HEADER.pack(_OUT_HEADER.size + len(payload), code, unique) + payload)

    def _hangs(self, operation: int, body: bytes) -> bool:
        with self._asked:
            from_byte = self._hanging.get(operation)
        if from_byte is None or operation != Operation.READ:
            return from_byte is not None
        _, offset, size_bytes = struct.unpack_from("<QQI", body)
        return bool(offset + size_bytes > from_byte)

    def _answer(self, operation: int, node: int, body: bytes) -> bytes | int:  # noqa: PLR0911 - one return an operation
        match operation:
            case Operation.INIT:
                return struct.pack("<IIIIHHIIHHI", 7, 31, 0, 0, 16, 12, 128 * 1024, 1, 0, 0, 0).ljust(64, b"\0")
            case Operation.LOOKUP:
                found = self._names.get(body.rstrip(b"\0").decode())
                if found is None:
                    return errno.ENOENT
                return struct.pack("<QQQQII", found, 0, _VALID_SECONDS, _VALID_SECONDS, 0, 0) + self._attributes(found)
            case Operation.GETATTR:
                return struct.pack("<QII", _VALID_SECONDS, 0, 0) + self._attributes(node)
            case Operation.OPEN | Operation.OPENDIR:
                return struct.pack("<QII", 0, _FOPEN_DIRECT_IO if operation == Operation.OPEN else 0, 0)
            case Operation.READ:
                _, offset, size_bytes = struct.unpack_from("<QQI", body)
                return self._contents[node][offset : offset + size_bytes]
            case Operation.READDIR:
                _, offset, _ = struct.unpack_from("<QQI", body)
                return b"" if offset else self._listing()
            case Operation.RELEASE | Operation.RELEASEDIR | Operation.FLUSH:
                return b""
        return errno.ENOSYS

    def _attributes(self, node: int) -> bytes:
        size_bytes = len(self._contents.get(node, b""))
        mode = stat.S_IFDIR | 0o755 if node == _ROOT else stat.S_IFREG | 0o644
        times = (1_700_000_000,) * 3
        return _ATTRIBUTES.pack(node, size_bytes, 0, *times, 0, 0, 0, mode, 1, os.getuid(), os.getgid(), 0, 4096, 0)

    def _listing(self) -> bytes:
        entries = b""
        for position, (name, node) in enumerate(self._names.items(), start=1):
            encoded = name.encode()
            entry = struct.pack("<QQII", node, position, len(encoded), stat.S_IFREG >> 12) + encoded
            entries += entry.ljust(-(-len(entry) // 8) * 8, b"\0")
        return entries


@contextlib.contextmanager
def hung_disk(folder: Path, files: Mapping[str, bytes]) -> Iterator[HungDisk]:
    """A folder with these files; it answers until a test makes it hang, and is unmounted afterwards.

    Raises:
        NoFuseError: it cannot be mounted here.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    target = os.fsencode(folder)
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise NoFuseError(str(error)) from error
    try:
        options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}".encode()
        if libc.mount(b"hung-disk", target, b"fuse.hung-disk", 0, options) != 0:
            raise NoFuseError(os.strerror(ctypes.get_errno()))
        disk = HungDisk(device, files)
        server = threading.Thread(target=disk.serve, daemon=True)
        server.start()
        try:
            yield disk
        finally:
            libc.umount2(target, _MNT_DETACH)
            disk.stop()
            server.join()
    finally:
        os.close(device)  # calls that still wait fail
