"""What a stay adds to a chart beyond its visit: intensive care, drugs given, specimens and reports, notes, smoking."""

from __future__ import annotations

from typing import Any

import numpy as np

from presage_etl.synthetic.clock import DAY_S, HOUR_S, quiet
from presage_etl.synthetic.identifiers import SNOMED
from presage_etl.synthetic.lives.care import DRUGS
from presage_etl.synthetic.lives.events import History, Visit
from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.records import fhir_care, omop
from presage_etl.synthetic.records.chart_entries import Chart
from presage_etl.synthetic.records.fhir import ORGANIZATION, Json, drug_concept, reference, visit_id
from presage_etl.synthetic.records.omop import When
from presage_etl.synthetic.streams import Stage, stream

NOT_READ = "type-not-mapped"
"""Notes and specimens have no mapping: a right load counts them as excluded."""
CONTAINED_SPECIMEN, REPORTED = 0.2, 0.7
SMOKING_SHARES = (0.55, 0.80)


def add_care(parameters: Parameters, history: History, chart: Chart) -> None:
    """Add it to the chart of one person."""
    rng = stream(parameters.seed, history.person.index, Stage.CARE)
    status = int(np.searchsorted(SMOKING_SHARES, rng.random(), side="right"))
    if history.visits:
        first = history.visits[0]
        asked = fhir_care.smoking_status(chart.person, status, first, parameters.calendar.zone)
        code = fhir_care.SMOKING[status][0]
        answer: dict[str, Any] = {"value_as_concept_id": chart.codes.concept(SNOMED, code), "value_source_value": code}
        chart.event(asked, "observation", When(first.start), omop.EHR, visit=first.number, **answer)
    results = _results(chart)
    for visit in history.visits:
        if visit.kind == "IMP":
            _stay(parameters, chart, visit, rng)
        if visit.number in results:
            _laboratory(parameters, chart, visit, results[visit.number], rng)
        _note(parameters, chart, visit, rng)


def _results(chart: Chart) -> dict[int, list[Json]]:
    """Laboratory results of each visit."""
    found: dict[int, list[Json]] = {}
    for entry in chart.entries:
        if entry.kind == "Observation":
            category = entry.resource["category"][0]["coding"][0]["code"]
            if category == "laboratory":
                found.setdefault(entry.visit, []).append(entry.resource)
    return found


def _stay(parameters: Parameters, chart: Chart, visit: Visit, rng: np.random.Generator) -> None:
    """A part in intensive care and a drug given, where the stay is long enough."""
    zone, record = parameters.calendar.zone, parameters.record
    intensive, given, share, form = rng.random(4)
    drug = sorted(drug.code for drug in DRUGS.values())[int(rng.integers(len(DRUGS)))]
    if visit.end - visit.start < DAY_S:
        return
    if intensive < record.intensive:
        start = quiet(visit.start + 3 * HOUR_S)
        end = quiet(start + int(share * (visit.end - 3 * HOUR_S - start)))
        resource = fhir_care.intensive_care(chart.person, visit, start, end, zone)
        key, whole = f"Encounter/{resource['id']}", f"Encounter/{visit_id(chart.person, visit.number)}"
        row = omop.stay_row(chart.person, key, whole, (start, end), chart.codes, f"Organization/{ORGANIZATION}")
        chart.add(resource, row)
    if given < record.administered:
        when = quiet(visit.start + 5 * HOUR_S)
        resource = fhir_care.medication_administration(chart.person, visit, drug, form, when, zone)
        key, whole = f"MedicationAdministration/{resource['id']}", f"Encounter/{visit_id(chart.person, visit.number)}"
        meaning, told = chart.codes.meaning(drug_concept(drug), "drug"), dict(fhir_care.GIVEN)
        given_at = When(when)
        chart.add(
            resource,
            *omop.event(
                "drug_exposure",
                key,
                chart.person,
                meaning,
                given_at,
                omop.ADMINISTERED,
                visit=whole,
                end=given_at,
                **told,
            ),
        )


def _laboratory(
    parameters: Parameters, chart: Chart, visit: Visit, results: list[Json], rng: np.random.Generator
) -> None:
    """The specimen behind a visit's results, on its own or contained in each of them; often a report."""
    zone, person = parameters.calendar.zone, chart.person
    contained, reported = rng.random(2)
    if contained < CONTAINED_SPECIMEN:
        for result in results:
            result["contained"] = [fhir_care.specimen(person, visit, zone, contained=True)]
            result["specimen"] = {"reference": "#blood"}
    else:
        specimen = fhir_care.specimen(person, visit, zone)
        chart.add(specimen, visit=visit.number, excluded=NOT_READ)
        for result in results:
            result["specimen"] = reference("Specimen", specimen["id"])
    if reported < REPORTED:
        names = [str(result["id"]) for result in results]
        chart.add(fhir_care.laboratory_report(person, visit, names, zone), visit=visit.number)


def _note(parameters: Parameters, chart: Chart, visit: Visit, rng: np.random.Generator) -> None:
    if rng.random() < parameters.record.documented:
        words = [fhir_care.NOTE_WORDS[place] for place in rng.integers(len(fhir_care.NOTE_WORDS), size=6)]
        document = fhir_care.document(chart.person, visit, words, parameters.calendar.zone)
        chart.add(document, visit=visit.number, excluded=NOT_READ)
