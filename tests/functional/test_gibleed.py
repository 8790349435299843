"""A public OMOP database labelled by the public commands: each person's 40th birthday stands in for a scan.

Two hundred concept tasks and five outcomes in SQL are compared, state by state and day by day, with a reading of the same
files by pandas that shares no code with the product.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from presage_platform.labeling.event import Event
from presage_platform.labeling.store import LabelStore
from tests.lib import gibleed
from tests.lib.gibleed import Reading

pytestmark = [pytest.mark.real_data, pytest.mark.slow, pytest.mark.timeout(600)]

PLATFORM = Path(sys.executable).parent / "platform"
DAY, TEN_OCLOCK = 86_400, 36_000
SITE = """
[labeling]
k = 200
min_events = 1
max_jaccard = 1.0
"""
BODY = """/*---
task: {name}
version: 1
title: {name}
{options}concept_sets:
  outcome: {{include: [{codes}], descendants: true}}
requires: [{table}]
---*/
select i.study_id, e.{column} as event_date
from   task_index i
join   {table} e on e.person_id = i.person_id
join   cs_outcome o on o.concept_id = e.{concept}
"""


@dataclass(frozen=True)
class Outcome:
    """One outcome: what is written into its file, and the same as days for the second reading."""

    table: str
    codes: dict[str, int]  # code → concept
    options: str = ""
    risk: str = "incident"
    lag_days: int = 0
    guard: bool = False
    lookback_days: int | None = None
    window_days: int | None = None

    def text(self, name: str) -> str:
        concept, column = gibleed.EVENTS[self.table]
        codes = ", ".join(f'"{code}"' for code in self.codes)
        return BODY.format(
            name=name, options=self.options, codes=codes, table=self.table, column=column, concept=concept
        )

    def fixtures(self) -> str:
        """Rows by which the task proves itself: an event, none, one before, and death first."""
        start = "start" if self.table == "visit_occurrence" else "date"
        code = next(iter(self.codes))
        cases = [("event", f"{start}: 2020-06-01", ""), ("censored", None, ""),
                 ("competing", None, "\n    death: [{person_id: 7, date: 2020-08-01}]")]  # fmt: skip
        if self.risk == "incident":
            cases.append(("prevalent", f"{start}: 2020-02-01", ""))
        return "".join(
            f"""- name: {state}
  given:
    index: [{{study_id: 1, person_id: 7, t0: "2020-03-01 10:00:00"}}]
    observation_period: [{{person_id: 7, start: 2010-01-01, end: 2027-12-31}}]
    {self.table}: [{f'{{person_id: 7, concept: "{code}", {when}}}' if when else ""}]{more}
  expect: [{{study_id: 1, state: {state}}}]
"""
            for state, when, more in cases
        )


OUTCOMES = {
    "gi_haemorrhage": Outcome("condition_occurrence", {"SNOMED:74474003": 192671}, lag_days=1, guard=True),
    "celecoxib": Outcome("drug_exposure", {"RxNorm:140587": 1118084}, guard=True),
    "diclofenac_in_five_years": Outcome(
        "drug_exposure",
        {"RxNorm:3355": 1124300},
        options="kind: binary_window\nwindow: 1825 days\nvisit_guard: none\n",
        window_days=1825,
    ),
    "viral_sinusitis_again": Outcome(
        "condition_occurrence",
        {"SNOMED:444814009": 40481087},
        options="risk: next\nmin_lag: 0 days\nvisit_guard: none\n",
        risk="next",
    ),
    "hospital_visit": Outcome(
        "visit_occurrence",
        {"Visit:IP": 9201, "Visit:ER": 9203},
        options="lookback: 365 days\nvisit_guard: none\n",
        lookback_days=365,
    ),
}


@dataclass(frozen=True)
class Labelled:
    """The labels, the second reading, and the index days."""

    store: LabelStore
    reading: Reading
    index: dict[str, int]  # person → day

    def studies(self) -> Iterator[tuple[int, str, int]]:
        """Row, person, index day of each study."""
        for row, person in enumerate(self.store.studies.column("person_id").to_pylist()):
            yield row, str(person), self.index[str(person)]


def platform(workspace: Path, *arguments: str | Path) -> str:
    run = subprocess.run([PLATFORM, *arguments, "--workspace", workspace], capture_output=True, text=True, timeout=400)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, real_data: Path) -> Iterator[Labelled]:
    folder = real_data / "omop_gibleed"
    workspace = tmp_path_factory.mktemp("gibleed") / "workspace"
    (workspace / "tasks").mkdir(parents=True, mode=0o700)
    (workspace / "platform.toml").write_text(SITE)
    platform(workspace, "db", "start", "--keep")
    try:
        platform(workspace, "db", "upgrade")
        loaded = gibleed.load(folder, platform(workspace, "db", "url").strip())
        assert loaded["person"] == 2694 and loaded["condition_occurrence"] == 65332
        reading = Reading.of(folder)
        # A label's seconds reach 68 years: whoever turned forty before 1952 is followed for longer than that.
        index = reading.fortieth_birthdays(first="1952-01-01", last="2018-12-31")
        pq.write_table(
            pa.table(
                {
                    "study_id": pa.array(range(1, len(index) + 1), pa.int64()),
                    "person_id": pa.array([int(person) for person in index], pa.int64()),
                    "t0": pa.array([day * DAY + TEN_OCLOCK for day in index.values()], pa.int64()),
                }
            ),
            workspace / "index.parquet",
        )
        for name, outcome in OUTCOMES.items():
            (workspace / "tasks" / f"{name}.sql").write_text(outcome.text(name))
            (workspace / "tasks" / "tests").mkdir(exist_ok=True)
            (workspace / "tasks" / "tests" / f"{name}.yaml").write_text(outcome.fixtures())
        platform(workspace, "tasks", "lock")
        platform(workspace, "label", "--index", workspace / "index.parquet", "--allow-fewer")
        (manifest,) = (workspace / "labels").glob("*/manifest.json")
        yield Labelled(LabelStore.open(manifest.parent), reading, index)
    finally:
        platform(workspace, "db", "stop")


def test_l37_two_hundred_concepts_are_chosen_from_this_record(labelled: Labelled) -> None:
    assert labelled.store.num_tasks == 200
    assert labelled.store.num_studies == len(labelled.index) > 2000


def test_l18_every_state_and_day_of_two_hundred_tasks_is_that_of_the_second_reading(labelled: Labelled) -> None:
    store, reading = labelled.store, labelled.reading
    counted = dict.fromkeys(("masked", "prevalent", "event", "censored"), 0)
    for name in store.task_names:
        days = reading.of_concept(int(name.removeprefix("concept:"))).groupby("person")["day"].agg(sorted)
        view = store.task_view(name, risk="incident")
        for row, person, day in labelled.studies():
            mine = days.get(person, [])
            after = [d for d in mine if day < d <= reading.end(person)]
            state = _state(reading, person, day, before=any(d <= day for d in mine), after=bool(after))
            counted[state] += 1
            assert _found(view, row) == state, (name, row)
            if state == "event":
                assert view.time_s[row] == (after[0] - day) * DAY - TEN_OCLOCK
            if state == "censored":
                assert view.time_s[row] == (reading.end(person) - day + 1) * DAY - 1 - TEN_OCLOCK
    assert sum(counted.values()) == 200 * store.num_studies and min(counted.values()) > 100


@pytest.mark.parametrize("name", OUTCOMES)
def test_l93_every_state_and_day_of_an_outcome_is_that_of_the_second_reading(labelled: Labelled, name: str) -> None:
    outcome, reading = OUTCOMES[name], labelled.reading
    events = [reading.of_concept(concept, (outcome.table,)) for concept in outcome.codes.values()]
    days = gibleed.pd.concat(events).groupby("person")["day"].agg(sorted)
    table = pq.read_table(labelled.store.path / "outcomes" / f"{name}.parquet").to_pylist()
    seen = set()
    for row, person, day in labelled.studies():
        start = day + outcome.lag_days  # the last day that is still history
        if outcome.guard:
            start = max(start, reading.stay_until(person, day))
        mine, end = days.get(person, []), reading.end(person)
        after = [d for d in mine if start < d <= end]
        since = -(10**9) if outcome.lookback_days is None else start - outcome.lookback_days
        # a lookback of n days begins at ten o'clock, so the first day of it is not whole
        before = any((since < d if outcome.lookback_days is not None else True) and d <= start for d in mine)
        state = _state(
            reading, person, day, before=before and outcome.risk == "incident", after=bool(after), start=start
        )
        found = table[row]
        assert (
            found["state"] if outcome.risk == "incident" or found["state"] != "prevalent" else _next(found)
        ) == state
        if after and state != "masked":
            assert found["time_s"] == (after[0] - day) * DAY - TEN_OCLOCK
        if outcome.window_days is not None and state not in ("masked", "prevalent"):
            assert found["window_label"] == _window(outcome.window_days, day, after, end)
        seen.add(state)
    assert {"event", "censored"} <= seen


def _next(found: dict[str, Any]) -> str:
    """The state of a row in the next view: what happened before does not matter."""
    return "event" if found["time_s"] is not None else "censored"


def _window(days: int, index: int, after: list[int], end: int) -> int | None:
    """1 within the window, 0 when followed through it, unknown when not."""
    last = index * DAY + TEN_OCLOCK + days * DAY
    if after and after[0] * DAY <= last:
        return 1
    return 0 if (end + 1) * DAY - 1 >= last else None


def _state(reading: Reading, person: str, day: int, *, before: bool, after: bool, start: int | None = None) -> str:
    followed = reading.end(person) >= day if start is None or start == day else reading.end(person) >= start
    if not reading.observed(person, day) or not followed:
        return "masked"
    if before:
        return "prevalent"
    return "event" if after else "censored"


def _found(view: Any, row: int) -> str:
    if view.mask[row]:
        return "masked"
    if view.prevalent[row]:
        return "prevalent"
    return {int(Event.EVENT): "event", int(Event.CENSORED): "censored"}[int(np.asarray(view.cause)[row])]
