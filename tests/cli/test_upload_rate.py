"""``MAX_UPLOAD_RATE`` as a timetable: how it is written, and which rate it has at a local time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cef_trio.settings import model
from cef_trio.settings.model import Settings, SettingsError, load_settings, unfit_rate, without_secrets
from cef_trio.settings.upload_rate import RateTimetable, all_rates, parse_upload_rate, rate_at

MIB = 1 << 20
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def timetable(text: str) -> RateTimetable:
    found = parse_upload_rate(text)
    assert isinstance(found, RateTimetable)
    return found


def at(day: str, time: str) -> datetime:
    hour, minute = time.split(":")
    return MONDAY + timedelta(days=DAYS.index(day), hours=int(hour), minutes=int(minute))


@pytest.mark.parametrize(("text", "rate"), [("10MiB", 10 * MIB), ("0", 0), ("off", 0), (" OFF ", 0), ("4096", 4096)])
def test_a_plain_rate_stays_a_number(text: str, rate: int) -> None:
    assert parse_upload_rate(text) == rate
    assert rate_at(rate, MONDAY) == rate
    assert all_rates(rate) == [rate]


@pytest.mark.parametrize(
    ("day", "time", "rate"),
    [
        ("Mon", "07:59", 0),  # that of Sunday evening
        ("Mon", "08:00", 2 * MIB),
        ("Mon", "18:59", 2 * MIB),
        ("Mon", "19:00", 0),
        ("Sun", "23:59", 0),
        ("Wed", "12:00", 2 * MIB),
    ],
)
def test_a_rate_holds_from_its_time_to_the_next_ones_over_midnight(day: str, time: str, rate: int) -> None:
    assert timetable("08:00,2MiB 19:00,off").rate_at(at(day, time)) == rate


@pytest.mark.parametrize(
    ("day", "time", "rate"),
    [
        ("Mon", "08:00", MIB),
        ("Tue", "07:00", MIB),
        ("Fri", "18:59", MIB),
        ("Fri", "19:00", 5 * MIB),
        ("Sat", "12:00", 0),
        ("Sun", "23:59", 0),
        ("Mon", "07:59", 0),
    ],
)
def test_weekdays_hold_over_the_end_of_the_week(day: str, time: str, rate: int) -> None:
    assert timetable("Mon-08:00,1MiB fri-19:00,5MiB SAT-00:00,off").rate_at(at(day, time)) == rate


def test_an_entry_of_a_weekday_replaces_that_of_every_day_at_its_minute() -> None:
    for text in ("08:00,2MiB 19:00,off Sun-08:00,off", "Sun-08:00,off 08:00,2MiB 19:00,off"):
        assert timetable(text).rate_at(at("Sun", "12:00")) == 0
        assert timetable(text).rate_at(at("Sat", "12:00")) == 2 * MIB


def test_one_entry_holds_always() -> None:
    assert {timetable("12:00,1MiB").rate_at(MONDAY + timedelta(hours=hour)) for hour in range(7 * 24)} == {MIB}


minutes = st.integers(0, 7 * 24 * 60 - 1)
entries = st.dictionaries(minutes, st.integers(0, 1 << 40), min_size=1, max_size=20)


@given(entries, minutes)
def test_the_rate_is_that_of_the_latest_entry_before_a_time(week: dict[int, int], minute: int) -> None:
    text = " ".join(
        f"{DAYS[one // 1440]}-{one % 1440 // 60:02}:{one % 60:02},{rate or 'off'}" for one, rate in week.items()
    )
    found = timetable(text)
    before = [one for one in week if one <= minute]
    expected = week[max(before)] if before else week[max(week)]
    assert found.rate_at(MONDAY + timedelta(minutes=minute, seconds=59)) == expected
    assert all_rates(found) == sorted(set(week.values()))
    assert timetable(str(found)) == found


def test_the_clock_decides_when_summer_time_begins_and_ends() -> None:
    """Berlin: 02:00 to 03:00 does not exist on 29 March 2026, and comes twice on 25 October."""
    berlin, found = ZoneInfo("Europe/Berlin"), timetable("02:30,1MiB 03:00,2MiB 12:00,off")

    def rates(day: datetime) -> list[int]:
        return [found.rate_at((day + timedelta(minutes=15 * step)).astimezone(berlin)) for step in range(12)]

    spring = rates(datetime(2026, 3, 29, 0, tzinfo=UTC))  # 01:00, 01:15, … 01:45, 03:00, …
    assert spring[:4] == [0] * 4
    assert set(spring[4:]) == {2 * MIB}
    autumn = rates(datetime(2026, 10, 25, 0, tzinfo=UTC))  # 02:00 … 02:45, 02:00 … 02:45, 03:00, …
    assert autumn == [0, 0, MIB, MIB, 0, 0, MIB, MIB, *[2 * MIB] * 4]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("fast", "takes a size in bytes, such as 10MiB, or a timetable"),
        ("", "takes a size in bytes"),
        ("08:00", "cannot be read at '08:00'"),
        ("08:00,fast", "takes a size in bytes"),
        ("8,2MiB", "cannot be read at '8,2MiB'"),
        ("08:00,2MiB;19:00,off", "takes a size in bytes"),
        ("08:00, 2MiB", "cannot be read at '08:00,'"),
        ("24:00,off", "from 00:00 to 23:59"),
        ("08:60,off", "from 00:00 to 23:59"),
        ("Mo-08:00,off", "cannot be read at 'Mo-08:00,off'"),
        ("Mit-08:00,off", "one of Mon, Tue"),
        ("08:00,2MiB 8:00,off", "two rates for the time of '8:00,off'"),
        ("Mon-08:00,2MiB mon-08:00,off", "two rates"),
        ("08:00,2MiB:1MiB", "takes a size in bytes"),
    ],
)
def test_a_timetable_that_cannot_be_read_is_one_clear_line(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why.replace("'", ".")) as caught:
        parse_upload_rate(text)
    assert "\n" not in str(caught.value)


def test_every_rate_of_a_timetable_must_be_enough_for_the_parts() -> None:
    assert unfit_rate(timetable("08:00,16KiB 19:00,off"), 4) is None
    why = unfit_rate(timetable("08:00,8KiB 19:00,1MiB"), 4)
    assert why is not None
    assert why.startswith("MAX_UPLOAD_RATE (8192) must be 0 (unlimited) or at least 16384")


def test_the_setting_is_read_and_shown_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCH_DIR", str(tmp_path))
    monkeypatch.setenv("S3_BUCKET_NAME", "recordings")
    monkeypatch.setenv("MAX_UPLOAD_RATE", "08:00,2MiB  19:00,off")
    settings: Settings = load_settings(None)
    assert settings.max_upload_rate == timetable("08:00,2MiB 19:00,off")
    assert without_secrets(settings)["max_upload_rate"] == "08:00,2MiB 19:00,off"
    monkeypatch.setenv("MAX_UPLOAD_RATE", "10MiB")
    assert without_secrets(load_settings(None))["max_upload_rate"] == 10 * MIB


@pytest.mark.parametrize(
    ("zone", "known"),
    [
        *(
            (zone, True)
            for zone in ("", "UTC", "Europe/Berlin", ":Europe/Berlin", "CET-1CEST,M3.5.0,M10.5.0/3", "<+05>-5")
        ),
        *(
            (zone, False)
            for zone in ("Europe/Berln", "CEST", "Berlin", "europe/berlin", "Europe/Berlin2", "Etc/GMT+15")
        ),
    ],
)
def test_a_timetable_does_not_follow_utc_because_tz_is_misspelt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str, known: bool
) -> None:
    """The C library takes UTC for a zone that it does not know, without a word."""
    given = {"watch_dir": str(tmp_path), "s3_bucket_name": "recordings"}
    monkeypatch.setattr(model, "_ZONES", str(tmp_path / "zones"))
    (tmp_path / "zones" / "Europe").mkdir(parents=True)
    (tmp_path / "zones" / "Europe" / "Berlin").touch()
    monkeypatch.setenv("TZ", zone)
    assert load_settings(None, **given, max_upload_rate="10MiB").max_upload_rate == 10 * MIB
    if known:
        load_settings(None, **given, max_upload_rate="08:00,2MiB 19:00,off")
    else:
        with pytest.raises(SettingsError) as caught:
            load_settings(None, **given, max_upload_rate="08:00,2MiB 19:00,off")
        [line] = caught.value.lines
        assert line.startswith(f"TZ: {zone!r} is no time zone of this machine")
