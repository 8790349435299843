/*---
task: haemoglobin_below_8
version: 1
title: Haemoglobin below 8 g/dL after the scan
kind: measurement_threshold
lookback: 30 days
threshold: {below: 8.0, unit: "UCUM:g/dL", factors: {"UCUM:g/L": 0.1}}
concept_sets:
  test: {include: ["LOINC:718-7"], descendants: true}
requires: [measurement]
---*/
select i.study_id, m.measurement_date as event_date, m.measurement_datetime as event_datetime,
       m.value_as_number as value, m.unit_concept_id, m.measurement_id as evidence_id
from   task_index i
join   measurement m on m.person_id = i.person_id
join   cs_test t on t.concept_id = m.measurement_concept_id
where  m.value_as_number is not null
