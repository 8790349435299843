"""FHIR dates and times → calendar day and instant, the way a hospital's calendar reads them (E70–E73).

The day is the one written in the source, so an evening event stays on its day whatever the zone; the instant is
converted to the one declared zone and kept without zone. What the source does not say is not made up: no time → no
instant, and a day that had to be completed is flagged.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

from presage_etl.fhir.outcome import Dead, Imputed, RefusedError

MIN_YEAR, MAX_YEAR = 1800, 2300

_FORM = re.compile(
    r"(?P<year>\d{4})(?:-(?P<month>\d{2})(?:-(?P<day>\d{2})"
    r"(?:T(?P<hour>\d{2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:\.(?P<fraction>\d+))?)?"
    r"(?P<zone>Z|[+-]\d{2}:\d{2})?)?)?)?",
    re.ASCII,
)
_DURATION_DAYS = {"d": 1, "day": 1, "days": 1, "wk": 7, "week": 7, "weeks": 7}


@dataclass(frozen=True, slots=True)
class When:
    """One point in time of the source: its day, its instant in the declared zone if it has a time, what was imputed."""

    day: date
    moment: datetime | None = None
    imputed: Imputed | None = None


@dataclass(frozen=True, slots=True)
class Clock:
    """How this run reads times: the declared zone, and the policies `date_from` and `missing_time`."""

    zone: tzinfo = UTC
    day_in_zone: bool = False
    midnight: bool = False

    @classmethod
    def declared(cls, timezone_name: str, *, date_from: str = "source-local", missing_time: str = "null") -> Clock:
        """Make the clock of a run from its policies."""
        zone: tzinfo = UTC if timezone_name == "UTC" else ZoneInfo(timezone_name)
        return cls(zone, date_from == "timezone", missing_time == "midnight")

    def read(self, text: str, path: str, *, end: bool = False) -> When:
        """Read a FHIR date, dateTime or instant; with `end`, a year or month means its last day (E72)."""
        try:
            return _read(self, text, end)
        except ValueError:
            raise RefusedError(Dead("bad-date", path)) from None


@lru_cache(maxsize=4096)
def _read(clock: Clock, text: str, end: bool) -> When:
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise ValueError("not a FHIR date")
    year, month, day = found["year"], found["month"], found["day"]
    if not MIN_YEAR <= int(year) <= MAX_YEAR:
        raise ValueError("year out of range")
    if day is None:
        return _completed(int(year), None if month is None else int(month), end=end, midnight=clock.midnight)
    written = date(int(year), int(month), int(day))
    if found["hour"] is None:
        return When(written, datetime.combine(written, time()) if clock.midnight else None)
    return _instant(clock, written, found)


def _completed(year: int, month: int | None, *, end: bool, midnight: bool) -> When:
    if month is None:
        day = date(year, 12, 31) if end else date(year, 1, 1)
    elif end:
        day = (date(year, month, 1) + timedelta(days=31)).replace(day=1) - timedelta(days=1)
    else:
        day = date(year, month, 1)
    moment = datetime.combine(day, time()) if midnight else None
    return When(day, moment, "year" if month is None else "month")


def _instant(clock: Clock, written: date, found: re.Match[str]) -> When:
    hour, minute, second = int(found["hour"]), int(found["minute"]), int(found["second"] or 0)
    microsecond = int((found["fraction"] or "0")[:6].ljust(6, "0"))
    whole_day = hour == 24 and minute == 0 and second == 0 and microsecond == 0
    if not (hour < 24 or whole_day) or minute > 59 or second > 60:
        raise ValueError("not a time of day")
    moment = datetime.combine(written, time(microsecond=microsecond)) + timedelta(
        hours=hour, minutes=minute, seconds=second
    )
    day = moment.date()  # 24:00 and a leap second belong to what follows
    zone = found["zone"]
    if zone is not None:
        moment = moment.replace(tzinfo=_offset(zone)).astimezone(clock.zone).replace(tzinfo=None)
    return When(moment.date() if clock.day_in_zone else day, moment)


@lru_cache(maxsize=256)
def _offset(zone: str) -> tzinfo:
    if zone in ("Z", "+00:00", "-00:00"):
        return UTC
    hours, minutes = int(zone[1:3]), int(zone[4:6])
    if hours > 14 or minutes > 59:
        raise ValueError("not an offset")
    distance = timedelta(hours=hours, minutes=minutes)
    return timezone(-distance if zone[0] == "-" else distance)


def duration_of_age(value: float, unit: str | None) -> str | None:
    """Return an age as the ISO 8601 duration to add to the birth date, in whole UCUM years, months, weeks or days."""
    letters = {"a": "Y", "mo": "M", "wk": "W", "d": "D"}
    letter = letters.get(unit or "")
    return f"P{int(value)}{letter}" if letter and 0 <= value < 200 * 366 else None


def days_of_duration(value: float, unit: str | None) -> int | None:
    """Return a supply duration in days when its unit is a day or a week."""
    factor = _DURATION_DAYS.get((unit or "").lower())
    return None if factor is None or not 0 < value * factor < 36_525 else int(value * factor)
