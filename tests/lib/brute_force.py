"""A second opinion on labels: first occurrences read straight from FHIR JSON and vocabulary files, with plain loops.

Shares no code with the product. It knows the resource types and the shapes that the public Synthea export holds, and
refuses what it does not know rather than guess.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

Json = dict[str, Any]
VOCABULARY_OF = {
    "http://snomed.info/sct": "SNOMED",
    "http://loinc.org": "LOINC",
    "http://www.nlm.nih.gov/research/umls/rxnorm": "RxNorm",
    "http://hl7.org/fhir/sid/cvx": "CVX",
}
VISIT_OF_CLASS = {"IMP": 9201, "ACUTE": 9201, "AMB": 9202, "EMER": 9203, "HH": 581476, "VR": 722455}
ORDERS = {"order", "original-order", "reflex-order", "filler-order", "instance-order"}


class Vocabulary:
    """Concepts, `Maps to` and ancestors of an Athena-shaped folder, in dictionaries."""

    def __init__(self, folder: Path) -> None:
        self.by_code: dict[tuple[str, str], list[Json]] = defaultdict(list)
        self.concept: dict[int, Json] = {}
        for row in _table(folder, "CONCEPT"):
            self.by_code[row["vocabulary_id"], row["concept_code"]].append(row)
            self.concept[int(row["concept_id"])] = row
        self.maps_to: dict[int, list[int]] = defaultdict(list)
        for row in _table(folder, "CONCEPT_RELATIONSHIP"):
            if row["relationship_id"] == "Maps to" and not row["invalid_reason"]:
                self.maps_to[int(row["concept_id_1"])].append(int(row["concept_id_2"]))
        self.ancestors: dict[int, set[int]] = defaultdict(set)
        for row in _table(folder, "CONCEPT_ANCESTOR"):
            self.ancestors[int(row["descendant_concept_id"])].add(int(row["ancestor_concept_id"]))

    def standard(self, system: str, code: str) -> list[int]:
        """Return the standard concepts of a code; its source concept when it has none; nothing when unknown."""
        rows = self.by_code.get((VOCABULARY_OF.get(system, ""), code), [])
        if not rows:
            return []
        source = min(rows, key=lambda row: (bool(row["invalid_reason"]), int(row["concept_id"])))
        targets = [c for c in self.maps_to[int(source["concept_id"])] if self._is_standard(c)]
        if not targets and self._is_standard(int(source["concept_id"])):
            targets = [int(source["concept_id"])]
        return targets or [int(source["concept_id"])]

    def main(self, codings: list[Json]) -> list[int]:
        """Return the concepts of the first coding that is known; Synthea gives one coding a concept."""
        for coding in codings:
            found = self.standard(coding.get("system", ""), coding.get("code", ""))
            if found:
                return found
        return []

    def _is_standard(self, concept_id: int) -> bool:
        row = self.concept.get(concept_id)
        return row is not None and row["standard_concept"] == "S" and not row["invalid_reason"]


def bundle_of(folder: Path, patient_id: str) -> list[Json]:
    """Return the resources of the Bundle that holds this Patient."""
    for path in sorted(folder.glob("*.json.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            resources = [entry["resource"] for entry in json.load(file)["entry"]]
        if any(r["resourceType"] == "Patient" and r["id"] == patient_id for r in resources):
            return resources
    raise AssertionError("no Bundle holds the patient")


def events(resources: list[Json], vocabulary: Vocabulary) -> Iterator[tuple[datetime, date, int]]:
    """Yield (instant in UTC, written date, concept) for every row that the default policies load."""
    for resource in resources:
        kind = resource["resourceType"]
        if kind in READERS:
            yield from READERS[kind](resource, vocabulary)


def follow_up_end(resources: list[Json], vocabulary: Vocabulary) -> datetime:
    """Return the earlier of the end of observation (end of its last day) and death."""
    dates = [written for _, written, _ in events(resources, vocabulary)]
    dates += [
        _written(r["period"]["end"]) for r in resources if r["resourceType"] == "Encounter" and "end" in r["period"]
    ]
    dates += [_written(end) for r in resources for end in _other_dates(r)]
    patient = next(r for r in resources if r["resourceType"] == "Patient")
    death = patient.get("deceasedDateTime")
    if death:
        dates.append(_written(death))
    last = max(dates)
    censor = datetime(last.year, last.month, last.day) + timedelta(days=1, seconds=-1)
    return min(censor, _instant(death)) if death else censor


def first_occurrences(resources: list[Json], vocabulary: Vocabulary, t0: datetime) -> tuple[dict[int, int], set[int]]:
    """Return seconds from t0 to the first event of each concept or descendant, and the concepts seen up to t0."""
    end = follow_up_end(resources, vocabulary)
    seconds: dict[int, int] = {}
    seen: set[int] = set()
    for instant, _, concept in events(resources, vocabulary):
        for ancestor in vocabulary.ancestors.get(concept, set()) | {concept}:
            if instant <= t0:
                seen.add(ancestor)
            elif instant <= end:
                wait = int((instant - t0).total_seconds())
                seconds[ancestor] = min(wait, seconds.get(ancestor, wait))
    return seconds, seen


def _encounter(resource: Json, vocabulary: Vocabulary) -> Iterator[tuple[datetime, date, int]]:
    if resource["status"] in {"finished", "in-progress", "arrived", "triaged", "onleave"}:
        yield _event(resource["period"]["start"], VISIT_OF_CLASS[resource["class"]["code"]])


def _condition(resource: Json, vocabulary: Vocabulary) -> Iterator[tuple[datetime, date, int]]:
    status = [c["code"] for c in resource.get("verificationStatus", {}).get("coding", [])]
    if status in ([], ["confirmed"]):
        yield from _coded(resource["code"], resource.get("onsetDateTime") or resource["recordedDate"], vocabulary)


def _observation(resource: Json, vocabulary: Vocabulary) -> Iterator[tuple[datetime, date, int]]:
    if resource["status"] not in {"final", "amended", "corrected"}:
        return
    moment = resource.get("effectiveDateTime") or resource["issued"]
    components = resource.get("component", [])
    if any(key.startswith("value") for key in resource) or not components:
        yield from _coded(resource["code"], moment, vocabulary)
    for component in components:
        yield from _coded(component["code"], moment, vocabulary)


def _procedure(resource: Json, vocabulary: Vocabulary) -> Iterator[tuple[datetime, date, int]]:
    if resource["status"] == "completed":
        moment = resource.get("performedDateTime") or resource["performedPeriod"]["start"]
        yield from _coded(resource["code"], moment, vocabulary)


def _medication_request(resource: Json, vocabulary: Vocabulary) -> Iterator[tuple[datetime, date, int]]:
    if resource["intent"] in ORDERS and resource["status"] in {"active", "completed", "stopped"}:
        yield from _coded(resource["medicationCodeableConcept"], resource["authoredOn"], vocabulary)


def _immunization(resource: Json, vocabulary: Vocabulary) -> Iterator[tuple[datetime, date, int]]:
    if resource["status"] == "completed":
        yield from _coded(resource["vaccineCode"], resource["occurrenceDateTime"], vocabulary)


def _diagnostic_report(resource: Json, vocabulary: Vocabulary) -> Iterator[tuple[datetime, date, int]]:
    moment = resource.get("effectiveDateTime") or resource["issued"]
    for code in resource.get("conclusionCode", []):
        yield from _coded(code, moment, vocabulary)
    if not any(key in resource for key in ("result", "conclusionCode", "imagingStudy")):
        yield from _coded(resource["code"], moment, vocabulary)


def _imaging_study(resource: Json, vocabulary: Vocabulary) -> Iterator[tuple[datetime, date, int]]:
    for code in resource.get("procedureCode", [])[:1]:
        yield from _coded(code, resource["started"], vocabulary)


READERS = {
    "Encounter": _encounter,
    "Condition": _condition,
    "Observation": _observation,
    "Procedure": _procedure,
    "MedicationRequest": _medication_request,
    "Immunization": _immunization,
    "DiagnosticReport": _diagnostic_report,
    "ImagingStudy": _imaging_study,
}


def _other_dates(resource: Json) -> list[str]:
    """Dates of rows whose code is unknown (concept 0): no event, yet the person was under observation."""
    kind = resource["resourceType"]
    field = {
        "Condition": "onsetDateTime",
        "Observation": "effectiveDateTime",
        "MedicationRequest": "authoredOn",
        "Immunization": "occurrenceDateTime",
        "ImagingStudy": "started",
    }.get(kind)
    if kind == "Procedure":
        return (
            [resource["performedPeriod"]["start"]] if "performedPeriod" in resource else [resource["performedDateTime"]]
        )
    return [resource[field]] if field and field in resource else []


def _coded(concept: Json, moment: str, vocabulary: Vocabulary) -> Iterator[tuple[datetime, date, int]]:
    for found in vocabulary.main(concept.get("coding", [])):
        yield _event(moment, found)


def _event(moment: str, concept: int) -> tuple[datetime, date, int]:
    return _instant(moment), _written(moment), concept


def _instant(moment: str) -> datetime:
    assert "T" in moment, "this export writes instants"
    return datetime.fromisoformat(moment.replace("Z", "+00:00")).astimezone(UTC).replace(tzinfo=None, microsecond=0)


def _written(moment: str) -> date:
    return date.fromisoformat(moment[:10])


def _table(folder: Path, name: str) -> Iterator[Json]:
    path = next(p for p in sorted(folder.iterdir()) if p.name.upper().split(".")[0] == name)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:  # type: ignore[operator]
        yield from csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
