/*---
task: cardiomegaly
version: 1
title: First cardiomegaly diagnosis after the scan
min_prior_obs: 365 days
concept_sets:
  outcome: {include: ["SNOMED:8186001"], descendants: true}
requires: [condition_occurrence]
---*/
select i.study_id, c.condition_start_date as event_date, c.condition_start_datetime as event_datetime,
       c.condition_concept_id as evidence_concept_id, c.condition_occurrence_id as evidence_id
from   task_index i
join   condition_occurrence c on c.person_id = i.person_id
join   cs_outcome o on o.concept_id = c.condition_concept_id
