/*---
task: readmission_any
version: 1
title: Inpatient admission after discharge from the stay that holds the scan
clock: risk_start
risk: next
concept_sets:
  inpatient: {include: ["Visit:IP", "Visit:ERIP"], descendants: true}     # 9201, 262
eras:
  stay: {table: visit_occurrence, concepts: inpatient, gap: 1 day}        # transfers are one stay
requires: [visit_occurrence]
---*/
select i.study_id, s.start_date as event_date, s.start_datetime as event_datetime, s.first_id as evidence_id
from   task_index i
join   era_stay s on s.person_id = i.person_id

-- @at_risk
select i.study_id, s.end_date as risk_start_date
from   task_index i
join   era_stay s on s.person_id = i.person_id and i.t0_date between s.start_date and s.end_date
