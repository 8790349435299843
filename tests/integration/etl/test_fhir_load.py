"""Loading FHIR into a real PostgreSQL: any order, any number of workers, again and again, and after a kill."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from presage_platform.errors import InterruptedRun
from presage_platform.settings import Settings
from tests.lib.fhir_export import (
    condition,
    dump,
    encounter,
    load,
    load_and_kill,
    observation,
    patient,
    portable_dump,
    practitioner,
    rows_of,
    small_hospital,
    write_bundle,
    write_ndjson,
)


def test_e77_loading_an_export_twice_adds_no_row(hospital: Settings, export: Path) -> None:
    first = load(hospital, export)
    before = dump(hospital)
    again = load(hospital, export)
    assert first.num_inserted > 80
    assert (again.num_inserted, again.num_updated, again.num_deleted) == (0, 0, 0)
    assert again.total.as_dict()["loaded"] == {"unchanged": first.total.num_loaded}
    assert dump(hospital) == before


def test_e77_renamed_shuffled_recompressed_files_change_nothing(hospital: Settings, export: Path) -> None:
    load(hospital, export)
    before = dump(hospital)
    resources = small_hospital()
    random.Random(3).shuffle(resources)
    half = len(resources) // 2
    write_ndjson(export.parent / "other" / "z.ndjson.gz", resources[:half], "gzip")
    write_ndjson(export.parent / "other" / "b.ndjson.zst", resources[half:], "zstd")
    again = load(hospital, export.parent / "other")
    assert (again.num_inserted, again.num_updated, again.num_deleted) == (0, 0, 0)
    assert dump(hospital) == before


@pytest.mark.parametrize("form", ["shuffled", "bundle", "two workers"])
def test_e76_ids_depend_on_keys_alone(hospital: Settings, export: Path, form: str, second: Settings) -> None:
    load(hospital, export)
    resources = small_hospital()
    random.Random(5).shuffle(resources)
    other = export.parent / "other"
    if form == "bundle":
        write_bundle(other / "bundle.json", resources)
    else:
        for number in range(4):
            write_ndjson(other / f"{number}.ndjson", resources[number::4])
    load(second, other, workers=2 if form == "two workers" else 1)
    assert dump(second) == dump(hospital)


@pytest.mark.parametrize(
    "point",
    [
        "partition._Worker._stage",
        "partition._Worker._result",
        "merge._Merge._number_resources",
        "merge._Merge._write_events",
        "merge.write_letters",
        "pipeline._Run._derive",
        "derive._numbered",
        "pipeline._Run._finish",
    ],
)
def test_e94_a_killed_load_goes_on_as_if_undisturbed(
    hospital: Settings, export: Path, point: str, second: Settings
) -> None:
    assert load_and_kill(hospital, point, export) == -9
    load(hospital, export)
    load(second, export)
    assert dump(second) == dump(hospital)
    assert [state for (state,) in rows_of(hospital, "SELECT state FROM run")] == ["finished"]


def test_e94_a_crash_of_the_server_empties_the_stage_and_it_is_filled_again(hospital: Settings, export: Path) -> None:
    assert load_and_kill(hospital, "merge._Merge._number_resources", export) == -9
    _empty_unlogged(hospital)
    report = load(hospital, export)
    assert report.total.num_in == len(small_hospital())
    assert report.total.num_dead == 0


def _empty_unlogged(settings: Settings) -> None:
    from presage_etl.fhir.stage import stage_tables
    from presage_platform.postgres.connection import open_database

    with open_database(settings, command="test") as database, database.connect(autocommit=True) as connection:
        for name in ("run_marker", *stage_tables()):
            connection.execute(f"TRUNCATE {name}")


def test_e94_an_interrupted_run_with_other_inputs_is_given_up(hospital: Settings, export: Path) -> None:
    assert load_and_kill(hospital, "merge._Merge._number_resources", export) == -9
    other = write_ndjson(export.parent / "other.ndjson", [patient("x"), observation("o", "x", "2020-01-01")])
    report = load(hospital, other)
    assert report.total.num_in == 2
    assert rows_of(hospital, "SELECT count(*) FROM person") == [(1,)]
    assert rows_of(hospital, "SELECT state FROM run ORDER BY run_no") == [("abandoned",), ("finished",)]


@pytest.mark.parametrize("seed", range(4))
def test_e19_two_deliveries_equal_one(hospital: Settings, export: Path, seed: int, second: Settings) -> None:
    load(hospital, export)
    resources = small_hospital()
    random.Random(seed).shuffle(resources)
    cut = len(resources) * (seed + 1) // 5
    load(second, write_ndjson(export.parent / "one.ndjson", resources[:cut]))
    load(second, write_ndjson(export.parent / "two.ndjson", resources[cut:]))
    assert portable_dump(second) == portable_dump(hospital)
    assert rows_of(second, "SELECT count(*) FROM dead_letter WHERE resolved_by_run IS NULL") == [(0,)]
    assert rows_of(second, "SELECT count(*) FROM pending_reference") == [(0,)]
    periods = "SELECT observation_period_start_date, observation_period_end_date FROM observation_period ORDER BY 1, 2"
    assert rows_of(second, periods) == rows_of(hospital, periods)


def test_e20_a_patient_who_comes_later_brings_the_events_to_life(hospital: Settings, tmp_path: Path) -> None:
    first = load(hospital, write_ndjson(tmp_path / "o.ndjson", [observation("o", "late", "2020-01-01")]))
    assert first.total.dead == {"person-missing": 1}
    second = load(hospital, write_ndjson(tmp_path / "p.ndjson", [patient("late")]))
    assert (second.total.num_in, second.total.loaded) == (2, {"new": 2})
    assert rows_of(hospital, "SELECT count(*) FROM measurement") == [(1,)]
    assert rows_of(hospital, "SELECT resolved_by_run FROM dead_letter") == [(second.run_no,)]


def test_e79_an_update_keeps_ids_and_a_revert_restores(hospital: Settings, tmp_path: Path) -> None:
    old = [patient("a"), observation("o", "a", "2020-01-01", 10.0), condition("c", "a", "2020-01-02")]
    new = [observation("o", "a", "2020-01-01", 11.0), condition("c", "a", "2020-01-02", verificationStatus=_refuted())]
    first = write_ndjson(tmp_path / "1.ndjson", old)
    load(hospital, first)
    before = dump(hospital)
    load(hospital, write_ndjson(tmp_path / "2.ndjson", new))
    assert rows_of(hospital, "SELECT measurement_id, value_as_number FROM measurement") == [(1, 11.0)]
    assert rows_of(hospital, "SELECT count(*) FROM condition_occurrence") == [(0,)]
    assert rows_of(hospital, "SELECT count(*) FROM observation") == [(1,)]
    load(hospital, first)
    after = dump(hospital)
    assert after["measurement"] == before["measurement"]
    assert [row[1:] for row in after["condition_occurrence"]] == [row[1:] for row in before["condition_occurrence"]]
    assert after["observation"] == []


def _refuted() -> dict[str, object]:
    system = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
    return {"coding": [{"system": system, "code": "refuted"}]}


def test_e78_the_later_copy_wins_wherever_it_stands(hospital: Settings, tmp_path: Path) -> None:
    newer = observation("o", "a", "2020-01-01", 2.0, meta={"lastUpdated": "2024-02-01T00:00:00Z"})
    older = observation("o", "a", "2020-01-01", 1.0, meta={"lastUpdated": "2024-01-01T00:00:00Z"})
    report = load(hospital, write_ndjson(tmp_path / "1.ndjson", [newer, patient("a"), older, newer]))
    assert report.total.excluded == {"superseded": 1, "duplicate": 1}
    assert rows_of(hospital, "SELECT value_as_number FROM measurement") == [(2.0,)]
    late = load(hospital, write_ndjson(tmp_path / "2.ndjson", [older]))
    assert late.total.excluded == {"superseded": 1}
    assert rows_of(hospital, "SELECT value_as_number FROM measurement") == [(2.0,)]


def test_e23_a_withdrawn_resource_takes_its_rows_away(hospital: Settings, tmp_path: Path) -> None:
    load(hospital, write_ndjson(tmp_path / "1.ndjson", [patient("a"), observation("o", "a", "2020-01-01")]))
    withdrawn = observation("o", "a", "2020-01-01", status="entered-in-error")
    report = load(hospital, write_ndjson(tmp_path / "2.ndjson", [withdrawn]))
    assert report.total.excluded == {"entered-in-error": 1}
    assert rows_of(hospital, "SELECT count(*) FROM measurement") == [(0,)]
    assert rows_of(hospital, "SELECT count(*) FROM origin WHERE table_no = 9") == [(0,)]


def test_e53_an_admission_from_the_emergency_room_is_one_visit(hospital: Settings, tmp_path: Path) -> None:
    emergency = encounter("er", "a", "2020-01-01T20:00:00Z", "2020-01-02T01:00:00Z", "EMER")
    part = {"partOf": {"reference": "Encounter/er"}}
    inpatient = encounter("in", "a", "2020-01-02T01:00:00Z", "2020-01-06T09:00:00Z", "IMP", **part)
    load(hospital, write_ndjson(tmp_path / "1.ndjson", [patient("a"), emergency, inpatient]))
    visit = rows_of(
        hospital, "SELECT visit_concept_id, visit_start_date::text, visit_end_date::text FROM visit_occurrence"
    )
    assert visit == [(262, "2020-01-01", "2020-01-06")]
    assert rows_of(hospital, "SELECT visit_detail_concept_id FROM visit_detail ORDER BY 1") == [(9201,), (9203,)]


def test_e52_a_parent_that_comes_later_takes_its_parts_in(hospital: Settings, tmp_path: Path) -> None:
    part = {"partOf": {"reference": "Encounter/root"}}
    child = encounter("child", "a", "2020-01-02T00:00:00Z", **part)
    event = observation("o", "a", "2020-01-02", encounter={"reference": "Encounter/child"})
    load(hospital, write_ndjson(tmp_path / "1.ndjson", [patient("a"), child, event]))
    assert rows_of(hospital, "SELECT visit_occurrence_id, visit_detail_id FROM measurement") == [(1, None)]
    load(hospital, write_ndjson(tmp_path / "2.ndjson", [encounter("root", "a", "2020-01-01T00:00:00Z")]))
    assert rows_of(hospital, "SELECT count(*) FROM visit_occurrence") == [(1,)]
    ((visit, detail),) = rows_of(hospital, "SELECT visit_occurrence_id, visit_detail_id FROM measurement")
    assert (visit, detail) == (2, 1)


def test_e52_a_circle_of_parts_is_dead(hospital: Settings, tmp_path: Path) -> None:
    one = encounter("one", "a", "2020-01-01T00:00:00Z", partOf={"reference": "Encounter/two"})
    two = encounter("two", "a", "2020-01-01T00:00:00Z", partOf={"reference": "Encounter/one"})
    report = load(hospital, write_ndjson(tmp_path / "1.ndjson", [patient("a"), one, two]))
    assert report.total.dead == {"link-cycle": 2}


def test_e22_events_of_a_replaced_patient_belong_to_the_other(hospital: Settings, tmp_path: Path) -> None:
    alias = patient("old", link=[{"other": {"reference": "Patient/new"}, "type": "replaced-by"}])
    load(hospital, write_ndjson(tmp_path / "1.ndjson", [alias, patient("new"), observation("o", "old", "2020-01-01")]))
    assert rows_of(hospital, "SELECT count(*) FROM person") == [(1,)]
    assert rows_of(hospital, "SELECT person_id FROM measurement") == [(1,)]


def test_e18_a_conditional_reference_finds_its_patient_by_hash(hospital: Settings, tmp_path: Path) -> None:
    known = patient("a", identifier=[{"system": "urn:mrn", "value": "CANARY-77"}])
    event = observation("o", "a", "2020-01-01", subject={"reference": "Patient?identifier=urn:mrn|CANARY-77"})
    twin = patient("b", identifier=[{"system": "urn:mrn", "value": "CANARY-88"}])
    other = patient("c", identifier=[{"system": "urn:mrn", "value": "CANARY-88"}])
    unclear = observation("u", "a", "2020-01-01", subject={"reference": "Patient?identifier=urn:mrn|CANARY-88"})
    report = load(hospital, write_ndjson(tmp_path / "1.ndjson", [event, known, twin, other, unclear]))
    assert report.total.dead == {"ambiguous-reference": 1}
    assert rows_of(hospital, "SELECT person_id FROM measurement") == [(1,)]
    (texts,) = rows_of(hospital, "SELECT string_agg(i::text, '') FROM identifier AS i")[0]
    assert "CANARY" not in texts


def test_e20_a_provider_who_comes_later_completes_the_rows(hospital: Settings, tmp_path: Path) -> None:
    by = {"performer": [{"reference": "Practitioner/doc"}]}
    visit = encounter("e", "a", "2020-01-01T00:00:00Z", participant=[{"individual": {"reference": "Practitioner/doc"}}])
    load(
        hospital, write_ndjson(tmp_path / "1.ndjson", [patient("a"), visit, observation("o", "a", "2020-01-01", **by)])
    )
    assert rows_of(hospital, "SELECT provider_id FROM measurement") == [(None,)]
    load(hospital, write_ndjson(tmp_path / "2.ndjson", [practitioner("doc")]))
    assert rows_of(hospital, "SELECT provider_id FROM measurement") == [(1,)]
    assert rows_of(hospital, "SELECT provider_id FROM visit_occurrence") == [(1,)]


def test_e43_an_event_without_date_takes_that_of_its_encounter(hospital: Settings, tmp_path: Path) -> None:
    visit = encounter("e", "a", "2020-03-04T10:00:00Z")
    dated = observation("o", "a", None, encounter={"reference": "Encounter/e"})
    undated = observation("u", "a", None)
    report = load(hospital, write_ndjson(tmp_path / "1.ndjson", [patient("a"), dated, visit, undated]))
    assert report.total.dead == {"no-date": 1}
    assert rows_of(hospital, "SELECT measurement_date::text FROM measurement") == [("2020-03-04",)]


def test_e57_a_medication_tells_what_was_prescribed(hospital: Settings, tmp_path: Path) -> None:
    request = {
        "resourceType": "MedicationRequest",
        "id": "r",
        "status": "active",
        "intent": "order",
        "subject": {"reference": "Patient/a"},
        "authoredOn": "2020-01-01",
        "medicationReference": {"reference": "Medication/m"},
    }
    coding = {"system": "http://www.nlm.nih.gov/research/umls/rxnorm", "code": "308182"}
    medication = {"resourceType": "Medication", "id": "m", "code": {"coding": [coding]}}
    report = load(hospital, write_ndjson(tmp_path / "1.ndjson", [request, patient("a"), medication]))
    assert report.total.loaded == {"new": 2, "used-by-reference": 1}
    ((concept, source),) = rows_of(hospital, "SELECT drug_concept_id, drug_source_value FROM drug_exposure")
    assert source == "308182"
    assert concept == rows_of(hospital, "SELECT target_concept_id FROM medication")[0][0]


def test_e4_bundles_of_every_kind(hospital: Settings, tmp_path: Path) -> None:
    outcome = {"resourceType": "OperationOutcome", "issue": [{"severity": "information", "code": "informational"}]}
    entries = [
        {"resource": {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": patient("a")}]}},
        {"resource": observation("o", "a", "2020-01-01"), "search": {"mode": "match"}},
        {"resource": outcome, "search": {"mode": "outcome"}},
    ]
    (tmp_path / "b.json").write_text(json.dumps({"resourceType": "Bundle", "type": "searchset", "entry": entries}))
    report = load(hospital, tmp_path / "b.json")
    assert report.total.excluded == {"not-a-match": 1}
    assert report.total.loaded == {"new": 2}


def test_e80_a_deleted_patient_returns_with_everything(hospital: Settings, tmp_path: Path) -> None:
    resources = [
        patient("a"),
        patient("b"),
        encounter("e", "a", "2020-01-01T00:00:00Z"),
        observation("o", "a", "2020-01-01", encounter={"reference": "Encounter/e"}),
        observation("p", "b", "2020-01-01"),
    ]
    load(hospital, write_ndjson(tmp_path / "1.ndjson", resources))
    before = portable_dump(hospital)
    removed = load(hospital, deletes=("Patient/a",))
    assert removed.total.loaded == {"deleted": 1}
    assert rows_of(hospital, "SELECT count(*) FROM person") == [(1,)]
    assert rows_of(hospital, "SELECT count(*) FROM measurement") == [(1,)]
    assert rows_of(hospital, "SELECT count(*) FROM visit_occurrence") == [(0,)]
    stale = load(hospital, write_ndjson(tmp_path / "2.ndjson", [patient("a")]))
    assert stale.total.excluded == {"superseded": 1}
    newer = patient("a", meta={"lastUpdated": "2030-01-01T00:00:00Z"})
    back = load(hospital, write_ndjson(tmp_path / "3.ndjson", [newer]))
    assert back.total.num_in == 3
    assert portable_dump(hospital) == before


def test_e80_delete_entries_of_a_bundle_remove(hospital: Settings, tmp_path: Path) -> None:
    load(hospital, write_ndjson(tmp_path / "1.ndjson", [patient("a"), observation("o", "a", "2020-01-01")]))
    entries = [{"request": {"method": "DELETE", "url": url}} for url in ("Observation/o", "Observation?code=1")]
    (tmp_path / "2.json").write_text(json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": entries}))
    report = load(hospital, tmp_path / "2.json")
    assert (report.total.loaded, report.total.dead) == ({"deleted": 1}, {"structure": 1})
    assert rows_of(hospital, "SELECT count(*) FROM measurement") == [(0,)]


def test_e22_a_patient_who_is_replaced_later_leaves_the_events_to_the_other(hospital: Settings, tmp_path: Path) -> None:
    known = [patient("a"), observation("o", "a", "2020-01-01"), patient("b")]
    load(hospital, write_ndjson(tmp_path / "1.ndjson", known))
    alias = patient("a", link=[{"other": {"reference": "Patient/b"}, "type": "replaced-by"}])
    load(hospital, write_ndjson(tmp_path / "2.ndjson", [alias]))
    assert rows_of(hospital, "SELECT person_id FROM person") == [(2,)]
    assert rows_of(hospital, "SELECT person_id FROM measurement") == [(2,)]
    assert rows_of(hospital, "SELECT person_id FROM observation_period") == [(2,)]


def test_e94_ctrl_c_finishes_the_chunk_and_the_same_command_goes_on(
    hospital: Settings, export: Path, monkeypatch: pytest.MonkeyPatch, second: Settings
) -> None:
    from presage_etl.fhir.partition import _Worker

    stage = _Worker._stage

    def interrupted(self: _Worker, resources: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        stage(self, resources)

    with monkeypatch.context() as patch:
        patch.setattr(_Worker, "_stage", interrupted)
        with pytest.raises(InterruptedRun, match="same command"):
            load(hospital, export)
    assert rows_of(hospital, "SELECT state, (SELECT count(*) FROM chunk) FROM run") == [("interrupted", 1)]
    load(hospital, export)
    load(second, export)
    assert dump(hospital) == dump(second)
