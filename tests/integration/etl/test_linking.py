"""Linking on a real server: every class, the rows it writes, and that doing it twice changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from presage_etl.linking.link import link_studies
from presage_platform.errors import LockedError, UsageError
from presage_platform.postgres.connection import open_database
from presage_platform.settings import Settings
from tests.lib.health_record import ACSN, MRN, UID_SYSTEM, HealthRecordBuilder

TABLES = (
    "study_link", "link_quarantine", "image_occurrence", "procedure_occurrence", "origin", "resource", "unmapped_code",
    "unmapped_use", "id_counter", "image_study", "image_series",
)  # fmt: skip
SCAN = datetime(2010, 3, 4, 11, 30)


@pytest.fixture
def connection(settings: Settings) -> Iterator[psycopg.Connection[Any]]:
    with open_database(settings, command="test") as database, database.connect(autocommit=True) as opened:
        yield opened


@pytest.fixture
def record(settings: Settings, connection: psycopg.Connection[Any]) -> HealthRecordBuilder:
    return HealthRecordBuilder(connection, settings.secret_key())


def with_link(settings: Settings, **changes: Any) -> Settings:
    return settings.model_copy(update={"link": settings.link.model_copy(update=changes)})


def everything(connection: psycopg.Connection[Any]) -> dict[str, list[Any]]:
    """All rows with the transaction that wrote them: an UPDATE that changes nothing shows too."""
    return {
        table: connection.execute(f"SELECT ctid::text, xmin::text, t.* FROM {table} AS t ORDER BY 1").fetchall()
        for table in TABLES
    }


def links(connection: psycopg.Connection[Any]) -> dict[int, tuple[Any, ...]]:
    rows = connection.execute(
        "SELECT study_id, person_id, link_class, confidence, visit_occurrence_id, procedure_occurrence_id"
        " FROM study_link"
    )
    return {row[0]: row[1:] for row in rows}


def reasons(connection: psycopg.Connection[Any]) -> dict[int, str]:
    return dict(
        connection.execute("SELECT study_id, reason FROM link_quarantine WHERE resolved_run IS NULL").fetchall()
    )


def write_map(folder: Path, *rows: str, header: str = "dicom_patient_id,fhir_patient_id") -> Path:
    path = folder / "map.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_i73_each_class_of_key_leads_to_its_person(
    settings: Settings, record: HealthRecordBuilder, connection: psycopg.Connection[Any], tmp_path: Path
) -> None:
    mapped = record.person("a")
    by_accession = record.person("b")
    by_uid = record.person("c")
    by_id = record.person("d", identifiers=((MRN, "0042"),))
    record.imaging_study(by_accession, "i1", day=SCAN.date(), identifiers=((ACSN, "ACC7"),))
    record.imaging_study(by_uid, "i2", day=SCAN.date(), identifiers=((UID_SYSTEM, "urn:oid:1.3"),))
    studies = [
        record.study("1.1", patient_id="P1"),
        record.study("1.2", accession="ACC7", accession_issuer="acc"),
        record.study("1.3"),
        record.study("1.4", patient_id="0042", issuer="tag"),
    ]
    settings = with_link(settings, issuers={"acc": ACSN, "tag": MRN})
    report = link_studies(settings, map_file=write_map(tmp_path, "P1,a"))
    found = links(connection)
    assert [found[study][:3] for study in studies] == [
        (mapped, "mapping", "medium"),
        (by_accession, "accession", "medium"),
        (by_uid, "study_uid", "medium"),
        (by_id, "patient_id", "low"),
    ]
    assert (report.num_linked, report.num_quarantined, report.num_no_visit) == (4, 0, 1)


def test_i72_a_second_run_changes_no_row(
    settings: Settings, record: HealthRecordBuilder, connection: psycopg.Connection[Any], tmp_path: Path
) -> None:
    person = record.person("a")
    record.visit(person, datetime(2010, 3, 4, 9), datetime(2010, 3, 4, 17))
    record.study("1.1", patient_id="P1", series_uids=("1.1.1", "1.1.2"))
    record.study("1.2", patient_id="P2")
    map_file = write_map(tmp_path, "P1,a")
    link_studies(settings, map_file=map_file)
    before = everything(connection)
    again = link_studies(settings, map_file=map_file)
    assert everything(connection) == before
    assert (again.num_rows_changed, again.num_rows_removed) == (0, 0)
    assert [len(before[table]) for table in ("study_link", "link_quarantine", "image_occurrence")] == [1, 1, 2]
    later = link_studies(settings)  # no mapping given: what a mapping linked stays
    assert everything(connection) == before and later.num_linked == 1


def test_i72_a_rejected_study_still_says_whose_it_is(
    settings: Settings, record: HealthRecordBuilder, connection: psycopg.Connection[Any], tmp_path: Path
) -> None:
    person = record.person("a")
    study = record.study("1.1", patient_id="P1", verdict="rejected_missing_slices")
    link_studies(settings, map_file=write_map(tmp_path, "P1,a"))
    assert links(connection)[study][0] == person
    assert connection.execute("SELECT count(*) FROM image_occurrence").fetchone() == (1,)


def test_i74_a_replaced_patient_leads_to_the_surviving_person(
    settings: Settings, record: HealthRecordBuilder, connection: psycopg.Connection[Any]
) -> None:
    survivor = record.person("new")
    record.resource("Patient", "old", ((MRN, "77"),))
    record.alias("old", "new")
    study = record.study("1.1", patient_id="77", issuer=MRN)
    link_studies(settings)
    assert links(connection)[study][0] == survivor


def test_i74_a_reused_identifier_is_resolved_by_its_dates(
    settings: Settings, record: HealthRecordBuilder, connection: psycopg.Connection[Any]
) -> None:
    record.person("first", identifiers=((MRN, "9", date(2000, 1, 1), date(2009, 12, 31)),))
    second = record.person("second", identifiers=((MRN, "9", date(2010, 1, 1), None),))
    study = record.study("1.1", patient_id="9", issuer=MRN)
    link_studies(settings)
    assert links(connection)[study][0] == second


def test_i74_without_an_issuer_a_patient_id_is_not_matched(
    settings: Settings, record: HealthRecordBuilder, connection: psycopg.Connection[Any]
) -> None:
    person = record.person("a", identifiers=((MRN, "42"),))
    study = record.study("1.1", patient_id="42")
    link_studies(settings)
    assert reasons(connection) == {study: "issuer_missing"}
    link_studies(with_link(settings, issuers={"*": MRN}))
    assert links(connection)[study][0] == person


def test_i77_time_alone_joins_nothing(
    settings: Settings, record: HealthRecordBuilder, connection: psycopg.Connection[Any]
) -> None:
    person = record.person("a")
    record.visit(person, datetime(2010, 3, 4, 11), datetime(2010, 3, 4, 12))
    record.imaging_study(person, "i", day=SCAN.date())
    study = record.study("1.1")
    link_studies(settings)
    assert links(connection) == {} and reasons(connection) == {study: "no_patient_id"}


def test_i77_the_tightest_visit_is_chosen(
    settings: Settings, record: HealthRecordBuilder, connection: psycopg.Connection[Any], tmp_path: Path
) -> None:
    person = record.person("a")
    record.visit(person, datetime(2010, 3, 1), datetime(2010, 3, 9))
    tight = record.visit(person, datetime(2010, 3, 4, 17, 29), datetime(2010, 3, 4, 18))  # starts 5 h 59 min later
    record.visit(person, datetime(2010, 3, 4, 17, 31), datetime(2010, 3, 4, 17, 32))  # 6 h 1 min later
    study = record.study("1.1", patient_id="P1")
    link_studies(settings, map_file=write_map(tmp_path, "P1,a"))
    assert links(connection)[study][3] == tight


def test_i78_retry_links_what_now_can_be_and_keeps_the_history(
    settings: Settings, record: HealthRecordBuilder, connection: psycopg.Connection[Any], tmp_path: Path
) -> None:
    linked = record.study("1.1", patient_id="P1")
    waiting = record.study("1.2", patient_id="P2")
    other = record.study("1.3")
    record.person("a")
    map_file = write_map(tmp_path, "P1,a", "P2,b")
    link_studies(settings, map_file=map_file)
    assert reasons(connection) == {waiting: "unknown_patient", other: "no_patient_id"}
    before = everything(connection)
    link_studies(settings, map_file=map_file, retry=True, reason="no_patient_id")
    assert everything(connection) == before
    late = record.person("b")
    report = link_studies(settings, map_file=map_file, retry=True)
    assert {study: row[0] for study, row in links(connection).items()} == {linked: 1, waiting: late}
    assert reasons(connection) == {other: "no_patient_id"}
    resolved = connection.execute("SELECT resolved_run FROM link_quarantine WHERE study_id = %s", (waiting,)).fetchone()
    assert resolved == (report.run_no,) and report.num_examined == 2
    with pytest.raises(UsageError, match="unknown_patient"):
        link_studies(settings, retry=True, reason="nonsense")


def test_i80_rows_that_differ_are_a_conflict_and_equal_rows_are_one(
    settings: Settings, record: HealthRecordBuilder, connection: psycopg.Connection[Any], tmp_path: Path
) -> None:
    record.person("a")
    record.person("b")
    twice, torn = record.study("1.1", patient_id="P1"), record.study("1.2", patient_id="P2")
    report = link_studies(settings, map_file=write_map(tmp_path, "P1,a", "P1,a", "P2,a", "P2,b", "P9,a"))
    assert list(links(connection)) == [twice] and reasons(connection) == {torn: "mapping_conflict"}
    assert report.mapping == {"rows": 5, "duplicate rows": 1, "unused keys": 1}


@pytest.mark.parametrize(
    ("header", "row"),
    [("study_uid,person_id", "1.1,1"), ("accession,fhir_patient_id", "ACC,a"), ("patient_id,identifier", "P1,42")],
)
def test_i80_each_side_may_be_named_in_its_own_way(
    settings: Settings,
    record: HealthRecordBuilder,
    connection: psycopg.Connection[Any],
    tmp_path: Path,
    header: str,
    row: str,
) -> None:
    person = record.person("a", identifiers=((MRN, "42"),))
    study = record.study("1.1", patient_id="P1", accession="ACC")
    link_studies(settings, map_file=write_map(tmp_path, row, header=header))
    assert links(connection)[study][:2] == (person, "mapping")


def test_i81_one_row_a_series_of_a_linked_study(
    settings: Settings, record: HealthRecordBuilder, connection: psycopg.Connection[Any], tmp_path: Path
) -> None:
    person = record.person("a")
    study = record.study("1.1", patient_id="P1", series_uids=("1.1.1", "1.1.2"))
    record.series(study, "1.1", "1.1.2", moment=SCAN, verdict="rejected_spacing", rank=0)  # split: one more candidate
    record.study("1.2", patient_id="P2")
    link_studies(settings, map_file=write_map(tmp_path, "P1,a"))
    rows = connection.execute(
        "SELECT image_series_uid, person_id, local_path, image_occurrence_date, modality_concept_id"
        " FROM image_occurrence ORDER BY 1"
    ).fetchall()
    assert [row[:2] for row in rows] == [("1.1.1", person), ("1.1.2", person)]
    assert all(row[2].startswith("series:") and row[3:] == (SCAN.date(), 0) for row in rows)
    unmapped = connection.execute("SELECT code, reason, count FROM unmapped_code").fetchall()
    assert unmapped == [("CT", "unknown-code", 2)]


def test_i81_a_series_that_the_record_lists_is_completed_not_doubled(
    settings: Settings, record: HealthRecordBuilder, connection: psycopg.Connection[Any]
) -> None:
    person = record.person("a")
    procedure = record.imaging_study(
        person, "i", day=date(2010, 3, 5), study_uid="1.1", series_uids=("1.1.1",), identifiers=()
    )
    study = record.study("1.1", series_uids=("1.1.1", "1.1.2"))
    report = link_studies(settings)
    assert links(connection)[study] == (person, "study_uid", "medium", None, procedure)
    rows = connection.execute(
        "SELECT image_series_uid, wadors_uri, local_path IS NOT NULL, image_occurrence_date"
        " FROM image_occurrence ORDER BY 1"
    ).fetchall()
    assert rows == [
        ("1.1.1", "https://pacs.example", True, date(2010, 3, 5)),
        ("1.1.2", None, True, date(2010, 3, 4)),
    ]
    assert report.disagreements == {"date": 1}


def test_i82_a_study_without_procedure_gets_one_and_gives_it_up_for_a_real_one(
    settings: Settings, record: HealthRecordBuilder, connection: psycopg.Connection[Any], tmp_path: Path
) -> None:
    person = record.person("a")
    study = record.study("1.1", patient_id="P1", series_uids=("1.1.1", "1.1.2"))
    map_file = write_map(tmp_path, "P1,a")
    link_studies(with_link(settings, procedure_concept=4326), map_file=map_file)
    synthetic = connection.execute(
        "SELECT procedure_occurrence_id, person_id, procedure_concept_id, procedure_date, procedure_datetime,"
        " procedure_source_value FROM procedure_occurrence"
    ).fetchall()
    assert synthetic == [(1, person, 4326, SCAN.date(), SCAN, "presage:imaging")]
    origin = connection.execute(
        "SELECT s.name, r.resource_type, r.resource_id, o.flags FROM origin AS o JOIN resource AS r USING (resource_no)"
        " JOIN source AS s USING (source_no) WHERE o.table_no = 7 AND o.row_id = 1"
    ).fetchall()
    assert origin == [("dicom", "ImagingStudy", str(study), "synthetic")]

    real = record.imaging_study(person, "i", day=SCAN.date(), identifiers=((UID_SYSTEM, "1.1"),))
    link_studies(with_link(settings, procedure_concept=4326), map_file=map_file)
    assert connection.execute("SELECT procedure_occurrence_id FROM procedure_occurrence").fetchall() == [(real,)]
    assert connection.execute("SELECT DISTINCT procedure_occurrence_id FROM image_occurrence").fetchall() == [(real,)]
    assert connection.execute("SELECT count(*) FROM origin WHERE table_no = 7").fetchone() == (1,)
    assert links(connection)[study][1:3] == ("mapping", "high") and links(connection)[study][4] == real


def test_i78_a_study_that_loses_its_person_leaves_no_row_behind(
    settings: Settings, record: HealthRecordBuilder, connection: psycopg.Connection[Any], tmp_path: Path
) -> None:
    record.person("a")
    record.person("b")
    study = record.study("1.1", patient_id="P1")
    link_studies(settings, map_file=write_map(tmp_path, "P1,a"))
    link_studies(settings, map_file=write_map(tmp_path, "P1,a", "P1,b"))
    assert links(connection) == {} and reasons(connection) == {study: "mapping_conflict"}
    for table in ("image_occurrence", "procedure_occurrence"):
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    assert connection.execute("SELECT count(*) FROM origin WHERE table_no IN (7, 30)").fetchone() == (0,)
    link_studies(settings, map_file=write_map(tmp_path, "P1,b"))
    assert links(connection)[study][0] == 2 and reasons(connection) == {}


def test_i83_the_report_adds_up_and_holds_no_value(
    settings: Settings, record: HealthRecordBuilder, connection: psycopg.Connection[Any], tmp_path: Path
) -> None:
    person = record.person("Zaphod-id")
    record.imaging_study(person, "lonely", day=SCAN.date(), study_uid="9.9", series_uids=("9.9.1",))
    record.study("1.1", patient_id="Marvin-id")
    record.study("1.2")
    report = link_studies(settings, map_file=write_map(tmp_path, "Marvin-id,Zaphod-id"))
    assert (report.num_studies, report.num_linked, report.num_quarantined) == (2, 1, 1)
    assert (report.record_studies, report.record_studies_without_image) == (1, 1)
    texts = [path.read_text() for path in (settings.workspace / "reports").glob(f"link-{report.run_no}.*")]
    assert len(texts) == 2
    for text in [*texts, report.summary()]:
        assert not any(value in text for value in ("Marvin", "Zaphod", "1.1.1", "2010"))
    assert "studies: 2, linked 1, in quarantine 1" in report.summary()


def test_i78_two_links_at_once_are_refused(
    settings: Settings, record: HealthRecordBuilder, connection: psycopg.Connection[Any]
) -> None:
    from presage_etl.linking import link as module

    with open_database(settings, command="test") as database, database.connect() as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", (module._LOCK,))
        with pytest.raises(LockedError):
            link_studies(settings)
