"""Traps of text, clock and UIDs: what a header says in an unusual way, or not at all."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

from pydicom.config import IGNORE
from pydicom.dataelem import DataElement

from presage_etl.synthetic.planted.series import (
    Clean,
    Link,
    Planted,
    accepted,
    alone,
    encode,
    quarantined,
    rejected,
)

DATES = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
CLOCKS = ("Study", "Series", "Acquisition", "Content")
TOKYO = timezone(timedelta(hours=9))
FAR_YEAR = "2187"
SERIES_UID = 0x0020000E


def japanese_text(clean: Clean) -> Planted:
    images = [
        image.set(SpecificCharacterSet=["", "ISO 2022 IR 87"], SeriesDescription="胸部") for image in clean.images()
    ]
    return alone(accepted(images, touched=images))


def broken_text(clean: Clean) -> Planted:
    """Bytes that are no UTF-8 under a header that says UTF-8: text never refuses an image."""
    images = clean.images()
    for image in images:
        image.set(SpecificCharacterSet="ISO_IR 192", SeriesDescription="XXXX")
        image.content = encode(image.data).replace(b"XXXX", b"X\xff\xfeX")
    return alone(accepted(images, touched=images))


def other_zone(clean: Clean) -> Planted:
    """The same moments on a clock nine hours ahead of UTC."""
    images = clean.images()
    for image in images:
        for name in CLOCKS:
            day, hour = str(image.data[f"{name}Date"].value), str(image.data[f"{name}Time"].value)
            moment = datetime.strptime(f"{day}{hour[:6]}", "%Y%m%d%H%M%S").replace(tzinfo=ZoneInfo(clean.facts.zone))
            there = moment.astimezone(UTC).astimezone(TOKYO)
            image.set(**{f"{name}Date": f"{there:%Y%m%d}", f"{name}Time": f"{there:%H%M%S}{hour[6:]}"})
        image.set(TimezoneOffsetFromUTC="+0900", AcquisitionDateTime=None)
    return alone(accepted(images, touched=images))


def datetime_only(clean: Clean) -> Planted:
    """One date of the study, and the time in AcquisitionDateTime alone."""
    gone = [f"{name}{part}" for name in CLOCKS for part in ("Date", "Time") if (name, part) != ("Study", "Date")]
    images = clean.images()
    for image in images:
        if "AcquisitionDateTime" not in image.data:
            image.set(AcquisitionDateTime=f"{image.data.AcquisitionDate}{image.data.AcquisitionTime}")
        image.set(**dict.fromkeys(gone))
    return alone(accepted(images, touched=images))


def midnight(clean: Clean) -> Planted:
    """An hour of 000000 stands for "unknown" where another source knows better."""
    images = clean.images()
    for image in images:
        image.set(AcquisitionTime="000000", AcquisitionDateTime=f"{image.data.AcquisitionDate}000000")
    return alone(accepted(images, reasons=["midnight_time"], touched=images))


def no_date(clean: Clean) -> Planted:
    images = [image.set(AcquisitionDateTime=None, **dict.fromkeys(DATES)) for image in clean.images()]
    return alone(accepted(images, reasons=["no_date"], touched=images)).linked(quarantined("no_date"))


def far_future(clean: Clean) -> Planted:
    """Shifted data may lie in the next century."""
    images = clean.images()
    for image in images:
        for keyword in (*DATES, "AcquisitionDateTime"):
            if keyword in image.data:
                text = str(image.data[keyword].value)
                image.set(**{keyword: FAR_YEAR + ("0228" if text[4:8] == "0229" else text[4:8]) + text[8:]})
    days = (_far_day(clean) - _day(clean)).days
    default = Link("accession", "high") if clean.facts.in_record else Link("patient_id", "low")
    shifted = Link(default.link_class, default.confidence, None, days)
    return alone(accepted(images, touched=images)).linked(shifted)


def empty_uids(clean: Clean) -> Planted:
    """SOP UIDs are in the file meta information; study and series have no fallback."""
    images = clean.images()
    for image in images:
        image.set(StudyInstanceUID="", SeriesInstanceUID="", SOPClassUID="")
        image.data.SOPInstanceUID = ""
    return alone(rejected(images, "rejected_missing_uid"))


def malformed_uid(clean: Clean) -> Planted:
    """A letter in the series UID: kept, and said."""
    images = clean.images()
    series = clean.series_uid(1)
    for image in images:
        # pydicom would warn of what is meant
        image.data[SERIES_UID] = DataElement(SERIES_UID, "UI", f"{series[:-3]}x{series[-2:]}", validation_mode=IGNORE)
    return alone(accepted(images, reasons=["uid_malformed"], touched=images))


def _day(clean: Clean) -> date:
    return datetime.strptime(str(clean.header.StudyDate), "%Y%m%d").date()


def _far_day(clean: Clean) -> date:
    day = _day(clean)
    return day.replace(year=int(FAR_YEAR), day=min(day.day, 28) if day.month == 2 else day.day)
