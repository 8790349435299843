"""One person's chart: every FHIR resource of the record, and the rows that a right load must make of them.

The expected rows are counted here, from what is simulated, and never by the code that loads them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from presage_etl.synthetic import fhir, imaging_orders
from presage_etl.synthetic.clock import DAY_S, MINUTE_S, YEAR_S, quiet
from presage_etl.synthetic.events import NEVER, History, Visit, label_time
from presage_etl.synthetic.fhir import Json
from presage_etl.synthetic.hazards import Model
from presage_etl.synthetic.identifiers import LOCAL_SYSTEM, LOINC
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
PRESCRIBED, PERFORMED, XRAY, VACCINATED, ALLERGIC = 0.6, 0.4, 0.04, 0.05, 0.08


@dataclass(slots=True)
class Chart:
    """Resources of one person by type, the rows that they make, and the days that they span."""

    person: Person
    resources: dict[str, list[Json]] = field(default_factory=dict)
    rows: Counter[str] = field(default_factory=Counter)
    days: list[int] = field(default_factory=list)

    def add(self, resource: Json, table: str | None = None, *days: int, num_rows: int = 1) -> None:
        """Keep a resource; `table` is where its rows go, `days` the wall-clock seconds that it dates."""
        self.resources.setdefault(str(resource["resourceType"]), []).append(resource)
        if table:
            self.rows[table] += num_rows
            self.days += [second // DAY_S for second in days]


def build_chart(parameters: Parameters, model: Model, history: History, num_slices: int) -> Chart:
    """Write down one person's history."""
    person, zone = history.person, parameters.calendar.zone
    chart = Chart(person)
    chart.add(fhir.patient(history, zone), "person")
    if history.death != NEVER:
        chart.rows["death"] += 1
        chart.days.append(history.death // DAY_S)
    for visit in history.visits:
        chart.add(fhir.encounter(person, visit, zone), "visit_occurrence", visit.start, visit.end)
    _conditions(parameters, model, history, chart)
    _observations(parameters, model, history, chart)
    _treatment(parameters, model, history, chart)
    _scans(parameters, history, chart, num_slices)
    if len(person.races) > 1:  # one observation each, dated by the last visit
        chart.rows["observation"] += len(person.races)
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
        chart.add(resource, "condition_occurrence", label_time(diagnosis))
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
    chart.add(resource, "observation", visit.start)


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
            chart.add(resource, "measurement", visit.start)


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
    chart.add(pressure, "measurement", visit.start, num_rows=2)
    for code, name, unit, mean, sd in (
        ("8867-4", "Heart rate", "/min", 74.0, 10.0),
        ("29463-7", "Body weight", "kg", 78.0, 13.0),
    ):
        resource = fhir.observation(
            person, visit, f"{person.key}-o{visit.number}-{code}", "vital-signs", (code, name), visit.start, zone
        )
        resource["valueQuantity"] = fhir.quantity(round(float(rng.normal(mean, sd)), 1), unit)
        chart.add(resource, "measurement", visit.start)


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
            identity = f"{person.key}-m{number}"
            chart.add(fhir.medication_request(person, identity, DRUGS[name], form, when, zone), "drug_exposure", when)
    _procedures(parameters, model, history, chart, rng)
    for visit in history.visits:
        if visit.kind == "AMB" and rng.random() < VACCINATED:
            vaccine = VACCINES[int(rng.integers(len(VACCINES)))]
            resource = fhir.immunization(person, f"{person.key}-i{visit.number}", vaccine, visit.start, zone)
            chart.add(resource, "drug_exposure", visit.start)
    if history.visits and rng.random() < ALLERGIC:
        code = ALLERGIES[int(rng.integers(len(ALLERGIES)))]
        when = history.visits[0].start
        chart.add(fhir.allergy(person, f"{person.key}-a0", code, when, zone), "observation", when)


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
        chart.add(resource, "procedure_occurrence", when)


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
        chart.add(study, "procedure_occurrence", scan.t0)
        chart.rows["image_occurrence"] += 1
        chart.add(imaging_orders.diagnostic_report(person, scan, visit, scan.t0 + 90 * MINUTE_S, zone))


def knows_study(chart: Chart, scan: int) -> bool:
    """Whether the EHR holds the ImagingStudy of a scan."""
    return any(study["id"] == f"{chart.person.key}-study{scan}" for study in chart.resources.get("ImagingStudy", []))
