"""The benchmark's cohort is what labeling L84 says, its parts agree with the product, and a missed target is a failure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import bench_labeling, labeling_cohort
from tests.lib.label_events import VISIT_EVENTS, above_tasks, dag, generate

DAY = 86_400


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> labeling_cohort.Cohort:
    return labeling_cohort.write(tmp_path_factory.mktemp("cohort"), 200_000, 256, seed=20)[0]


def test_l84_the_generator_gives_what_was_asked() -> None:
    """Log-normal persons, Zipf concepts, visits over ten years, 30 % bare dates, 1.2 studies a person."""
    made = generate(400_000, num_tasks=64, mean_events=400, num_concepts=3_000)
    sizes = np.diff(made.events.offset)
    assert sizes.mean() == pytest.approx(400, rel=0.02)
    assert np.log(sizes).std() == pytest.approx(1.0, abs=0.1)
    bare = (made.events.flags & 8) != 0
    assert bare.mean() == pytest.approx(0.3, abs=0.01) and (made.events.time[bare] % DAY == 0).all()
    times = np.sort(np.bincount(made.events.concept))[::-1]
    expected = np.arange(1, 3_001) ** -1.1
    assert times[0] / times.sum() == pytest.approx(expected[0] / expected.sum(), rel=0.05)
    days = made.events.time[made.events.offset[0] : made.events.offset[1]] // DAY
    assert len(np.unique(days)) <= sizes[0] / VISIT_EVENTS + 2, "events of a visit share a day"
    assert (made.events.time.max() - made.events.time.min()) / DAY == pytest.approx(3_650, abs=20)
    assert len(made.facts) / len(sizes) == pytest.approx(1.2, abs=0.05)


def test_l84_the_hierarchy_has_depth_and_six_tasks_a_concept() -> None:
    map_ = dag(5_000, 512, 6.0, seed=20)
    above = above_tasks(512, 20)
    assert len(map_.task) / 5_000 == pytest.approx(6.0, rel=0.1)
    assert max(map(len, above)) >= 8
    assert sum(len(above[task]) > 1 for task in range(512)) > 400, "all but the top level have parents"
    for concept in range(0, 5_000, 97):
        tasks = set(map_.task[map_.indptr[concept] : map_.indptr[concept + 1]].tolist())
        assert all(above[task] <= tasks for task in tasks), "closed upwards"


def test_l84_the_cohort_does_not_depend_on_its_total() -> None:
    """The first part of a larger cohort is the smaller cohort, so that growth compares like with like."""
    first = next(labeling_cohort.parts(4_000_000, 64, 20))
    again = next(labeling_cohort.parts(8_000_000, 64, 20))
    assert np.array_equal(first.events.time, again.events.time) and len(first.facts) == len(again.facts)


def test_l85_labels_from_parquet_equal_those_in_memory(cohort: labeling_cohort.Cohort) -> None:
    import hashlib

    from presage_platform.labeling.first_occurrence import label_shard

    (part,) = labeling_cohort.parts(200_000, 256, 20)
    windows = labeling_cohort.risk_windows(part.facts, labeling_cohort.POLICY)
    shard = label_shard(part.events, part.facts, windows, part.ontology, same_day="exclude")
    arrays = (shard.indptr, shard.task, shard.time, shard.prevalent)
    inner = hashlib.sha256(b"".join(np.ascontiguousarray(array) for array in arrays)).hexdigest()
    measured = labeling_cohort.from_parquet(cohort, workers=1, runs=1)
    assert measured["checksum"] == hashlib.sha256(inner.encode()).hexdigest()[:16]
    assert measured["nnz"] == len(shard.task)


def test_l85_selection_chooses_among_all_candidates(cohort: labeling_cohort.Cohort) -> None:
    found = labeling_cohort.selection(cohort)
    assert found["selected_tasks"] == 256 and found["selection_candidates"] > 1_000


def test_l85_a_missed_target_and_a_different_bit_are_said() -> None:
    met = list(bench_labeling.verdicts({"kernel_s": 2.9, "extraction_rows_per_s": 2_100_000, "duckdb_same_bits": True}))
    assert len(met) == 3 and not any("missed" in line or "DIFFERENT" in line for line in met)
    missed = list(bench_labeling.verdicts({"kernel_s": 3.1, "growth_exponent": 1.2, "postgres_same_bits": False}))
    assert ["missed" in line or "DIFFERENT" in line for line in missed] == [True, True, True]


def test_l17_and_l85_every_target_is_measured_by_the_benchmark() -> None:
    source = "".join(path.read_text() for path in Path(bench_labeling.__file__).parent.glob("*label*.py"))
    assert all(source.count(f'"{name}"') >= 2 for name in bench_labeling.TARGETS)
