"""DICOM dates and times to the wall clock of the declared zone, and the one time that an image is dated by."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from functools import lru_cache
from zoneinfo import ZoneInfo

from presage_etl.dicom.elements import Header

SECOND, MINUTE, DAY = "s", "min", "day"

_DATE = re.compile(r"(\d{4})([.]?)(\d{2})\2(\d{2})")
_TIME = re.compile(r"(\d{2})(?::?(\d{2})(?::?(\d{2})(?:\.(\d{1,6}))?)?)?")
_DATETIME = re.compile(r"(\d{8})(\d{2}(?:\d{2}(?:\d{2}(?:\.\d{1,6})?)?)?)?([+-]\d{4})?")
_OFFSET = re.compile(r"([+-])(\d{2})(\d{2})")
_AGE = re.compile(r"(\d{1,3})([DWMY])")
_DAYS_OF_UNIT = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25}
_MAX_OFFSET_MIN = 14 * 60


@dataclass(frozen=True, slots=True)
class Moment:
    """A time on the clock of the declared zone, and how exactly it was written."""

    when: datetime
    precision: str
    source: str
    offset_min: int | None  # of the written time from UTC, where it said one
    is_midnight: bool = False  # exactly 000000 is written, which many archives do for "unknown"


@dataclass(frozen=True, slots=True)
class ImageTimes:
    """The times of one header."""

    study: Moment | None
    series: Moment | None
    acquisition: Moment | None
    content: Moment | None
    image: Moment | None


def image_times(header: Header, zone_name: str) -> ImageTimes:
    """Return the times of a header; `image` by precedence, passing over midnight where another source has an hour."""
    offset = _parse_offset(header.first("timezone_offset"))
    exact = _parse_datetime(header.first("acquisition_datetime"), offset, zone_name)

    def moment(kind: str, source: str) -> Moment | None:
        return _parse_pair(header.first(f"{kind}_date"), header.first(f"{kind}_time"), source, offset, zone_name)

    acquisition, content = moment("acquisition", "AcquisitionDate"), moment("content", "ContentDate")
    series, study = moment("series", "SeriesDate"), moment("study", "StudyDate")
    by_precedence = [found for found in (exact, acquisition, content, series, study) if found is not None]
    return ImageTimes(study, series, exact or acquisition, content, _choose(by_precedence))


def _choose(moments: list[Moment]) -> Moment | None:
    with_hour = [moment for moment in moments if moment.precision != DAY]
    awake = [moment for moment in with_hour if not moment.is_midnight]
    return next(iter(awake or with_hour or moments), None)


def parse_date(text: str | None) -> date | None:
    """Return a DA value; a range, a partial or an impossible date is None."""
    match = _DATE.fullmatch(text or "")
    if match is None:
        return None
    try:
        return date(int(match[1]), int(match[3]), int(match[4]))
    except ValueError:
        return None


def age_years(text: str | None) -> float | None:
    """Return an AS value in years."""
    match = _AGE.fullmatch(text or "")
    return round(int(match[1]) * _DAYS_OF_UNIT[match[2]] / 365.25, 4) if match else None


def birth_year(birth_date: str | None, age: str | None, study_date: str | None) -> int | None:
    """Return the year of birth: that of the date, else study year minus age, which may be one too late."""
    born = parse_date(birth_date)
    if born is not None:
        return born.year
    studied, match = parse_date(study_date), _AGE.fullmatch(age or "")
    if studied is None or match is None:
        return None
    if match[2] == "Y":
        return studied.year - int(match[1])
    return (studied - timedelta(days=int(match[1]) * _DAYS_OF_UNIT[match[2]])).year


def _parse_pair(day: str | None, time: str | None, source: str, offset: int | None, zone: str) -> Moment | None:
    written = parse_date(day)
    if written is None:
        return None
    start = datetime(written.year, written.month, written.day)
    clock = _parse_time(time)
    if clock is None:
        return Moment(start, DAY, source, None)
    return Moment(_to_zone(start + clock[0], offset, zone), clock[1], source, offset, clock[0] == timedelta(0))


def _parse_datetime(text: str | None, offset: int | None, zone: str) -> Moment | None:
    match = _DATETIME.fullmatch(text or "")
    if match is None:
        return None
    own_offset = _parse_offset(match[3])
    return _parse_pair(match[1], match[2], "AcquisitionDateTime", offset if own_offset is None else own_offset, zone)


def _parse_time(text: str | None) -> tuple[timedelta, str] | None:
    match = _TIME.fullmatch(text or "")
    if match is None:
        return None
    hour, minute, second = (int(part or 0) for part in match.group(1, 2, 3))
    if hour > 23 or minute > 59 or second > 60:
        return None
    micros = int((match[4] or "0").ljust(6, "0"))
    # a leap second is read as the last second of its minute: no clock of the CDM knows 60
    clock = timedelta(hours=hour, minutes=minute, seconds=min(second, 59), microseconds=micros)
    return clock, SECOND if match[3] else MINUTE


def _parse_offset(text: str | None) -> int | None:
    match = _OFFSET.fullmatch(text or "")
    if match is None:
        return None
    minutes = int(match[2]) * 60 + int(match[3])
    if minutes > _MAX_OFFSET_MIN:
        return None
    return -minutes if match[1] == "-" else minutes


def _to_zone(written: datetime, offset_min: int | None, zone: str) -> datetime:
    if offset_min is None:
        return written
    try:
        aware = written.replace(tzinfo=timezone(timedelta(minutes=offset_min)))
        return aware.astimezone(UTC).astimezone(_zone(zone)).replace(tzinfo=None)
    except OverflowError:  # a day at the edge of the calendar
        return written


@lru_cache(maxsize=4)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)
