"""Studies and volume candidates in the ledger: ids that never change, verdicts that pixels made final, stale series.

Writing the same candidates again changes no row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Table, Update, and_, bindparam, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from presage_etl.dicom.candidate import Candidate
from presage_etl.dicom.choice import header_digest, kernel_class
from presage_platform.ledger.images import image_series, image_study, study_accession
from presage_platform.volumes.catalogue import Verdict

if TYPE_CHECKING:
    from presage_platform.postgres.connection import Database

CHUNK = 1000
_RUN_COLUMNS = frozenset({"first_run", "last_run", "run_id"})
_HIDDEN_ATTRIBUTES = frozenset(
    {"patient_key", "other_patient_keys", "accession_key", "study_uid", "series_uid", "sop_uid", "scan_run"}
)
_CLOCKS = ("study_dt", "series_dt", "acquisition_dt", "content_dt")


def recall(database: Database, candidates: Sequence[Candidate]) -> None:
    """Give candidates the final verdict of earlier runs, where their files are still the same ones."""
    by_key = {candidate.series_key: candidate for candidate in candidates}
    columns = image_series.c
    names = ("series_key", "verdict", "reasons", "actions", "attributes", "volume_id")
    wanted = [columns[name] for name in names]
    with _transaction(database) as connection:
        for keys in _chunks(sorted(by_key)):
            final = and_(columns.series_key.in_(keys), columns.verdict_stage == "pixels")
            for row in connection.execute(select(*wanted).where(final)):
                candidate = by_key[row.series_key]
                verdict = Verdict(row.verdict)
                same = row.attributes.get("header_digest") == header_digest(candidate)
                # pixels only make a verdict graver: one that headers now judge graver was judged by another policy
                if same and verdict.gravity <= candidate.verdict.gravity:
                    candidate.verdict, candidate.verdict_stage = verdict, "pixels"
                    candidate.reasons, candidate.actions = list(row.reasons), list(row.actions)
                    candidate.volume_id = row.volume_id


def register(
    database: Database, candidates: Sequence[Candidate], run_no: int, *, timezone: str = "UTC"
) -> dict[str, int]:
    """Write studies and candidates to the ledger; return the study id of each study UID.

    Parameters
    ----------
    database
        The open database.
    candidates
        All candidates of every study among them, ranked: series of those studies that are not here became stale.
    run_no
        Number of this run; kept with the rows that it changes.
    timezone
        Declared zone, to give back the study's calendar date as it was written.
    """
    ordered = sorted(candidates, key=lambda one: (one.study_uid, one.series_key))
    with _transaction(database) as connection:
        _align_study_ids(connection)
        _write(connection, image_study, "study_uid", _study_rows(ordered, run_no, timezone))
        ids = _study_ids(connection, {candidate.study_uid for candidate in ordered})
        rows = (_series_row(candidate, ids[candidate.study_uid], run_no) for candidate in ordered)
        _write(connection, image_series, "series_key", rows)
        _write_accessions(connection, ordered, ids)
        _retire_absent_series(connection, ordered, ids, run_no)
    return ids


def _align_study_ids(connection: Connection) -> None:
    """Go on after the last study: ids that a killed run took from the sequence were never seen by anybody."""
    sequence = func.pg_get_serial_sequence(image_study.name, image_study.c.study_id.name)
    connection.execute(select(func.setval(sequence, func.coalesce(func.max(image_study.c.study_id), 0) + 1, False)))


@contextmanager
def _transaction(database: Database) -> Iterator[Connection]:
    engine = database.engine()
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def _study_rows(ordered: Sequence[Candidate], run_no: int, timezone: str) -> Iterator[dict[str, Any]]:
    """Yield one row a study, in ascending study UID: ids are minted in that order."""
    studies: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in ordered:
        studies[candidate.study_uid].append(candidate)
    for study_uid, members in sorted(studies.items()):
        keys = sorted({key for member in members if (key := member.attributes["patient_key"])})
        others = sorted({key for member in members for key in member.attributes["other_patient_keys"] or ()})
        yield {
            "study_uid": study_uid,
            "patient_key": keys[0] if len(keys) == 1 else None,
            "issuer": _first(members, "issuer"),
            "other_patient_keys": others or None,
            "accession_key": _first(members, "accession_key"),
            "accession_issuer": _first(members, "accession_issuer"),
            "sex": _first(members, "sex"),
            "birth_year": _first(members, "birth_year"),
            "study_dt": _first(members, "study_dt") or _first(members, "image_dt"),
            "study_date_written": _written_date(members, timezone),
            "num_patient_keys": len(keys),
            "first_run": run_no,
            "last_run": run_no,
        }


def _first(members: Sequence[Candidate], name: str) -> Any:
    """Return the smallest value that any series of the study has: independent of order."""
    values = [member.attributes[name] for member in members if member.attributes[name] is not None]
    return min(values, default=None)


def _written_date(members: Sequence[Candidate], timezone: str) -> str | None:
    moment: datetime | None = _first(members, "study_dt")
    if moment is None:
        return None
    offset = _first(members, "tz_offset_min")
    if offset is not None:
        moment = moment.replace(tzinfo=ZoneInfo(timezone)).astimezone(ZoneInfo("UTC")) + timedelta(minutes=offset)
    return moment.date().isoformat()


def _series_row(candidate: Candidate, study_id: int, run_no: int) -> dict[str, Any]:
    header = candidate.attributes
    return {
        "series_key": candidate.series_key,
        "study_id": study_id,
        "study_uid": candidate.study_uid,
        "series_uid": candidate.series_uid,
        "modality": header["modality"],
        "attributes": _plain_attributes(candidate),
        "split_by": list(candidate.split_by),
        "num_slices": len(candidate.slices),
        "geometry": _geometry_summary(candidate),
        "image_dt": candidate.image_dt,
        "image_dt_source": candidate.image_dt_source,
        "image_dt_precision": candidate.image_dt_precision,
        "image_dates": {name: header[name].isoformat() for name in _CLOCKS if header[name] is not None},
        "manufacturer": header["manufacturer"],
        "kernel_class": kernel_class(header["manufacturer"], header["kernel"]),
        "slice_thickness_mm": header["slice_thickness"],
        "contrast": header["contrast_agent_flag"],
        "body_part": header["body_part"],
        "verdict": candidate.verdict.value,
        "verdict_stage": candidate.verdict_stage,
        "reasons": list(candidate.reasons),
        "actions": list(candidate.actions),
        "rank": candidate.rank,
        "rank_reason": candidate.rank_reason,
        "volume_id": candidate.volume_id,
        "stale": candidate.stale,
        "run_id": run_no,
    }


def _plain_attributes(candidate: Candidate) -> dict[str, Any]:
    """Return header attributes as JSON: identifiers stand in the study, times in columns of their own."""
    plain = {
        name: value
        for name, value in candidate.attributes.items()
        if name not in _HIDDEN_ATTRIBUTES and value is not None and not isinstance(value, datetime)
    }
    return {**plain, "header_digest": header_digest(candidate)}


def _geometry_summary(candidate: Candidate) -> dict[str, Any] | None:
    geometry = candidate.geometry
    if geometry is None:
        return None
    return {
        "affine_ras": [float(value) for value in geometry.affine_ras.ravel()],
        "spacing_mm": list(geometry.spacing_mm),
        "shape_zyx": list(geometry.shape_zyx),
        "extent_mm": geometry.extent_mm,
        "tilt_degrees": geometry.tilt_degrees,
        "residual_mm": geometry.residual_mm,
        "gaps_mm": [[at, gap] for at, gap in geometry.gaps_mm],
    }


def _write(connection: Connection, table: Table, key: str, rows: Iterable[dict[str, Any]]) -> None:
    """Insert new rows in their order; of the known ones change those that differ in more than the run."""
    for chunk in _chunks(rows):
        known = _known_keys(connection, table, key, [row[key] for row in chunk])
        fresh = [row for row in chunk if row[key] not in known]
        if fresh:
            connection.execute(insert(table), fresh)
        old = [{f"new_{name}": value for name, value in row.items()} for row in chunk if row[key] in known]
        if old:
            connection.execute(_update_of_changed(table, key, [name.removeprefix("new_") for name in old[0]]), old)


def _update_of_changed(table: Table, key: str, names: Sequence[str]) -> Update:
    """Return the UPDATE of one row by its key that does nothing where only the run would change."""
    new = {name: bindparam(f"new_{name}", type_=table.c[name].type) for name in names}
    differs = or_(*(table.c[name].is_distinct_from(new[name]) for name in names if name not in _RUN_COLUMNS))
    values = {name: value for name, value in new.items() if name not in (key, "first_run")}
    return update(table).where(and_(table.c[key] == new[key], differs)).values(**values)


def _known_keys(connection: Connection, table: Table, key: str, keys: Sequence[str]) -> set[str]:
    return set(connection.execute(select(table.c[key]).where(table.c[key].in_(keys))).scalars())


def _study_ids(connection: Connection, study_uids: set[str]) -> dict[str, int]:
    ids: dict[str, int] = {}
    for uids in _chunks(sorted(study_uids)):
        found = select(image_study.c.study_uid, image_study.c.study_id).where(image_study.c.study_uid.in_(uids))
        ids.update((row.study_uid, row.study_id) for row in connection.execute(found))
    return ids


def _write_accessions(connection: Connection, ordered: Sequence[Candidate], ids: dict[str, int]) -> None:
    pairs = {
        (ids[candidate.study_uid], candidate.attributes["accession_key"]): candidate.attributes["accession_issuer"]
        for candidate in ordered
        if candidate.attributes["accession_key"]
    }
    names = ("study_id", "accession_key", "issuer")
    for chunk in _chunks(dict(zip(names, (*pair, pairs[pair]), strict=True)) for pair in sorted(pairs)):
        connection.execute(insert(study_accession).on_conflict_do_nothing(), chunk)


def _retire_absent_series(
    connection: Connection, ordered: Sequence[Candidate], ids: dict[str, int], run_no: int
) -> None:
    """Mark series of these studies that the catalogue no longer yields."""
    columns = image_series.c
    keys: dict[int, list[str]] = defaultdict(list)
    for candidate in ordered:
        keys[ids[candidate.study_uid]].append(candidate.series_key)
    for studies in _chunks(sorted(keys)):
        current = [key for study in studies for key in keys[study]]
        gone = and_(columns.study_id.in_(studies), columns.series_key.not_in(current), columns.stale.is_(False))
        values = {"stale": True, "rank": None, "rank_reason": "superseded", "run_id": run_no}
        connection.execute(update(image_series).where(gone).values(**values))


def _chunks(items: Iterable[Any]) -> Iterator[list[Any]]:
    pending: list[Any] = []
    for item in items:
        pending.append(item)
        if len(pending) == CHUNK:
            yield pending
            pending = []
    if pending:
        yield pending


def count_series(database: Database) -> dict[str, int]:
    """Return the number of candidates by verdict."""
    counted = select(image_series.c.verdict, func.count()).group_by(image_series.c.verdict)
    with _transaction(database) as connection:
        return {verdict: number for verdict, number in connection.execute(counted)}
