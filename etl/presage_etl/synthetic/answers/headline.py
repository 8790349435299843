"""Headline outcome tasks as SQL files with their fixtures, in the format of the task documentation."""

from __future__ import annotations

from pathlib import Path

from presage_etl.synthetic.lives.hazards import Model
from presage_etl.synthetic.parameters import Headline, Parameters
from presage_etl.synthetic.records.vocabulary import coding_of

DEATH_SQL = """/*---
task: {task}
version: 1
title: {title}
risk: next
competing: []
requires: [death]
---*/
select i.study_id, d.death_date as event_date, d.death_datetime as event_datetime
from   task_index i
join   death d on d.person_id = i.person_id
"""

DIAGNOSIS_SQL = """/*---
task: {task}
version: 1
title: {title}
min_prior_obs: 365 days
concept_sets:
  outcome: {{include: ["{code}"], descendants: true{expected}}}
requires: [condition_occurrence]
---*/
select i.study_id, c.condition_start_date as event_date, c.condition_start_datetime as event_datetime,
       c.condition_concept_id as evidence_concept_id, c.condition_occurrence_id as evidence_id
from   task_index i
join   condition_occurrence c on c.person_id = i.person_id
join   cs_outcome o on o.concept_id = c.condition_concept_id
"""

DEATH_YAML = """- name: death after the scan is the event
  given:
    index: [{study_id: 1, person_id: 7, t0: "2020-03-01 10:00"}]
    observation_period: [{person_id: 7, start: 2015-01-01, end: 2021-06-30}]
    death: [{person_id: 7, date: 2021-06-30}]
  expect: [{study_id: 1, state: event}]
- name: alive at the end of the record
  given:
    index: [{study_id: 1, person_id: 7, t0: "2020-03-01 10:00"}]
    observation_period: [{person_id: 7, start: 2015-01-01, end: 2021-06-30}]
  expect: [{study_id: 1, state: censored}]
"""

DIAGNOSIS_YAML = """- name: first diagnosis after the scan
  given:
    index: [{{study_id: 1, person_id: 7, t0: "2020-03-01 10:00"}}]
    observation_period: [{{person_id: 7, start: 2015-01-01, end: 2022-12-31}}]
    condition_occurrence: [{{person_id: 7, concept: "{code}", date: 2020-09-01}}]
  expect: [{{study_id: 1, state: event}}]
- name: no diagnosis in the record
  given:
    index: [{{study_id: 1, person_id: 7, t0: "2020-03-01 10:00"}}]
    observation_period: [{{person_id: 7, start: 2015-01-01, end: 2022-12-31}}]
  expect: [{{study_id: 1, state: censored}}]
- name: event on the index day is history
  given:
    index: [{{study_id: 1, person_id: 7, t0: "2020-03-01 10:00"}}]
    observation_period: [{{person_id: 7, start: 2015-01-01, end: 2022-12-31}}]
    condition_occurrence: [{{person_id: 7, concept: "{code}", date: 2020-03-01}}]
  expect: [{{study_id: 1, state: prevalent}}]
- name: death comes first
  given:
    index: [{{study_id: 1, person_id: 7, t0: "2020-03-01 10:00"}}]
    observation_period: [{{person_id: 7, start: 2015-01-01, end: 2021-06-30}}]
    death: [{{person_id: 7, date: 2021-06-30}}]
  expect: [{{study_id: 1, state: competing}}]
"""


def write_tasks(folder: Path, parameters: Parameters, model: Model) -> None:
    """Write one .sql file a headline task, and its fixture below tests/."""
    (folder / "tests").mkdir(parents=True, exist_ok=True)
    for headline in parameters.headline:
        sql, fixture = _task(headline, model)
        (folder / f"{headline.task}.sql").write_text(sql, encoding="utf-8")
        (folder / "tests" / f"{headline.task}.yaml").write_text(fixture, encoding="utf-8")


def _task(headline: Headline, model: Model) -> tuple[str, str]:
    if headline.condition == "death":
        return DEATH_SQL.format(task=headline.task, title=headline.title), DEATH_YAML
    leaf = model.leaves[model.place[headline.condition]]
    code = ":".join(coding_of(leaf))
    expected = f", expect_concept_id: {leaf.concept_id}"
    sql = DIAGNOSIS_SQL.format(task=headline.task, title=headline.title, code=code, expected=expected)
    return sql, DIAGNOSIS_YAML.format(code=code)
