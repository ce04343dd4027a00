"""P8: where writers cannot be detected, a lease is no evidence. On a real FUSE mount."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.fuse_mount import FuseMount, fuse_mount

from cef_trio.cli.probes import folder_facts
from cef_trio.files.writers import WriterState, writer_state_now


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[FuseMount]:
    with fuse_mount(tmp_path) as found:
        yield found


@pytest.mark.real
def test_p8_a_lease_that_fuse_grants_does_not_prove_that_there_is_no_writer(mounted: FuseMount) -> None:
    behind, mount = mounted.behind, mounted.mount
    with (behind / "a.mp4").open("ab") as writer:
        writer.write(b"1")
        writer.flush()
        assert writer_state_now(str(mount / "a.mp4")) is WriterState.UNKNOWN
    assert writer_state_now(str(mount / "a.mp4")) is WriterState.UNKNOWN  # and a close is not known either


@pytest.mark.real
async def test_doctor_reports_that_only_the_timeout_ends_a_recording_there(mounted: FuseMount) -> None:
    assert not (await folder_facts(mounted.mount)).local
