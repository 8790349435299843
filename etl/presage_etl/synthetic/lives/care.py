"""What care follows a recorded condition: drugs with their renewals, procedures, and tests that the condition shifts.

Everything follows the time at which the condition was *recorded*, never its onset: what labels may see of treatment
carries no more than the record does. Some of it happens to everybody, at a base rate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from presage_etl.synthetic.clock import DAY_S, YEAR_S, quiet
from presage_etl.synthetic.lives.events import NEVER, History, Visit
from presage_etl.synthetic.lives.hazards import Model
from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.records.vocabulary import TROPONIN
from presage_etl.synthetic.streams import Stage, stream

Code = tuple[str, str]


@dataclass(frozen=True)
class Lab:
    """A laboratory test (LOINC, UCUM), its law in health, and what a condition adds in standard deviations."""

    code: str
    name: str
    unit: str
    mean: float
    sd: float
    condition: str
    shift: float
    days: int | None = None  # after the record in which the condition shows; None: from then on


@dataclass(frozen=True)
class Drug:
    """A clinical drug and its ingredient (RxNorm); chronic ones are renewed."""

    code: Code
    ingredient: Code
    chronic: bool = True


@dataclass(frozen=True)
class Prescription:
    """One order of a drug, by its clinical drug or by its ingredient alone."""

    drug: str
    code: Code
    when: int
    refill: int
    clinical: bool


LABS = (
    Lab("2160-0", "Creatinine [Mass/volume] in Serum or Plasma", "mg/dL", 1.0, 0.2, "essential_hypertension", 0.8),
    Lab("718-7", "Hemoglobin [Mass/volume] in Blood", "g/dL", 13.6, 1.3, "non_small_cell_lung_cancer", -1.2),
    Lab("33762-6", "Natriuretic peptide.B prohormone N-Terminal [Mass/volume] in Serum or Plasma", "pg/mL", 160.0, 60.0,
        "heart_failure", 12.0),
    Lab(*TROPONIN, "ng/L", 9.0, 3.0, "myocardial_infarction", 60.0, 14),
    Lab("2951-2", "Sodium [Moles/volume] in Serum or Plasma", "mmol/L", 139.5, 2.5, "heart_failure", -0.6),
    Lab("2823-3", "Potassium [Moles/volume] in Serum or Plasma", "mmol/L", 4.2, 0.35, "essential_hypertension", 0.2),
    Lab("4548-4", "Hemoglobin A1c/Hemoglobin.total in Blood", "%", 5.5, 0.35, "type_2_diabetes", 4.0),
    Lab("2345-7", "Glucose [Mass/volume] in Serum or Plasma", "mg/dL", 98.0, 11.0, "type_2_diabetes", 5.0),
    Lab("1988-5", "C reactive protein [Mass/volume] in Serum or Plasma", "mg/dL", 0.5, 0.2, "pneumonia", 40.0, 30),
    Lab("48065-7", "Fibrin D-dimer FEU [Mass/volume] in Platelet poor plasma", "ng/mL", 320.0, 90.0,
        "pulmonary_embolism", 20.0, 60),
)  # fmt: skip
LABS_AT_ONCE = 3
LOWEST_VALUE = 0.1
DRUGS = {
    "heart_failure": Drug(("314076", "lisinopril 10 MG Oral Tablet"), ("29046", "lisinopril")),
    "essential_hypertension": Drug(("197361", "amlodipine 5 MG Oral Tablet"), ("17767", "Amlodipine")),
    "coronary_arteriosclerosis": Drug(("312961", "simvastatin 20 MG Oral Tablet"), ("36567", "Simvastatin")),
    "myocardial_infarction": Drug(("259255", "atorvastatin 80 MG Oral Tablet"), ("83367", "atorvastatin")),
    "pulmonary_embolism": Drug(("855332", "warfarin sodium 5 MG Oral Tablet"), ("11289", "Warfarin")),
    "emphysema": Drug(("312617", "prednisone 5 MG Oral Tablet"), ("8640", "Prednisone")),
    "pneumonia": Drug(("308182", "amoxicillin 250 MG Oral Capsule"), ("723", "Amoxicillin"), chronic=False),
    "cardiomegaly": Drug(("243670", "aspirin 81 MG Oral Tablet"), ("1191", "aspirin")),
}
PROCEDURES: dict[str, Code] = {
    "heart_failure": ("40701008", "Echocardiography"),
    "cardiomegaly": ("40701008", "Echocardiography"),
    "pleural_effusion": ("91602002", "Thoracentesis"),
    "non_small_cell_lung_cancer": ("173160006", "Diagnostic fiberoptic bronchoscopy"),
    "coronary_arteriosclerosis": ("232717009", "Coronary artery bypass graft"),
    "myocardial_infarction": ("415070008", "Percutaneous coronary intervention"),
    "emphysema": ("15081005", "Pulmonary rehabilitation"),
}
CHEST_XRAY: Code = ("399208008", "Plain chest X-ray")
PRESCRIBED, PERFORMED, XRAY, BY_INGREDIENT = 0.6, 0.4, 0.04, 0.1
REFILL_DAYS = (30.0, 90.0)


def prescriptions(
    parameters: Parameters, model: Model, history: History, rng: np.random.Generator
) -> list[Prescription]:
    """Drugs after a recorded condition, their renewals, and some that follow nothing; in no order of time."""
    record, names = parameters.record, sorted(DRUGS)
    first = history.first_recorded(len(model.leaves))
    started: list[tuple[str, int]] = []
    for name in names:
        known, lag, taken = first[model.place[name]], rng.uniform(0, record.drug_lag_days), rng.random() < PRESCRIBED
        if known != NEVER and taken:
            started.append((name, quiet(int(known) + int(lag * DAY_S))))
    span = history.end - history.person.origin
    for _ in range(rng.poisson(record.noise_drugs_per_year * span / YEAR_S)):
        when = quiet(history.person.origin + int(rng.random() * span))
        started.append((names[int(rng.integers(len(names)))], when))
    again = stream(parameters.seed, history.person.index, Stage.REFILLS)
    found = []
    for name, when in started:
        drug, clinical = DRUGS[name], again.random() >= BY_INGREDIENT
        code = drug.code if clinical else drug.ingredient
        for refill in range(1 + (int(again.poisson(record.refills)) if drug.chronic else 0)):
            found.append(Prescription(name, code, when, refill, clinical))
            when = quiet(when + int(again.uniform(*REFILL_DAYS) * DAY_S))
    return [order for order in found if order.when < history.end]


def procedures(model: Model, history: History, rng: np.random.Generator) -> list[tuple[Code, Visit]]:
    """At the first visit after the condition was recorded; chest X-rays at any."""
    first = history.first_recorded(len(model.leaves))
    wanted = []
    for name in sorted(PROCEDURES):
        known, done = first[model.place[name]], rng.random() < PERFORMED
        later = [visit for visit in history.visits if visit.start >= known and visit.scan == NEVER]
        if known != NEVER and done and later:
            wanted.append((PROCEDURES[name], later[0]))
    return wanted + [(CHEST_XRAY, visit) for visit in history.visits if rng.random() < XRAY]


def labs_at(
    model: Model, visit: Visit, first_recorded: NDArray[np.int64], rng: np.random.Generator
) -> list[tuple[Lab, float]]:
    """Some tests at one visit, with their values."""
    found = []
    for place in sorted(rng.choice(len(LABS), size=LABS_AT_ONCE, replace=False)):
        lab = LABS[place]
        since = visit.start - int(first_recorded[model.place[lab.condition]])
        known = 0 <= since <= visit.start and (lab.days is None or since <= lab.days * DAY_S)
        value = lab.mean + lab.sd * (rng.standard_normal() + lab.shift * known)
        found.append((lab, round(float(max(value, LOWEST_VALUE)), 2)))
    return found
