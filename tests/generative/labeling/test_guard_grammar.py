"""Queries built from the grammar of the allow-list are accepted; one forbidden node anywhere in them is refused."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from presage_platform.labeling.tasks.guard import CONCEPT_SET, TASK_INDEX, first_refusal

RELATIONS = {
    "task_index": TASK_INDEX,
    "death": {"person_id": "bigint", "death_date": "date", "death_datetime": "timestamp", "cause_concept_id": "bigint"},
    "cs_outcome": CONCEPT_SET,
}
quick = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
NUMBERS = ("i.study_id", "i.person_id", "d.person_id", "d.cause_concept_id", "1", "-2", "3.5", "null", ":n")
DATES = ("i.t0_date", "d.death_date", "date '2020-01-01'", "cast(i.t0 as date)", "i.t0::date")
TEXTS = ("i.site", "'a'", "'it''s; -- no comment'", "''")

# Each is forbidden wherever an expression may stand; the rule is the one that must refuse it.
FORBIDDEN = {
    "pg_sleep(1)": "Q7",
    "random()": "Q7",
    "now()": "Q7",
    "current_date": "Q7",
    "pg_read_file('/etc/passwd')": "Q7",
    "nextval('s')": "Q7",
    "set_config('role', 'postgres', false)": "Q7",
    "'pg_authid'::regclass": "Q8",
    "cast('a' as bytea)": "Q8",
    "i.ctid": "Q9",
    "d.xmin": "Q9",
    "i.nowhere": "Q9",
    "task_index": "Q9",
    "(select max(usename) from pg_user)": "Q6",
    "(select max(a.person_id) from other.death a)": "Q6",
    "(select max(concept_id) from cs_outcome limit 1)": "Q11",
    "(with recursive r as (select 1 as x) select max(x) from r)": "Q5",
    "(select max(g) from generate_series(1, 9) g)": "Q7",
    "(select max(concept_id) from cs_outcome tablesample system (1))": "Q3",
}


def numbers(depth: int = 2) -> st.SearchStrategy[str]:
    """Expressions with the value of a number."""
    plain = st.sampled_from(NUMBERS)
    if depth == 0:
        return plain
    inner = numbers(depth - 1)
    return st.one_of(
        plain,
        st.tuples(inner, st.sampled_from("+-*%"), inner).map(lambda p: f"({p[0]} {p[1]} {p[2]})"),
        inner.map(lambda x: f"abs({x})"),
        st.tuples(inner, inner).map(lambda p: f"coalesce({p[0]}, {p[1]})"),
        st.tuples(inner, inner).map(lambda p: f"greatest({p[0]}, {p[1]})"),
        inner.map(lambda x: f"cast({x} as bigint)"),
        st.tuples(conditions(0), inner, inner).map(lambda p: f"case when {p[0]} then {p[1]} else {p[2]} end"),
        inner.map(lambda x: f"row_number() over (partition by i.person_id order by {x})"),
        dates().map(lambda x: f"extract(year from {x})"),
        st.sampled_from(TEXTS).map(lambda x: f"length(lower({x}))"),
        st.just("(select max(concept_id) from cs_outcome)"),
    )


def dates() -> st.SearchStrategy[str]:
    """Expressions with the value of a date."""
    plain = st.sampled_from(DATES)
    return st.one_of(
        plain, plain.map(lambda x: f"({x} + interval '3 days')"), plain.map(lambda x: f"least({x}, i.t0_date)")
    )


def conditions(depth: int = 2) -> st.SearchStrategy[str]:
    """Conditions."""
    plain = st.one_of(
        st.tuples(st.sampled_from(NUMBERS), st.sampled_from(("=", "<>", "<", ">=")), st.sampled_from(NUMBERS)).map(
            " ".join
        ),
        st.tuples(dates(), dates()).map(lambda p: f"{p[0]} <= {p[1]}"),
        st.sampled_from(TEXTS).map(lambda x: f"{x} like 'a%'"),
        st.sampled_from(NUMBERS).map(lambda x: f"{x} is not null"),
        st.sampled_from(NUMBERS).map(lambda x: f"{x} in (1, 2)"),
        st.sampled_from(NUMBERS).map(lambda x: f"{x} in (select concept_id from cs_outcome)"),
        st.just("exists (select 1 from cs_outcome o where o.concept_id = d.cause_concept_id)"),
    )
    if depth == 0:
        return plain
    inner = conditions(depth - 1)
    return st.one_of(
        plain,
        st.tuples(inner, st.sampled_from(("and", "or")), inner).map(lambda p: f"({p[0]} {p[1]} {p[2]})"),
        inner.map(lambda x: f"not ({x})"),
        st.tuples(numbers(depth - 1), numbers(depth - 1)).map(lambda p: f"{p[0]} between {p[1]} and 9"),
    )


@st.composite
def queries(draw: st.DrawFn, poison: str | None = None) -> str:
    """One honest query; with `poison`, the same with a forbidden expression in one of its places."""
    places = {
        "value": draw(numbers()),
        "evidence_id": draw(numbers()),
        "where": draw(conditions()),
        "order": "i.study_id",
    }
    if poison is not None:
        where = draw(st.sampled_from(sorted(places)))
        old = places[where]
        places[where] = (
            f"({poison}) is not null"
            if where == "where"
            else draw(
                st.sampled_from((poison, f"coalesce({poison}, null)", f"case when {old} is null then {poison} end"))
            )
        )
    when = draw(dates())
    join = draw(st.sampled_from(("join", "left join", "cross join")))
    on = "" if join == "cross join" else " on d.person_id = i.person_id"
    select = (
        f"select i.study_id, cast({when} as date) as event_date, {places['value']} as value,\n"
        f"       {places['evidence_id']} as evidence_id\nfrom   task_index i\n{join} death d{on}\nwhere  {places['where']}"
    )
    shape = draw(st.sampled_from(("plain", "cte", "subquery", "union")))
    if shape == "plain":
        return f"{select}\norder by {places['order']}"
    columns = "study_id, event_date, value, evidence_id"
    if shape == "cte":
        return f"with x as (\n{select}\norder by {places['order']}\n)\nselect {columns} from x"
    if shape == "subquery":
        return f"select {columns} from (\n{select}\norder by {places['order']}\n) s"
    return f"({select}\norder by {places['order']})\nunion all\n{select}"


@quick
@given(query=queries())
def test_l87_what_the_grammar_builds_is_accepted(query: str) -> None:
    parameters = {"n"} if ":n" in query else set()
    assert first_refusal(query, block="body", relations=RELATIONS, parameters=parameters) is None, query


@quick
@given(data=st.data(), poison=st.sampled_from(sorted(FORBIDDEN)))
def test_l87_one_forbidden_node_anywhere_is_refused(data: st.DataObject, poison: str) -> None:
    query = data.draw(queries(poison))
    found = first_refusal(query, block="body", relations=RELATIONS, parameters={"n"})
    assert found is not None and found.rule == FORBIDDEN[poison], (found, query)
    assert 1 <= found.line <= query.count("\n") + 1


@quick
@given(query=queries(), tail=st.sampled_from((";", "; drop table death", " limit 3", " offset 1", " for update")))
def test_l87_one_forbidden_clause_at_the_end_is_refused(query: str, tail: str) -> None:
    found = first_refusal(query + tail, block="body", relations=RELATIONS, parameters={"n"})
    assert found is not None and found.rule in ("Q1", "Q2", "Q3", "Q11"), (found, query)
