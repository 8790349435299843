"""`platform link`: every study of the archive finds its person, or its reason why not."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from presage_etl.linking.decide import Link, LinkPolicy, Quarantine, decide
from presage_etl.linking.evidence import (
    HealthRecord,
    Order,
    PatientKey,
    find_evidence,
    sex_of,
    statement,
    wanted_patient_ids,
)
from presage_etl.linking.mapping import Crosswalk, read_crosswalk
from presage_etl.linking.occurrences import write_occurrences
from presage_etl.linking.report import LinkReport, describe_standing, write_report
from presage_etl.linking.study import Confidence, LinkClass, Person, QuarantineReason, Study, Visit
from presage_platform.errors import LockedError, UsageError
from presage_platform.ledger.identity import keyed_hash
from presage_platform.ledger.journal import recorded_run
from presage_platform.postgres.connection import open_database
from presage_platform.settings import LinkSettings, Settings

_LOCK = 0x70_6C_69_6E  # one link at a time in a database

Connection = psycopg.Connection[Any]


def link_studies(
    settings: Settings, *, map_file: Path | None = None, retry: bool = False, reason: str | None = None
) -> LinkReport:
    """Link all studies, or with `retry` those in quarantine (for one `reason`); a second run changes no row."""
    if reason is not None and reason not in tuple(QuarantineReason):
        raise UsageError(f"no quarantine reason is called {reason!r}: one of {', '.join(QuarantineReason)}")
    crosswalk = read_crosswalk(map_file, settings.link, settings.secret_key())
    policies = settings.link.model_dump(mode="json", exclude={"mapping"})
    with (
        open_database(settings, command="link") as database,
        recorded_run(database, "link", policies=policies, timezone=settings.timezone) as run,
        database.connect() as connection,
    ):
        _lock(connection)
        studies = _studies(connection, settings, crosswalk)
        if retry:
            rows = connection.execute(statement("quarantined"), {"reason": reason})
            chosen = {row[0] for row in rows}
            studies = [study for study in studies if study.study_id in chosen]
        decisions = _decide_all(connection, studies, crosswalk, settings)
        report = _apply(connection, decisions, crosswalk, settings, run.run_no)
        describe_standing(connection, report)
        run.counts.update(report.as_json())
    write_report(report, settings.reports_dir)
    return report


def _lock(connection: Connection) -> None:
    row = connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK,)).fetchone()
    if not row or not row[0]:
        raise LockedError("another `platform link` is at work on this database: wait for it to end")


def _studies(connection: Connection, settings: Settings, crosswalk: Crosswalk) -> list[Study]:
    files = _files(settings) if crosswalk.wants_files else {}
    with connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        rows = cursor.execute(statement("studies")).fetchall()
    return [_study(row, files.get(row["study_uid"], ())) for row in rows]


def _study(row: dict[str, Any], files: tuple[str, ...]) -> Study:
    moment: datetime | None = row["image_dt"] or row["study_dt"]
    written = row["study_date_written"]
    accessions = [(row["accession_key"], row["accession_issuer"])] if row["accession_key"] else []
    accessions += list(zip(row["more_accession_keys"], row["more_accession_issuers"], strict=True))
    return Study(
        study_id=row["study_id"],
        study_uid=row["study_uid"],
        patient_key=row["patient_key"],
        issuer=row["issuer"],
        other_patient_keys=tuple(row["other_patient_keys"] or ()),
        accessions=tuple(dict.fromkeys(accessions)),
        sex=row["sex"],
        birth_year=row["birth_year"],
        moment=moment,
        day=date.fromisoformat(written) if written else (moment.date() if moment else None),
        day_only=row["image_dt_precision"] == "day",
        num_patient_keys=row["num_patient_keys"],
        uid_across_patients=row["across_patients"],
        files=files,
    )


def _files(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Names of the files of each study: path below the source, and bare name."""
    import pyarrow.dataset as ds

    folder = settings.catalogue_dir / "instances"
    table = ds.dataset(folder, format="parquet").to_table(columns=["study_uid", "rel_path"])
    names: dict[str, set[str]] = {}
    for study_uid, rel_path in zip(*(table.column(name).to_pylist() for name in table.column_names), strict=True):
        path = rel_path.decode("utf-8", "surrogateescape")
        names.setdefault(study_uid, set()).update((path, Path(path).name))
    return {study_uid: tuple(sorted(paths)) for study_uid, paths in names.items()}


def _decide_all(
    connection: Connection, studies: Sequence[Study], crosswalk: Crosswalk, settings: Settings
) -> list[Link | Quarantine]:
    remembered = {} if crosswalk.given else _remembered(connection)
    uid_keys = {study.study_id: _uid_keys(study, settings) for study in studies}
    record = _health_record(connection, studies, crosswalk, uid_keys, remembered)
    findings = {
        study.study_id: find_evidence(
            study,
            record,
            crosswalk,
            settings.link.issuers,
            uid_keys=uid_keys[study.study_id],
            remembered=remembered.get(study.study_id, ()),
        )
        for study in studies
    }
    ids = sorted({piece.person_id for found in findings.values() for piece in found.evidence})
    persons, visits = _persons(connection, ids), _visits(connection, ids)
    policy = LinkPolicy(settings.link.birth_year_tolerance, Confidence(settings.link.minimum_confidence))
    decisions = []
    for study in studies:
        found = findings[study.study_id]
        theirs = [visit for piece in found.evidence[:1] for visit in visits.get(piece.person_id, ())]
        decisions.append(decide(study, found, persons, theirs, policy))
    return decisions


def _uid_keys(study: Study, settings: Settings) -> tuple[str, str]:
    """Keyed hashes of a study UID as an identifier of the record may write it."""
    secret = settings.secret_key()
    return keyed_hash(secret, study.study_uid), keyed_hash(secret, f"urn:oid:{study.study_uid}")


def _remembered(connection: Connection) -> dict[int, tuple[tuple[int, str], ...]]:
    """Persons that a mapping of an earlier run named, and by what."""
    return {
        study_id: tuple(
            (piece["person_id"], piece["source"]) for piece in evidence if piece["class"] == LinkClass.MAPPING
        )
        for study_id, evidence in connection.execute(statement("remembered"))
    }


def _health_record(
    connection: Connection,
    studies: Sequence[Study],
    crosswalk: Crosswalk,
    uid_keys: dict[int, tuple[str, str]],
    remembered: dict[int, tuple[tuple[int, str], ...]],
) -> HealthRecord:
    """Ask the database for everything that the keys of these studies touch, each thing once."""
    targets = {target for study in studies for target in crosswalk.find(study)}
    patient_keys = {key for study in studies for key in (study.patient_key, *study.other_patient_keys) if key}
    patient_keys |= {key for side, key in targets if side == "identifier"}
    order_keys = {key for study in studies for key, _ in study.accessions}
    order_keys |= {key for keys in uid_keys.values() for key in keys}
    record = HealthRecord()
    wanted = {"keys": sorted(patient_keys), "ids": wanted_patient_ids(targets)}
    for resource_id, key, system, start, end, person_id in connection.execute(statement("patients"), wanted):
        record.patient_ids.setdefault(resource_id, set()).add(person_id)
        if key is not None:
            record.patients.setdefault(key, []).append(PatientKey(person_id, system, start, end))
    wanted = {"keys": sorted(order_keys), "uids": [study.study_uid for study in studies]}
    for key, system, resource_type, person_id, procedure_id in connection.execute(statement("orders"), wanted):
        record.orders.setdefault(key, []).append(Order(person_id, system, resource_type, procedure_id))
    ids = {int(key) for side, key in targets if side == "person_id" and key.isdecimal()}
    ids |= {person_id for persons in remembered.values() for person_id, _ in persons}
    record.person_ids = set(_persons(connection, sorted(ids)))
    return record


def _persons(connection: Connection, ids: Sequence[int]) -> dict[int, Person]:
    persons = {}
    for person_id, gender, year, month, day, death in connection.execute(statement("persons"), {"ids": list(ids)}):
        persons[person_id] = Person(person_id, sex_of(gender), year, date(year, month or 1, day or 1), death)
    return persons


def _visits(connection: Connection, ids: Sequence[int]) -> dict[int, list[Visit]]:
    visits: dict[int, list[Visit]] = {}
    for row in connection.execute(statement("visits"), {"ids": list(ids)}):
        visits.setdefault(row[1], []).append(Visit(*row))
    return visits


def _apply(
    connection: Connection,
    decisions: Iterable[Link | Quarantine],
    crosswalk: Crosswalk,
    settings: Settings,
    run_no: int,
) -> LinkReport:
    decided = list(decisions)
    links = [one for one in decided if isinstance(one, Link)]
    quarantines = [one for one in decided if isinstance(one, Quarantine)]
    counts = write_occurrences(
        connection,
        links,
        [one.study for one in quarantines],
        procedure_concept=settings.link.procedure_concept,
        policy_hash=_policy_hash(settings.link),
        timezone=settings.timezone,
        run_no=run_no,
    )
    changed = _write_links(connection, links, counts.procedures, run_no)
    changed += _write_quarantine(connection, links, quarantines, run_no)
    report = LinkReport(run_no=run_no, num_examined=len(decided))
    report.num_no_visit = Counter(note for link in links for note in link.notes)["no_visit"]
    report.num_rows_changed = counts.num_changed + changed
    report.num_rows_removed = counts.num_removed
    report.num_procedures_synthetic = counts.num_procedures_synthetic
    report.num_images = counts.num_images
    report.disagreements = dict(counts.disagreements)
    if crosswalk.given:
        report.mapping = {
            "rows": crosswalk.num_rows,
            "duplicate rows": crosswalk.num_duplicates,
            "unused keys": crosswalk.num_unused,
        }
    return report


def _write_links(connection: Connection, links: Sequence[Link], procedures: dict[int, int], run_no: int) -> int:
    rows = [
        {
            "study_id": link.study.study_id,
            "person_id": link.person_id,
            "class": link.link_class.value,
            "confidence": link.confidence.value,
            "evidence": Jsonb(list(link.evidence)),
            "procedure_id": procedures[link.study.study_id],
            "visit_id": link.visit_occurrence_id,
            "run_no": run_no,
        }
        for link in links
    ]
    return _many(connection, "put_link", rows)


def _write_quarantine(
    connection: Connection, links: Sequence[Link], quarantines: Sequence[Quarantine], run_no: int
) -> int:
    seen = datetime.now(UTC).replace(tzinfo=None)
    rows = [
        {
            "study_id": one.study.study_id,
            "reason": one.reason.value,
            "evidence": Jsonb(list(one.evidence)),
            "seen": seen,
            "run_no": run_no,
        }
        for one in quarantines
    ]
    changed = _many(connection, "put_quarantine", rows)
    dropped = connection.execute(statement("drop_links"), {"ids": [one.study.study_id for one in quarantines]})
    linked = {"ids": [link.study.study_id for link in links], "run_no": run_no}
    resolved = connection.execute(statement("resolve_quarantine"), linked)
    return changed + dropped.rowcount + resolved.rowcount


def _policy_hash(settings: LinkSettings) -> str:
    text = json.dumps(settings.model_dump(mode="json", exclude={"mapping"}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _many(connection: Connection, name: str, rows: Sequence[dict[str, Any]]) -> int:
    if not rows:
        return 0
    with connection.cursor() as cursor:
        cursor.executemany(statement(name), rows)
        return max(0, cursor.rowcount)
