"""ffprobe, real and scripted: its output is parsed, each failure is one error, and no process is left behind."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from servers.hostile_mp4 import claims
from waiting import until

from cef_trio.exceptions import BrokenRecordingError, FFprobeError
from cef_trio.media import ffprobe
from cef_trio.media.boxes import why_truncated
from cef_trio.media.ffprobe import MAX_AT_ONCE, MAX_DATA_BYTES, MAX_OUTPUT_BYTES, probe
from cef_trio.media.metadata import MediaInfo

pytestmark = pytest.mark.real
Script = Callable[[str], str]
LONG = 60.0


async def until_written(path: Path) -> str:
    """Wait until another process has written a line to this file; the line."""
    await until(lambda: path.exists() and path.read_text().endswith("\n"))
    return path.read_text().strip()


async def until_gone(pid: int) -> None:
    """Wait until the process has ended; init may take a while to collect an orphan."""
    await until(lambda: not _runs(pid))


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError as error:
        assert error.errno in {errno.ENOENT, errno.ESRCH}
        return False
    return state not in "ZX"


async def test_a_real_recording_is_described(recording: Path) -> None:
    media = await probe(str(recording), ffprobe_path="ffprobe", timeout_seconds=LONG)
    assert media.duration_seconds == pytest.approx(2, abs=0.1)
    assert media.container is not None
    assert "mp4" in media.container.split(",")
    assert (media.video_codec, media.audio_codec) == ("mpeg4", "aac")
    assert (media.width, media.height) == (320, 180)
    assert media.frame_rate == pytest.approx(29.97)
    assert media.bit_rate is not None
    assert media.bit_rate == pytest.approx(recording.stat().st_size * 8 / 2, rel=0.1)


@pytest.mark.parametrize(
    "name",
    [
        b"-version",
        b"-i.mp4",
        b"http:evil.mp4",
        b"concat:a|b.mp4",
        b"file:x.mp4",
        b"frame%03d.mp4",
        b"new\nline.mp4",
        b'it\'s 100% "q" & $(x) ; \\.mp4',
        b"\xff\xfe.mp4",
        "録画.mp4".encode(),
    ],
)
async def test_a_name_of_any_bytes_is_a_file_and_nothing_else(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(recording, os.fsdecode(name))
    for path in (os.fsdecode(name), os.fsdecode(os.fsencode(tmp_path) + b"/" + name)):
        media = await probe(path, ffprobe_path="ffprobe", timeout_seconds=LONG)
        assert media.duration_seconds == pytest.approx(2, abs=0.1)


async def test_a_playlist_in_a_recordings_clothes_reaches_no_network(tmp_path: Path) -> None:
    path = tmp_path / "playlist.mp4"
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        asked = False

        async def hear(stream: trio.SocketStream) -> None:
            nonlocal asked
            asked = True
            await stream.aclose()

        await nursery.start(trio.serve_listeners, hear, [listener])
        port = listener.socket.getsockname()[1]
        path.write_text(
            f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:{port}/secret.ts\n#EXT-X-ENDLIST\n"
        )
        with pytest.raises(FFprobeError):
            await probe(str(path), ffprobe_path="ffprobe", timeout_seconds=LONG)
        nursery.cancel_scope.cancel()
    assert not asked


@pytest.mark.parametrize(
    "content",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{path}\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{path}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {name}\n",
    ],
)
async def test_a_playlist_in_a_recordings_clothes_has_no_other_file_described(
    recording: Path, tmp_path: Path, content: str
) -> None:
    """Otherwise a user of the watch folder could read files that only the daemon may read."""
    private = tmp_path / "private.ts"
    command = ["ffmpeg", "-v", "error", "-i", str(recording), "-c", "copy", "-f", "mpegts", str(private)]
    assert (await trio.run_process(command)).returncode == 0
    assert (await probe(str(private), ffprobe_path="ffprobe", timeout_seconds=LONG)).duration_seconds
    path = tmp_path / "a.mp4"
    path.write_text(content.format(path=private, name=private.name))
    with pytest.raises(FFprobeError, match="whitelist"):
        await probe(str(path), ffprobe_path="ffprobe", timeout_seconds=LONG)


async def test_a_file_that_is_no_recording_is_an_error_with_ffprobes_words(tmp_path: Path) -> None:
    path = tmp_path / "corrupt.mp4"
    path.write_bytes(os.urandom(100_000))
    with pytest.raises(FFprobeError, match=r"(?s)failed with exit code 1: .*corrupt\.mp4"):
        await probe(str(path), ffprobe_path="ffprobe", timeout_seconds=LONG)


async def test_a_recording_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FFprobeError, match="No such file"):
        await probe(str(tmp_path / "gone.mp4"), ffprobe_path="ffprobe", timeout_seconds=LONG)


async def test_a_missing_program_is_an_error_that_advises_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FFprobeError, match=r"No such file.*FFPROBE_PATH") as caught:
        await probe("x.mp4", ffprobe_path=str(tmp_path / "nowhere"), timeout_seconds=LONG)
    assert isinstance(caught.value.__cause__, FileNotFoundError)


async def test_a_program_that_may_not_be_run_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "ffprobe"
    path.write_text("not executable")
    with pytest.raises(FFprobeError, match="Permission denied") as caught:
        await probe("x.mp4", ffprobe_path=str(path), timeout_seconds=LONG)
    assert isinstance(caught.value.__cause__, PermissionError)


@pytest.mark.parametrize("answer", ["", "not json", "[]", '{"format"', "\\377"])
async def test_an_answer_that_is_no_json_object_is_an_error(script: Script, answer: str) -> None:
    with pytest.raises(FFprobeError, match=r"not (a )?JSON"):
        await probe("x.mp4", ffprobe_path=script(f"printf '%b' '{answer}'"), timeout_seconds=LONG)


async def test_a_silent_failure_has_a_message(script: Script) -> None:
    with pytest.raises(FFprobeError, match="exit code 3: no error output"):
        await probe("x.mp4", ffprobe_path=script("exit 3"), timeout_seconds=LONG)


async def test_complaints_without_end_are_taken_and_only_their_end_is_kept(script: Script) -> None:
    shout = "i=0; while [ $i -lt 20000 ]; do echo complaint number $i >&2; i=$((i+1)); done; exit 1"
    with pytest.raises(FFprobeError, match="complaint number 19999") as caught:
        await probe("x.mp4", ffprobe_path=script(shout), timeout_seconds=LONG)
    assert len(str(caught.value)) < 1000


async def test_output_without_end_is_cut_off_and_ends_the_program(script: Script) -> None:
    with pytest.raises(FFprobeError, match=r"exit code -\d+"):
        await probe("x.mp4", ffprobe_path=script("exec cat /dev/zero"), timeout_seconds=LONG)


async def test_an_answer_below_the_limit_is_taken_whole(script: Script, tmp_path: Path) -> None:
    answer = tmp_path / "answer.json"
    answer.write_text('{"tags": "' + "x" * (MAX_OUTPUT_BYTES - 100) + '", "format": {"duration": "1.5"}}')
    assert answer.stat().st_size < MAX_OUTPUT_BYTES
    media = await probe("x.mp4", ffprobe_path=script(f"cat '{answer}'"), timeout_seconds=LONG)
    assert media == MediaInfo(duration_seconds=1.5)


HANGING = """
trap '' TERM INT HUP
sleep 1000 &
echo $$ $! > '{pids}'
wait
"""
"""A wrapper that ignores every polite signal, and the program inside it."""


async def too_slow(program: str, pids: Path, clock: trio.testing.MockClock) -> FFprobeError:
    """Let the time of a program be over as soon as it has written ``pids``; return the error."""
    clock.rate = 1.0

    async def pass_the_time() -> None:
        await until_written(pids)
        clock.jump(1000)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pass_the_time)
        with pytest.raises(FFprobeError, match="longer than 1000 s") as caught:
            await probe("x.mp4", ffprobe_path=program, timeout_seconds=1000)
    return caught.value


async def test_a_program_that_hangs_is_an_error_and_is_killed_with_all_its_children(
    script: Script, tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    pids = tmp_path / "pids"
    error = await too_slow(script(HANGING.format(pids=pids)), pids, mock_clock)
    assert isinstance(error.__cause__, trio.TooSlowError)
    for pid in (await until_written(pids)).split():
        await until_gone(int(pid))


async def test_p4_a_cancellation_kills_the_program_and_goes_through_at_once(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ffprobe, "_KILL_SECONDS", LONG / 2)  # on a busy machine even a killed process takes its time
    pids = tmp_path / "pids"
    with trio.fail_after(LONG):
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                await probe("x.mp4", ffprobe_path=script(HANGING.format(pids=pids)), timeout_seconds=1000)
                pytest.fail("the cancellation was lost")

            nursery.start_soon(ask)
            line = await until_written(pids)
            nursery.cancel_scope.cancel()
    assert not _runs(int(line.split()[0])), "the program itself is collected before the asker leaves"
    for pid in line.split():
        await until_gone(int(pid))


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of the process left behind, and of its pidfd
async def test_p4_a_program_that_cannot_be_killed_delays_no_caller(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that waits for a hung disk does not react to SIGKILL; here SIGKILL is never sent."""
    monkeypatch.setattr(os, "killpg", lambda group, number: None)
    pids = tmp_path / "pids"
    with trio.fail_after(LONG):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                lambda: probe("x.mp4", ffprobe_path=script(HANGING.format(pids=pids)), timeout_seconds=1000)
            )
            line = await until_written(pids)
            nursery.cancel_scope.cancel()
    for pid in map(int, line.split()):
        assert _runs(pid), "the asker left before the program did"
        os.kill(pid, signal.SIGKILL)
        await until_gone(pid)
    gc.collect()


async def test_what_a_program_leaves_running_is_killed_with_its_group(
    script: Script, tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    pids = tmp_path / "pids"
    await too_slow(script(f"sleep 1000 & echo $! > '{pids}'; exit 0"), pids, mock_clock)
    await until_gone(int(await until_written(pids)))


async def test_a_stopped_program_is_killed_too(script: Script, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            lambda: probe("x.mp4", ffprobe_path=script(f"echo $$ > '{pids}'; exec sleep 1000"), timeout_seconds=1000)
        )
        pid = int(await until_written(pids))
        os.kill(pid, signal.SIGSTOP)
        nursery.cancel_scope.cancel()
    await until_gone(pid)


async def test_a_ctrl_c_in_the_terminal_is_not_the_programs_to_handle(script: Script, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    await probe("x.mp4", ffprobe_path=script(f"ps -o sid= -p $$ > '{pids}'; echo '{{}}'"), timeout_seconds=LONG)
    assert int(pids.read_text()) != os.getsid(0)


async def test_a_cancellation_before_the_start_starts_nothing_that_stays(script: Script, tmp_path: Path) -> None:
    started = tmp_path / "started"
    with trio.move_on_after(LONG) as scope:
        scope.cancel()
        await probe("x.mp4", ffprobe_path=script(f"touch '{started}'; exec sleep 1000"), timeout_seconds=LONG)
    assert scope.cancelled_caught


async def test_every_error_of_the_operating_system_becomes_ours_and_is_kept_as_its_cause(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    for number in sorted(errno.errorcode):

        async def fail(*_: object, number: int = number, **__: object) -> None:
            await trio.lowlevel.checkpoint()
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(trio.lowlevel, "open_process", fail)
        with pytest.raises(FFprobeError, match="cannot be run") as caught:
            await probe("a.mp4", ffprobe_path="ffprobe", timeout_seconds=LONG)
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.__cause__.errno == number


@pytest.mark.skipif(sys.platform != "linux", reason="limits on another process are Linux's")
async def test_p7_a_recording_that_claims_millions_of_samples_gets_no_memory_for_them(
    script: Script, tmp_path: Path
) -> None:
    path, told = tmp_path / "claims.mp4", tmp_path / "told"
    path.write_bytes(claims(60_000_000))
    assert path.stat().st_size < 700
    around = tmp_path / "around.py"
    around.write_text(
        "import resource, subprocess, sys\n"
        "code = subprocess.run(['ffprobe', *sys.argv[1:]]).returncode\n"
        f"print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=open({str(told)!r}, 'w'))\n"
        "sys.exit(code)\n"
    )
    measured = f'exec {sys.executable} {around} "$@"'
    with suppress(FFprobeError):  # what it makes of such a recording is its own business
        await probe(str(path), ffprobe_path=script(measured), timeout_seconds=LONG)
    assert int(told.read_text()) * 1024 < 1.25 * MAX_DATA_BYTES


async def test_p7_no_more_than_so_many_run_at_once(script: Script, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    program = script(f"touch {runs}/$$; ls {runs} | wc -l >> {tmp_path}/counts; sleep 0.05; rm {runs}/$$; echo '{{}}'")
    async with trio.open_nursery() as nursery:
        for _ in range(3 * MAX_AT_ONCE):
            nursery.start_soon(partial(probe, "x.mp4", ffprobe_path=program, timeout_seconds=LONG))
    counts = [int(line) for line in (tmp_path / "counts").read_text().split()]
    assert len(counts) == 3 * MAX_AT_ONCE
    assert max(counts) <= MAX_AT_ONCE


async def test_p7_one_that_computes_for_ever_is_ended_by_the_kernel(script: Script, tmp_path: Path) -> None:
    """In case the daemon itself was killed and cannot end it."""
    told = tmp_path / "told"
    waits = f"while [ $(cat /proc/$$/oom_score_adj) != 1000 ]; do :; done; ulimit -t > {told}; echo '{{}}'"
    await probe("x.mp4", ffprobe_path=script(waits), timeout_seconds=59.5)
    assert told.read_text().strip() == "61"


async def test_a_process_that_is_not_to_be_had_just_now_is_waited_for(
    script: Script, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    refusals = [errno.EAGAIN, errno.EMFILE, errno.ENOMEM]

    async def start(*_: object, **__: object) -> None:
        await trio.lowlevel.checkpoint()
        number = refusals.pop() if refusals else errno.ENOENT
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(trio.lowlevel, "open_process", start)
    with pytest.raises(FFprobeError, match="No such file"):
        await probe("a.mp4", ffprobe_path="ffprobe", timeout_seconds=LONG)
    assert refusals == []


# ---- broken recordings -----------------------------------------------------------------------------------------------


def made(recording: Path, into: Path, *options: str) -> Path:
    command = ["ffmpeg", "-v", "error", "-y", "-i", str(recording), "-c", "copy", *options, str(into)]
    subprocess.run(command, check=True)
    return into


KINDS = {
    "plain": [],
    "index first": ["-movflags", "+faststart"],
    "fragments": ["-movflags", "frag_keyframe+empty_moov"],
}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_recording_that_was_cut_off_is_broken_and_a_whole_one_is_not(
    recording: Path, tmp_path: Path, kind: str
) -> None:
    whole = made(recording, tmp_path / "whole.mp4", *KINDS[kind])
    assert (await probe(str(whole), ffprobe_path="ffprobe", timeout_seconds=LONG)).broken is None
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    if kind == "plain":
        with pytest.raises(BrokenRecordingError, match="moov atom not found"):
            await probe(str(cut), ffprobe_path="ffprobe", timeout_seconds=LONG)
    else:
        found = await probe(str(cut), ffprobe_path="ffprobe", timeout_seconds=LONG)
        assert found.duration_seconds  # ffprobe itself notices nothing
        assert (found.broken or "").startswith("it is cut off: ")


async def test_a_header_without_media_is_broken(recording: Path, tmp_path: Path) -> None:
    whole = made(recording, tmp_path / "whole.mp4", *KINDS["fragments"]).read_bytes()
    header = tmp_path / "header.mp4"
    header.write_bytes(whole[: whole.index(b"moof") - 4])
    found = await probe(str(header), ffprobe_path="ffprobe", timeout_seconds=LONG)
    assert found.broken == "its duration is zero, or unknown: it has an index and no media"


async def test_another_container_needs_no_duration_and_has_no_boxes(recording: Path, tmp_path: Path) -> None:
    whole = made(recording, tmp_path / "whole.mkv").read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole[: len(whole) * 6 // 10])
    assert (await probe(str(cut), ffprobe_path="ffprobe", timeout_seconds=LONG)).broken is None


@pytest.mark.parametrize("ends", ["exit 1", "echo Cannot allocate memory >&2; exit 1", "kill -9 $$"])
async def test_a_failure_of_ffprobe_itself_does_not_make_a_recording_broken(script: Script, ends: str) -> None:
    with pytest.raises(FFprobeError) as caught:
        await probe("/rec/a.mp4", ffprobe_path=script(ends), timeout_seconds=LONG)
    assert not isinstance(caught.value, BrokenRecordingError)


def test_p4_a_read_that_hung_at_the_end_of_one_run_takes_no_place_of_the_next(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made(recording, tmp_path / "whole.mp4", *KINDS["index first"])
    mended, begun = threading.Event(), threading.Semaphore(0)

    def hung(path: str) -> str | None:
        begun.release()
        mended.wait(LONG)
        return why_truncated(path)

    async def ends_while_the_disk_hangs() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(MAX_AT_ONCE):
                nursery.start_soon(partial(probe, str(whole), ffprobe_path="ffprobe", timeout_seconds=LONG))
            for _ in range(MAX_AT_ONCE):
                await trio.to_thread.run_sync(begun.acquire)
            nursery.cancel_scope.cancel()

    monkeypatch.setattr(ffprobe, "why_truncated", hung)
    trio.run(ends_while_the_disk_hangs)
    mended.set()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    found = trio.run(partial(probe, str(cut), ffprobe_path="ffprobe", timeout_seconds=LONG))
    assert (found.broken or "").startswith("it is cut off: ")
