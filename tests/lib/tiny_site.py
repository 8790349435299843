"""A workspace and a vocabulary that take the hand-made inputs of tests through every command."""

from __future__ import annotations

from pathlib import Path

from tests.lib.vocabulary import concept_rows, write_athena

SITE = """
[etl.policies]
timezone = "America/New_York"
[imaging]
recipes = ["tiny"]
[labeling]
k = 3
min_events = 1
split_fractions = [0.5, 0.2, 0.3]
bins = [180.0, 720.0]
"""
HEAD = """/*---
task: {name}
version: 1
title: First diagnosis after the scan
concept_sets:
  outcome: {{include: ["SNOMED:44054006"], descendants: true}}
requires: [condition_occurrence]
---*/
"""
BODY = """select i.study_id, c.condition_start_date as event_date
from   task_index i
join   condition_occurrence c on c.person_id = i.person_id
join   cs_outcome o on o.concept_id = c.condition_concept_id
"""
DIABETES = HEAD.format(name="diabetes") + BODY
FAILING_TASK = """/*---
task: leak
version: 1
title: A cast that fails on a value
requires: [condition_occurrence]
---*/
select i.study_id, cast(c.condition_source_value as date) as event_date
from   task_index i
join   condition_occurrence c on c.person_id = i.person_id
"""
FIXTURE = """
- name: first diagnosis after the scan
  given:
    index: [{study_id: 1, person_id: 7, t0: "2020-03-01 10:00"}]
    observation_period: [{person_id: 7, start: 2015-01-01, end: 2022-12-31}]
    condition_occurrence: [{person_id: 7, concept: "SNOMED:44054006", date: 2020-09-01}]
  expect: [{study_id: 1, state: event}]
- name: no diagnosis in the record
  given:
    index: [{study_id: 1, person_id: 7, t0: "2020-03-01 10:00"}]
    observation_period: [{person_id: 7, start: 2015-01-01, end: 2022-12-31}]
  expect: [{study_id: 1, state: censored}]
- name: event on the index day is history
  given:
    index: [{study_id: 1, person_id: 7, t0: "2020-03-01 10:00"}]
    observation_period: [{person_id: 7, start: 2015-01-01, end: 2022-12-31}]
    condition_occurrence: [{person_id: 7, concept: "SNOMED:44054006", date: 2020-03-01}]
  expect: [{study_id: 1, state: prevalent}]
- name: death comes first
  given:
    index: [{study_id: 1, person_id: 7, t0: "2020-03-01 10:00"}]
    observation_period: [{person_id: 7, start: 2015-01-01, end: 2021-06-30}]
    death: [{person_id: 7, date: 2021-06-30}]
  expect: [{study_id: 1, state: competing}]
"""


def lay_out(workspace: Path, inputs: Path) -> Path:
    """Make a workspace with settings and one tested task, and `vocabulary` below `inputs`; return the workspace."""
    (workspace / "tasks" / "tests").mkdir(parents=True)
    workspace.chmod(0o700)
    (workspace / "platform.toml").write_text(SITE)
    (workspace / "tasks" / "diabetes.sql").write_text(DIABETES)
    (workspace / "tasks" / "tests" / "diabetes.yaml").write_text(FIXTURE)
    write_vocabulary(inputs / "vocabulary")
    return workspace


def write_vocabulary(folder: Path) -> Path:
    """Write the tiny vocabulary with every standard concept as its own ancestor, so that labels find a hierarchy."""
    write_athena(folder)
    header = ("ancestor_concept_id", "descendant_concept_id", "min_levels_of_separation", "max_levels_of_separation")
    standard = [row["concept_id"] for row in concept_rows() if row["standard_concept"] == "S"]
    lines = ["\t".join(header), *("\t".join((concept, concept, "0", "0")) for concept in standard)]
    (folder / "CONCEPT_ANCESTOR.csv").write_text("\n".join(lines) + "\n")
    return folder
