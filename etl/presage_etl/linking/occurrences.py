"""The CDM rows of linked studies: a procedure for each study, an image_occurrence for each series.

What the health record says itself is completed and never replaced: a procedure of its own takes the place of the
synthetic one, a series that it lists keeps its row. Only rows whose origin is the source `dicom` are ever removed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg

from presage_etl.linking.decide import Link
from presage_etl.linking.evidence import statement
from presage_etl.linking.study import Study
from presage_platform.ledger.identity import RESOURCE_COUNTER, next_ids
from presage_platform.ledger.tables import TABLE_NUMBERS

PROCEDURE_SOURCE_VALUE = "presage:imaging"
LINKING_VERSION = "linking-1"
EHR_TYPE_CONCEPT = 32817  # "EHR" of the vocabulary Type Concept: fixed by the CDM, the same in every release
MODALITY_SYSTEM = "http://dicom.nema.org/resources/ontology/DCM"
UNKNOWN_CODE = "unknown-code"

_PROCEDURE = TABLE_NUMBERS["procedure_occurrence"]
_IMAGE = TABLE_NUMBERS["image_occurrence"]

Connection = psycopg.Connection[Any]


@dataclass(slots=True)
class OccurrenceCounts:
    """What changed in the CDM, and what the record and the images disagree about."""

    num_changed: int = 0
    num_removed: int = 0
    num_procedures_synthetic: int = 0
    num_images: int = 0
    disagreements: Counter[str] = field(default_factory=Counter)
    procedures: dict[int, int] = field(default_factory=dict)  # study_id → procedure_occurrence_id


@dataclass(slots=True)
class _Owned:
    """What linking made for a study in earlier runs."""

    resource_no: int
    rows: dict[tuple[int, str], int] = field(default_factory=dict)  # (table number, slot) → row id


@dataclass(frozen=True, slots=True)
class Series:
    """One series of a linked study, as its row needs it."""

    study_id: int
    study_uid: str
    series_uid: str
    series_key: str
    modality: str
    day: date


def write_occurrences(
    connection: Connection,
    links: Sequence[Link],
    unlinked: Sequence[Study],
    *,
    procedure_concept: int,
    policy_hash: str,
    timezone: str,
    run_no: int,
) -> OccurrenceCounts:
    """Bring the CDM rows of these studies to what the links say, in the caller's transaction."""
    counts = OccurrenceCounts()
    owned = _owned(connection, [link.study for link in links] + list(unlinked))
    _add_resources(connection, links, owned, policy_hash, run_no)
    _put_procedures(connection, links, owned, procedure_concept, run_no, counts)
    series = _series(connection, links, timezone)
    modalities = _modalities(connection, series)
    _put_images(connection, links, series, modalities, owned, run_no, counts)
    _count_unmapped(connection, series, modalities, owned)
    _remove(connection, links, unlinked, series, owned, counts)
    return counts


def _owned(connection: Connection, studies: Sequence[Study]) -> dict[int, _Owned]:
    owned: dict[int, _Owned] = {}
    ids = [str(study.study_id) for study in studies]
    for study_id, resource_no, table_no, slot, row_id in connection.execute(statement("own_rows"), {"ids": ids}):
        entry = owned.setdefault(study_id, _Owned(resource_no))
        if table_no is not None:
            entry.rows[(table_no, slot)] = row_id
    return owned


def _add_resources(
    connection: Connection, links: Sequence[Link], owned: dict[int, _Owned], policy_hash: str, run_no: int
) -> None:
    """Give each newly linked study its number among the resources."""
    new = [link.study for link in links if link.study.study_id not in owned]
    if not new:
        return
    version = {"policy": policy_hash, "version": LINKING_VERSION}
    connection.execute(statement("add_source"))
    connection.execute(statement("add_transform"), version)
    numbers = next_ids(connection, RESOURCE_COUNTER, len(new))
    rows = []
    for number, study in zip(numbers, new, strict=True):
        digest = hashlib.blake2b(study.study_uid.encode(), digest_size=16).digest()
        rows.append(
            {"resource_no": number, "study_id": str(study.study_id), "hash": digest, "run_no": run_no, **version}
        )
        owned[study.study_id] = _Owned(number)
    _many(connection, "add_resource", rows)


def _put_procedures(
    connection: Connection,
    links: Sequence[Link],
    owned: dict[int, _Owned],
    concept_id: int,
    run_no: int,
    counts: OccurrenceCounts,
) -> None:
    """A procedure of the record where there is one, else one synthetic row a study, used again in later runs."""
    synthetic = []
    for link in links:
        if _named_procedure(link, owned[link.study.study_id]) is None:
            synthetic.append(link)
        else:
            assert link.procedure_occurrence_id is not None
            counts.procedures[link.study.study_id] = link.procedure_occurrence_id
    key = (_PROCEDURE, "main")
    new = [link for link in synthetic if key not in owned[link.study.study_id].rows]
    for row_id, link in zip(next_ids(connection, "procedure_occurrence", len(new)), new, strict=True):
        owned[link.study.study_id].rows[key] = row_id
    rows = []
    for link in synthetic:
        study, row_id = link.study, owned[link.study.study_id].rows[key]
        counts.procedures[study.study_id] = row_id
        rows.append(
            {
                "id": row_id,
                "person_id": link.person_id,
                "concept_id": concept_id,
                "day": study.day,
                "moment": None if study.day_only else study.moment,
                "type_id": EHR_TYPE_CONCEPT,
                "visit_id": link.visit_occurrence_id,
                "source": PROCEDURE_SOURCE_VALUE,
            }
        )
    counts.num_procedures_synthetic = len(synthetic)
    counts.num_changed += _many(connection, "put_procedure", rows)
    origins = [_origin(_PROCEDURE, owned[link.study.study_id], "main", run_no, 82, "synthetic") for link in new]
    _many(connection, "add_origin", origins)


def _named_procedure(link: Link, owned: _Owned) -> int | None:
    """The record's own procedure of a study; the synthetic row does not count as one."""
    found = link.procedure_occurrence_id
    return None if found is None or found == owned.rows.get((_PROCEDURE, "main")) else found


def _series(connection: Connection, links: Sequence[Link], timezone: str) -> list[Series]:
    days = {link.study.study_id: link.study.day for link in links}
    series = []
    for row in connection.execute(statement("series"), {"ids": list(days)}):
        study_id, study_uid, series_uid, series_key, modality, image_dt, offset_min = row
        day = written_day(image_dt, offset_min, timezone) if image_dt else days[study_id]
        assert day is not None  # a study without any date is never linked
        series.append(Series(study_id, study_uid, series_uid, series_key, modality or "", day))
    return series


def written_day(moment: datetime, offset_min: int | None, timezone: str) -> date:
    """The calendar date as the header wrote it: a time with an offset was moved to the declared zone."""
    if offset_min is None:
        return moment.date()
    utc = moment.replace(tzinfo=ZoneInfo(timezone)).astimezone(UTC)
    return (utc + timedelta(minutes=offset_min)).date()


def _modalities(connection: Connection, series: Sequence[Series]) -> dict[str, int]:
    codes = sorted({one.modality for one in series if one.modality})
    return dict(connection.execute(statement("modalities"), {"codes": codes}).fetchall())


def _put_images(
    connection: Connection,
    links: Sequence[Link],
    series: Sequence[Series],
    modalities: Mapping[str, int],
    owned: dict[int, _Owned],
    run_no: int,
    counts: OccurrenceCounts,
) -> None:
    by_study = {link.study.study_id: link for link in links}
    uids = [one.series_uid for one in series]
    known = {row[0]: row[1:] for row in connection.execute(statement("known_images"), {"uids": uids})}
    new = [one for one in series if one.series_uid not in known]
    for row_id, one in zip(next_ids(connection, "image_occurrence", len(new)), new, strict=True):
        owned[one.study_id].rows[(_IMAGE, _slot(one))] = row_id
    own, others = [], []
    for one in series:
        link, own_id = by_study[one.study_id], owned[one.study_id].rows.get((_IMAGE, _slot(one)))
        row = {
            "id": own_id,
            "person_id": link.person_id,
            "procedure_id": counts.procedures[one.study_id],
            "visit_id": link.visit_occurrence_id,
            "local_path": f"series:{one.series_key}",
            "day": one.day,
            "study_uid": one.study_uid,
            "series_uid": one.series_uid,
            "modality_id": modalities.get(one.modality, 0),
        }
        if own_id is not None:
            own.append(row)
        else:
            others.append({**row, "id": known[one.series_uid][0]})
            counts.disagreements.update(_disagreements(row, known[one.series_uid]))
    counts.num_images = len(series)
    counts.num_changed += _many(connection, "put_image", own) + _many(connection, "complete_image", others)
    _many(connection, "add_origin", [_origin(_IMAGE, owned[one.study_id], _slot(one), run_no, 81, None) for one in new])


def _disagreements(row: Mapping[str, Any], known: Sequence[Any]) -> list[str]:
    """Names of the fields in which a row of the health record differs from the images."""
    _, person_id, day, modality_id = known
    found = []
    if person_id != row["person_id"]:
        found.append("person")
    if day != row["day"]:
        found.append("date")
    if modality_id and row["modality_id"] and modality_id != row["modality_id"]:
        found.append("modality")
    return found


def _count_unmapped(
    connection: Connection, series: Sequence[Series], modalities: Mapping[str, int], owned: Mapping[int, _Owned]
) -> None:
    uses = Counter((one.study_id, one.modality) for one in series if one.modality and one.modality not in modalities)
    if not uses:
        return
    rows = [
        {
            "resource_no": owned[study_id].resource_no,
            "system": MODALITY_SYSTEM,
            "code": code,
            "reason": UNKNOWN_CODE,
            "count": count,
        }
        for (study_id, code), count in sorted(uses.items())
    ]
    codes = [row for number, row in enumerate(rows) if row["code"] not in {other["code"] for other in rows[:number]}]
    _many(connection, "put_unmapped", codes)
    _many(connection, "put_unmapped_use", rows)
    _many(connection, "count_unmapped", codes)


def _remove(
    connection: Connection,
    links: Sequence[Link],
    unlinked: Sequence[Study],
    series: Sequence[Series],
    owned: Mapping[int, _Owned],
    counts: OccurrenceCounts,
) -> None:
    """Take away what linking made and no longer stands: series first, then the procedures they pointed at."""
    wanted = {(one.study_id, _IMAGE, _slot(one)) for one in series}
    for link in links:
        if counts.procedures[link.study.study_id] == owned[link.study.study_id].rows.get((_PROCEDURE, "main")):
            wanted.add((link.study.study_id, _PROCEDURE, "main"))
    surplus: dict[int, list[int]] = {_IMAGE: [], _PROCEDURE: []}
    for study_id, entry in owned.items():
        for (table_no, slot), row_id in entry.rows.items():
            if (study_id, table_no, slot) not in wanted:
                surplus[table_no].append(row_id)
    uids = [study.study_uid for study in unlinked]
    connection.execute(statement("forget_paths"), {"uids": uids})
    for table_no, name in ((_IMAGE, "drop_images"), (_PROCEDURE, "drop_procedures")):
        if surplus[table_no]:
            connection.execute(statement(name), {"ids": surplus[table_no]})
            connection.execute(statement("drop_origins"), {"table_no": table_no, "ids": surplus[table_no]})
            counts.num_removed += len(surplus[table_no])


def _origin(table_no: int, owned: _Owned, slot: str, run_no: int, rule: int, flags: str | None) -> dict[str, Any]:
    return {
        "table_no": table_no,
        "row_id": owned.rows[(table_no, slot)],
        "resource_no": owned.resource_no,
        "slot": slot,
        "run_no": run_no,
        "rule": rule,
        "flags": flags,
    }


def _slot(series: Series) -> str:
    return f"series:{series.series_uid}"


def _many(connection: Connection, name: str, rows: Sequence[Mapping[str, Any]]) -> int:
    """Run a statement for each row; returns how many rows it changed."""
    if not rows:
        return 0
    with connection.cursor() as cursor:
        cursor.executemany(statement(name), rows)
        return max(0, cursor.rowcount)
