"""Twelve outcome tasks as a user would write them, each with the cases that test it."""

from __future__ import annotations

from pathlib import Path

DIAGNOSES = {
    "pleural_effusion": "60046008",
    "atelectasis": "46621007",
    "lung_consolidation": "95436008",
    "cardiomegaly": "8186001",
    "pulmonary_edema": "19242006",
    "pulmonary_hypertension": "70995007",
    "heart_failure": "84114007",
}
LABS = {
    "haemoglobin_below_12": ("718-7", "below: 12", "g/dL", "lookback: 30 days\n", 11.0, 13.0),
    "nt_probnp_above_300": ("33762-6", "above: 300", "pg/mL", "", 400.0, 200.0),
}
READMISSIONS = {"readmission_30d": "kind: binary_window\nwindow: 30 days\n", "readmission_any": ""}
TWELVE = ("all_cause_mortality", *READMISSIONS, *DIAGNOSES, *LABS)

INDEX = '    index: [{study_id: 1, person_id: 7, t0: "2020-03-01 10:00:00"}]\n'
PERIOD = "    observation_period: [{person_id: 7, start: 2015-01-01, end: 2022-12-31}]\n"
DEAD = "    death: [{person_id: 7, date: 2021-03-01}]\n"
STAY = '      - {person_id: 7, concept: "Visit:IP", start: 2020-02-27, end: 2020-03-04}\n'
LATER = '      - {person_id: 7, concept: "Visit:IP", start: 2020-03-20, end: 2020-03-22}\n'

DEATH = """/*---
task: all_cause_mortality
version: 1
title: Death from any cause
risk: next
competing: []
requires: [death]
---*/
select i.study_id, d.death_date as event_date, d.death_datetime as event_datetime
from task_index i join death d using (person_id)
"""
READMISSION = """/*---
task: {task}
version: 1
title: Another stay in hospital after the one that holds the scan
{kind}clock: risk_start
risk: next
concept_sets:
  inpatient: {{include: ["Visit:IP"], descendants: true}}
eras:
  stay: {{table: visit_occurrence, concepts: inpatient, gap: 1 day}}
requires: [visit_occurrence]
---*/
select i.study_id, s.start_date as event_date, s.start_datetime as event_datetime, s.first_id as evidence_id
from   task_index i
join   era_stay s on s.person_id = i.person_id

-- @at_risk
select i.study_id, s.end_date as risk_start_date
from   task_index i
join   era_stay s on s.person_id = i.person_id and i.t0_date between s.start_date and s.end_date
"""
DIAGNOSIS = """/*---
task: {task}
version: 1
title: A diagnosis after the scan
min_prior_obs: 365 days
concept_sets:
  outcome: {{include: ["SNOMED:{code}"], descendants: true}}
requires: [condition_occurrence]
---*/
select i.study_id, c.condition_start_date as event_date, c.condition_start_datetime as event_datetime,
       c.condition_concept_id as evidence_concept_id, c.condition_occurrence_id as evidence_id
from   task_index i
join   condition_occurrence c on c.person_id = i.person_id
where  c.condition_concept_id in (select concept_id from cs_outcome)
"""
LAB = """/*---
task: {task}
version: 1
title: A laboratory value beyond its threshold after the scan
kind: measurement_threshold
{lookback}threshold: {{{beyond}, unit: "UCUM:{unit}"}}
concept_sets:
  test: {{include: ["LOINC:{code}"]}}
requires: [measurement]
---*/
select i.study_id, m.measurement_date as event_date, m.measurement_datetime as event_datetime,
       m.value_as_number as value, m.unit_concept_id, m.measurement_id as evidence_id
from   task_index i
join   measurement m on m.person_id = i.person_id
join   cs_test t on t.concept_id = m.measurement_concept_id
where  m.value_as_number is not null
"""


def write_twelve(folder: Path) -> None:
    """Write the twelve task files and their fixtures."""
    files: dict[str, tuple[str, str]] = {"all_cause_mortality": (DEATH, _death_cases())}
    for task, kind in READMISSIONS.items():
        files[task] = (READMISSION.format(task=task, kind=kind), _readmission_cases())
    for task, code in DIAGNOSES.items():
        files[task] = (DIAGNOSIS.format(task=task, code=code), _diagnosis_cases(code))
    for task, (code, beyond, unit, lookback, yes, no) in LABS.items():
        sql = LAB.format(task=task, code=code, beyond=beyond, unit=unit, lookback=lookback)
        files[task] = (sql, _lab_cases(code, unit, yes, no))
    (folder / "tests").mkdir(parents=True)
    for task, (sql, cases) in files.items():
        (folder / f"{task}.sql").write_text(sql)
        (folder / "tests" / f"{task}.yaml").write_text(cases)


def _case(name: str, given: str, state: str, **more: int) -> str:
    expected = ", ".join([f"state: {state}", *(f"{key}: {value}" for key, value in more.items())])
    return f"- name: {name}\n  given:\n{INDEX}{PERIOD}{given}  expect: [{{study_id: 1, {expected}}}]\n"


def _death_cases() -> str:
    return (
        _case("death is the event", DEAD, "event")
        + _case("alive to the end", "", "censored")
        + _case("dead before the scan", "    death: [{person_id: 7, date: 2019-03-01}]\n", "masked")
    )


def _readmission_cases() -> str:
    stays = "    visit_occurrence:\n"
    return (
        _case("a second stay", stays + STAY + LATER, "event", days=15)
        + _case("no second stay", stays + STAY, "censored")
        + _case("dead at home", stays + STAY + DEAD, "competing")
        + _case("no stay holds the scan", stays + LATER, "masked")
    )


def _diagnosis_cases(code: str) -> str:
    def row(day: str) -> str:
        return f'    condition_occurrence: [{{person_id: 7, concept: "SNOMED:{code}", date: {day}}}]\n'

    return (
        _case("first after the scan", row("2020-09-01"), "event")
        + _case("never", "", "censored")
        + _case("the day of the scan is history", row("2020-03-01"), "prevalent")
        + _case("death first", DEAD, "competing")
    )


def _lab_cases(code: str, unit: str, yes: float, no: float) -> str:
    def row(day: str, value: float) -> str:
        return (
            f'    measurement: [{{person_id: 7, concept: "LOINC:{code}", date: {day}, value_as_number: {value}, '
            f'unit: "UCUM:{unit}"}}]\n'
        )

    return (
        _case("beyond after the scan", row("2020-09-01", yes), "event")
        + _case("a value within bounds is no event", row("2020-09-01", no), "censored")
        + _case("beyond just before", row("2020-02-20", yes), "prevalent")
        + _case("death first", DEAD, "competing")
    )
