/*---
task: all_cause_mortality
version: 1
title: Death from any cause
risk: next
competing: []
requires: [death]
---*/
select i.study_id, d.death_date as event_date, d.death_datetime as event_datetime
from   task_index i
join   death d on d.person_id = i.person_id
