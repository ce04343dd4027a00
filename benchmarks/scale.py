"""Compute what a fleet costs, from the measured costs of one daemon: the tables of ``docs/scale.md``.

    python -m benchmarks.scale            # print the tables
    python -m benchmarks.scale --write    # put them into docs/scale.md

The measured costs are in ``benchmarks/costs.json`` (``python -m benchmarks.costs``). The size and the number of parts
are those of the daemon's own code. Prices and limits of others are inputs, stated here and on the page. A test compares
the page with the output.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from cef_trio.upload.orphan_cleanup import PERIOD_SECONDS
from cef_trio.upload.part_plan import MIB, PartPlan
from cef_trio.upload.part_size import DEFAULT_PART_BYTES, AutoPartSize

COSTS: Final = Path(__file__).with_name("costs.json")
PAGE: Final = Path(__file__).parents[1] / "docs" / "scale.md"
GIB: Final = 1024 * MIB
DAY: Final = 86_400
MONTH: Final = 30 * DAY

# -- inputs that are not measured -------------------------------------------------------------------------------------

DOLLARS_PER_WRITE: Final = 0.005 / 1000
"""AWS list price, S3 Standard, us-east-1, of 2025: PUT, COPY, POST and LIST. UploadPart is a PUT, Create and Complete
are POSTs."""
DOLLARS_PER_READ: Final = 0.0004 / 1000
"""The same for GET, HEAD and all others; DELETE and AbortMultipartUpload cost nothing."""
DOLLARS_PER_GB_MONTH: Final = 0.021
"""The same for storage beyond 500 TB, for comparison."""
S3_WRITES_PER_SECOND: Final = 3_500
"""What S3 serves at least for each prefix (its "performance guidelines"); it divides busy prefixes by itself."""
REDIS_MAXCLIENTS: Final = 10_000
"""Redis' and Valkey's default ``maxclients``."""
_FREE: Final = frozenset({"AbortMultipartUpload", "DeleteObject"})
_READS: Final = frozenset({"HeadObject", "GetObject", "HeadBucket"})


@dataclass(frozen=True, slots=True)
class Fleet:
    """Recorders and how they are configured."""

    recorders: int = 10_000
    hosts: int = 500
    mbit_per_second: float = 8.0
    recording_seconds: int = 3600
    auto: bool = False
    history_days: float = 30.0
    relaxed: bool = False
    """Whether ``STALE_CHECK_SECONDS`` and ``LEASE_SECONDS`` are those of ``benchmarks.costs.RELAXED``."""

    @property
    def bytes_per_second(self) -> float:
        """What one recorder writes."""
        return self.mbit_per_second * 1_000_000 / 8

    @property
    def part_size(self) -> int:
        """The size of the first part."""
        rate = self.bytes_per_second
        return AutoPartSize().choose(rate, 0, equal_parts=False) if self.auto else DEFAULT_PART_BYTES

    @property
    def parts(self) -> int:
        """The parts of one recording."""
        return sum(1 for _ in PartPlan(self.part_size).split(int(self.bytes_per_second * self.recording_seconds)))

    @property
    def recordings_per_second(self) -> float:
        """Recordings of all recorders, as many begun as ended."""
        return self.recorders / self.recording_seconds

    @property
    def parts_per_second(self) -> float:
        """Parts of all recorders."""
        return self.recordings_per_second * self.parts

    @property
    def completed_in_redis(self) -> int:
        """Completed recordings that Redis remembers; their files are deleted soon after the upload."""
        return round(self.recordings_per_second * self.history_days * DAY)


class Costs:
    """What was measured."""

    def __init__(self, stored: Mapping[str, Any]) -> None:
        self.stored = stored

    @classmethod
    def read(cls, path: Path = COSTS) -> Costs:
        """Return the stored measurement."""
        return cls(json.loads(path.read_text()))

    def redis(self, fleet: Fleet, what: str) -> float:
        """Return one of Redis' loads for the fleet, per second."""
        stored = self.stored
        waiting = stored["relaxed"] if fleet.relaxed else stored
        return float(
            fleet.hosts * waiting["per_idle_minute"][what] / 60
            + fleet.recorders * waiting["per_open_stream_minute"][what] / 60
            + fleet.parts_per_second * stored["per_part"][what]
            + fleet.recordings_per_second * (stored["per_recording_begun"][what] + stored["per_recording_ended"][what])
        )

    def redis_memory(self, fleet: Fleet) -> tuple[float, float]:
        """Return the bytes of open and of completed recordings. An open one has half of its parts on average."""
        memory = self.stored["redis_memory_bytes"]
        each = memory["open_stream"] + fleet.parts / 2 * memory["part_of_an_open_stream"]
        kept = memory["completed_recording"] + fleet.parts * memory["part_of_a_completed_recording"]
        return fleet.recorders * each, fleet.completed_in_redis * kept

    def s3_per_recording(self, fleet: Fleet) -> Counter[str]:
        """Return the requests of one recording by operation, rounded to whole ones."""
        others = {name: round(count) for name, count in self.stored["s3_per_recording_besides_parts"].items()}
        return Counter({"UploadPart": fleet.parts, **{name: count for name, count in others.items() if count}})

    def daemon_cores(self, fleet: Fleet) -> float:
        """Return the CPU seconds per second of one host's daemon."""
        stored, gib = self.stored, fleet.recorders / fleet.hosts * fleet.bytes_per_second / GIB
        per_gib = sum(stored["daemon_cpu_seconds_per_gib"].values())
        streams = fleet.recorders / fleet.hosts * stored["per_open_stream_minute"]["daemon_cpu_seconds"] / 60
        return float(stored["per_idle_minute"]["daemon_cpu_seconds"] / 60 + streams + gib * per_gib)


def dollars(requests: Mapping[str, float]) -> float:
    """Return the price of requests."""
    return sum(
        count * (0.0 if name in _FREE else DOLLARS_PER_READ if name in _READS else DOLLARS_PER_WRITE)
        for name, count in requests.items()
    )


def s3_per_second(costs: Costs, fleet: Fleet) -> dict[str, float]:
    """Return all requests of the fleet by operation: of recordings, and the search of each daemon for lost uploads."""
    each = costs.s3_per_recording(fleet)
    found = {name: count * fleet.recordings_per_second for name, count in each.items()}
    listed = found.get("ListMultipartUploads", 0.0)
    return {**found, "ListMultipartUploads": listed + fleet.hosts / PERIOD_SECONDS}


def s3_dollars_per_month(costs: Costs, fleet: Fleet) -> float:
    """Return the price of all requests of a month."""
    return dollars(s3_per_second(costs, fleet)) * MONTH


# -- tables -----------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float) -> str:
    """Return a number with three significant digits, and thousands separated."""
    if value >= 1000:
        digits = len(str(int(value))) - 3
        return f"{round(value, -digits):,.0f}"
    return f"{value:.3g}"


def size(value: float) -> str:
    """Return a size in a unit that fits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{number(value)} {unit}"


ASKED: Final = Fleet()
VARIANTS: Final = {
    "1 h, 10 MiB": ASKED,
    "1 h, `auto`": replace(ASKED, auto=True),
    "10 min, 10 MiB": replace(ASKED, recording_seconds=600),
    "10 min, `auto`": replace(ASKED, recording_seconds=600, auto=True),
}


def requests_table(costs: Costs) -> str:
    """Return S3's requests and their price."""
    names = list(dict.fromkeys(name for one in VARIANTS.values() for name in costs.s3_per_recording(one)))
    rows = []
    for label, fleet in VARIANTS.items():
        each = costs.s3_per_recording(fleet)
        row = [label, f"{fleet.part_size // MIB} MiB", *(number(each[name]) for name in names)]
        per_second = sum(s3_per_second(costs, fleet).values())
        rows.append(
            [
                *row,
                number(per_second),
                number(per_second * MONTH / 1e6),
                f"${number(s3_dollars_per_month(costs, fleet))}",
            ]
        )
    return table(
        ["recordings", "part", *(f"`{name}`" for name in names), "requests/s", "million a month", "price a month"], rows
    )


def redis_table(costs: Costs) -> str:
    """Return Redis' load."""
    rows = []
    relaxed = " ".join(f"`{name}={value}`" for name, value in costs.stored["relaxed"]["settings"].items())
    variants = {**VARIANTS, f"1 h, `auto`, {relaxed}": replace(VARIANTS["1 h, `auto`"], relaxed=True)}
    for label, fleet in variants.items():
        opened, completed = costs.redis_memory(fleet)
        rows.append(
            [
                label,
                number(costs.redis(fleet, "redis_round_trips")),
                number(costs.redis(fleet, "redis_commands")),
                f"{size(costs.redis(fleet, 'redis_bytes_in'))}/s",
                f"{size(costs.redis(fleet, 'redis_bytes_out'))}/s",
                f"{costs.redis(fleet, 'redis_cpu_seconds') * 100:.0f} %",
                size(opened),
                f"{fleet.completed_in_redis / 1e6:.1f} million, {size(completed)}",
            ]
        )
    head = ["recordings", "requests/s", "commands/s, in scripts too", "in", "out", "CPU of its thread"]
    return table([*head, "memory of open recordings", "of 30 days of completed ones"], rows)


def redis_sources_table(costs: Costs) -> str:
    """Return where Redis' load of the first variant comes from."""
    fleet, stored = VARIANTS["1 h, `auto`"], costs.stored
    ended = fleet.recordings_per_second
    sources = {
        f"{fleet.hosts} daemons, each minute": (fleet.hosts / 60, "per_idle_minute"),
        f"{fleet.recorders:,} open recordings, each minute": (fleet.recorders / 60, "per_open_stream_minute"),
        "each part": (fleet.parts_per_second, "per_part"),
        "each recording begun": (ended, "per_recording_begun"),
        "each recording ended": (ended, "per_recording_ended"),
    }
    rows = []
    for label, (times, key) in sources.items():
        each = stored[key]
        rows.append(
            [
                label,
                number(max(0.0, each["redis_round_trips"])),
                size(max(0.0, each["redis_bytes_in"] + each["redis_bytes_out"])),
                f"{max(0.0, each['redis_cpu_seconds']) * 1000:.2g} ms",
                number(times),
                number(max(0.0, times * each["redis_round_trips"])),
                f"{max(0.0, times * each['redis_cpu_seconds']) * 100:.1f} %",
            ]
        )
    return table(["source", "requests", "bytes", "CPU", "times a second", "requests/s", "CPU of its thread"], rows)


def host_table(costs: Costs) -> str:
    """Return what a host and the whole fleet need."""
    fleet = VARIANTS["1 h, `auto`"]
    per_host = fleet.recorders / fleet.hosts
    rate = per_host * fleet.bytes_per_second
    memory, stored = costs.stored["daemon_rss_bytes"], rate * fleet.hosts * MONTH
    rows = [
        ["recorders", number(per_host), number(fleet.recorders)],
        ["to S3", f"{number(rate * 8 / 1e6)} Mbit/s", f"{number(rate * 8 * fleet.hosts / 1e9)} Gbit/s"],
        [
            "daemon, CPU of one core",
            f"{costs.daemon_cores(fleet) * 100:.0f} %",
            f"{number(costs.daemon_cores(fleet) * fleet.hosts)} cores",
        ],
        ["daemon, memory", size(memory["open"]), ""],
        [
            "connections to Redis",
            number(costs.stored["redis_connections"]),
            number(costs.stored["redis_connections"] * fleet.hosts),
        ],
        ["requests to S3 at once, at most (`MAX_CONCURRENT_PARTS` + 8)", "12", number(12 * fleet.hosts)],
        ["stored in one month", f"{number(rate * MONTH / 1e12)} TB", f"{number(stored / 1e15)} PB"],
        ["its storage, a month", "", f"${number(stored / 1e9 * DOLLARS_PER_GB_MONTH)}"],
    ]
    return table(["", "a host", "the fleet"], rows)


def limits_table(costs: Costs) -> str:
    """Return how far each limit is away, nearest first."""
    hour, short = VARIANTS["1 h, 10 MiB"], VARIANTS["10 min, 10 MiB"]
    rows = []
    for label, of in (
        ("the thread of one Redis primary", lambda one: costs.redis(one, "redis_cpu_seconds")),
        ("Redis' memory, of 64 GiB", lambda one: sum(costs.redis_memory(one)) / (64 * GIB)),
        (
            f"Redis' connections, of {REDIS_MAXCLIENTS:,}",
            lambda one: costs.stored["redis_connections"] * one.hosts / REDIS_MAXCLIENTS,
        ),
        (
            f"writes to one S3 prefix, of {S3_WRITES_PER_SECOND:,}/s",
            lambda one: sum(s3_per_second(costs, one).values()) / S3_WRITES_PER_SECOND,
        ),
        ("one core of a host's daemon", costs.daemon_cores),
        ("1 Gbit/s of a host", lambda one: one.recorders / one.hosts * one.mbit_per_second / 1000),
    ):
        rows.append(
            [
                label,
                f"{of(hour) * 100:.0f} %",
                f"{of(replace(hour, auto=True)) * 100:.0f} %",
                f"{of(short) * 100:.0f} %",
            ]
        )
    return table(["limit", "used: 1 h, 10 MiB", "1 h, `auto`", "10 min, 10 MiB"], rows)


def retention_table(costs: Costs) -> str:
    """Return the memory of the history by its length."""
    rows = []
    for days in (1, 7, 30):
        row = [f"{days}"]
        for seconds in (3600, 600):
            fleet = replace(ASKED, history_days=days, recording_seconds=seconds)
            row.append(f"{fleet.completed_in_redis / 1e6:.2g} million, {size(costs.redis_memory(fleet)[1])}")
        rows.append(row)
    return table(["`COMPLETED_RETENTION_DAYS`", "recordings of 1 h", "of 10 min"], rows)


def savings_table(costs: Costs) -> str:
    """Return what ``auto`` saves, by the rate of the recorders."""
    rows = []
    for mbit in (0.5, 1, 2, 4, 8, 16, 25):
        fixed = replace(ASKED, mbit_per_second=mbit)
        auto = replace(fixed, auto=True)
        before, after = s3_dollars_per_month(costs, fixed), s3_dollars_per_month(costs, auto)
        waits = [one.part_size / one.bytes_per_second for one in (fixed, auto)]
        saved = f"{(before - after) / before * 100:.0f} %"
        row = [f"{mbit} Mbit/s", f"{auto.part_size // MIB} MiB", f"${number(before)}", f"${number(after)}", saved]
        rows.append([*row, f"{waits[0]:.0f} s → {waits[1]:.0f} s"])
    head = [
        "10,000 recorders of",
        "`auto` chooses",
        "10 MiB, a month",
        "`auto`, a month",
        "saved",
        "longest wait of a byte",
    ]
    return table(head, rows)


def measured_table(costs: Costs) -> str:
    """Return what was measured, and where."""
    about = costs.stored["about"]
    return table(
        ["measured", "by"],
        [
            [
                f"{about['date']}, commit `{about['commit']}`",
                f"`{about['made_by']}`, {about['machine']}, Python {about['python']}, Valkey {about['valkey']}",
            ]
        ],
    )


TABLES: Final = {
    "measured": measured_table,
    "requests": requests_table,
    "savings": savings_table,
    "redis": redis_table,
    "redis by source": redis_sources_table,
    "retention": retention_table,
    "host": host_table,
    "limits": limits_table,
}


def page_with(page: str, costs: Costs) -> str:
    """Return the page with each table between its two marks made anew."""

    def made(match: re.Match[str]) -> str:
        return f"{match[1]}\n{TABLES[match[2]](costs)}\n{match[3]}"

    return re.sub(r"(<!-- table: ([a-z ]+) -->)\n.*?(<!-- end -->)", made, page, flags=re.DOTALL)


def main() -> None:
    """Print the tables, or write them into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put them into docs/scale.md")
    options = parser.parse_args()
    costs = Costs.read()
    if options.write:
        PAGE.write_text(page_with(PAGE.read_text(), costs))
        return
    for name, make in TABLES.items():
        print(f"{name}\n\n{make(costs)}\n")


if __name__ == "__main__":
    main()
