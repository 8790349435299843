"""Studies and candidates in the ledger: ids that stay, rows that change only when something did."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from presage_etl.dicom.candidate import Candidate
from presage_etl.dicom.choice import rank
from presage_etl.dicom.instances import read_instances
from presage_etl.dicom.registry import count_series, recall, register
from presage_etl.dicom.scan import scan
from presage_etl.dicom.series import candidates
from presage_platform.postgres.connection import Database, open_database
from presage_platform.settings import Settings
from presage_platform.volumes.catalogue import Verdict
from tests.lib.dicom_factory import setting, write_series


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    with open_database(settings, command="test") as opened:
        yield opened


def grouped(settings: Settings) -> list[Candidate]:
    found = candidates(read_instances(settings.catalogue_dir), settings.imaging.series)
    rank(found, settings.imaging.choice)
    return found


def rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    with database.connect() as connection:
        return connection.execute(query).fetchall()


def test_i18_study_ids_rise_with_study_uids_whatever_the_order(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    for name in "cab":
        write_series(tmp_path / "archive" / name, study=name)
    scan([tmp_path / "archive"], settings, 1)
    found = grouped(settings)
    random.Random(5).shuffle(found)
    ids = register(database, found, 1)
    assert sorted(ids.values()) == [1, 2, 3]
    assert [ids[uid] for uid in sorted(ids)] == [1, 2, 3]
    write_series(tmp_path / "archive" / "d", study="d")
    scan([tmp_path / "archive"], settings, 2)
    later = register(database, grouped(settings), 2)
    assert {uid: later[uid] for uid in ids} == ids
    assert sorted(later.values()) == [1, 2, 3, 4]


def test_i18_registering_again_changes_no_row(settings: Settings, database: Database, tmp_path: Path) -> None:
    write_series(tmp_path / "archive", change=setting(AccessionNumber="A1"))
    scan([tmp_path / "archive"], settings, 1)
    query = "SELECT xmin::text, * FROM {}"
    tables = ("image_study", "image_series", "study_accession")
    register(database, grouped(settings), 1)
    before = [rows(database, query.format(table)) for table in tables]
    register(database, grouped(settings), 2)
    assert [rows(database, query.format(table)) for table in tables] == before
    assert all(before)


def test_i10_a_candidate_is_one_row(settings: Settings, database: Database, tmp_path: Path) -> None:
    write_series(tmp_path / "archive", series="soft")
    write_series(tmp_path / "archive/s", series="sharp", change=setting(ConvolutionKernel="B70f"))
    scan([tmp_path / "archive"], settings, 7)
    register(database, grouped(settings), 7)
    found = rows(
        database,
        "SELECT modality, num_slices, verdict, verdict_stage, rank, kernel_class, geometry->'spacing_mm', run_id,"
        " image_dt::text FROM image_series ORDER BY rank",
    )
    common = ("CT", 8, "ok", "header")
    tail = ([0.7, 0.9, 2.5], 7, "2021-03-04 10:21:00")
    assert found == [(*common, 1, "soft", *tail), (*common, 2, "sharp", *tail)]
    assert count_series(database) == {"ok": 2}
    (study,) = rows(database, "SELECT patient_key IS NOT NULL, sex, birth_year, study_date_written FROM image_study")
    assert study == (True, "F", 1960, "2021-03-04")


def test_i22_a_verdict_of_the_pixels_outlives_the_next_header_pass(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    write_series(tmp_path / "archive")
    scan([tmp_path / "archive"], settings, 1)
    (candidate,) = grouped(settings)
    candidate.verdict, candidate.verdict_stage = Verdict.UNDECODABLE, "pixels"
    candidate.reasons = ["undecodable: 8 of 8 slices"]
    register(database, [candidate], 1)
    again = candidates(read_instances(settings.catalogue_dir), settings.imaging.series)
    recall(database, again)
    assert (again[0].verdict, again[0].verdict_stage) == (Verdict.UNDECODABLE, "pixels")
    assert again[0].reasons == ["undecodable: 8 of 8 slices"]
    again[0].slices[0] = again[0].slices[1]  # another file than the one that was judged
    fresh = candidates(read_instances(settings.catalogue_dir), settings.imaging.series)
    fresh[0].slices = fresh[0].slices[:-1]
    recall(database, fresh)
    assert (fresh[0].verdict, fresh[0].verdict_stage) == (Verdict.OK, "header")


def test_i06_a_series_that_the_catalogue_no_longer_yields_is_stale(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    write_series(tmp_path / "archive")
    scan([tmp_path / "archive"], settings, 1)
    register(database, grouped(settings), 1)
    write_series(tmp_path / "archive", num_slices=9)
    scan([tmp_path / "archive"], settings, 2)
    register(database, grouped(settings), 2)
    found = rows(database, "SELECT num_slices, stale, rank, rank_reason FROM image_series ORDER BY num_slices")
    assert found == [(8, True, None, "superseded"), (9, False, 1, "only candidate")]
