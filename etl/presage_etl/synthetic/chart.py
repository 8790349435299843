"""One person's chart: every FHIR resource of the record, and the CDM rows that a right load must make of them.

A fact becomes a resource and its rows in one place, from what is simulated; `omop` tells the shape of a row. The code
that loads the record has no part in it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from presage_etl.synthetic import fhir, imaging_orders, omop
from presage_etl.synthetic.clock import DAY_S, MINUTE_S, YEAR_S, quiet, wall
from presage_etl.synthetic.codebook import Codebook
from presage_etl.synthetic.events import NEVER, History, Visit, label_time
from presage_etl.synthetic.fhir import Json
from presage_etl.synthetic.hazards import Model
from presage_etl.synthetic.identifiers import LOCAL_SYSTEM, LOINC, UCUM, series_uid, study_uid
from presage_etl.synthetic.omop import Row, When
from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.persons import Person, order_time
from presage_etl.synthetic.streams import Stage, stream

# LOINC code, name, unit, mean, sd, and the condition that shifts it by how many sd.
LABS = (
    ("2160-0", "Creatinine [Mass/volume] in Serum or Plasma", "mg/dL", 1.0, 0.2, "essential_hypertension", 0.8),
    ("718-7", "Hemoglobin [Mass/volume] in Blood", "g/dL", 13.6, 1.3, "non_small_cell_lung_cancer", -1.2),
    ("33762-6", "Natriuretic peptide.B prohormone N-Terminal [Mass/volume] in Serum or Plasma", "pg/mL", 160.0, 60.0,
     "heart_failure", 12.0),
    ("2951-2", "Sodium [Moles/volume] in Serum or Plasma", "mmol/L", 139.5, 2.5, "heart_failure", -0.6),
    ("2823-3", "Potassium [Moles/volume] in Serum or Plasma", "mmol/L", 4.2, 0.35, "essential_hypertension", 0.2),
    ("4548-4", "Hemoglobin A1c/Hemoglobin.total in Blood", "%", 5.5, 0.35, "type_2_diabetes", 4.0),
)  # fmt: skip
DRUGS = {
    "heart_failure": ("314076", "lisinopril 10 MG Oral Tablet"),
    "essential_hypertension": ("197361", "amlodipine 5 MG Oral Tablet"),
    "coronary_arteriosclerosis": ("312961", "simvastatin 20 MG Oral Tablet"),
    "myocardial_infarction": ("259255", "atorvastatin 80 MG Oral Tablet"),
    "pulmonary_embolism": ("855332", "warfarin sodium 5 MG Oral Tablet"),
    "emphysema": ("312617", "prednisone 5 MG Oral Tablet"),
    "pneumonia": ("308182", "amoxicillin 250 MG Oral Capsule"),
    "cardiomegaly": ("243670", "aspirin 81 MG Oral Tablet"),
}
PROCEDURES = {
    "heart_failure": ("40701008", "Echocardiography"),
    "cardiomegaly": ("40701008", "Echocardiography"),
    "pleural_effusion": ("91602002", "Thoracentesis"),
    "non_small_cell_lung_cancer": ("173160006", "Diagnostic fiberoptic bronchoscopy"),
    "coronary_arteriosclerosis": ("232717009", "Coronary artery bypass graft"),
}
CHEST_XRAY = ("399208008", "Plain chest X-ray")
VACCINES = (
    ("140", "Influenza, seasonal, injectable, preservative free"),
    ("133", "pneumococcal conjugate vaccine, 13 valent"),
)
ALLERGIES = (("91934008", "Allergy to nut"), ("300916003", "Allergy to latex"))
CODED = ("code", "medicationCodeableConcept", "vaccineCode")
PRESCRIBED, PERFORMED, XRAY, VACCINATED, ALLERGIC = 0.6, 0.4, 0.04, 0.05, 0.08


@dataclass(slots=True)
class Chart:
    """Resources of one person by type, the rows that they make, and the days by which these widen the record."""

    person: Person
    codes: Codebook
    last_day: int  # of the export, in days since 1970: what is dated later widens nothing
    resources: dict[str, list[Json]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    days: list[int] = field(default_factory=list)

    def add(self, resource: Json, *rows: Row) -> None:
        """Keep a resource and the rows that a right load makes of it."""
        self.resources.setdefault(str(resource["resourceType"]), []).append(resource)
        self.expect(*rows)

    def expect(self, *rows: Row) -> None:
        """Keep rows, and the days that they give to the observation period."""
        for row in rows:
            self.rows.append(row)
            span = omop.days_of(row)
            if span is not None and span[0] <= self.last_day:
                self.days += [span[0], min(span[1], self.last_day)]

    def event(
        self,
        resource: Json,
        home: str,
        when: When,
        type_concept: int,
        *,
        setting: str = "general",
        visit: int = NEVER,
        end: When | None = None,
        **columns: Any,
    ) -> None:
        """Keep a coded event: its rows follow from `resource["code"]`, or from the code of its drug or vaccine."""
        code = next(resource[name] for name in CODED if name in resource)
        rows = omop.event(
            home,
            f"{resource['resourceType']}/{resource['id']}",
            self.person,
            self.codes.meaning(code, setting),
            when,
            type_concept,
            visit=None if visit == NEVER else f"Encounter/{fhir.visit_id(self.person, visit)}",
            end=end,
            **columns,
        )
        self.add(resource, *rows)

    def counts(self) -> Counter[str]:
        """Rows by table, a location for each person's address left out: persons share them."""
        return Counter(row.table for row in self.rows if row.table != "location")


def build_chart(parameters: Parameters, model: Model, history: History, num_slices: int, codes: Codebook) -> Chart:
    """Write down one person's history."""
    person, zone = history.person, parameters.calendar.zone
    chart = Chart(person, codes, wall(parameters.calendar.cut) // DAY_S)
    organization = f"Organization/{fhir.ORGANIZATION}"
    chart.add(fhir.patient(history, zone), *omop.person_rows(history, codes, organization))
    for visit in history.visits:
        provider = f"Practitioner/{fhir.practitioner_id(person.index + visit.number)}"
        key = f"Encounter/{fhir.visit_id(person, visit.number)}"
        row = omop.visit_row(person, visit, key, codes, provider=provider, organization=organization)
        chart.add(fhir.encounter(person, visit, zone), row)
    _conditions(parameters, model, history, chart)
    _observations(parameters, model, history, chart)
    _treatment(parameters, model, history, chart)
    _scans(parameters, history, chart, num_slices)
    return chart


def _conditions(parameters: Parameters, model: Model, history: History, chart: Chart) -> None:
    person, zone = history.person, parameters.calendar.zone
    rng = stream(parameters.seed, person.index, Stage.CODING)
    for number, diagnosis in enumerate(history.diagnoses):
        if diagnosis.leaf == NEVER:
            codings, text = fhir.symptom_codings(diagnosis.symptom), fhir.SYMPTOM_CODES[diagnosis.symptom][1]
        else:
            leaf = model.leaves[diagnosis.leaf]
            codings, text = fhir.leaf_codings(leaf, rng.random()), leaf.title
        resource = fhir.condition(person, diagnosis, f"{person.key}-c{number}", codings, text, zone)
        when = When(label_time(diagnosis), "day" if diagnosis.day_only else "time")
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
        for place in sorted(rng.choice(len(LABS), size=3, replace=False)):
            code, name, unit, mean, sd, shifted_by, shift = LABS[place]
            known = 0 <= first[model.place[shifted_by]] <= visit.start
            value = round(max(mean + sd * (rng.standard_normal() + shift * known), 0.1), 2)
            identity = f"{person.key}-o{visit.number}-{code}"
            resource = fhir.observation(person, visit, identity, "laboratory", (code, name), visit.start, zone)
            low, high = round(mean - 2 * sd, 2), round(mean + 2 * sd, 2)
            resource["valueQuantity"] = fhir.quantity(value, unit)
            resource["referenceRange"] = [{"low": fhir.quantity(low, unit), "high": fhir.quantity(high, unit)}]
            columns = _number(chart, value, unit) | {"range_low": low, "range_high": high}
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
    chart.add(pressure)
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
    person, zone, record = history.person, parameters.calendar.zone, parameters.record
    rng = stream(parameters.seed, person.index, Stage.DRUGS)
    first = history.first_recorded(len(model.leaves))
    names = sorted(DRUGS)
    prescriptions: list[tuple[str, int]] = []
    for name in names:
        known, lag, taken = first[model.place[name]], rng.uniform(0, record.drug_lag_days), rng.random() < PRESCRIBED
        if known != NEVER and taken:
            prescriptions.append((name, quiet(int(known) + int(lag * DAY_S))))
    span = history.end - person.origin
    for _ in range(rng.poisson(record.noise_drugs_per_year * span / YEAR_S)):
        prescriptions.append((names[int(rng.integers(len(names)))], quiet(person.origin + int(rng.random() * span))))
    for number, (name, when) in enumerate(prescriptions):
        form = rng.random()
        if when < history.end:
            resource = fhir.medication_request(person, f"{person.key}-m{number}", DRUGS[name], form, when, zone)
            meaning = chart.codes.meaning(fhir.drug_concept(DRUGS[name]), "drug")
            key, start = f"MedicationRequest/{resource['id']}", When(when)
            rows = omop.event(
                "drug_exposure", key, person, meaning, start, omop.PRESCRIBED, end=start, refills=1, quantity=30.0
            )
            chart.add(resource, *rows)
    _procedures(parameters, model, history, chart, rng)
    for visit in history.visits:
        if visit.kind == "AMB" and rng.random() < VACCINATED:
            vaccine = VACCINES[int(rng.integers(len(VACCINES)))]
            resource = fhir.immunization(person, f"{person.key}-i{visit.number}", vaccine, visit.start, zone)
            given = When(visit.start)
            chart.event(resource, "drug_exposure", given, omop.ADMINISTERED, setting="drug", end=given)
    if history.visits and rng.random() < ALLERGIC:
        code = ALLERGIES[int(rng.integers(len(ALLERGIES)))]
        when = history.visits[0].start
        resource = fhir.allergy(person, f"{person.key}-a0", code, when, zone)
        chart.event(resource, "observation", When(when), omop.EHR)


def _procedures(parameters: Parameters, model: Model, history: History, chart: Chart, rng: np.random.Generator) -> None:
    """At the first visit after the condition was recorded; chest X-rays at any."""
    person, zone = history.person, parameters.calendar.zone
    first = history.first_recorded(len(model.leaves))
    wanted = []
    for name in sorted(PROCEDURES):
        known, done = first[model.place[name]], rng.random() < PERFORMED
        later = [visit for visit in history.visits if visit.start >= known and visit.scan == NEVER]
        if known != NEVER and done and later:
            wanted.append((PROCEDURES[name], later[0]))
    wanted += [(CHEST_XRAY, visit) for visit in history.visits if rng.random() < XRAY]
    for number, (code, visit) in enumerate(wanted):
        when = min(visit.start + 10 * MINUTE_S, visit.end)
        resource = fhir.procedure(person, visit, f"{person.key}-x{number}", code, when, zone)
        chart.event(resource, "procedure_occurrence", When(when), omop.ENCOUNTER_RECORD, visit=visit.number)


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


def knows_study(chart: Chart, scan: int) -> bool:
    """Whether the EHR holds the ImagingStudy of a scan."""
    return any(study["id"] == f"{chart.person.key}-study{scan}" for study in chart.resources.get("ImagingStudy", []))
