"""Laws that every task obeys, tested on its own fixture at no cost to its author (labeling L72).

Each law changes the rows of each case in a way whose effect on the outcome is known: what lies before the risk start
changes prevalence and never the time, what lies after follow-up changes nothing, and so on. A body that reads the
future, counts duplicates or depends on ids breaks one of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlglot
from sqlglot import exp

from presage_platform.errors import TaskTestError
from presage_platform.labeling.event import SECONDS_PER_DAY
from presage_platform.labeling.tasks.compile import Compiled
from presage_platform.labeling.tasks.definition import Task
from presage_platform.labeling.tasks.locks import Lock
from presage_platform.labeling.tasks.scratch import STEMS, Row
from presage_platform.labeling.tasks.testing import Case, read_fixture, run_cases

if TYPE_CHECKING:
    from presage_platform.postgres.connection import Database

Found = dict[int, Row]
Run = Callable[[Compiled, Lock, list[Case], "Database"], list[Found]]

LAWS = {
    "a": "events before the risk start change prevalence, never the time",
    "b": "a scan one day earlier lengthens the time by a day or uncovers an earlier event",
    "c": "more descendants never lengthen the time",
    "d": "row order and ids change nothing",
    "e": "duplicated events change nothing",
    "f": "data after follow-up changes nothing",
    "g": "another person's data changes nothing",
}
EVENT_TABLES = (*STEMS, "visit_occurrence")
TIMES = ("time_s", "end_s", "end_cause", "entry_s", "window_label", "count", "exposure_s")
EVERYTHING = ("state", "prevalent", "mask", *TIMES)
NEW_CONCEPT = 2_147_483_000
"""An id that no vocabulary gives out: a descendant that the fixture did not know of."""
OTHER_PERSON = 900_000
LONG_BEFORE_DAYS = 40


@dataclass(frozen=True)
class Variant:
    """A changed case, the case and law that it belongs to, and the concept set that grows (law c)."""

    law: str
    number: int
    case: Case
    grown: str | None = None


def run_laws(compiled: Compiled, lock: Lock, database: Database, *, run: Run = run_cases) -> dict[str, int]:
    """Test every law on a task's fixture; return how many changed cases each was tested on.

    Raises
    ------
    TaskTestError
        Of the first law that is broken: its text, the case, and what changed.
    """
    cases = read_fixture(compiled.task)
    before = run(compiled, lock, cases, database)
    variants = list(_variants(compiled.task, cases, before))
    checked = dict.fromkeys(LAWS, 0)
    for grown in sorted({variant.grown for variant in variants}, key=str):
        chosen = [variant for variant in variants if variant.grown == grown]
        after = run(compiled, _with_concept(lock, grown), [variant.case for variant in chosen], database)
        for variant, found in zip(chosen, after, strict=True):
            _compare(compiled.task, variant, before[variant.number], found)
            checked[variant.law] += 1
    return checked


def _variants(task: Task, cases: list[Case], before: list[Found]) -> Iterator[Variant]:
    samples = _samples(task, cases)
    for number, case in enumerate(cases):
        yield from _earlier_events(task, number, case, samples)
        yield Variant("b", number, _index_moved(case))
        yield from _grown_sets(task, number, case, samples)
        yield Variant("d", number, _given(case, {table: rows[::-1] for table, rows in case.given.items()}))
        yield Variant("e", number, _given(case, {table: rows * 2 for table, rows in _events(task, case).items()}))
        yield from _later_events(task, number, case, samples, before[number])
        yield from _other_person(number, case, samples)


def _earlier_events(task: Task, number: int, case: Case, samples: dict[str, Row]) -> Iterator[Variant]:
    """Add an event long before each scan; not a death, and not so near that it confirms or joins what follows."""
    confirm = task.front.threshold.confirm if task.front.threshold is not None else None
    days = LONG_BEFORE_DAYS + max([era.gap_days for era in task.front.eras.values()], default=0)
    days += confirm.within_days if confirm is not None else 0
    for table, sample in samples.items():
        if table == "death":
            continue
        more = [_moved(sample, row["person_id"], _day(row["t0"]) - timedelta(days=days)) for row in case.given["index"]]
        yield Variant("a", number, _given(case, {table: case.given.get(table, []) + more}))


def _index_moved(case: Case) -> Case:
    index = []
    for row in case.given["index"]:
        t0 = str(row["t0"])
        day = date.fromisoformat(t0[:10]) - timedelta(days=1)
        index.append({**row, "t0": f"{day}{t0[10:]}"})
    return _given(case, {"index": index})


def _grown_sets(task: Task, number: int, case: Case, samples: dict[str, Row]) -> Iterator[Variant]:
    """Add a descendant to a concept set, with a record of it soon after the scan, and one long after."""
    for name in _positive_sets(task):
        for table, sample in samples.items():
            if "concept" not in sample:
                continue
            for days in (2, 500):
                more = [
                    {**_moved(sample, row["person_id"], _day(row["t0"]) + timedelta(days=days)), "concept": NEW_CONCEPT}
                    for row in case.given["index"]
                ]
                changed = _given(case, {table: case.given.get(table, []) + more})
                yield Variant("c", number, changed, name)


def _later_events(task: Task, number: int, case: Case, samples: dict[str, Row], before: Found) -> Iterator[Variant]:
    """Add an event after the end of follow-up, unless the end of follow-up is where the data ends."""
    if task.front.censor != "observation_period_end":
        return
    for table, sample in samples.items():
        if table == "death" and not task.follows_death:
            continue
        more = [
            _moved(sample, row["person_id"], _on(before[row["study_id"]]["follow_up_end_s"]) + timedelta(days=2))
            for row in case.given["index"]
            if row["study_id"] in before
        ]
        yield Variant("f", number, _given(case, {table: case.given.get(table, []) + more}))


def _other_person(number: int, case: Case, samples: dict[str, Row]) -> Iterator[Variant]:
    """Add somebody else who has everything, two days after the scan."""
    day = _day(case.given["index"][0]["t0"]) + timedelta(days=2)
    more: dict[str, list[Row]] = {
        table: [*case.given.get(table, []), _moved(sample, OTHER_PERSON, day)] for table, sample in samples.items()
    }
    yield Variant("g", number, _given(case, more))


def _compare(task: Task, variant: Variant, before: Found, after: Found) -> None:
    for study, old in before.items():
        problem = _problem(task, variant.law, old, after[study])
        if problem is not None:
            raise TaskTestError(
                f"task {task.name}: test of law ({variant.law}), {LAWS[variant.law]}: case `{variant.case.name}`, "
                f"study {study}: {problem}"
            )


def _problem(task: Task, law: str, old: Row, new: Row) -> str | None:
    """Return what a law forbids among the differences of two rows; the times of who is never at risk mean nothing."""
    if old["state"] == new["state"] == "masked":
        return None
    if law == "b":
        return _day_earlier(task, old, new)
    if law == "c":
        return _not_longer(old, new)
    for column in TIMES if law == "a" else EVERYTHING:
        if old[column] != new[column]:
            return f"{column} was {old[column]} and is {new[column]}"
    return None


def _day_earlier(task: Task, old: Row, new: Row) -> str | None:
    """The same event on the wall clock, or one that the later risk start hid; a horizon ends a day earlier too."""
    moved = new["clock_s"] != old["clock_s"] - (SECONDS_PER_DAY if task.front.clock == "t0" else 0)
    if moved or "masked" in (old["state"], new["state"]):
        return None
    then, now = _event_at(old), _event_at(new)
    uncovered = now is not None and new["risk_start_s"] < now <= old["risk_start_s"]
    if then == now or uncovered:
        return None
    horizon = task.front.horizon_days
    if now is None and then is not None and horizon is not None and then > new["clock_s"] + horizon * SECONDS_PER_DAY:
        return None
    return f"time_s was {old['time_s']} and is {new['time_s']}"


def _not_longer(old: Row, new: Row) -> str | None:
    then, now = _event_at(old), _event_at(new)
    if then is None or (now is not None and now <= then):
        return None
    return f"time_s was {old['time_s']} and is {new['time_s']}"


def _event_at(row: Row) -> int | None:
    return None if row["time_s"] is None else int(row["clock_s"]) + int(row["time_s"])


def _positive_sets(task: Task) -> list[str]:
    """Return the concept sets of which a member can only add events: not negated, nor behind eras or eligibility."""
    if task.at_risk is not None or task.censor is not None:
        return []
    in_eras = {era.concepts for era in task.front.eras.values()}
    negated = set()
    for table in sqlglot.parse_one(task.body, dialect="postgres").find_all(exp.Table):
        above: Any = table.parent
        while above is not None:
            if isinstance(above, exp.Not | exp.Except) or (isinstance(above, exp.Join) and above.args.get("side")):
                negated.add(table.name.removeprefix("cs_"))
            above = above.parent
    return [name for name in task.front.concept_sets if name not in in_eras | negated]


def _samples(task: Task, cases: list[Case]) -> dict[str, Row]:
    """Return one row of each event table that the task reads: the first of a case that ends in an event, if any."""
    found: dict[str, Row] = {}
    for case in sorted(cases, key=lambda one: not any(row.get("state") == "event" for row in one.expect)):
        for table, rows in _events(task, case).items():
            if rows:
                found.setdefault(table, rows[0])
    return found


def _events(task: Task, case: Case) -> dict[str, list[Row]]:
    return {t: rows for t, rows in case.given.items() if t in EVENT_TABLES and t in task.front.requires}


def _given(case: Case, changed: dict[str, list[Row]]) -> Case:
    return replace(case, given={**case.given, **changed})


def _moved(row: Row, person_id: int, day: date) -> Row:
    """Return a row of a person on another day; a span keeps its length, a time its hour."""
    moved = {key: value for key, value in row.items() if not key.endswith("_id") or key in ("value_as_concept_id",)}
    first = next(_day(row[key]) for key in ("start", "date", "datetime") if key in row)
    for key in ("start", "end", "date", "datetime"):
        if key in row:
            text = str(row[key])
            moved[key] = f"{_day(text) + (day - first)}{text[10:]}"
    return {**moved, "person_id": person_id}


def _with_concept(lock: Lock, name: str | None) -> Lock:
    if name is None:
        return lock
    document = copy.deepcopy(lock.document)
    document["concept_sets"][name]["concept_ids"].append(NEW_CONCEPT)
    return Lock(document)


def _day(value: Any) -> date:
    return date.fromisoformat(str(value)[:10])


def _on(second: int) -> date:
    return (datetime(1970, 1, 1) + timedelta(seconds=second)).date()
