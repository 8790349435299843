"""The public CT series, ingested and linked: what is known about them must come out."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from presage_etl.dicom.ingest import ingest
from presage_etl.linking.link import link_studies
from presage_platform.postgres.connection import open_database
from presage_platform.settings import Settings
from presage_platform.volumes.recipe import named_recipe
from presage_platform.volumes.store import Store, store_folder
from tests.lib.health_record import FEMALE, MALE, HealthRecordBuilder

pytestmark = pytest.mark.real_data


def crosswalk_patients(real_data: Path) -> dict[str, tuple[int, date]]:
    """Gender and birth date of the two patients of the crosswalk, read from the Bundles alone."""
    with (real_data / "links" / "patient_crosswalk.csv").open(encoding="utf-8") as file:
        wanted = {row["fhir_patient_id"] for row in csv.DictReader(file)}
    found = {}
    for path in sorted((real_data / "fhir_synthea").glob("*.json.gz")):
        content = gzip.decompress(path.read_bytes())
        if len(found) == len(wanted) or not any(patient.encode() in content for patient in wanted):
            continue
        for entry in json.loads(content)["entry"]:
            patient = entry["resource"]
            if patient["resourceType"] == "Patient" and patient["id"] in wanted:
                gender = MALE if patient["gender"] == "male" else FEMALE
                found[patient["id"]] = (gender, date.fromisoformat(patient["birthDate"]))
    return found


@pytest.fixture
def ingested(settings: Settings, real_data: Path) -> Iterator[Any]:
    patients = crosswalk_patients(real_data)
    assert len(patients) == 2
    with open_database(settings, command="test") as database, database.connect(autocommit=True) as connection:
        record = HealthRecordBuilder(connection, settings.secret_key())
        for patient_id, (gender, birth) in sorted(patients.items()):
            record.person(patient_id, gender=gender, birth=birth)
        report = ingest(
            [real_data / "chest_ct", real_data / "ct_j2k"], settings, recipes=["presage", "native"], workers=1
        )
        yield report, connection


def test_i116_three_series_are_ok_two_are_chosen_and_one_is_refused(settings: Settings, ingested: Any) -> None:
    report, connection = ingested
    assert report.verdicts == {"ok": 3, "rejected_missing_uid": 1}
    assert report.four_counts == {"used": 124, "rejected_series": 20, "not_an_image": 3, "unreadable": 0}
    chosen = connection.execute(
        "SELECT manufacturer, num_slices, rank_reason FROM image_series WHERE rank = 1 ORDER BY num_slices"
    ).fetchall()
    assert [row[1] for row in chosen] == [30, 64] and "B40f" in chosen[0][2] and chosen[0][2].startswith("kernel")
    native = Store.open(store_folder(settings.volumes_dir, named_recipe("native")))
    presage = Store.open(store_folder(settings.volumes_dir, named_recipe("presage")))
    assert sorted(tuple(shape) for shape in native.index.column("shape_zyx").to_pylist()) == [
        (30, 512, 512),
        (64, 512, 512),
    ]
    assert {tuple(shape) for shape in presage.index.column("shape_zyx").to_pylist()} == {(160, 224, 224)}
    assert native.verify().ok and presage.verify().ok
    for volume_id in presage.ids:
        volume = presage[volume_id]
        body = np.argwhere(volume.array > -500).mean(axis=0)
        assert np.all(np.abs(body - (np.array([160, 224, 224]) - 1) / 2) < 30)  # the window is on the patient
        assert volume.spacing == (1.5, 1.5, 2.0)


def test_i116_the_crosswalk_links_two_studies_and_the_third_waits(
    settings: Settings, ingested: Any, real_data: Path
) -> None:
    _, connection = ingested
    mapping = real_data / "links" / "patient_crosswalk.csv"
    strict = link_studies(settings, map_file=mapping)
    assert strict.quarantined == {"demographics_mismatch": 2, "no_patient_id": 1}
    tolerant = settings.model_copy(update={"link": settings.link.model_copy(update={"birth_year_tolerance": 4})})
    report = link_studies(tolerant, map_file=mapping)
    assert report.linked == {"mapping": {"medium": 2}} and report.quarantined == {"no_patient_id": 1}
    assert report.mapping == {"rows": 2, "duplicate rows": 0, "unused keys": 0}
    rows = connection.execute(
        "SELECT count(*), count(DISTINCT person_id), count(DISTINCT image_study_uid) FROM image_occurrence"
    ).fetchone()
    assert rows == (3, 2, 2)
    again = link_studies(tolerant, map_file=mapping)
    assert (again.num_rows_changed, again.num_rows_removed) == (0, 0)
