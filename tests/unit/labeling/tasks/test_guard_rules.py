"""Each rule of the guard from both sides: what it refuses, and the nearest query that it must let through."""

from __future__ import annotations

import dataclasses

import pytest
import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError

from presage_platform.labeling.tasks import guard
from presage_platform.labeling.tasks.guard import (
    CAST_TYPES,
    COHORT,
    CONCEPT_SET,
    ERA,
    OUTPUTS,
    STATEMENTS,
    SYSTEM_COLUMNS,
    TASK_INDEX,
    Refusal,
    first_refusal,
)

RELATIONS = {
    "task_index": TASK_INDEX,
    "death": {"person_id": "bigint", "death_date": "date", "death_datetime": "timestamp", "cause_concept_id": "bigint"},
    "cs_outcome": CONCEPT_SET,
    "era_stay": ERA,
    "cohort": COHORT,
}
T = "from task_index i join death d on d.person_id = i.person_id"
S = "select i.study_id, d.death_date as event_date"


def refused(sql: str, block: str = "body", parameters: set[str] | None = None) -> Refusal | None:
    return first_refusal(sql, block=block, relations=RELATIONS, parameters=parameters or set())


def value(expression: str) -> str:
    """A query that is honest but for one expression."""
    return f"{S}, {expression} as value {T}"


PAIRS = [
    # rule, refused, its neighbour that passes
    ("Q1", f"{S} {T} where", f"{S} {T}"),
    ("Q1", "", f"{S} {T}"),
    ("Q1", "   ", f"{S} {T}"),
    ("Q1", f"{S}, 'open as value {T}", f"{S}, 1 as value {T}"),
    ("Q1", "selec 1", f"{S} {T}"),
    ("Q2", f"{S} {T};", f"{S} {T}"),
    ("Q2", f"{S} {T}; {S} {T}", f"{S} {T} union all {S} {T}"),
    ("Q3", f"{S} into x {T}", f"{S} {T}"),
    ("Q3", f"{S} {T} for update", f"{S} {T}"),
    ("Q3", f"{S} {T} for share", f"{S} {T}"),
    ("Q3", "select study_id, t0_date as event_date from task_index tablesample system (1)",
     "select study_id, t0_date as event_date from task_index"),
    ("Q3", f"with x as (delete from death returning person_id) {S} {T}",
     f"with x as (select person_id from death) {S} {T} join x on x.person_id = i.person_id"),
    ("Q3", f"with x as (update death set person_id = 1 returning 1) {S} {T}", f"{S} {T}"),
    ("Q3", f"with x as (insert into death values (1) returning 1) {S} {T}", f"{S} {T}"),
    ("Q4", "values (1, date '2020-01-01')", f"({S} {T})"),
    ("Q4", "listen x", f"{S} {T}"),
    ("Q5", f"with recursive x as (select person_id from death) {S} {T}",
     f"with x as (select person_id from death) {S} {T}"),
    ("Q6", f"{S} from task_index i join public.death d on d.person_id = i.person_id", f"{S} {T}"),
    ("Q6", f"{S} from task_index i join a.b.death d on d.person_id = i.person_id", f"{S} {T}"),
    ("Q6", f"{S} {T} join person p on p.person_id = i.person_id",
     f"{S} {T} join era_stay p on p.person_id = i.person_id"),
    ("Q6", f"with death as (select person_id from era_stay) {S} {T}",
     f"with deaths as (select person_id from era_stay) {S} {T}"),
    ("Q6", value("(select max(usename) from pg_user)"), value("(select max(concept_id) from cs_outcome)")),
    ("Q7", value("pg_sleep(1)"), value("abs(-1)")),
    ("Q7", value("random()"), value("round(1.5)")),
    ("Q7", f"{S} {T} where d.death_date < now()", f"{S} {T} where d.death_date < i.t0"),
    ("Q7", f"{S} {T} where d.death_date < current_date", f"{S} {T} where d.death_date < i.t0_date"),
    ("Q7", f"{S} {T} where d.death_date < current_timestamp", f"{S} {T} where d.death_date < i.t0"),
    ("Q7", f"{S} {T}, generate_series(1, 9) g", f"{S} {T} cross join cs_outcome g"),
    ("Q7", f"{S} {T}, unnest(array[1]) g", f"{S} {T} where i.study_id = any(array[1, 2])"),
    ("Q7", f"{S} {T} cross join lateral pg_ls_dir('/') g",
     f"{S} {T} cross join lateral (select e.end_date from era_stay e where e.person_id = i.person_id) g"),
    ("Q7", f"{S} {T} where 1 operator(pg_catalog.=) 1", f"{S} {T} where 1 = 1"),
    ("Q7", value("version()"), value("length(i.site)")),
    ("Q7", value("md5(i.site)"), value("upper(i.site)")),
    ("Q7", value("string_agg(i.site, ',')"), value("max(i.site)").replace(T, f"{T} group by 1, 2")),
    ("Q8", value("'x'::regclass"), value("'1'::int")),
    ("Q8", value("cast(i.site as name)"), value("cast(i.site as text)")),
    ("Q8", value("cast(1 as json)"), value("cast(1 as double precision)")),
    ("Q8", value("cast('a' as bytea)"), value("cast('1 day' as interval)")),
    ("Q9", f"select * {T}", f"{S} {T}"),
    ("Q9", f"select i.* {T}", f"{S} {T}"),
    ("Q9", "table task_index", "select study_id, t0_date as event_date from task_index"),
    ("Q9", value("i.ctid"), value("i.person_id")),
    ("Q9", value("i.xmin"), value("i.site")),
    ("Q9", value("i"), value("i.study_id")),
    ("Q9", value("(i).person_id"), value("(i.person_id)")),
    ("Q9", value("d.cause_source_value"), value("d.cause_concept_id")),
    ("Q9", f"{S}, nowhere.person_id as value {T}", value("d.person_id")),
    ("Q10", f"select i.study_id {T}", f"{S} {T}"),
    ("Q10", f"select d.death_date as event_date {T}", f"{S} {T}"),
    ("Q10", f"{S}, 1 as other {T}", f"{S}, 1 as cause {T}"),
    ("Q10", f"{S}, 1 as value, 2 as value {T}", f"{S}, 1 as value, 2 as evidence_id {T}"),
    ("Q10", f"{S} {T} where i.person_id = :person", f"{S} {T} where i.person_id = 1"),
    ("Q11", f"{S} {T} limit 1", f"{S} {T}"),
    ("Q11", f"{S} {T} offset 1", f"{S} {T} order by 1"),
    ("Q11", f"{S} {T} fetch first 1 rows only", f"{S} {T} order by 2"),
    ("Q11", f"{S} {T} where i.study_id in (select study_id from task_index limit 1)",
     f"{S} {T} where i.study_id in (select study_id from task_index)"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "bad", "good"), PAIRS)
def test_l67_each_rule_refuses_its_case_and_lets_the_nearest_pass(rule: str, bad: str, good: str) -> None:
    found = refused(bad)
    assert found is not None and found.rule == rule, found
    assert refused(good) is None, refused(good)


def test_l67_every_rule_has_a_pair() -> None:
    assert {rule for rule, _, _ in PAIRS} == {f"Q{number}" for number in range(1, 12)}


@pytest.mark.parametrize("word", sorted(STATEMENTS))
def test_l67_every_statement_that_is_no_select_is_q3_by_its_first_word(word: str) -> None:
    for text in (word, word.upper(), f"  {word} x"):
        found = refused(text)
        assert found is not None and found.rule == "Q3", found
        assert word.upper() in found.message


@pytest.mark.parametrize("name", sorted(SYSTEM_COLUMNS))
def test_l67_every_system_column_is_q9(name: str) -> None:
    found = refused(value(f"i.{name}"))
    assert found == Refusal("Q9", 1, found.column if found else 0, f"system column `{name}`")


@pytest.mark.parametrize(
    "kind", ["date", "timestamp", "interval", "int", "bigint", "numeric", "double precision", "boolean", "text"]
)
def test_l67_plain_types_may_be_cast_to(kind: str) -> None:
    assert refused(value(f"cast(null as {kind})")) is None


@pytest.mark.parametrize("kind", ["regclass", "oid", "jsonb", "xml", "uuid", "inet", "timestamptz", "int[]", "bytea"])
def test_l67_other_types_may_not(kind: str) -> None:
    found = refused(value(f"cast(null as {kind})"))
    assert found is not None and found.rule == "Q8"


def test_l67_the_list_of_types_is_what_it_was_decided_to_be() -> None:
    names = {kind.name for kind in CAST_TYPES}
    assert names == {"DATE", "TIMESTAMP", "INTERVAL", "INT", "BIGINT", "DECIMAL", "DOUBLE", "BOOLEAN", "TEXT"}


ALLOWED_CALLS = [
    "abs(1)", "ceil(1.5)", "floor(1.5)", "round(1.5, 1)", "greatest(1, 2)", "least(1, 2)", "coalesce(null, 1)",
    "nullif(1, 2)", "length('a')", "lower('A')", "upper('a')", "trim(' a ')", "substring('abc' from 1 for 2)",
    "concat('a', 'b')", "extract(year from i.t0)", "date_trunc('month', i.t0)", "case when 1 = 1 then 1 else 2 end",
    "row_number() over (order by i.t0)", "rank() over (order by i.t0)", "dense_rank() over (order by i.t0)",
    "lag(i.t0) over (order by i.t0)", "lead(i.t0) over (order by i.t0)", "first_value(i.t0) over (order by i.t0)",
    "last_value(i.t0) over (order by i.t0)", "(select count(*) from cs_outcome)", "(select sum(1) from cs_outcome)",
    "(select min(concept_id) from cs_outcome)", "(select max(concept_id) from cs_outcome)",
    "(select avg(concept_id) from cs_outcome)",
]  # fmt: skip


@pytest.mark.parametrize("call", ALLOWED_CALLS)
def test_l67_functions_of_the_list_pass(call: str) -> None:
    assert refused(value(call)) is None, refused(value(call))


@pytest.mark.parametrize(
    "condition",
    [
        "i.site like 'a%'", "i.site ilike 'a%'", "i.study_id between 1 and 2", "i.study_id in (1, 2)",
        "i.site is not null", "not i.site = 'a'", "exists (select 1 from cs_outcome)",
        "d.death_date - i.t0_date > 3", "d.death_date > i.t0_date + interval '1 day'", "(i.study_id, i.person_id) in ((1, 2))",
        "i.study_id > all (select concept_id from cs_outcome)", "i.site = 'a' or i.site = 'b' and i.study_id % 2 = 0",
        "i.site is distinct from 'a'", "-i.study_id < 0", "i.site || 'x' = 'ax'",
    ],
)  # fmt: skip
def test_l67_plain_conditions_pass(condition: str) -> None:
    assert refused(f"{S} {T} where {condition}") is None, refused(f"{S} {T} where {condition}")


@pytest.mark.parametrize(
    ("block", "columns"),
    [
        ("at_risk", "i.study_id, d.death_date as risk_start_date"),
        ("at_risk", "i.study_id, d.death_date as risk_start_date, d.death_datetime as risk_start_datetime"),
        ("censor", "i.study_id, d.death_date as censor_date"),
    ],
)
def test_l67_each_block_returns_its_own_columns(block: str, columns: str) -> None:
    assert refused(f"select {columns} {T}", block) is None
    for other in set(OUTPUTS) - {block}:
        found = refused(f"select {columns} {T}", other)
        assert found is not None and found.rule == "Q10"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("i.person_id as cause", "returns no event_date, study_id"),
        (
            "i.study_id, d.death_date as risk_start_date, 1 as dose, 1 as dosis",
            "returns `dose`, expected risk_start_date, risk_start_datetime, study_id",
        ),
        ("i.study_id, d.death_date as censor_date, d.death_date as censor_date", "returns a column twice"),
    ],
)
def test_l67_q10_says_which_column_is_missing_unknown_or_double(columns: str, message: str) -> None:
    block = "at_risk" if "risk" in columns else "censor" if "censor" in columns else "body"
    found = refused(f"select {columns} {T}", block)
    assert found is not None and (found.rule, found.message) == ("Q10", message)


def test_l60_a_declared_parameter_passes_and_another_does_not() -> None:
    query = f"{S} {T} where i.person_id > :low and i.person_id < :high"
    assert refused(query, parameters={"low", "high"}) is None
    found = refused(query, parameters={"low"})
    assert found is not None and (found.rule, found.message) == ("Q10", "parameter `:high` is not declared in `params`")


@pytest.mark.parametrize(
    ("query", "rule", "line", "column"),
    [
        ("select study_id,\n  pg_sleep(1) as event_date\nfrom task_index", "Q7", 2, 3),
        ("select study_id, t0_date as event_date\nfrom task_index;", "Q2", 2, 16),
        ("select study_id, t0_date as event_date\nfrom\n   nowhere", "Q6", 3, 4),
        ("drop table person", "Q3", 1, 1),
        ("\n\nlisten x", "Q4", 3, 1),
        ("select study_id, t0_date as event_date\n  from task_index\n  where 1 operator(a.=) 1", "Q7", 3, 11),
    ],
)
def test_l67_line_and_column_are_those_of_the_fault(query: str, rule: str, line: int, column: int) -> None:
    found = refused(query)
    assert found is not None and (found.rule, found.line, found.column) == (rule, line, column)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", Refusal("Q1", 1, 1, "is empty, expected one SELECT")),
        ("select 'open", Refusal("Q1", 1, 1, "cannot be read: an unclosed quote or comment")),
        ("select null", Refusal("Q10", 1, 1, "returns no event_date, study_id")),
        ('"a quoted\nword" 1', Refusal("Q1", 2, 1, "cannot be parsed as one SELECT")),
        (f'{S} from "a quoted\nname" i', Refusal("Q6", 2, 1, "table `a quoted\nname` is not in `requires`")),
        (f"{S} from\nnowhere i", Refusal("Q6", 2, 1, "table `nowhere` is not in `requires`")),
        (f"{S}\n {T}\nwhere\n (", Refusal("Q1", 4, 2, "cannot be parsed as one SELECT")),
    ],
)
def test_l67_a_refusal_says_what_was_found_and_where(query: str, expected: Refusal) -> None:
    assert refused(query) == expected


@pytest.mark.parametrize(("call", "name"), [("pg_sleep(1)", "pg_sleep"), ("random()", "rand"), ("sqrt(4)", "sqrt")])
def test_l67_a_function_that_is_refused_is_named(call: str, name: str) -> None:
    found = refused(value(call))
    assert found is not None and found.message == f"function `{name}` is not on the list of allowed ones"


def test_l67_the_word_operator_is_refused_only_before_a_bracket() -> None:
    query = "select operator.study_id, operator.t0_date as event_date from task_index as operator"
    assert refused(query) is None, refused(query)
    found = refused(f"{query} where 1 operator(pg_catalog.=) 1")
    assert found is not None and (found.rule, found.message) == ("Q7", "operator(…) may call any function")


def test_l67_a_refusal_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Refusal("Q1", 1, 1, "x").rule = "Q2"  # type: ignore[misc]


def test_l67_a_column_that_does_not_resolve_is_named() -> None:
    found = refused("select nothing as study_id, t0_date as event_date from task_index")
    assert found is not None and found.rule == "Q9"
    assert found.message == "a column does not resolve: Column 'nothing' could not be resolved"


def test_l67_a_parser_that_names_no_place_points_at_the_first_character(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ParseError("somewhere")

    monkeypatch.setattr(sqlglot, "parse", refuse)
    assert refused(f"{S} {T}") == Refusal("Q1", 1, 1, "cannot be parsed as one SELECT")


@pytest.mark.parametrize("number", [0, 2, 3])
def test_l67_any_number_of_statements_but_one_is_q2(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokens show a semicolon first; a parser that splits otherwise is no way around."""
    monkeypatch.setattr(sqlglot, "parse", lambda *_, **__: [None, *[exp.Select()] * number])
    assert refused(f"{S} {T}") == Refusal("Q2", 1, 1, f"{number} statements, expected exactly one")


@pytest.mark.parametrize(
    ("condition", "node"),
    [
        ("i.site similar to 'a'", "SimilarTo"), ("i.site ~ 'a'", "RegexpLike"), ("i.study_id & 1 = 1", "BitwiseAnd"),
        ("i.study_id << 60 > 1", "BitwiseLeftShift"), ("2 ^ 9 > 1", "Pow"), ("i.site collate \"C\" = 'a'", "Collate"),
        ("i.site -> 'a' is null", "JSONExtract"), ("array[1] @> array[1]", "ArrayContainsAll"),
    ],
)  # fmt: skip
def test_l67_what_nobody_thought_of_is_refused_by_its_name(condition: str, node: str) -> None:
    assert not issubclass(getattr(exp, node), (*guard.ALLOWED, *guard.FUNCTIONS))
    found = refused(f"{S} {T} where {condition}")
    assert found is not None and found.rule == "Q7"


def test_l67_the_first_refusal_in_the_order_of_the_rules_is_given() -> None:
    found = refused("select * from nowhere limit 1")
    assert found is not None and found.rule == "Q11", "limits are looked at before tables and stars"
