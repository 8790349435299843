"""Tasks: the hierarchy above concepts, selection by entropy, redundancy, exclusions, the leakage guard."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from presage_platform.errors import IntegrityError, TaskError, UsageError, VocabularyError
from presage_platform.labeling import exclusions
from presage_platform.labeling.ontology import Vocabulary, ancestry, concept_tasks, standard_targets
from presage_platform.labeling.selection import Counts, entropy, registry_csv, select_tasks
from presage_platform.settings import LabelingSettings

PAIR = {"concept_id_1": pa.int64(), "concept_id_2": pa.int64()}


def vocabulary(
    standard: list[int],
    above: list[tuple[int, int]],
    maps_to: list[tuple[int, int]] = (),  # type: ignore[assignment]
    replaced_by: list[tuple[int, int]] = (),  # type: ignore[assignment]
    **described: Any,
) -> Vocabulary:
    """Return a vocabulary; `above` are (ancestor, descendant) without self pairs."""
    pairs = [(c, c) for c in standard] + list(above)
    text = {"concept_name": "n", "domain_id": "Condition", "vocabulary_id": "SNOMED", "concept_class_id": "Disorder"}
    rows = [
        {"concept_id": c, "standard_concept": "S", "concept_code": str(c), **text, **described.get(f"c{c}", {})}
        for c in standard
    ]

    def relation(edges: Any) -> pa.Table:
        return pa.table({name: pa.array([e[i] for e in edges], kind) for i, (name, kind) in enumerate(PAIR.items())})

    return Vocabulary(
        concepts=pa.Table.from_pylist(rows),
        ancestor=pa.table(
            {
                "ancestor_concept_id": [a for a, _ in pairs],
                "descendant_concept_id": [d for _, d in pairs],
                "min_levels_of_separation": [int(a != d) for a, d in pairs],
            }
        ),
        maps_to=relation(maps_to),
        replaced_by=relation(replaced_by),
        version="test",
    )


def test_l43_a_concept_feeds_itself_and_what_lies_above() -> None:
    words = vocabulary([1, 2, 3], [(1, 2), (1, 3), (2, 3)])
    pairs = ancestry(np.array([2, 3]), words)
    csr = concept_tasks(np.array([2, 3]), np.array([3, 1]), pairs)
    assert csr.indptr.tolist() == [0, 1, 3] and csr.task.tolist() == [1, 0, 1]


def test_l44_a_source_code_with_two_targets_counts_once_a_task() -> None:
    """One code mapped to n standard concepts is a set."""
    words = vocabulary([1, 2, 3], [(1, 2), (1, 3)], maps_to=[(90, 2), (90, 3)])
    csr = concept_tasks(np.array([90]), np.array([1, 2, 3]), ancestry(np.array([90]), words))
    assert csr.task.tolist() == [0, 1, 2]


def test_l44_a_deprecated_concept_follows_its_replacement() -> None:
    words = vocabulary([5], [], maps_to=[(83, 5)], replaced_by=[(81, 82), (82, 83)])
    assert standard_targets(np.array([81]), words) == {81: (5,)}


def test_l44_a_circle_of_replacements_is_an_error() -> None:
    words = vocabulary([5], [], replaced_by=[(81, 82), (82, 81)])
    with pytest.raises(VocabularyError, match="circle"):
        standard_targets(np.array([81]), words)


def test_l44_more_than_five_replacements_lead_nowhere() -> None:
    chain = [(80 + i, 81 + i) for i in range(7)]
    words = vocabulary([5], [], maps_to=[(87, 5)], replaced_by=chain)
    assert standard_targets(np.array([80, 82]), words) == {82: (5,)}


def test_l45_max_levels_cuts_the_climb() -> None:
    words = vocabulary([1, 2], [(1, 2)])
    assert ancestry(np.array([2]), words).within(0).ancestor.tolist() == [2]


def test_l46_the_map_has_a_hash_that_follows_its_content() -> None:
    words = vocabulary([1, 2], [(1, 2)])
    pairs = ancestry(np.array([1, 2]), words)
    one, two = (concept_tasks(np.array([1, 2]), np.array(tasks), pairs).sha256 for tasks in ([1, 2], [1]))
    assert one != two and one == concept_tasks(np.array([1, 2]), np.array([1, 2]), pairs).sha256


def test_l37_entropy_is_symmetric_and_zero_at_the_ends() -> None:
    p = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    expected = [
        0,
        0.25 * math.log(4) + 0.75 * math.log(4 / 3),
        math.log(2),
        0.25 * math.log(4) + 0.75 * math.log(4 / 3),
        0,
    ]
    assert entropy(p).tolist() == pytest.approx(expected)


def choose(counts: dict[int, int], *, above: list[tuple[int, int]] = (), studies: int = 100, **more: Any) -> Any:  # type: ignore[assignment]
    """Select tasks where concept c has counts[c] incident (and next) events."""
    concepts = sorted(counts)
    events = np.array([counts[c] for c in concepts])
    words = vocabulary(concepts, list(above))
    settings = LabelingSettings(**{"k": 3, "min_events": 10, **more.pop("settings", {})})
    found = Counts(events, np.zeros_like(events), events, studies)
    arguments = {"excluded": {}, "guarded": set(), "allow_fewer": True, **more}
    return select_tasks(np.array(concepts), found, ancestry(np.array(concepts), words), words, settings, **arguments)


def test_l37_the_least_certain_come_first_and_ties_go_by_id() -> None:
    """p = 0.5 first; 0.4 and 0.6 are equally uncertain, so the lower id wins."""
    assert choose({7: 60, 5: 40, 3: 50, 9: 20}).concept_id.tolist() == [3, 5, 7]


def test_l37_too_few_events_are_no_task() -> None:
    chosen = choose({1: 9, 2: 10})
    assert chosen.concept_id.tolist() == [2] and chosen.removed["too few events"] == 1


def test_l37_fewer_than_k_is_an_error() -> None:
    with pytest.raises(IntegrityError, match="2 concepts qualify as tasks, expected 3"):
        choose({1: 20, 2: 30}, allow_fewer=False)


def test_l38_of_two_that_say_the_same_the_specific_one_stays() -> None:
    """Jaccard = n_desc / n_anc; above 0.98 the ancestor goes."""
    assert choose({1: 50, 2: 50}, above=[(1, 2)]).concept_id.tolist() == [2]
    assert choose({1: 50, 2: 49}, above=[(1, 2)]).concept_id.tolist() == [1, 2], "0.98 is not above 0.98"


def test_l38_chains_resolve_from_the_leaves_up() -> None:
    """3 removes 2; 2, being gone, does not remove 1, and 3 / 1 = 0.977 does not either."""
    counts = {1: 1024, 2: 1012, 3: 1000}
    chosen = choose(counts, above=[(1, 2), (1, 3), (2, 3)], studies=2100)
    assert sorted(chosen.concept_id.tolist()) == [1, 3]


def test_l39_each_removal_names_its_line() -> None:
    words = vocabulary(
        [1, 2, 3], [], c2={"domain_id": "Visit"}, c3={"vocabulary_id": "SNOMED", "concept_code": "3950001"}
    )
    removed = exclusions.excluded(np.array([1, 2, 3, 4]), words.concepts, exclusions.exclusion_lines(None))
    assert removed[2].startswith("exclusions.csv line 2") and "birth" in removed[3]
    assert removed[4] == "no row in concept" and 1 not in removed


def test_l39_the_site_has_its_own_list(tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("kind,value,reason\nconcept,1,not here\n")
    words = vocabulary([1], [])
    assert exclusions.excluded(np.array([1]), words.concepts, exclusions.exclusion_lines(own)) == {
        1: "own.csv line 2: not here"
    }
    own.write_text("kind,value,reason\nconcpet,1,typo\n")
    with pytest.raises(UsageError, match="line 2"):
        exclusions.exclusion_lines(own)


@pytest.mark.parametrize(("scope", "found"), [("full", {1, 2, 3}), ("descendants", {2, 3}), ("none", set())])
def test_l40_guard(scope: Any, found: set[int]) -> None:
    """Every concept of an outcome's sets, with all descendants and (`full`) all ancestors."""
    words = vocabulary([1, 2, 3, 4], [(1, 2), (1, 3), (2, 3), (1, 4)])
    assert exclusions.guarded([2], words, scope) == found


def test_l40_a_task_without_a_lock_cannot_be_guarded_by(tmp_path: Path) -> None:
    (tmp_path / "one.sql").write_text("/*---\ntask: one\nconcept_sets:\n  a: {include: []}\n---*/ select 1")
    with pytest.raises(TaskError, match="task one: no lock"):
        exclusions.locked_concepts(tmp_path)
    (tmp_path / "one.lock.json").write_text(json.dumps({"concept_sets": {"a": {"concept_ids": [3, 2]}}}))
    assert exclusions.locked_concepts(tmp_path) == {"one": [2, 3]}


def test_l41_small_counts_are_hidden_in_the_csv() -> None:
    table = pa.table(
        {"task": ["concept:1", "concept:2"], "n_event": [10, 11], "n_at_risk": [50, 50], "n_prevalent": [0, 99]}
    )
    assert registry_csv(table, 11).decode().splitlines()[1:] == [
        '"concept:1","<11","50","<11"',
        '"concept:2","11","50","99"',
    ]


def test_l42_candidate_order_does_not_matter() -> None:
    one = choose({3: 50, 5: 40, 7: 30, 9: 20})
    assert one.sha256 == choose(dict(reversed({3: 50, 5: 40, 7: 30, 9: 20}.items()))).sha256
