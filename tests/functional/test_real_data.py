"""The public commands on real records and real scans, in an empty workspace, compared with a second opinion."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from presage_platform.labeling.store import LabelStore
from presage_platform.postgres.connection import open_database
from presage_platform.settings import Settings, read_settings
from tests.lib.brute_force import Vocabulary, bundle_of, first_occurrences, follow_up_end

pytestmark = [pytest.mark.real_data, pytest.mark.slow, pytest.mark.timeout(600)]

PLATFORM = Path(sys.executable).parent / "platform"
# Two studies fill no test split and no eight bins; the small recipe keeps this within a minute of CPU.
SITE = """
[imaging]
recipes = ["tiny"]
[link]
birth_year_tolerance = 4
[labeling]
k = 64
min_events = 1
split_fractions = [1.0, 0.0, 0.0]
bins = [365.0, 1460.0]
"""
RESOURCES_IN = {
    "Observation": 7464, "Encounter": 1227, "Immunization": 719, "Procedure": 640, "DiagnosticReport": 510,
    "Condition": 426, "MedicationRequest": 315, "ImagingStudy": 40, "Patient": 60,
}  # fmt: skip


@dataclass(frozen=True)
class Hospital:
    """A workspace that went through every command once."""

    workspace: Path
    data: Path
    output: dict[str, str]

    def platform(self, *arguments: str | Path) -> str:
        """Run a command and return what it printed; it must succeed."""
        run = subprocess.run(
            [PLATFORM, *arguments, "--workspace", self.workspace], capture_output=True, text=True, timeout=300
        )
        assert run.returncode == 0, run.stderr
        return run.stdout

    @property
    def settings(self) -> Settings:
        """Settings of the workspace."""
        return read_settings(self.workspace)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory, real_data: Path) -> Iterator[Hospital]:
    workspace = tmp_path_factory.mktemp("real") / "workspace"
    workspace.mkdir(mode=0o700)
    (workspace / "platform.toml").write_text(SITE)
    hospital = Hospital(workspace, real_data, {})
    hospital.platform("db", "start", "--keep")
    try:
        for name, command in commands(real_data).items():
            hospital.output[name] = hospital.platform(*command)
        yield hospital
    finally:
        hospital.platform("db", "stop")


def commands(data: Path) -> dict[str, tuple[str | Path, ...]]:
    """Return the ingest and label commands of the README."""
    return {
        "vocabulary": ("etl", "vocabulary", data / "vocabulary"),
        "fhir": ("etl", "fhir", data / "fhir_synthea", "--json"),
        "dicom": ("etl", "dicom", data / "chest_ct", data / "ct_j2k", "--json"),
        "link": ("link", "--map", data / "links" / "patient_crosswalk.csv", "--json"),
        "label": ("label", "--json"),
    }


def query(hospital: Hospital, text: str) -> list[tuple[Any, ...]]:
    with open_database(hospital.settings, command="test") as database, database.connect() as connection:
        return connection.execute(text).fetchall()  # type: ignore[arg-type]


def test_e95_every_resource_is_accounted_for(hospital: Hospital) -> None:
    report = json.loads(hospital.output["fhir"])
    for kind, counts in report["types"].items():
        assert counts["in"] == sum(sum(counts[part].values()) for part in ("loaded", "excluded", "dead")), kind
    for kind, number in RESOURCES_IN.items():
        assert report["types"][kind]["in"] == number, kind
    assert query(hospital, "SELECT count(*) FROM person") == [(60,)]


def test_i116_three_chest_series_are_ok_and_the_soft_kernel_represents(hospital: Hospital) -> None:
    rows = query(
        hospital,
        "SELECT verdict, rank, rank_reason FROM image_series ORDER BY verdict, rank NULLS LAST, series_key",
    )
    assert [row[0] for row in rows] == ["ok", "ok", "ok", "rejected_missing_uid"]
    assert [row[1] for row in rows] == [1, 1, 2, None]
    reasons = " ".join(str(row[2]) for row in rows)
    assert "B40f" in reasons and "B70f" in reasons and reasons.count("kernel") >= 1


def test_i78_two_studies_are_linked_and_the_third_says_why_not(hospital: Hospital) -> None:
    assert query(hospital, "SELECT link_class, count(*) FROM study_link GROUP BY 1") == [("mapping", 2)]
    assert query(hospital, "SELECT reason FROM link_quarantine WHERE resolved_run IS NULL") == [("no_patient_id",)]
    assert query(hospital, "SELECT count(*) FROM image_occurrence") == [(3,)]


def test_l52_first_occurrences_equal_a_brute_force_reading(hospital: Hospital) -> None:
    store = LabelStore.open(next(path.parent for path in (hospital.workspace / "labels").glob("*/manifest.json")))
    concepts = store.tasks.column("concept_id").to_pylist()
    vocabulary = Vocabulary(hospital.data / "vocabulary")
    links = dict(
        query(
            hospital,
            "SELECT s.study_id, r.resource_id FROM study_link AS s"
            " JOIN origin AS o ON o.row_id = s.person_id AND o.table_no = 1"
            " JOIN resource AS r ON r.resource_no = o.resource_no AND r.resource_type = 'Patient'",
        )
    )
    batch = store.rows(range(store.studies.num_rows))
    assert len(links) == store.studies.num_rows == 2
    for row, study in enumerate(store.studies.to_pylist()):
        t0 = datetime(1970, 1, 1) + timedelta(seconds=study["t0"])
        resources = bundle_of(hospital.data / "fhir_synthea", links[study["study_id"]])
        expected, seen = first_occurrences(resources, vocabulary, t0)
        part = slice(batch.indptr[row], batch.indptr[row + 1])
        found = {concepts[k]: int(t) for k, t in zip(batch.task[part], batch.time[part], strict=True)}
        assert found == {concept: expected[concept] for concept in concepts if concept in expected}
        assert len(found) > 30
        bits = np.unpackbits(batch.prevalent[row], bitorder="little")[: len(concepts)]
        assert {c for c, bit in zip(concepts, bits, strict=True) if bit} == seen & set(concepts)
        assert study["end_s"] == int((follow_up_end(resources, vocabulary) - t0).total_seconds())


def state(hospital: Hospital) -> dict[str, Any]:
    """Everything that a second run may not change: rows of the CDM and of links, bytes of volumes and labels."""
    tables = [
        row[0]
        for row in query(
            hospital,
            # cdm_source names the run and is rewritten by each (E87).
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
            " WHERE schemaname = 'cdm' AND tablename <> 'cdm_source' ORDER BY 1",
        )
    ] + ["ledger.resource", "ledger.origin", "ledger.study_link", "ledger.link_quarantine"]
    volatile = {"last_seen", "run_no", "last_run"}
    found: dict[str, Any] = {}
    for table in tables:
        columns = query(
            hospital,
            f"SELECT column_name FROM information_schema.columns"
            f" WHERE format('%I.%I', table_schema, table_name) = '{table}' ORDER BY 1",
        )
        names = ", ".join(f'"{name}"' for (name,) in columns if name not in volatile)
        found[table] = query(
            hospital, f"SELECT md5(string_agg(r::text, ';' ORDER BY r::text)) FROM (SELECT {names} FROM {table}) r"
        )
    for folder in ("volumes", "labels"):
        for path in sorted((hospital.workspace / folder).rglob("*")):
            if path.is_file():
                found[str(path.relative_to(hospital.workspace))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def test_e77_the_same_commands_again_change_nothing(hospital: Hospital) -> None:
    before = state(hospital)
    again = {name: hospital.platform(*command) for name, command in commands(hospital.data).items()}
    assert json.loads(again["dicom"])["volumes"]["written"] == 0
    after = state(hospital)
    assert after == before


def test_m93_two_studies_train_and_embed(hospital: Hospital) -> None:
    hospital.platform("train", "tiny", "--set", "schedule.epochs=2")
    (run,) = (path.name for path in (hospital.workspace / "runs").iterdir())
    assert "2 volumes embedded" in hospital.platform("embed", run)
    assert "0 volumes embedded, 2 already there" in hospital.platform("embed", run)
