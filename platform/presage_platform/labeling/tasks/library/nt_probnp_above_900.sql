/*---
task: nt_probnp_above_900
version: 1
title: NT-proBNP above 900 pg/mL after the scan
kind: measurement_threshold
lookback: all
threshold: {above: 900.0, unit: "UCUM:pg/mL", factors: {"UCUM:ng/L": 1.0}}
concept_sets:
  test: {include: ["LOINC:33762-6"], descendants: true}
requires: [measurement]
---*/
select i.study_id, m.measurement_date as event_date, m.measurement_datetime as event_datetime,
       m.value_as_number as value, m.unit_concept_id, m.measurement_id as evidence_id
from   task_index i
join   measurement m on m.person_id = i.person_id
join   cs_test t on t.concept_id = m.measurement_concept_id
where  m.value_as_number is not null
