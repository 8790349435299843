"""FHIR dates: the day as written, the instant in the declared zone, nothing made up."""

from __future__ import annotations

from datetime import date, datetime

import pytest

from presage_etl.fhir.dates import Clock, When, days_of_duration, duration_of_age
from presage_etl.fhir.outcome import RefusedError

UTC_CLOCK = Clock.declared("UTC")


@pytest.mark.parametrize(
    ("text", "day", "moment"),
    [
        ("2024-03-01T23:40:00-05:00", date(2024, 3, 1), datetime(2024, 3, 2, 4, 40)),
        ("2024-03-01T00:10:00+14:00", date(2024, 3, 1), datetime(2024, 2, 29, 10, 10)),
        ("2024-03-01T10:00:00-00:00", date(2024, 3, 1), datetime(2024, 3, 1, 10, 0)),
        ("2024-03-01T10:00Z", date(2024, 3, 1), datetime(2024, 3, 1, 10, 0)),
        ("2024-03-01T10:00:00", date(2024, 3, 1), datetime(2024, 3, 1, 10, 0)),
        ("2024-03-01T10:00:00.1234567Z", date(2024, 3, 1), datetime(2024, 3, 1, 10, 0, 0, 123456)),
        ("2024-12-31T24:00:00Z", date(2025, 1, 1), datetime(2025, 1, 1)),
    ],
)
def test_e70_the_day_is_the_one_written_in_the_source(text: str, day: date, moment: datetime) -> None:
    assert UTC_CLOCK.read(text, "x") == When(day, moment)


def test_e70_the_instant_is_in_the_declared_zone() -> None:
    berlin = Clock.declared("Europe/Berlin")
    assert berlin.read("2024-01-15T12:00:00Z", "x").moment == datetime(2024, 1, 15, 13)
    assert berlin.read("2024-07-15T12:00:00Z", "x").moment == datetime(2024, 7, 15, 14)


def test_e71_without_a_time_there_is_no_instant() -> None:
    assert UTC_CLOCK.read("2024-03-01", "x") == When(date(2024, 3, 1), None)
    midnight = Clock.declared("UTC", missing_time="midnight")
    assert midnight.read("2024-03-01", "x").moment == datetime(2024, 3, 1)


@pytest.mark.parametrize(
    ("text", "first", "last", "imputed"),
    [
        ("2024", date(2024, 1, 1), date(2024, 12, 31), "year"),
        ("2024-02", date(2024, 2, 1), date(2024, 2, 29), "month"),
        ("2023-02", date(2023, 2, 1), date(2023, 2, 28), "month"),
        ("2024-12", date(2024, 12, 1), date(2024, 12, 31), "month"),
    ],
)
def test_e72_a_partial_date_is_its_first_day_or_for_an_end_its_last(
    text: str, first: date, last: date, imputed: str
) -> None:
    assert UTC_CLOCK.read(text, "x") == When(first, None, imputed)  # type: ignore[arg-type]
    assert UTC_CLOCK.read(text, "x", end=True).day == last


@pytest.mark.parametrize(
    "text",
    ["2021-02-30", "0001-01-01", "1799-12-31", "2301-01-01", "2021-13", "21-01-01", "2021-1-1", "today", "",
     "2021-01-01T25:00:00Z", "2021-01-01T24:00:01Z", "2021-01-01T10:60:00Z", "2021-01-01T10:00:00+15:00",
     "2021-01-01 10:00:00", "20210101", "٢٠٢١-٠١-٠١"],
)  # fmt: skip
def test_e73_what_is_no_date_is_dead(text: str) -> None:
    with pytest.raises(RefusedError) as refused:
        UTC_CLOCK.read(text, "Condition.onsetDateTime")
    assert refused.value.outcome.reason == "bad-date"
    assert refused.value.outcome.path == "Condition.onsetDateTime"  # type: ignore[union-attr]


def test_e73_years_are_believed_from_1800_to_2300() -> None:
    assert UTC_CLOCK.read("1800-01-01", "x").day.year == 1800
    assert UTC_CLOCK.read("2300-12-31T23:59:59Z", "x").day == date(2300, 12, 31)


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [(40, "a", "P40Y"), (3.9, "mo", "P3M"), (2, "wk", "P2W"), (10, "d", "P10D"), (4, "h", None), (4, None, None)],
)
def test_e54_an_age_is_a_duration_in_whole_units(value: float, unit: str | None, expected: str | None) -> None:
    assert duration_of_age(value, unit) == expected


def test_e58_a_supply_is_counted_in_days() -> None:
    assert days_of_duration(2, "wk") == 14
    assert days_of_duration(30, "days") == 30
    assert days_of_duration(1, "mo") is None
