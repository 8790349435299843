"""One person's chart: every FHIR resource of the record, and the CDM rows that a right load must make of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from presage_etl.synthetic.clock import DAY_S, MINUTE_S, wall
from presage_etl.synthetic.identifiers import LOCAL_SYSTEM, LOINC, UCUM, series_uid, study_uid
from presage_etl.synthetic.lives.care import labs_at, prescriptions, procedures
from presage_etl.synthetic.lives.events import NEVER, History, Visit, label_time
from presage_etl.synthetic.lives.hazards import Model
from presage_etl.synthetic.lives.persons import order_time
from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.records import fhir, imaging_orders, omop
from presage_etl.synthetic.records.changes import patient_changed, plan_changes
from presage_etl.synthetic.records.chart_care import add_care
from presage_etl.synthetic.records.chart_entries import Chart, Charted
from presage_etl.synthetic.records.chart_forms import write_forms
from presage_etl.synthetic.records.codebook import Codebook
from presage_etl.synthetic.records.fhir_codes import leaf_concept, symptom_concept
from presage_etl.synthetic.records.fhir_forms import precisions_of, written
from presage_etl.synthetic.records.omop import When
from presage_etl.synthetic.streams import Stage, stream

VACCINES = (
    ("140", "Influenza, seasonal, injectable, preservative free"),
    ("133", "pneumococcal conjugate vaccine, 13 valent"),
)
ALLERGIES = (("91934008", "Allergy to nut"), ("300916003", "Allergy to latex"))
VACCINATED, ALLERGIC = 0.05, 0.08


def build_chart(parameters: Parameters, model: Model, history: History, num_slices: int, codes: Codebook) -> Chart:
    """Write down one person's history."""
    person, zone = history.person, parameters.calendar.zone
    chart = Chart(person, codes, wall(parameters.calendar.cut) // DAY_S)
    organization = f"Organization/{fhir.ORGANIZATION}"
    changed = patient_changed(parameters, history)
    chart.add(fhir.patient(history, changed, zone), *omop.person_rows(history, codes, organization, changed))
    for visit in history.visits:
        provider = f"Practitioner/{fhir.practitioner_id(person.index + visit.number)}"
        key = f"Encounter/{fhir.visit_id(person, visit.number)}"
        row = omop.visit_row(person, visit, key, codes, provider=provider, organization=organization)
        chart.add(fhir.encounter(person, visit, zone), row, visit=visit.number)
    _conditions(parameters, model, history, chart)
    _observations(parameters, model, history, chart)
    _treatment(parameters, model, history, chart)
    _scans(parameters, history, chart, num_slices)
    add_care(parameters, history, chart)
    write_forms(parameters, history, chart)
    plan_changes(parameters, history, chart)
    return chart


def _conditions(parameters: Parameters, model: Model, history: History, chart: Chart) -> None:
    person, zone = history.person, parameters.calendar.zone
    rng = stream(parameters.seed, person.index, Stage.CODING)
    precisions = precisions_of(parameters, person, 0, len(history.diagnoses))
    for number, diagnosis in enumerate(history.diagnoses):
        when = When(label_time(diagnosis), "day" if diagnosis.day_only else "time")
        if diagnosis.leaf == NEVER:
            code = symptom_concept(diagnosis)
            if not diagnosis.day_only:  # conditions that a task asks for are dated to the day at least
                when = When(when.seconds, precisions[number])
        else:
            code = leaf_concept(diagnosis, model.leaves[diagnosis.leaf], rng.random())
        resource = fhir.condition(person, diagnosis, f"{person.key}-c{number}", code, written(when, zone), zone)
        status: dict[str, Any] = {
            "condition_status_concept_id": omop.CONFIRMED,
            "condition_status_source_value": "confirmed",
        }
        chart.event(resource, "condition_occurrence", when, omop.ENCOUNTER_RECORD, visit=diagnosis.visit, **status)
    for visit in history.visits:
        if rng.random() < parameters.record.unmapped:
            _local_code(parameters, history, chart, visit)


def _local_code(parameters: Parameters, history: History, chart: Chart, visit: Visit) -> None:
    """A code that no vocabulary knows: it must end as concept 0 in the list of unmapped codes."""
    person, zone = history.person, parameters.calendar.zone
    resource = fhir.observation(
        person, visit, f"{person.key}-l{visit.number}", "social-history", ("unused", "unused"), visit.start, zone
    )
    resource["code"] = fhir.concept(fhir.coding(LOCAL_SYSTEM, f"LOCAL-{person.index % 7}"), text="local note")
    resource["valueString"] = "noted"
    when = When(visit.start)
    noted: dict[str, Any] = {"value_as_string": "noted", "value_source_value": "noted"}
    chart.event(resource, "observation", when, omop.EHR, visit=visit.number, **noted)


def _observations(parameters: Parameters, model: Model, history: History, chart: Chart) -> None:
    person, zone = history.person, parameters.calendar.zone
    rng = stream(parameters.seed, person.index, Stage.LABS)
    first = history.first_recorded(len(model.leaves))
    for visit in history.visits:
        vitals, labs = rng.random() < parameters.record.vitals, rng.random() < parameters.record.labs
        if vitals:
            _vitals(parameters, chart, visit, rng)
        if not labs:
            continue
        for lab, value in labs_at(model, visit, first, rng):
            chart.labs.append((lab.code, value, visit.start))
            identity = f"{person.key}-o{visit.number}-{lab.code}"
            resource = fhir.observation(person, visit, identity, "laboratory", (lab.code, lab.name), visit.start, zone)
            low, high = round(max(lab.mean - 2 * lab.sd, 0.0), 2), round(lab.mean + 2 * lab.sd, 2)
            resource["valueQuantity"] = fhir.quantity(value, lab.unit)
            resource["referenceRange"] = [{"low": fhir.quantity(low, lab.unit), "high": fhir.quantity(high, lab.unit)}]
            columns = _number(chart, value, lab.unit) | {"range_low": low, "range_high": high}
            when = When(visit.start)
            chart.event(resource, "measurement", when, omop.LAB, setting="laboratory", visit=visit.number, **columns)


def _number(chart: Chart, value: float, unit: str) -> dict[str, Any]:
    """Columns of a value with a UCUM unit."""
    return {
        "value_as_number": value,
        "unit_concept_id": chart.codes.concept(UCUM, unit),
        "unit_source_value": unit,
    }


def _vitals(parameters: Parameters, chart: Chart, visit: Visit, rng: np.random.Generator) -> None:
    person, zone = chart.person, parameters.calendar.zone
    pressure = fhir.observation(
        person,
        visit,
        f"{person.key}-o{visit.number}-bp",
        "vital-signs",
        ("85354-9", "Blood pressure panel"),
        visit.start,
        zone,
    )
    systolic = round(float(rng.normal(128, 15)), 0)
    parts = (("8480-6", "Systolic blood pressure", systolic), ("8462-4", "Diastolic blood pressure", systolic - 48))
    pressure["component"] = [
        {"code": fhir.concept(fhir.coding(LOINC, code, name)), "valueQuantity": fhir.quantity(value, "mm[Hg]")}
        for code, name, value in parts
    ]
    chart.add(pressure, visit=visit.number)
    for part, (code, _, value) in zip(pressure["component"], parts, strict=True):
        key, visit_key = f"Observation/{pressure['id']}#comp:{code}", f"Encounter/{fhir.visit_id(person, visit.number)}"
        meaning = chart.codes.meaning(part["code"], "laboratory")
        number = _number(chart, value, "mm[Hg]")
        when = When(visit.start)
        chart.expect(*omop.event("measurement", key, person, meaning, when, omop.EHR, visit=visit_key, **number))
    for code, name, unit, mean, sd in (
        ("8867-4", "Heart rate", "/min", 74.0, 10.0),
        ("29463-7", "Body weight", "kg", 78.0, 13.0),
    ):
        resource = fhir.observation(
            person, visit, f"{person.key}-o{visit.number}-{code}", "vital-signs", (code, name), visit.start, zone
        )
        value = round(float(rng.normal(mean, sd)), 1)
        resource["valueQuantity"] = fhir.quantity(value, unit)
        number = _number(chart, value, unit)
        chart.event(
            resource, "measurement", When(visit.start), omop.EHR, setting="laboratory", visit=visit.number, **number
        )


def _treatment(parameters: Parameters, model: Model, history: History, chart: Chart) -> None:
    """Drugs and procedures that follow a recorded condition, and some that follow nothing."""
    person, zone = history.person, parameters.calendar.zone
    rng = stream(parameters.seed, person.index, Stage.DRUGS)
    orders = prescriptions(parameters, model, history, rng)
    precisions = precisions_of(parameters, person, 1, len(orders))
    for number, order in enumerate(orders):
        form = rng.random() if order.clinical else 0.0
        start = When(order.when, precisions[number])
        resource = fhir.medication_request(
            person, f"{person.key}-m{number}", order.code, form, order.when, written(start, zone), zone
        )
        meaning = chart.codes.meaning(fhir.drug_concept(order.code), "drug")
        key, provider = f"MedicationRequest/{resource['id']}", resource["requester"]["reference"]
        told: dict[str, Any] = {"refills": 1, "quantity": 30.0, "sig": "1 a day", "provider_id": provider}
        rows = omop.event("drug_exposure", key, person, meaning, start, omop.PRESCRIBED, end=start, **told)
        chart.add(resource, *rows)
    _procedures(parameters, model, history, chart, rng)
    precisions = precisions_of(parameters, person, 2, len(history.visits) + 1)
    for visit in history.visits:
        if visit.kind == "AMB" and rng.random() < VACCINATED:
            vaccine = VACCINES[int(rng.integers(len(VACCINES)))]
            given = When(visit.start, precisions[visit.number])
            resource = fhir.immunization(
                person, f"{person.key}-i{visit.number}", vaccine, visit.start, written(given, zone), zone
            )
            chart.event(resource, "drug_exposure", given, omop.ADMINISTERED, setting="drug", end=given)
    if history.visits and rng.random() < ALLERGIC:
        code = ALLERGIES[int(rng.integers(len(ALLERGIES)))]
        when = When(history.visits[0].start, precisions[-1])
        resource = fhir.allergy(person, f"{person.key}-a0", code, when.seconds, written(when, zone), zone)
        chart.event(resource, "observation", when, omop.EHR)
        reaction = chart.codes.meaning(resource["reaction"][0]["manifestation"][0])
        key = f"AllergyIntolerance/{resource['id']}#r0m0"
        chart.expect(*omop.event("observation", key, person, reaction, when, omop.EHR))


def _procedures(parameters: Parameters, model: Model, history: History, chart: Chart, rng: np.random.Generator) -> None:
    person, zone = history.person, parameters.calendar.zone
    done = procedures(model, history, rng)
    precisions = precisions_of(parameters, person, 3, len(done))
    for number, (code, visit) in enumerate(done):
        when = When(min(visit.start + 10 * MINUTE_S, visit.end), precisions[number])
        resource = fhir.procedure(
            person, visit, f"{person.key}-x{number}", code, when.seconds, written(when, zone), zone
        )
        chart.event(resource, "procedure_occurrence", when, omop.ENCOUNTER_RECORD, visit=visit.number)


def _scans(parameters: Parameters, history: History, chart: Chart, num_slices: int) -> None:
    """Order, study and report of each scan that was made; some studies the EHR does not know."""
    person, zone, seed = history.person, parameters.calendar.zone, parameters.seed
    rng = stream(seed, person.index, Stage.SITE)
    for scan in person.scans:
        ordered, unknown = order_time(scan, rng), rng.random() < parameters.record.no_imaging_study
        if scan.number not in history.scan_visits:
            continue
        visit = history.scan_visits[scan.number]
        if unknown:
            continue
        chart.add(imaging_orders.service_request(person, scan, visit, ordered, zone))
        study = imaging_orders.imaging_study(person, scan, visit, num_slices, seed, zone)
        uid, visit_key = study_uid(seed, person.index, scan.number), f"Encounter/{fhir.visit_id(person, visit)}"
        modality = chart.codes.concept(imaging_orders.DICOM_MODALITY, "CT")
        chart.add(
            study, *omop.study_rows(person, study["id"], When(scan.t0), visit_key, uid, series_uid(uid), modality)
        )
        chart.add(imaging_orders.diagnostic_report(person, scan, visit, scan.t0 + 90 * MINUTE_S, zone))


def knows_study(chart: Charted, scan: int) -> bool:
    """Whether the EHR holds the ImagingStudy of a scan."""
    return any(study["id"] == f"{chart.person.key}-study{scan}" for study in chart.resources.get("ImagingStudy", []))
