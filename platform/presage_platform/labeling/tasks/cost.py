"""The cost gate: what the planner expects of a query is read before the query runs.

A query is refused above a cost, above a number of rows, or with a nested loop that has no join condition over too many
pairs: the sign of a forgotten `on`. The error names the node of the plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from presage_platform.errors import LimitError

if TYPE_CHECKING:
    from presage_platform.settings import LabelingSettings

CONDITIONS = ("Join Filter", "Index Cond", "Recheck Cond", "Filter", "Cache Key", "TID Cond")
Plan = dict[str, Any]


@dataclass(frozen=True)
class CostGate:
    """Limits of a query, in the planner's estimates; `dry_run_s` is how long 100 studies may take."""

    max_cost: float = 1e8
    max_rows: float = 1e7
    max_pairs: float = 1e8
    dry_run_studies: int = 100
    dry_run_s: float = 10.0

    @classmethod
    def of_settings(cls, settings: LabelingSettings) -> CostGate:
        """Return the limits of `[labeling]`."""
        return cls(max_cost=settings.max_cost, max_rows=settings.max_rows)


def refuse_costly(task: str, block: str, plan: Plan, gate: CostGate) -> None:
    """Raise for a plan that is too expensive.

    Parameters
    ----------
    plan
        The value of `Plan` in the first element that `EXPLAIN (FORMAT JSON)` returns.

    Raises
    ------
    LimitError
        `limit: task NAME: …`, with the node, its estimate, and the setting that bounds it.
    """
    where = f"limit: task {task}: its {block} query"
    for node, pairs in loops_without_condition(plan):
        if pairs > gate.max_pairs:
            sides = " × ".join(_described(side) for side in node["Plans"][:2])
            raise LimitError(
                f"{where} pairs {sides} without a join condition (plan node {node['Node Type']}, about {pairs:.1e} "
                f"pairs), expected at most {gate.max_pairs:.0e}: join them, for example on person_id"
            )
    if plan["Plan Rows"] > gate.max_rows:
        raise LimitError(
            f"{where} returns about {plan['Plan Rows']:.1e} rows (plan node {_described(plan)}), expected at most "
            f"{gate.max_rows:.1e}: narrow it, or raise [labeling] max_rows"
        )
    if plan["Total Cost"] > gate.max_cost:
        raise LimitError(
            f"{where} has an estimated cost of {plan['Total Cost']:.1e} (plan node {_described(_dearest(plan))}), "
            f"expected at most {gate.max_cost:.1e}: narrow it, or raise [labeling] max_cost"
        )


def loops_without_condition(plan: Plan) -> Iterator[tuple[Plan, float]]:
    """Yield every nested loop that joins on nothing, with the estimated number of pairs."""
    for node in nodes(plan):
        if node["Node Type"] != "Nested Loop" or "Join Filter" in node or len(node.get("Plans", ())) < 2:
            continue
        outer, inner = node["Plans"][:2]
        names = {str(part["Alias"]) for part in nodes(outer) if "Alias" in part}
        if not any(_mentions(part, names) for part in nodes(inner)):
            yield node, float(outer["Plan Rows"]) * float(inner["Plan Rows"])


def nodes(plan: Plan) -> Iterator[Plan]:
    """Yield a plan and everything below it."""
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


def _mentions(node: Plan, names: set[str]) -> bool:
    """Return whether a condition of a node refers to a relation of the other side."""
    text = " ".join(str(node[key]) for key in CONDITIONS if key in node)
    return any(f"{name}." in text for name in names)


def _dearest(plan: Plan) -> Plan:
    """Return the node that adds most to the cost by itself."""

    def own(node: Plan) -> float:
        return float(node["Total Cost"]) - sum(float(part["Total Cost"]) for part in node.get("Plans", ()))

    return max(nodes(plan), key=own)


def _described(node: Plan) -> str:
    over = next((str(part["Relation Name"]) for part in nodes(node) if "Relation Name" in part), None)
    return str(node["Node Type"]) + (f" on {over}" if over else "")
