"""The paper's mode: conditional entropy over whole records, and the labels that go with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from presage_platform.errors import IntegrityError
from presage_platform.labeling import paper_selection as paper
from presage_platform.labeling.event import Mask
from presage_platform.labeling.ontology import Vocabulary
from presage_platform.labeling.paper_labels import mask_without_events, paper_policy, paper_windows
from presage_platform.labeling.timeline import last_events
from presage_platform.settings import LabelingSettings
from tests.lib.timelines import Happening, Person, Record, Scan, at, policy

# Twelve concepts. 7 is an ATC class that nobody has as a record; 8 is a LOINC group that somebody has; 12 is a source
# code that maps to 4; the others are standard.
#
#          1           10          8
#        /   \          |          |
#       2     3         7 (ATC)    11
#      / \   / \        |
#     4   5 5   6       9
#     |
#    12 (maps to 4)
KIND = {7: ("ATC", "C"), 8: ("LOINC", "C"), 9: ("RxNorm", "S"), 11: ("LOINC", "S"), 12: ("ICD10CM", None)}
STEPS = [(1, 2), (1, 3), (2, 4), (2, 5), (3, 5), (3, 6), (7, 9), (10, 7), (8, 11)]
RECORDS: list[set[int]] = [{4}, {5}, {12}, {6}, {9, 11}, {9}, {8, 10}, {6, 11}]

# Persons (of eight) with each concept or one below it. Closures of the eight records:
#   4 2 1 | 5 2 3 1 | 12 4 2 1 | 6 3 1 | 9 10 11 8 | 9 10 | 8 10 | 6 3 1 11 8
PERSONS = {1: 5, 2: 3, 3: 3, 4: 2, 5: 1, 6: 2, 8: 3, 9: 2, 10: 3, 11: 2, 12: 1}

# h(q) = q ln q + (1 − q) ln(1 − q), worked by hand:
#   h(5/8) = h(3/8) = 0.625 × −0.47000363 + 0.375 × −0.98082925 = −0.29375227 − 0.36781097 = −0.66156324
#   h(3/5)          = 0.6 × −0.5108256 + 0.4 × −0.9162907     = −0.3064954 − 0.3665163 = −0.6730117
#   h(2/3) = h(1/3) = 0.6666667 × −0.4054651 + 0.3333333 × −1.0986123 = −0.2703101 − 0.3662041 = −0.6365142
#   h(1/2)          = −ln 2 = −0.6931472
WEIGHTS = {
    1: -0.6615632,  # no parent: base 1, q 5/8
    2: -0.4206323,  # base p(1) = 5/8, q (3/8)/(5/8) = 3/5: 0.625 × −0.6730117
    3: -0.4206323,  # the same
    4: -0.2386928,  # base p(2) = 3/8, q (2/8)/(3/8) = 2/3: 0.375 × −0.6365142
    5: -0.2386928,  # base min(p(2), p(3)) = 3/8, q (1/8)/(3/8) = 1/3: the same
    6: -0.2386928,  # base p(3) = 3/8, q 2/3
    8: -0.6615632,  # no parent: base 1, q 3/8
    9: -0.2386928,  # its parent 7 is passed over, so base p(10) = 3/8, q 2/3
    10: -0.6615632,  # no parent: base 1, q 3/8
    11: -0.2386928,  # base p(8) = 3/8, q 2/3
    12: -0.1732868,  # base p(4) = 2/8, q (1/8)/(2/8) = 1/2: 0.25 × −0.6931472
}
ORDER = [1, 8, 10, 2, 3, 4, 5, 6, 9, 11, 12]
"""Weight ascending, then concept_id."""


def words() -> Vocabulary:
    rows = [
        {
            "concept_id": c,
            "standard_concept": KIND.get(c, ("SNOMED", "S"))[1],
            "vocabulary_id": KIND.get(c, ("SNOMED",))[0],
        }
        for c in range(1, 13)
    ]
    return Vocabulary(
        concepts=pa.Table.from_pylist(rows),
        ancestor=pa.table({}),
        maps_to=pa.table({"concept_id_1": [12, 4], "concept_id_2": [4, 4]}),
        replaced_by=pa.table({}),
        version="test",
        parent=pa.table({"ancestor_concept_id": [a for a, _ in STEPS], "descendant_concept_id": [d for _, d in STEPS]}),
    )


def golden(records: list[set[int]] = RECORDS) -> tuple[np.ndarray, np.ndarray, paper.Parents]:
    """Return candidates, persons with each, and parents of the golden hierarchy."""
    occurring = set().union(*records)
    parents = paper.contract(paper.direct_parents(words()), words(), occurring)
    pairs = paper.closure(np.array(sorted(occurring)), parents)
    candidates = np.unique(pairs.ancestor)
    above = {c: set(pairs.ancestor[pairs.concept == c].tolist()) for c in occurring}
    num_with = [sum(c in set().union(*(above[x] for x in record)) for record in records) for c in candidates.tolist()]
    return candidates, np.array(num_with), parents


def choose(k: int = 11, **more: Any) -> paper.PaperTasks:
    candidates, num_with, parents = golden()
    arguments = {"guarded": set(), "event_fraction": np.full(len(candidates), 0.5), **more}
    return paper.select_paper_tasks(candidates, num_with, 8, parents, LabelingSettings(k=k), **arguments)


def test_l36_golden_weights_of_twelve_concepts() -> None:
    """Weights worked by hand; the ATC class that does not occur is contracted, the LOINC group that occurs is not."""
    candidates, num_with, parents = golden()
    assert dict(zip(candidates.tolist(), num_with.tolist(), strict=True)) == PERSONS
    weight, _ = paper.weights(candidates, num_with, 8, parents)
    assert dict(zip(candidates.tolist(), weight.tolist(), strict=True)) == pytest.approx(WEIGHTS, abs=5e-8)


def test_l36_order_is_by_weight_then_concept_id() -> None:
    chosen = choose()
    assert chosen.concept_id.tolist() == ORDER
    assert choose(k=4).concept_id.tolist() == ORDER[:4]


def test_l36_parents_pass_over_nodes_that_are_no_data() -> None:
    steps = paper.direct_parents(words())
    assert steps[9] == (7,) and steps[12] == (4,) and steps[5] == (2, 3)
    assert 4 not in steps[4], "a standard concept that maps to itself is not its own parent"
    passed = paper.contract(steps, words(), {9, 11})
    assert passed[9] == (10,) and 11 in passed and passed[11] == (), "8 is passed over too once nobody has it"
    assert paper.contract(steps, words(), {7, 8})[9] == (7,)


def test_l36_a_circle_of_parents_ends() -> None:
    parents = {1: (2,), 2: (1,)}
    assert paper.closure(np.array([1]), parents).ancestor.tolist() == [1, 2]


def test_l36_what_everybody_or_nobody_adds_is_no_task() -> None:
    """q = 1: a child that everybody with the parent has; it adds nothing to its parent."""
    candidates, parents = np.array([1, 2, 3]), {2: (1,), 3: (1,)}
    weight, q = paper.weights(candidates, np.array([4, 4, 2]), 8, parents)
    assert q.tolist() == [0.5, 1.0, 0.5] and weight[1] == 0
    chosen = paper.select_paper_tasks(
        candidates,
        np.array([4, 4, 2]),
        8,
        parents,
        LabelingSettings(k=3),
        guarded=set(),
        event_fraction=np.ones(3),
        allow_fewer=True,
    )
    assert chosen.concept_id.tolist() == [1, 3] and chosen.removed["every or no person"] == 1


def test_l36_fewer_than_k_is_an_error() -> None:
    with pytest.raises(IntegrityError, match="11 concepts qualify as tasks, expected 12"):
        choose(k=12)
    assert len(choose(k=12, allow_fewer=True).concept_id) == 11


def test_l55_a_task_without_train_events_cannot_be_in_a_set() -> None:
    fraction = np.array([0.0 if c == 1 else 0.5 for c in golden()[0].tolist()])
    chosen = choose(k=10, event_fraction=fraction)
    assert 1 not in chosen.concept_id and chosen.removed["without a later event"] == 1


def test_l40_the_guard_holds_in_the_papers_mode() -> None:
    chosen = choose(k=10, guarded={2})
    assert 2 not in chosen.concept_id and chosen.removed_by == {2: "leakage guard"}


def test_l36_the_floor_drops_faint_and_rare_concepts() -> None:
    """weight <= h(0.001) = 0.001 × −6.9077553 + 0.999 × −0.0010005 = −0.0079073; events at one anchor in a thousand."""
    candidates, num_with = np.array([1, 2, 3, 4]), np.array([500, 2, 500, 1])
    fractions = np.array([0.5, 0.5, 0.0009, 0.5])
    arguments: Any = {"guarded": set(), "event_fraction": fractions, "allow_fewer": True}
    few = paper.select_paper_tasks(candidates, num_with, 2_000, {}, LabelingSettings(k=4), floor=True, **arguments)
    # p(2) = 0.001 exactly: weight = h(0.001), which is allowed; p(4) = 0.0005 is fainter.
    assert few.concept_id.tolist() == [1, 2] and few.removed["below the floor"] == 2
    assert paper.negative_entropy(0.001) == pytest.approx(-0.0079073, abs=5e-8)
    plain = paper.select_paper_tasks(candidates, num_with, 2_000, {}, LabelingSettings(k=4), **arguments)
    assert plain.concept_id.tolist() == [1, 3, 2, 4]


def test_l36_the_floor_counts_birth_as_half() -> None:
    """Everybody was born: q = 1 would drop it."""
    candidates, num_with = np.array([5, paper.BIRTH_CONCEPT]), np.array([4, 10])
    arguments: Any = {"guarded": set(), "event_fraction": np.ones(2), "allow_fewer": True}
    settings = LabelingSettings(k=2)
    floor = paper.select_paper_tasks(candidates, num_with, 10, {}, settings, floor=True, **arguments)
    plain = paper.select_paper_tasks(candidates, num_with, 10, {}, settings, **arguments)
    assert floor.concept_id.tolist() == [paper.BIRTH_CONCEPT, 5] and plain.concept_id.tolist() == [5]
    assert floor.weight[0] == pytest.approx(-0.6931472, abs=5e-8)


def test_l36_value_bins_take_places_and_are_no_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The vocabulary's cap counts bins and concepts together, and applies only when bins are given."""
    monkeypatch.setattr(paper, "VOCABULARY_ENTRIES", 2)
    arguments: Any = {"guarded": set(), "allow_fewer": True}
    settings, parents = LabelingSettings(k=9), {-1: (5,)}
    with_bins = paper.select_paper_tasks(
        np.array([-1, 4, 5, 6]), np.array([3, 5, 6, 1]), 10, parents, settings, event_fraction=np.ones(4), **arguments
    )
    # 4: h(0.5) = −0.693; 5: h(0.6) = −0.673; the bin: 0.6 h(0.5) = −0.416; 6: h(0.1) = −0.325.
    assert with_bins.concept_id.tolist() == [4, 5]
    without = paper.select_paper_tasks(
        np.array([4, 5, 6]), np.array([5, 6, 1]), 10, {}, settings, event_fraction=np.ones(3), **arguments
    )
    assert without.concept_id.tolist() == [4, 5, 6]
    assert -1 not in with_bins.concept_id


def test_l42_ties_that_differ_by_rounding_go_by_id() -> None:
    """q = 1/3 and q = 2/3 weigh the same, whatever the last digit of a logarithm."""
    chosen = choose()
    tied = [c for c in chosen.concept_id.tolist() if WEIGHTS[c] == -0.2386928]
    assert tied == sorted(tied)


def windows(*events: Happening, scan: str = "2020-03-01 10:00", **person: Any) -> Any:
    record = Record([Person(events, **person)], [Scan(scan)])
    _, raw = last_events(record.shard(), raw=True)
    return paper_windows(record.facts(), paper_policy(policy()), raw)


def test_l36_labels_end_at_the_last_events_raw_time_without_death() -> None:
    """risk = next, censor = last_event (raw): a bare date counts at its start; death and periods say nothing."""
    found = windows(Happening("2020-05-01"), death="2020-04-01", periods=[("2010-01-01", "2011-01-01")])
    assert found.end_s[0] == at("2020-05-01") - at("2020-03-01 10:00")
    assert (found.death_s[0], found.end_cause[0], found.mask[0]) == (-1, 0, 0)


def test_l36_a_record_that_ends_on_the_index_date_is_masked() -> None:
    later_that_day = windows(Happening("2020-03-01 12:00"))
    assert later_that_day.mask[0] == Mask.PAPER_SAME_DAY
    before = windows(Happening("2020-02-01 12:00"))
    assert before.mask[0] == Mask.NO_FOLLOWUP


def test_l36_a_study_without_any_task_event_is_masked() -> None:
    record = Record(
        [Person([Happening("2020-05-01", concept=0)]), Person([Happening("2020-05-01", concept=3)])],
        [Scan("2020-03-01 10:00", person=0), Scan("2020-03-01 10:00", person=1)],
        tasks={0: (0,)},
        num_tasks=1,
    )
    labels = record.label(policy())
    masked = mask_without_events(labels.windows, [labels.shard])
    assert masked.mask.tolist() == [0, int(Mask.PAPER_NO_TASK_EVENT)]
