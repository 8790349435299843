"""The files of the exports and what changes between two of them (rules S34, S36)."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from presage_etl.synthetic.records.changes import first_export_s, split
from presage_etl.synthetic.records.chart import build_chart
from presage_etl.synthetic.records.codebook import Codebook
from presage_etl.synthetic.records.vocabulary import build_vocabulary
from tests.lib.synthetic import EXPORT, lives, make, resources, truth

SECOND = Path("fhir") / "export-2"


def manifest(hospital: Path, export: Path) -> dict[str, Any]:
    return dict(json.loads((hospital / export / "manifest.json").read_text()))


def by_key(hospital: Path, export: Path) -> dict[str, dict[str, Any]]:
    return {f"{r['resourceType']}/{r['id']}": r for r in resources(hospital, export=export)}


def deleted(hospital: Path) -> list[str]:
    """What the second export's manifest lists as deleted."""
    found = []
    for entry in manifest(hospital, SECOND)["deleted"]:
        for line in (hospital / SECOND / entry["url"].rsplit("/", 1)[1]).read_bytes().splitlines():
            bundle = json.loads(line)
            assert bundle["type"] == "transaction"
            assert {part["request"]["method"] for part in bundle["entry"]} == {"DELETE"}
            found += [part["request"]["url"] for part in bundle["entry"]]
    return found


# --- S34 ---


@pytest.mark.parametrize("export", [EXPORT, SECOND], ids=["first", "second"])
def test_s34_the_manifest_lists_every_file_with_its_lines(delivered: Path, export: Path) -> None:
    folder = delivered / export
    found = manifest(delivered, export)
    assert {"transactionTime", "request", "requiresAccessToken", "output", "deleted", "error"} <= set(found)
    listed = {entry["url"].rsplit("/", 1)[1]: entry for entry in found["output"] + found["deleted"]}
    assert set(listed) == {path.name for path in folder.iterdir()} - {"manifest.json"}
    for name, entry in listed.items():
        content = (folder / name).read_bytes()
        lines = (gzip.decompress(content) if name.endswith(".gz") else content).splitlines()
        assert entry["count"] == len(lines)
        assert {json.loads(line)["resourceType"] for line in lines} == {entry["type"]}


def test_s34_files_stand_in_any_order_some_compressed_and_children_before_parents(delivered: Path) -> None:
    names = [entry["url"].rsplit("/", 1)[1] for entry in manifest(delivered, EXPORT)["output"]]
    assert names != sorted(names)
    assert {name.endswith(".gz") for name in names} == {True, False}
    patients = [json.loads(line) for line in (delivered / EXPORT / "Patient.000.ndjson").read_bytes().splitlines()]
    assert [patient["id"] for patient in patients] != sorted(patient["id"] for patient in patients)
    place, early = {}, 0
    stays = [json.loads(line) for line in (delivered / EXPORT / "Encounter.000.ndjson").read_bytes().splitlines()]
    for number, stay in enumerate(stays):
        place[stay["id"]] = number
    for stay in stays:
        parent = stay.get("partOf", {}).get("reference", "").partition("/")[2]
        early += parent in place and place[stay["id"]] < place[parent]
    assert early > 0


# --- S36 ---


def test_s36_the_second_export_holds_what_changed_since_the_first(delivered: Path) -> None:
    first, second = manifest(delivered, EXPORT), manifest(delivered, SECOND)
    assert second["request"].endswith(f"_since={first['transactionTime']}")
    moment = first["transactionTime"]
    dated = [r["meta"]["lastUpdated"] for r in resources(delivered, export=EXPORT) if "meta" in r]
    assert max(dated) <= moment  # one zone: texts compare as times but for the hour that summer moves
    assert min(r["meta"]["lastUpdated"] for r in resources(delivered, export=SECOND)) > moment


def test_s36_every_kind_of_change_is_planted(delivered: Path) -> None:
    first, second = by_key(delivered, EXPORT), by_key(delivered, SECOND)
    changes = defaultdict(list)
    for key, after in second.items():
        before = first.get(key)
        for change in _changes(before, after):
            changes[change].append(key)
    wanted = {"amended", "finished", "corrected", "moved", "closed", "merged", "new event"}
    assert wanted <= set(changes)
    people = {key for key in second if key.startswith("Patient/") and key not in first}
    named = {str(r.get("subject", {}).get("reference")).partition("/_history")[0] for r in first.values()}
    assert {any(name.endswith(person) for name in named) for person in people} == {True, False}  # late, and new
    gone = deleted(delivered)
    assert {key.partition("/")[0] for key in gone} == {
        "Condition", "Encounter", "MedicationRequest", "Observation", "Patient"
    }  # fmt: skip
    assert set(gone) <= set(first)
    assert not set(gone) & set(second)


def _changes(before: dict[str, Any] | None, after: dict[str, Any]) -> list[str]:
    if before is None:
        return [] if after["resourceType"] == "Patient" else ["new event"]
    assert (before["meta"]["versionId"], after["meta"]["versionId"]) == ("1", "2")
    date_of = next((e for e in ("recordedDate", "authoredOn", "occurrenceDateTime") if e in after), "id")
    found = {
        "amended": after.get("status") == "amended" and before["status"] == "final",
        "finished": (before.get("status"), after.get("status")) == ("preliminary", "final"),
        "corrected": after.get("code") != before.get("code"),
        "moved": before.get(date_of) != after.get(date_of),
        "closed": (before.get("status"), after.get("status")) == ("in-progress", "finished"),
        "merged": "link" in after and "link" not in before,
    }
    return [name for name, is_so in found.items() if is_so]


def test_s36_who_died_between_the_exports_was_alive_in_the_first() -> None:
    parameters, model, histories = lives("small", 100)
    codes = Codebook(build_vocabulary(model))
    charts = [build_chart(parameters, model, history, 32, codes) for history in histories]
    moment = first_export_s(parameters)
    died = [c for h, c in zip(histories, charts, strict=True) if h.death > moment and c.entries[0].earlier]
    assert died
    for chart in died:
        first = next(entry for entry in split(parameters, chart)[0] if entry.kind == "Patient")
        assert "deceasedDateTime" not in first.resource
        assert "deceasedDateTime" in chart.entries[0].resource


def test_s36_the_exports_have_the_same_bytes_for_any_number_of_workers(tmp_path: Path) -> None:
    made = [
        make(tmp_path / str(workers), workers=workers, patients=20, exports=2, modes=("fhir",)) for workers in (1, 2)
    ]
    files = [{path.relative_to(folder): path.read_bytes() for path in folder.glob("fhir/*/*")} for folder in made]
    assert files[0] == files[1]
    assert len(files[0]) > 60


def test_s36_both_exports_together_are_the_full_one_and_have_its_truth(delivered: Path, tmp_path: Path) -> None:
    full = make(tmp_path / "full", patients=20, exports=1, grid=(32, 32, 32))
    together = by_key(delivered, EXPORT) | by_key(delivered, SECOND)
    for key in deleted(delivered):
        del together[key]
    whole = by_key(full, EXPORT)
    assert together.keys() == whole.keys()
    bundled = {key for key in whole if "urn:uuid:" in json.dumps(whole[key]) + json.dumps(together[key])}
    assert {key: r for key, r in together.items() if key not in bundled} == {
        key: r for key, r in whole.items() if key not in bundled
    }
    for name in ("onsets", "true_labels", "visits", "death_censor", "links"):
        assert truth(full, name) == truth(delivered, name)
    counts = [
        {(r["stage"], r["kind"], r["name"]): r["expected"] for r in truth(folder, "expected_counts")}
        for folder in (full, delivered)
    ]
    assert counts[0] == {key: number for key, number in counts[1].items() if key[0] != "etl-1"}
    assert counts[1]["etl-1", "dead", "all"] > 0
