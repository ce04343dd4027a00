"""A watched name forges nothing: no line of the log, no row, no JSON, no HTML, no header, no message to systemd."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from security.hostile import MARK, NAMES
from servers.chromium import PROGRAM, chromium
from servers.command import run
from servers.daemon import OWNER, DaemonProcess, daemon, settings_for
from servers.store import Store
from servers.valkey import ValkeyServer
from waiting import wait_until

import cef_trio
from cef_trio.lab.campaign import Tally
from cef_trio.lab.faults import FaultKind, Injection
from cef_trio.lab.injector import Injected
from cef_trio.lab.journal import Entry, Lane
from cef_trio.lab.report import write_report
from cef_trio.lab.run import Plan, Report
from cef_trio.upload.object_key import key_text

ROOT = Path(cef_trio.__file__).parents[1]
EVENTS = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "events.md").read_text(), re.MULTILINE))
FORGED = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\xe2\x80[\xa8-\xae]|\xc2[\x80-\x9f]")
"""Control characters but for tab and newline, the line breaks of Unicode, and what turns the writing's direction."""

pytestmark = pytest.mark.real


@pytest.fixture
def settings(watch_dir: Path, embedded: Store, valkey: ValkeyServer) -> Mapping[str, str]:
    return settings_for(watch_dir, embedded.endpoint, valkey.url, close_grace_seconds=0.2, watch_exclude="none")


@contextmanager
def recording(watch_dir: Path) -> Iterator[None]:
    """Recordings of every name, written to until the block's end."""
    with ExitStack() as writers:
        for name in NAMES:
            writer = writers.enter_context((watch_dir / name).open("wb"))
            writer.write(os.fsencode(name))
            writer.flush()
        yield


def port_of(process: DaemonProcess) -> int:
    return int(process.wait_for("admin_server_started")["port"])


def fetched(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
        body: bytes = answer.read()
        return body.decode()


def snapshot(port: int) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/events", timeout=60) as answer:
        for line in answer:
            if line.startswith(b"data: {"):
                return json.loads(line.removeprefix(b"data: "))
    raise AssertionError("no snapshot")


def said(settings: Mapping[str, str], *arguments: str) -> bytes:
    done = run(*arguments, settings=settings)
    assert done.stderr == "", done.stderr
    assert done.returncode == 0
    return done.stdout.encode()


def test_no_name_forges_a_machines_log_an_answer_or_an_object(
    settings: Mapping[str, str], watch_dir: Path, embedded: Store, tmp_path: Path
) -> None:
    paths = {str(watch_dir / name) for name in NAMES}
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told.bind(str(tmp_path / "notify"))
    with told, daemon({**settings, "NOTIFY_SOCKET": str(tmp_path / "notify")}) as process:
        with recording(watch_dir):
            process.wait_for("stream_started", count=len(NAMES))
            port = port_of(process)
            shown = snapshot(port)
            assert len(shown["streams"]) == len(NAMES)
            for page in ("/metrics", "/healthz", "/readyz"):
                assert MARK not in fetched(port, page), page
            status = said(settings, "status", "--json")
            listed = json.loads(said(settings, "list", "--json"))
            assert {stream["path"] for stream in listed["streams"]} == paths
            for output in (said(settings, "status"), said(settings, "list")):
                assert FORGED.search(output) is None
            assert status.isascii()
        process.wait_for("stream_completed", count=len(NAMES))
        stream_id = next(stream["stream_id"] for stream in listed["streams"] if "\x1b" in stream["path"])
        table = said(settings, "show", stream_id)
        assert FORGED.search(table) is None
        assert b"x1b[2J" in table
        assert json.loads(said(settings, "show", stream_id, "--json"))["current_path"] in paths
        assert process.stop() == 0
        log = process.log_path.read_bytes()
    assert log.isascii()
    for line in log.splitlines():
        event = json.loads(line)
        assert event["event"] in EVENTS, line
        assert event["level"] in {"debug", "info", "warning"}, line
    told.close()
    assert_objects_are_whole(embedded, watch_dir)


def assert_objects_are_whole(embedded: Store, watch_dir: Path) -> None:
    by_text = {key_text(name): name for name in NAMES}
    keys = embedded.recordings()
    assert len(keys) == len(NAMES)
    for key in keys:
        prefix, owner, _, text = key.split("/")
        name = by_text.pop(text)
        assert (prefix, owner) == ("streams", OWNER)
        answer = embedded.client.get_object(Bucket="recordings", Key=key)
        assert answer["Body"].read() == os.fsencode(name)
        assert set(answer["Metadata"]) == {"cef-stream-id"}
        metadata = embedded.metadata(key)
        raw = metadata.get("original_file_path_base64")
        path = os.fsdecode(base64.b64decode(raw)) if raw else metadata["original_file_path"]
        assert path == str(watch_dir / name)


def received(told: socket.socket) -> list[str]:
    """The lines of the next message; none if there is none."""
    try:
        return told.recv(4096).decode().split("\n")
    except BlockingIOError:
        return []


def test_no_name_adds_a_line_to_a_notification_of_systemd(
    settings: Mapping[str, str], watch_dir: Path, tmp_path: Path
) -> None:
    folder = watch_dir.parent / "rec\nREADY=1\nX_PWNED=1"
    folder.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "notify"))
        given = {"WATCH_DIR": str(folder), "NOTIFY_SOCKET": str(tmp_path / "notify")}
        with daemon({**settings, **given}) as process:
            (folder / NAMES[-1]).touch()
            assert process.stop() == 0
        told.setblocking(False)
        messages = list(iter(lambda: received(told), []))
    assert sum("READY=1" in message for message in messages) == 1
    for line in (line for message in messages for line in message):
        assert re.fullmatch(r"(READY|STOPPING|WATCHDOG)=1|STATUS=[ -~]*", line), line


def test_no_name_forges_a_persons_log(settings: Mapping[str, str], watch_dir: Path, embedded: Store) -> None:
    with daemon({**settings, "APP_ENV": "development"}, wait_started=False) as process:
        with recording(watch_dir):
            pass
        (watch_dir / "last.mp4").touch()
        wait_until(lambda: sum(key.endswith(".metadata.json") for key in list(embedded.keys())) > len(NAMES))
        assert process.stop() == 0
        log = process.log_path.read_bytes()
    assert FORGED.search(log) is None
    for line in log.decode().splitlines():
        begins = re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z \[(debug|info|warning) *\] (\w+)( |$)", line)
        assert begins, line
        assert begins[2] in EVENTS, line


@pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed (apt-get install chromium)")
async def test_no_name_is_html_on_the_page_of_a_real_daemon(settings: Mapping[str, str], watch_dir: Path) -> None:
    with daemon(settings) as process, recording(watch_dir):
        process.wait_for("stream_started", count=len(NAMES))
        async with chromium() as tab:
            await tab.open(f"http://127.0.0.1:{port_of(process)}/")
            await tab.until(f"document.querySelectorAll('#streams tr').length === {len(NAMES)}")
            found = await tab.evaluate("document.querySelectorAll('main img, main svg, main script').length")
            assert found == 0
            assert MARK not in await tab.evaluate("document.title")
            text = await tab.evaluate("document.getElementById('streams').innerText")
            assert "<script>document.title" in text
            assert "\u202e" not in text
            assert "\x1b" not in text
            assert tab.console == []


class _Elements(HTMLParser):
    """Which elements a page has, and what it says."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("name", [name for name in NAMES if "<" in name])
def test_no_name_is_html_in_the_laboratorys_report(name: str) -> None:
    report = Report(
        Plan(name, (Injection(FaultKind.CANCEL, 1),), mutation=name),
        violations=[name],
        injected=[Injected(Injection(FaultKind.CANCEL, 1), 1.0, name, [f"{name} elsewhere"])],
        saved=[[name]],
        hits=Counter({name: 1}),
        entries=[Entry(lane, 1.0, name, outcome=name) for lane in Lane],
    )
    tally = Tally()
    tally.add(report)
    page = _Elements(write_report(name, {name: tally}, report, again=name))
    assert not page.found & {"script", "img"}
    assert not {attribute for attribute in page.attributes if attribute.startswith("on")}
    assert page.text.count(name) > 10
