"""The cost gate reads plans: what is too expensive is refused, and the error names the node."""

from __future__ import annotations

from typing import Any

import pytest

from presage_platform.errors import ExitCode, LimitError
from presage_platform.labeling.tasks.cost import CostGate, loops_without_condition, refuse_costly

GATE = CostGate(max_cost=1000.0, max_rows=500.0, max_pairs=100.0)


def scan(rows: float, alias: str = "i", cost: float = 10.0, **more: Any) -> dict[str, Any]:
    node = {"Node Type": "Seq Scan", "Relation Name": f"table_{alias}", "Alias": alias}
    return {**node, "Plan Rows": rows, "Total Cost": cost, **more}


def loop(outer: dict[str, Any], inner: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"Node Type": "Nested Loop", "Plan Rows": 10, "Total Cost": 100.0, "Plans": [outer, inner], **more}


def test_l68_a_plan_within_the_limits_passes() -> None:
    refuse_costly("t", "body", scan(500, cost=1000.0), GATE)


def test_l68_cost_is_bounded_and_the_dearest_node_is_named() -> None:
    plan = {
        "Node Type": "Hash Join",
        "Plan Rows": 1,
        "Total Cost": 1000.5,
        "Plans": [scan(1, "i", 5), scan(1, "m", 990)],
    }
    with pytest.raises(LimitError, match=r"^limit: task t: its body query .*plan node Seq Scan on table_m.*max_cost"):
        refuse_costly("t", "body", plan, GATE)


def test_l68_rows_are_bounded() -> None:
    with pytest.raises(LimitError, match=r"its censor query returns about 5\.0e\+02 rows .*max_rows") as raised:
        refuse_costly("t", "censor", scan(501), GATE)
    assert raised.value.exit_code == ExitCode.LIMIT


def test_l68_a_nested_loop_without_a_condition_is_bounded_by_its_pairs() -> None:
    refuse_costly("t", "body", loop(scan(10), scan(10, "d")), GATE)
    with pytest.raises(LimitError, match=r"pairs Seq Scan on table_i × Seq Scan on table_d without a join condition"):
        refuse_costly("t", "body", loop(scan(10), scan(11, "d")), GATE)
    deep = {"Node Type": "Aggregate", "Plan Rows": 1, "Total Cost": 1.0, "Plans": [loop(scan(99), scan(99, "d"))]}
    with pytest.raises(LimitError, match="Nested Loop"):
        refuse_costly("t", "body", deep, GATE)


@pytest.mark.parametrize(
    "plan",
    [
        loop(scan(99), scan(99, "d"), **{"Join Filter": "(d.person_id = i.person_id)"}),
        loop(scan(99), scan(99, "d", **{"Index Cond": "(person_id = i.person_id)"})),
        loop(scan(99), {"Node Type": "Memoize", "Plan Rows": 99, "Total Cost": 1.0, "Cache Key": "i.person_id",
                        "Plans": [scan(99, "d")]}),
        {"Node Type": "Hash Join", "Plan Rows": 99, "Total Cost": 9.0, "Plans": [scan(99), scan(99, "d")]},
    ],
)  # fmt: skip
def test_l68_a_condition_on_the_other_side_is_a_join(plan: dict[str, Any]) -> None:
    assert list(loops_without_condition(plan)) == []


def test_l68_a_condition_on_a_constant_is_none() -> None:
    plan = loop(scan(99), scan(99, "d", **{"Index Cond": "(concept_id = 5)"}))
    assert [pairs for _, pairs in loops_without_condition(plan)] == [99 * 99]
