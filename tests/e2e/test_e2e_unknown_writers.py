"""P1, P8: recordings whose writers the kernel does not report: behind a FUSE mount, on another host, another user's.

A close is a hint there, and only ``STREAM_TIMEOUT_SECONDS`` of silence is an end.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest
from servers.daemon import daemon
from servers.fuse_mount import fuse_mount, sshfs_mount
from servers.ordinary_user import ordinary_user
from servers.scene import Scene, surroundings
from servers.side_by_side import Stories, side_by_side

pytestmark = pytest.mark.real
SILENCE_SECONDS = 2.0
PAUSE_SECONDS = 0.5
TURNS = 8
"""Longer than twice the silence: what was seen in a cache may be deleted by then."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the writer writes and the daemon sees that, and under which program the daemon runs."""

    written: Path
    seen: Path
    under: Sequence[str] = ()
    owner: int = os.getuid()
    """Whose recordings they are."""


@contextmanager
def behind_a_mount(folder: Path) -> Iterator[Place]:
    with fuse_mount(folder) as found:
        yield Place(found.behind, found.mount)


@contextmanager
def by_sshfs(folder: Path) -> Iterator[Place]:
    with sshfs_mount(folder) as found:
        yield Place(found.behind, found.mount)


@contextmanager
def another_users(folder: Path) -> Iterator[Place]:
    """The daemon may delete in its folder, and has no CAP_LEASE: no lease is granted on what another user writes."""
    user = ordinary_user()
    os.chown(folder, user.uid, user.uid)
    yield Place(folder, folder, user.under, user.another)


PLACES: dict[str, Callable[[Path], AbstractContextManager[Place]]] = {
    "behind a FUSE mount": behind_a_mount,
    "by sshfs": by_sshfs,
    "another user's": another_users,
}


def tell(scene: Scene, place: Place) -> None:
    """A slow writer, a ``touch`` by another user, and ``AFTER_UPLOAD=delete``."""
    path, seen = place.written / "a.mp4", place.seen / "a.mp4"
    digest = hashlib.sha256()
    writes: list[float] = []

    def write() -> None:
        content = os.urandom(300_000)
        writer.write(content)
        digest.update(content)
        writes.append(time.monotonic())

    settings = scene.settings(place.seen, after_upload="delete", stream_timeout_seconds=SILENCE_SECONDS)
    with ExitStack() as stack:
        with path.open("ab", buffering=0) as writer:
            path.chmod(0o644)
            os.chown(path, place.owner, place.owner)
            write()
            process = stack.enter_context(daemon(settings, under=place.under))
            for turn in range(TURNS):
                write()
                if turn == 2:
                    subprocess.run(["touch", seen], check=True)  # a close that the daemon sees, of no writer
                time.sleep(PAUSE_SECONDS)  # the writer's own pause: longer than the grace, shorter than the silence
                exists, completed = path.exists(), process.count("stream_completed")
                silences = [after - before for before, after in pairwise([*writes[1:], time.monotonic()])]
                if max(silences) > SILENCE_SECONDS - 0.5:
                    pytest.skip("this machine is so busy that the writer itself was silent for too long")
                assert exists, process.tail()
                assert completed == 0, process.tail()
            last_write = writes[-1]
        ended = process.wait_for("stream_completed")
        assert time.monotonic() - last_write >= SILENCE_SECONDS
        deleted = process.wait_for("recording_deleted_after_upload")
        between = datetime.fromisoformat(deleted["timestamp"]) - datetime.fromisoformat(ended["timestamp"])
        assert between.total_seconds() >= SILENCE_SECONDS - 1, "the silence is demanded anew"
        assert process.stop() == 0
    assert not path.exists()
    with scene.store() as store:
        assert store.sha256(store.key_of("a.mp4")) == digest.hexdigest()


@pytest.fixture(scope="module")
def stories(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stories]:
    def tell_there(name: str) -> None:
        with ExitStack() as stack:
            # Not pytest's folder, into which no other user may look.
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cef-trio-")))
            folder.chmod(0o755)
            place = stack.enter_context(PLACES[name](folder))
            tell(around.scene("unknown"), place)

    with (
        surroundings(tmp_path_factory.mktemp("servers")) as around,
        side_by_side(request, "place", tell_there) as told,
    ):
        yield told


@pytest.mark.parametrize("place", PLACES)
def test_p8_a_recording_of_unknown_writers_is_completed_and_deleted_only_after_the_silence(
    place: str, stories: Stories
) -> None:
    stories[place].result()
