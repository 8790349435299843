"""Laws of the labels over small random hospitals: every implementation says the same, and what must hold holds."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from presage_platform.labeling import first_occurrence
from presage_platform.labeling.semantics import Policy, risk_windows
from tests.lib import label_oracle, label_sql
from tests.lib.label_strategies import NUM_TASKS, policies, records
from tests.lib.timelines import Happening, Record, at

quick = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
few = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def pure_python() -> ModuleType:
    """The kernel's own source without numba."""
    spec = importlib.util.spec_from_file_location("first_occurrence_pure", first_occurrence.__file__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRESAGE_NO_JIT", "1")
        spec.loader.exec_module(module)
    assert not hasattr(module._count, "py_func")
    return module


@quick
@given(records(), policies, st.sampled_from([0, 1, 30]))
def test_l52_the_kernel_equals_a_brute_force_reading(record: Record, policy: Policy, bridge_days: int) -> None:
    labels = record.label(policy, bridge_days=bridge_days)
    for row, expected in enumerate(label_oracle.label(record, policy, bridge_days=bridge_days)):
        assert labels.times(row) == expected.times
        assert labels.prevalent(row) == expected.prevalent
        assert labels.visit(row) == expected.visit
        for name in ("entry_s", "end_s", "end_cause", "death_s", "death_end_s", "mask"):
            assert getattr(labels.windows, name)[row] == getattr(expected, name), name


@few
@given(records(), policies, st.sampled_from([0, 30]))
def test_l52_the_kernel_equals_duckdb(record: Record, policy: Policy, bridge_days: int) -> None:
    labels = record.label(policy, bridge_days=bridge_days)
    tables = label_sql.kernel_tables(record.shard(), labels.facts, labels.windows, record.ontology(), policy.same_day)
    assert label_sql.run_duckdb(tables, label_sql.text("first_occurrence")) == label_sql.rows_of_kernel(
        labels.facts, labels.shard, NUM_TASKS
    )
    assert label_sql.run_duckdb(tables, label_sql.text("visit_codes")) == label_sql.visits_of_kernel(
        labels.facts, labels.shard
    )
    windows = labels.windows
    scalars = (windows.entry_s, windows.end_s, windows.end_cause, windows.death_s, windows.death_end_s, windows.mask)
    ours = [tuple(int(column[row]) for column in scalars) for row in range(len(record.scans))]
    theirs = label_sql.run_duckdb(label_sql.window_tables(record, policy, bridge_days), label_sql.text("risk_windows"))
    assert [row[1:7] for row in theirs] == ours


@quick
@given(record=records(), policy=policies)
def test_l48_numba_and_pure_python_give_the_same_bits(pure_python: ModuleType, record: Record, policy: Policy) -> None:
    facts = record.facts()
    windows = risk_windows(facts, policy)
    compiled = first_occurrence.label_shard(record.shard(), facts, windows, record.ontology(), same_day=policy.same_day)
    plain = pure_python.label_shard(record.shard(), facts, windows, record.ontology(), same_day=policy.same_day)
    for name in ("indptr", "task", "time", "prevalent", "visit_indptr", "visit_task"):
        ours, theirs = getattr(compiled, name), getattr(plain, name)
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs), name


@quick
@given(records(), policies)
def test_l49_times_lie_in_follow_up_and_tasks_ascend(record: Record, policy: Policy) -> None:
    labels = record.label(policy)
    shard = labels.shard
    for row in range(len(record.scans)):
        part = slice(shard.indptr[row], shard.indptr[row + 1])
        assert (np.diff(shard.task[part].astype(int)) > 0).all()
        assert (shard.time[part] > labels.windows.entry_s[row]).all() and (shard.time[part] > 0).all()
        assert (shard.time[part] <= labels.windows.end_s[row]).all()


@quick
@given(records(), policies)
def test_l47_an_ancestor_is_never_later_than_its_descendant(record: Record, policy: Policy) -> None:
    above = {c: sorted({*tasks, NUM_TASKS}) for c, tasks in record.tasks.items() if tasks}
    labels = replace(record, tasks=above, num_tasks=NUM_TASKS + 1).label(policy)
    for row in range(len(record.scans)):
        times = labels.times(row)
        if times:
            assert times[NUM_TASKS] == min(times.values())
        assert (NUM_TASKS in labels.prevalent(row)) == bool(labels.prevalent(row) - {NUM_TASKS})


@few
@given(records(), policies)
def test_l72_duplicated_and_reordered_events_change_nothing(record: Record, policy: Policy) -> None:
    doubled = replace(
        record,
        persons=[replace(person, events=[*reversed(person.events), *person.events]) for person in record.persons],
    )
    _assert_same(record, doubled, policy)


@few
@given(records(), policies)
def test_l72_another_persons_data_change_nothing(record: Record, policy: Policy) -> None:
    crowded = replace(record, persons=[*record.persons, replace(record.persons[0], death=None)])
    _assert_same(record, crowded, policy)


@few
@given(records(), policies.filter(lambda policy: policy.censor not in ("last_event",)))
def test_l72_events_after_follow_up_change_nothing(record: Record, policy: Policy) -> None:
    late = Happening("2029-06-01 12:00", concept=0)
    before = record.label(policy)
    after = replace(record, persons=[replace(p, events=[*p.events, late]) for p in record.persons]).label(policy)
    for row, scan in enumerate(record.scans):
        if before.windows.follow_up_end_s[row] < at(late.when) and scan.person >= 0:
            assert after.times(row) == before.times(row) and after.prevalent(row) == before.prevalent(row)


def _assert_same(one: Record, other: Record, policy: Policy) -> None:
    ours, theirs = one.label(policy), other.label(policy)
    for name in ("indptr", "task", "time", "prevalent", "visit_indptr", "visit_task"):
        assert np.array_equal(getattr(ours.shard, name), getattr(theirs.shard, name))
