"""Selection and registry on counts small enough to work out by hand."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from presage_platform.errors import IntegrityError
from presage_platform.labeling.hashing import hash_json
from presage_platform.labeling.ontology import Ancestry, Vocabulary
from presage_platform.labeling.selection import (
    REGISTRY_SCHEMA,
    Counts,
    TaskSet,
    entropy,
    median_times,
    redundant_ancestors,
    registry,
    registry_csv,
    select_tasks,
)
from presage_platform.settings import LabelingSettings

NOBODY = Ancestry(np.array([], np.int64), np.array([], np.int64), np.array([], np.int32))


def ids(*values: int) -> Any:
    return np.array(values, dtype=np.int64)


def vocabulary(above: list[tuple[int, int]], concepts: list[dict[str, Any]] | None = None) -> Vocabulary:
    """Return a vocabulary whose ancestor table holds exactly these (ancestor, descendant) rows."""
    none = pa.table({"concept_id_1": pa.array([], pa.int64()), "concept_id_2": pa.array([], pa.int64())})
    columns = ("concept_id", "concept_name", "domain_id", "vocabulary_id", "concept_code")
    rows = concepts or []
    return Vocabulary(
        concepts=pa.table({name: [row.get(name) for row in rows] for name in columns}),
        ancestor=pa.table(
            {
                "ancestor_concept_id": pa.array([a for a, _ in above], pa.int64()),
                "descendant_concept_id": pa.array([d for _, d in above], pa.int64()),
            }
        ),
        maps_to=none,
        replaced_by=none,
        version="test",
    )


def select(
    incident: dict[int, int],
    prevalent: dict[int, int] | None = None,
    *,
    studies: int = 100,
    above: list[tuple[int, int]] | None = None,
    next_event: dict[int, int] | None = None,
    excluded: dict[int, str] | None = None,
    guarded: set[int] | None = None,
    allow_fewer: bool = True,
    **settings: Any,
) -> TaskSet:
    concepts = sorted(incident)
    history = prevalent or {}
    follow = next_event or incident
    counts = Counts(
        next_event=ids(*(follow[c] for c in concepts)),
        prevalent=ids(*(history.get(c, 0) for c in concepts)),
        incident=ids(*(incident[c] for c in concepts)),
        num_studies=studies,
    )
    return select_tasks(
        ids(*concepts), counts, NOBODY, vocabulary(above or []),
        LabelingSettings(**{"k": 8, "min_events": 10, **settings}),
        excluded=excluded or {}, guarded=guarded or set(), allow_fewer=allow_fewer,
    )  # fmt: skip


def h(p: float) -> float:
    return -(p * math.log(p) + (1 - p) * math.log1p(-p))


def test_l37_entropy_in_nats() -> None:
    found = entropy(np.array([0.0, 1e-9, 0.1, 0.5, 0.9, 1.0]))
    assert found.tolist() == pytest.approx([0, h(1e-9), h(0.1), math.log(2), h(0.1), 0], rel=1e-12, abs=0)


def test_l37_the_score_is_that_of_incident_events_among_studies_at_risk() -> None:
    """Concept 1: 30 of 100 − 40; concept 2: 30 of 100; concept 3: 12 of none, which has no uncertainty."""
    chosen = select({1: 30, 2: 30, 3: 12}, {1: 40, 3: 100})
    assert chosen.concept_id.tolist() == [1, 2, 3]
    assert chosen.score.tolist() == pytest.approx([math.log(2), h(0.3), 0])
    assert chosen.counts.at_risk.tolist() == [60, 100, 0]
    assert chosen.counts.incident.tolist() == [30, 30, 12] and chosen.counts.num_studies == 100
    assert chosen.mode == "default"


def test_l37_counts_follow_their_task_through_the_ranking() -> None:
    chosen = select({1: 20, 2: 50, 3: 9}, {1: 7, 2: 3}, next_event={1: 25, 2: 53, 3: 9})
    assert chosen.concept_id.tolist() == [2, 1]
    assert chosen.counts.next_event.tolist() == [53, 25]
    assert chosen.counts.prevalent.tolist() == [3, 7]
    assert chosen.counts.incident.tolist() == [50, 20]


def test_l37_one_study_at_risk_with_its_event_is_certain() -> None:
    chosen = select({1: 1, 2: 1}, {1: 1, 2: 0}, studies=2, min_events=1)
    assert chosen.concept_id.tolist() == [2, 1]
    assert chosen.score.tolist() == pytest.approx([math.log(2), 0])


def test_l37_the_best_k_stay_and_the_rest_is_counted() -> None:
    """Every candidate is in exactly one line of the account."""
    chosen = select(
        {1: 50, 2: 50, 3: 40, 4: 30, 5: 20, 6: 9, 7: 45, 8: 44, 9: 9, 10: 43, 11: 42},
        above=[(1, 2), (2, 2)],
        excluded={7: "exclusions.csv line 2: not here", 9: "no row in concept"},
        guarded={7, 8, 10, 11, 99},
        k=1,
    )
    assert chosen.concept_id.tolist() == [2]
    assert chosen.removed == {
        "candidates": 11,
        "excluded": 2,
        "leakage guard": 3,
        "too few events": 1,
        "redundant": 1,
        "beyond k": 3,
        "tasks": 1,
    }
    assert chosen.removed_by == {
        7: "exclusions.csv line 2: not here",
        9: "no row in concept",
        8: "leakage guard",
        10: "leakage guard",
        11: "leakage guard",
        1: "redundant with a descendant",
    }


def test_l37_none_is_an_error_even_where_fewer_are_allowed() -> None:
    with pytest.raises(IntegrityError, match="no concept has 10 incident events"):
        select({1: 9}, k=1)


def test_l37_exactly_k_are_enough() -> None:
    assert select({1: 20, 2: 30}, k=2, allow_fewer=False).concept_id.tolist() == [2, 1]
    with pytest.raises(IntegrityError, match="2 concepts qualify as tasks, expected 3"):
        select({1: 20, 2: 30}, k=3, allow_fewer=False)
    assert select({1: 20}, k=2).concept_id.tolist() == [1]
    assert len(select(dict.fromkeys(range(1, 301), 20), k=300, allow_fewer=False).concept_id) == 300


def test_l37_fewer_than_k_is_refused_unless_it_is_asked_for() -> None:
    counts = Counts(ids(20), ids(0), ids(20), 100)
    with pytest.raises(IntegrityError, match="--allow-fewer"):
        select_tasks(
            ids(1), counts, NOBODY, vocabulary([]), LabelingSettings(k=2, min_events=10), excluded={}, guarded=set()
        )


def test_l38_the_ratio_is_that_of_next_events() -> None:
    """Incident events differ, next events are the same: they say the same."""
    assert select({1: 50, 2: 30}, above=[(1, 2)], next_event={1: 60, 2: 60}).concept_id.tolist() == [2]
    assert select({1: 50, 2: 50}, above=[(1, 2)], next_event={1: 60, 2: 40}).concept_id.tolist() == [1, 2]


def test_l38_a_descendant_that_is_no_candidate_or_not_kept_removes_nobody() -> None:
    assert select({1: 50, 2: 50}, above=[(1, 3), (1, 2)], excluded={2: "x"}).concept_id.tolist() == [1]
    assert select({1: 50, 2: 50}, above=[(3, 2), (1, 1), (2, 2)]).concept_id.tolist() == [1, 2]


def redundant(counts: dict[int, int], above: list[tuple[int, int]], *, kept: set[int] | None = None) -> list[int]:
    concepts = sorted(counts)
    alive = np.array([kept is None or c in kept for c in concepts])
    numbers = redundant_ancestors(ids(*concepts), alive, ids(*(counts[c] for c in concepts)), vocabulary(above), 0.9)
    return [concepts[number] for number in numbers]


def test_l38_any_descendant_may_remove_its_ancestor() -> None:
    """The largest one decides, whatever its place."""
    pairs = [(10, 20), (10, 30), (10, 40)]
    for big in (20, 30, 40):
        assert redundant({10: 100, 20: 5, 30: 5, 40: 5, big: 95}, pairs) == [10]
    assert redundant({10: 100, 20: 90, 30: 90, 40: 90}, pairs) == []


def test_l38_ancestors_with_the_higher_number_resolve_alike() -> None:
    """4 is the leaf or 1 is: the leaf removes the one above it, which then removes nobody."""
    up = [(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)]
    assert redundant({1: 120, 2: 109, 3: 104, 4: 100}, up) == [2, 3]
    down = [(5 - a, 5 - b) for a, b in up]
    assert redundant({4: 120, 3: 109, 2: 104, 1: 100}, down) == [2, 3]


def test_l38_the_last_candidate_may_be_an_ancestor() -> None:
    assert redundant({1: 99, 2: 7, 3: 100}, [(3, 1), (3, 2)]) == [3]
    assert redundant({1: 99, 2: 7, 3: 8, 4: 100}, [(4, 1), (4, 2)]) == [4]


def test_l38_branches_do_not_mix() -> None:
    assert redundant({1: 100, 2: 99, 3: 50, 4: 20, 5: 200}, [(1, 2), (3, 4), (5, 3)]) == [1]
    assert redundant({1: 100, 2: 99, 3: 50, 4: 49}, [(3, 4), (1, 2)]) == [1, 3]
    assert redundant({1: 100, 2: 99, 3: 50, 4: 49}, [(3, 4), (1, 2)], kept={1, 3, 4}) == [3]
    assert redundant({1: 100, 2: 99}, []) == []


def test_l38_a_candidate_without_events_removes_nobody() -> None:
    assert redundant({1: 0, 2: 0}, [(1, 2)]) == []


def test_l41_the_registry_describes_every_task() -> None:
    """Every column, for a concept with a row and one without; the schema with what may be missing."""
    words = vocabulary(
        [],
        [
            {"concept_id": 5, "concept_name": "Oedema", "domain_id": "Condition", "vocabulary_id": "SNOMED",
             "concept_code": "c5"},
            {"concept_id": 9, "concept_name": "Other", "domain_id": "Drug", "vocabulary_id": "ATC", "concept_code": "c9"},
        ],
    )  # fmt: skip
    counts = Counts(ids(30, 20, 11), ids(10, 60, 0), ids(25, 15, 11), 100)
    chosen = TaskSet(ids(5, 3, 9), np.array([0.6, 0.5, 0.4]), counts, {}, {}, mode="paper")
    pairs = Ancestry(ids(5, 6, 7, 7), ids(5, 5, 5, 9), np.array([0, 1, 1, 1], np.int32))
    table = registry(chosen, pairs, words, np.array([1 / 31_557_600, 2e-9, 0]), np.array([86_400, 129_600, 0]))
    assert table.to_pylist() == [
        {"task": "concept:5", "concept_id": 5, "vocabulary": "SNOMED", "code": "c5", "name": "Oedema",
         "domain": "Condition", "n_descendants_present": 3, "n_event": 25, "n_at_risk": 90, "n_prevalent": 10,
         "rate_per_year": pytest.approx(1.0), "median_days": 1.0, "score": 0.6, "rank": 1, "mode": "paper"},
        {"task": "concept:3", "concept_id": 3, "vocabulary": None, "code": None, "name": None, "domain": None,
         "n_descendants_present": 0, "n_event": 15, "n_at_risk": 40, "n_prevalent": 60,
         "rate_per_year": pytest.approx(2e-9 * 365.25 * 86_400, rel=1e-12), "median_days": 1.5, "score": 0.5, "rank": 2,
         "mode": "paper"},
        {"task": "concept:9", "concept_id": 9, "vocabulary": "ATC", "code": "c9", "name": "Other", "domain": "Drug",
         "n_descendants_present": 1, "n_event": 11, "n_at_risk": 100, "n_prevalent": 0, "rate_per_year": 0.0,
         "median_days": 0.0, "score": 0.4, "rank": 3, "mode": "paper"},
    ]  # fmt: skip
    assert table.schema == REGISTRY_SCHEMA


def test_l41_only_what_the_vocabulary_tells_may_be_missing() -> None:
    assert [field.name for field in REGISTRY_SCHEMA if field.nullable] == ["vocabulary", "code", "name", "domain"]


def test_l41_the_csv_hides_small_counts_and_keeps_columns_in_place() -> None:
    table = pa.table(
        {"n_prevalent": [4, 5], "task": ["a", "b"], "n_at_risk": [3, 50], "n_event": [5, 6], "rank": [1, 2]}
    )
    assert registry_csv(table, 5).decode().splitlines() == [
        '"n_prevalent","task","n_at_risk","n_event","rank"',
        '"<5","a","<5","5",1',
        '"5","b","50","6",2',
    ]


def test_l41_median_times_take_the_lower_middle_and_zero_for_none() -> None:
    """Tasks 0 … 5: none, one, two, three, none, four events, in any order."""
    task = np.array([5, 3, 2, 1, 5, 3, 2, 5, 3, 5])
    time = np.array([40, 9, 8, 7, 10, 1, 6, 30, 5, 20])
    found = median_times(task, time, 7)
    assert found.tolist() == [0, 7, 6, 5, 0, 20, 0] and found.dtype == np.float64
    assert median_times(task[:0], time[:0], 3).tolist() == [0, 0, 0]
    assert median_times(np.array([0]), np.array([7]), 2).tolist() == [7, 0]
    assert median_times(np.array([1, 0]), np.array([9, 5]), 2).tolist() == [5, 9]


def test_l42_the_hash_is_that_of_mode_and_tasks_in_order() -> None:
    chosen = select({1: 20, 2: 30})
    assert chosen.sha256 == hash_json({"mode": "default", "concepts": [2, 1]})
    assert chosen.sha256 != dataclasses.replace(chosen, mode="paper").sha256
    assert chosen.sha256 != dataclasses.replace(chosen, concept_id=ids(1, 2)).sha256


def test_l42_a_task_set_cannot_be_changed_and_is_itself_only() -> None:
    chosen = select({1: 20, 2: 30})
    for value, name in ((chosen, "mode"), (chosen.counts, "num_studies")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, 0)
        assert not hasattr(value, "__dict__")
        assert value != dataclasses.replace(value)
