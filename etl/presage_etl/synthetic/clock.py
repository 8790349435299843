"""Wall-clock seconds since 1970 in the hospital's zone, and their texts in FHIR and DICOM.

The simulation runs on the clock that hangs on the hospital's wall. Nothing happens between one and three at night, so
that the hours which daylight saving repeats or leaves out never occur.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

DAY_S = 86_400
HOUR_S = 3_600
MINUTE_S = 60
YEAR_S = 31_557_600  # 365.25 days
_EPOCH = datetime(1970, 1, 1)
_EPOCH_DAY = _EPOCH.date()


def wall(day: date) -> int:
    """Seconds at which a day begins."""
    return (day - _EPOCH_DAY).days * DAY_S


def day_of(seconds: int) -> date:
    """The calendar day of a wall-clock second."""
    return _EPOCH_DAY + timedelta(days=seconds // DAY_S)


def quiet(seconds: int) -> int:
    """Move a time between one and three at night two hours on."""
    hour = seconds % DAY_S // HOUR_S
    return seconds + 2 * HOUR_S if 1 <= hour < 3 else seconds


def iso(seconds: int, zone: str) -> str:
    """FHIR dateTime with the zone's offset on that day."""
    return (_EPOCH + timedelta(seconds=seconds)).isoformat() + offset(seconds, zone)


def offset(seconds: int, zone: str) -> str:
    """Offset from UTC such as `-05:00`."""
    # The hands are moved between one and three at night, when nothing happens: a day has two offsets at most.
    return _offset(seconds // DAY_S, seconds % DAY_S >= 3 * HOUR_S, zone)


def iso_day(seconds: int) -> str:
    """FHIR date of a wall-clock second."""
    return day_of(seconds).isoformat()


def dicom_date(seconds: int) -> str:
    """DICOM DA."""
    return f"{day_of(seconds):%Y%m%d}"


def dicom_time(seconds: int) -> str:
    """DICOM TM, whole seconds."""
    return f"{_EPOCH + timedelta(seconds=seconds):%H%M%S}"


@lru_cache(maxsize=50_000)
def _offset(day: int, after_three: bool, zone: str) -> str:
    local = (_EPOCH + timedelta(days=day, hours=12 if after_three else 0)).replace(tzinfo=ZoneInfo(zone))
    text = f"{local:%z}"
    return f"{text[:3]}:{text[3:]}"


def utc_day(seconds: int, zone: str) -> date:
    """The calendar day in UTC: another one for evening events, a trap planted on purpose."""
    local = (_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=ZoneInfo(zone))
    return local.astimezone(UTC).date()
