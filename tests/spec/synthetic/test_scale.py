"""Cohorts of benchmark size (S46, S47): what is written straight to the timeline store, and what labels make of it."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import presage_etl.synthetic.scale
from presage_etl.synthetic.lives.hazards import build_model
from presage_etl.synthetic.parameters import Parameters, read_parameters
from presage_etl.synthetic.scale.cohort import make_cohort
from presage_etl.synthetic.scale.events import frequencies
from presage_etl.synthetic.scale.ontology import FEWEST, MOST, build_ontology
from presage_platform.errors import InputError, UsageError
from presage_platform.labeling.command import Request, label
from presage_platform.labeling.store import LabelStore
from presage_platform.labeling.timeline import Snapshot
from presage_platform.settings import read_settings

MEAN_EVENTS = 800


def cohort_parameters(patients: int = 120, **timeline: object) -> Parameters:
    sizes = {"events_per_person": MEAN_EVENTS, "concepts": 500, "sample": 60, **timeline}
    return read_parameters(None, patients=patients, seed=3, output="timeline", timeline=sizes)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort") / "c"
    make_cohort(folder, cohort_parameters(), workers=1)
    return folder


def labels_of(folder: Path, **options: object) -> LabelStore:
    """Label a cohort and its outcome tasks without a database."""
    snapshot = next(path.name for path in (folder / "timeline").iterdir())
    files = {"index": folder / "index.parquet", "vocabulary": folder / "vocabulary"}
    report = label(read_settings(folder), Request(snapshot=snapshot, allow_fewer=True, **files, **options))  # type: ignore[arg-type]
    return LabelStore.open(folder / "labels" / report.label_hash)


def snapshot_of(folder: Path) -> Snapshot:
    return Snapshot.open(next((folder / "timeline").iterdir()))


def test_s46_the_snapshot_is_what_a_reader_of_the_store_expects(cohort: Path) -> None:
    snapshot = snapshot_of(cohort)
    snapshot.verify()
    shard = snapshot.shard(0)
    assert len(shard.person_id) == 120 and (np.diff(shard.person_id) > 0).all()
    for low, high in zip(shard.offset[:-1], shard.offset[1:], strict=True):
        order = np.lexsort((shard.flags[low:high], shard.concept[low:high], shard.time[low:high]))
        assert (order == np.arange(high - low)).all()
    mean = snapshot.manifest["num_events"] / 120
    assert MEAN_EVENTS * 0.8 < mean < MEAN_EVENTS * 1.35


def test_s46_events_without_a_plan_follow_zipf_and_stay_within_the_record(cohort: Path) -> None:
    law = frequencies(1000, 1.1)
    shares = np.diff(np.concatenate([[0], law.threshold.astype(np.float64)])) / 2**32
    assert shares[0] / shares[9] == pytest.approx(10**1.1, rel=1e-3)
    drawn = np.searchsorted(law.threshold, np.array([0, 2**31, 2**32 - 2], dtype=np.uint32), side="right")
    assert drawn[0] == 0 and 0 < drawn[1] < 100 and drawn[2] == 999
    snapshot = snapshot_of(cohort)
    shard, period = snapshot.shard(0), snapshot.table("observation_period").to_pylist()
    ends = {row["person_id"]: (row["start_s"], row["end_s"]) for row in period}
    for place, person in enumerate(shard.person_id.tolist()):
        times = shard.time[shard.offset[place] : shard.offset[place + 1]]
        assert ends[person][0] <= times.min() and times.max() <= ends[person][1]


def test_s46_every_concept_has_six_to_twenty_ancestors(cohort: Path) -> None:
    parameters = cohort_parameters()
    model = build_model(parameters)
    ontology = build_ontology(parameters, model)
    concepts = [*ontology.filler.tolist(), *(leaf.concept_id for leaf in model.leaves)]
    assert {FEWEST <= len(ontology.above[concept]) - 1 <= MOST for concept in concepts} == {True}
    rows = pq.read_table(cohort / "vocabulary" / "concept_ancestor.parquet").to_pylist()
    parents: dict[int, set[int]] = {}
    for row in rows:
        if row["min_levels_of_separation"] == 1:
            parents.setdefault(row["descendant_concept_id"], set()).add(row["ancestor_concept_id"])
    for concept in concepts[::37]:  # the closure, climbed step by step
        above, open_ = {concept}, {concept}
        while open_:
            open_ = {parent for child in open_ for parent in parents.get(child, ())} - above
            above |= open_
        assert above == set(ontology.above[concept])


def test_s03_s46_the_snapshot_id_does_not_depend_on_the_number_of_workers(cohort: Path, tmp_path: Path) -> None:
    make_cohort(tmp_path / "again", cohort_parameters(), workers=2)
    first = {p.relative_to(cohort): p.read_bytes() for p in cohort.rglob("*.parquet") if "labels" not in p.parts}
    first = {name: content for name, content in first.items() if "arrays" not in name.parts}
    assert first == {name: (tmp_path / "again" / name).read_bytes() for name in first}
    assert snapshot_of(cohort).snapshot_id == snapshot_of(tmp_path / "again").snapshot_id
    assert make_cohort(cohort, cohort_parameters()).made is False
    with pytest.raises(InputError):
        make_cohort(cohort, cohort_parameters(zipf=1.3))


def test_s47_labels_agree_with_a_plain_walk_through_the_events(cohort: Path) -> None:
    store = labels_of(cohort)
    walked: dict[int, dict[int, tuple[int | None, bool]]] = {}
    for row in pq.read_table(cohort / "truth" / "first_occurrence_sample.parquet").to_pylist():
        walked.setdefault(row["study_id"], {})[row["concept_id"]] = (row["time_s"], row["prevalent"])
    assert len(walked) == 60
    concepts = store.tasks.column("concept_id").to_pylist()
    place = {study: row for row, study in enumerate(store.studies.column("study_id").to_pylist())}
    compared = events = 0
    for study, expected in walked.items():
        batch = store.rows(np.array([place[study]]), risk="next")
        found = dict(zip(batch.task.tolist(), batch.time.tolist(), strict=True))
        for task, concept in enumerate(concepts):
            time, prevalent = expected.get(concept, (None, False))
            assert found.get(task) == time
            assert bool(batch.prevalent[0, task >> 3] >> (task & 7) & 1) == prevalent
            compared, events = compared + 1, events + (time is not None)
    assert compared == 60 * len(concepts) and events > 100
    assert set(store.outcomes) == {headline.task for headline in cohort_parameters().headline}


def test_s46_a_person_has_the_same_events_whatever_the_number_of_shards(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("presage_etl.synthetic.scale.snapshot.choose_n_shards", lambda events: 4)
    make_cohort(tmp_path / "four", cohort_parameters(), workers=1)
    one, four = snapshot_of(cohort), snapshot_of(tmp_path / "four")
    assert (one.n_shards, four.n_shards) == (1, 4)
    tables = [pq.read_table(path) for path in sorted(four.path.glob("shard-*.parquet"))]
    for number, table in enumerate(tables):
        assert set(four.shards_of(np.unique(table.column("person_id"))).tolist()) == {number}
    whole = pq.read_table(one.path / "shard-00000.parquet")
    assert (
        pa.concat_tables(tables)
        .sort_by([(name, "ascending") for name in whole.column_names])
        .equals(whole.sort_by([(name, "ascending") for name in whole.column_names]))
    )
    samples = [
        pq.read_table(folder / "truth" / "first_occurrence_sample.parquet") for folder in (cohort, four.path.parents[1])
    ]
    assert samples[0].equals(samples[1])


def test_s52_only_the_writer_of_snapshots_touches_the_labeling_and_nothing_reads_labels() -> None:
    folder = Path(str(presage_etl.synthetic.scale.__file__)).parent
    imported = {
        (path.name, node.module)
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("presage_platform.labeling")
    }
    assert imported == {
        ("snapshot.py", "presage_platform.labeling.timeline"),
        ("snapshot.py", "presage_platform.labeling.timeline_writer"),
    }


def test_s46_options_of_one_mode_are_refused_in_another() -> None:
    from presage_etl.synthetic.scale.options import scale_overrides

    nothing = dict.fromkeys(("events_per_person", "concepts", "zipf", "studies", "distinct", "scans_per_person"), None)
    asked = scale_overrides(timeline_only=True, volumes_only=False, **nothing)  # type: ignore[arg-type]
    assert asked == {"output": "timeline", "timeline": {"events_per_person": 11_600}}
    with pytest.raises(UsageError):
        scale_overrides(timeline_only=True, volumes_only=True, **nothing)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        scale_overrides(timeline_only=False, volumes_only=False, **{**nothing, "distinct": 3})  # type: ignore[arg-type]
