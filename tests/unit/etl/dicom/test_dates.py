"""DICOM dates and times on the clock of the declared zone."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from presage_etl.dicom.dates import Moment, age_years, birth_year, image_times, parse_date
from presage_etl.dicom.elements import Header


def image_moment(zone: str = "UTC", **values: Any) -> Moment | None:
    return image_times(Header(values={name: [value] for name, value in values.items()}), zone).image


def test_i13_acquisition_datetime_comes_first() -> None:
    moment = image_moment(acquisition_datetime="20210304102030.5", acquisition_date="20200101", acquisition_time="0101")
    assert moment == Moment(datetime(2021, 3, 4, 10, 20, 30, 500_000), "s", "AcquisitionDateTime", None)


@pytest.mark.parametrize(
    ("time", "when", "precision"),
    [
        ("102030", datetime(2021, 3, 4, 10, 20, 30), "s"),
        ("1020", datetime(2021, 3, 4, 10, 20), "min"),
        ("10:20:30", datetime(2021, 3, 4, 10, 20, 30), "s"),
        ("102030-112030", datetime(2021, 3, 4), "day"),  # a range is refused
        ("992030", datetime(2021, 3, 4), "day"),
        ("", datetime(2021, 3, 4), "day"),
    ],
)
def test_i13_times_and_their_precision(time: str, when: datetime, precision: str) -> None:
    moment = image_moment(study_date="20210304", study_time=time)
    assert moment is not None
    assert (moment.when, moment.precision) == (when, precision)


@pytest.mark.parametrize("text", ["20210304-20210305", "202103", "20210230", "2021030A", "", None])
def test_i13_ranges_and_impossible_dates_are_refused(text: str | None) -> None:
    assert parse_date(text) is None


def test_i13_midnight_is_passed_over_where_another_source_has_an_hour() -> None:
    moment = image_moment(
        acquisition_date="20210304", acquisition_time="000000", study_date="20210303", study_time="2300"
    )
    assert moment is not None
    assert (moment.source, moment.when) == ("StudyDate", datetime(2021, 3, 3, 23))


def test_i13_midnight_is_what_is_written_in_any_zone() -> None:
    written = {"acquisition_datetime": "20210304000000", "study_date": "20210304", "study_time": "0900"}
    moment = image_moment("America/New_York", timezone_offset="+0900", **written)
    assert moment is not None
    assert (moment.source, moment.when) == ("StudyDate", datetime(2021, 3, 3, 19))


def test_i13_midnight_stands_where_it_is_all_there_is() -> None:
    moment = image_moment(acquisition_date="20210304", acquisition_time="000000", study_date="20210303")
    assert moment is not None
    assert (moment.source, moment.when) == ("AcquisitionDate", datetime(2021, 3, 4))


def test_i13_an_offset_converts_to_the_declared_zone_and_gives_the_written_day_back() -> None:
    moment = image_moment("America/New_York", study_date="20210304", study_time="031500", timezone_offset="+0900")
    assert moment is not None
    assert moment.when == datetime(2021, 3, 3, 13, 15)
    assert moment.offset_min == 540


def test_i13_the_suffix_of_a_datetime_beats_the_offset_of_the_header() -> None:
    moment = image_moment("UTC", acquisition_datetime="20210304235500-0500", timezone_offset="+0900")
    assert moment is not None
    assert (moment.when, moment.offset_min) == (datetime(2021, 3, 5, 4, 55), -300)


def test_i13_shifted_dates_up_to_2299_are_legal() -> None:
    moment = image_moment("Europe/Berlin", study_date="22991231", study_time="235959", timezone_offset="+0000")
    assert moment is not None
    assert moment.when == datetime(2300, 1, 1, 0, 59, 59)


@pytest.mark.parametrize(
    ("born", "age", "studied", "year"),
    [
        ("19500712", "058Y", "20070404", 1950),
        (None, "058Y", "20070404", 1949),
        (None, "011M", "20070404", 2006),
        (None, "003W", "20070110", 2006),
        (None, "58", "20070404", None),
        (None, "058Y", None, None),
    ],
)
def test_i13_year_of_birth(born: str | None, age: str | None, studied: str | None, year: int | None) -> None:
    assert birth_year(born, age, studied) == year


def test_i13_ages_are_years() -> None:
    assert age_years("058Y") == 58.0
    assert age_years("006M") == pytest.approx(0.5)
    assert age_years("unknown") is None
