"""The planted workspace (S4) and volumes straight into their store (S48): from `platform synth` to a trained encoder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from presage_etl.synthetic.answers.oracle import write_predictions
from presage_etl.synthetic.identifiers import study_key
from presage_etl.synthetic.lives.hazards import build_model
from presage_etl.synthetic.lives.persons import draw_person
from presage_etl.synthetic.parameters import Parameters, read_parameters
from presage_etl.synthetic.pictures.images import picture
from presage_etl.synthetic.pictures.scanner import draw_acquisition
from presage_etl.synthetic.scale.cohort import make_cohort
from presage_etl.synthetic.scale.phantoms import DERIVED, make_volumes, recipe_of, to_ras
from presage_etl.synthetic.scale.strength import CONCORDANCE_WANTED, EVENTS_WANTED, StrengthTask, mean_strength, measure
from presage_platform.labeling.command import Request, label
from presage_platform.labeling.store import LabelStore
from presage_platform.settings import read_settings
from presage_platform.volumes.store import Store

SMALL = {"leaves": 12}
GRID = (32, 32, 32)


def planted_parameters(**overrides: Any) -> Parameters:
    sizes = {"patients": 90, "grid": GRID, "ceiling_persons": 2000, "hazard": SMALL}
    return read_parameters("planted", **{**sizes, **overrides})


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted") / "w"
    make_cohort(folder, planted_parameters(), workers=1)
    return folder


@pytest.fixture(scope="module")
def labels(workspace: Path) -> LabelStore:
    snapshot = next(path.name for path in (workspace / "timeline").iterdir())
    files = {"index": workspace / "index.parquet", "vocabulary": workspace / "vocabulary"}
    report = label(read_settings(workspace), Request(snapshot=snapshot, allow_fewer=True, **files))
    return LabelStore.open(workspace / "labels" / report.label_hash)


def store_of(folder: Path) -> Store:
    return Store.open(next(path.parent for path in folder.glob("volumes/*/index.parquet")))


def true_labels(workspace: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    ids = {row["study"]: row["study_id"] for row in pq.read_table(workspace / "truth" / "joins.parquet").to_pylist()}
    for row in pq.read_table(workspace / "truth" / "true_labels.parquet").to_pylist():
        yield ids[row["study"]], row


def test_s04_a_workspace_can_be_labelled_at_once_and_its_outcomes_are_the_true_ones(
    workspace: Path, labels: LabelStore
) -> None:
    found = {
        (name, row["study_id"]): row
        for name in labels.outcomes
        for row in pq.read_table(labels.path / "outcomes" / f"{name}.parquet").to_pylist()
    }
    headlines = {headline.task for headline in planted_parameters().headline}
    assert headlines == set(labels.outcomes)
    compared: dict[str, int] = {}
    for study, row in true_labels(workspace):
        own_view = "next" if row["task"] == "all_cause_mortality" else "incident"
        if row["task"] in headlines and row["view"] == own_view:
            mine = found[row["task"], study]
            assert (mine["state"], mine["time_s"]) == (row["state"], row["time_s"]), row["task"]
            compared[row["state"]] = compared.get(row["state"], 0) + 1
    assert len(found) == sum(compared.values()) and min(compared[s] for s in ("event", "censored", "prevalent")) > 20


def test_s04_the_labels_of_every_planted_condition_are_the_true_ones(workspace: Path, labels: LabelStore) -> None:
    task_of = {f"concept:{c}": number for number, c in enumerate(labels.tasks.column("concept_id").to_pylist())}
    row_of = {study: row for row, study in enumerate(labels.studies.column("study_id").to_pylist())}
    compared = 0
    for study, row in true_labels(workspace):
        if row["task"] in task_of:
            batch = labels.rows(np.array([row_of[study]]), risk="next")
            times = dict(zip(batch.task.tolist(), batch.time.tolist(), strict=True))
            assert times.get(task_of[row["task"]]) == row["time_s"]
            compared += 1
    assert compared > 90 * 5


def test_s04_every_study_has_its_own_volume_in_the_axes_of_the_store(workspace: Path) -> None:
    store, parameters = store_of(workspace), planted_parameters()
    index = pq.read_table(workspace / "index.parquet").to_pylist()
    rows = {row["study_id"]: row for row in pq.read_table(workspace / "truth" / "volumes.parquet").to_pylist()}
    assert sorted(store.index.column("study_id").to_pylist()) == [row["study_id"] for row in index]
    assert store.recipe == recipe_of(parameters) and not any(row["derived"] for row in rows.values())
    assert not store.verify().faults
    scans = {row["study_id"]: row for row in pq.read_table(workspace / "truth" / "scans.parquet").to_pylist()}
    for study in (index[0]["study_id"], index[-1]["study_id"]):
        volume = store[rows[study]["volume_id"]]
        person = draw_person(parameters, int(rows[study]["person"][1:]))
        assert scans[study]["study"] == study_key(person.index, rows[study]["scan"])
        made = draw_acquisition(parameters, person.index, rows[study]["scan"], male=person.male)
        painted = picture(parameters, person, person.scans[rows[study]["scan"]], made)
        turned, affine = to_ras(np.clip(painted.volume, -1024, 3071).astype(np.int16), made.grid)
        assert np.allclose(affine, volume.affine) and (np.diag(affine) > 0).all()
        assert np.corrcoef(turned.ravel(), volume.array.ravel())[0, 1] > 0.95


def test_s23_turning_a_volume_keeps_every_voxel_where_it_is() -> None:
    parameters = planted_parameters()
    grids = [draw_acquisition(parameters, index, 0, male=True).grid for index in range(12)]
    assert {grid.row[0] for grid in grids} == {1.0, -1.0}
    rng = np.random.default_rng(0)
    for grid in grids:
        array = rng.integers(-1000, 1000, grid.size[::-1]).astype(np.int16)
        turned, affine = to_ras(array, grid)
        before = np.array(grid.affine_ras()).reshape(4, 4)
        for i, j, k in rng.integers(0, GRID, size=(20, 3)).tolist():
            place = np.linalg.inv(affine) @ before @ np.array([i, j, k, 1.0])
            x, y, z = np.round(place[:3]).astype(int)
            assert np.allclose(place[:3], [x, y, z], atol=1e-3) and turned[z, y, x] == array[k, j, i]


def test_s43_the_oracles_of_a_workspace_need_no_database(workspace: Path, tmp_path: Path) -> None:
    counts = write_predictions(workspace, tmp_path / "oracle.parquet", read_settings(workspace))
    predictions = pq.read_table(tmp_path / "oracle.parquet")
    assert counts["studies"] == pq.read_metadata(workspace / "index.parquet").num_rows
    assert set(predictions.column("arm").to_pylist()) == {"oracle_risk", "oracle_image"}
    assert set(predictions.column("study_id").to_pylist()) == set(
        pq.read_table(workspace / "index.parquet").column("study_id").to_pylist()
    )


def test_s04_the_planted_signal_is_strong_enough_to_tell_models_apart() -> None:
    parameters = read_parameters("planted")
    model = build_model(parameters)
    visible = [place for place, leaf in enumerate(model.leaves) if leaf.kind == "visible"]
    measured = [row for _, row in measure(StrengthTask(parameters, model, tuple(visible[::2])))]
    strength = mean_strength(measured)
    assert strength.concordance >= CONCORDANCE_WANTED and strength.event_share >= EVENTS_WANTED
    assert "missed" not in strength.text()


def test_s03_s04_the_number_of_workers_changes_no_byte_of_a_workspace(workspace: Path, tmp_path: Path) -> None:
    made = planted_parameters()
    make_cohort(tmp_path / "again", made, workers=2)
    names = [path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file()]
    assert len(names) > 30
    assert [n for n in names if (workspace / n).read_bytes() != (tmp_path / "again" / n).read_bytes()] == []


def volume_parameters(**sizes: int) -> Parameters:
    return read_parameters(None, output="volumes", seed=5, grid=GRID, volumes=sizes)


def test_s48_derived_volumes_are_marked_and_come_from_their_base(tmp_path: Path) -> None:
    report = make_volumes(tmp_path / "v", volume_parameters(studies=23, distinct=4), workers=1)
    assert report.counts == {"volumes": 23, "painted": 4, "derived": 19}
    store = store_of(tmp_path / "v")
    assert not store.verify().faults
    truth = pq.read_table(tmp_path / "v" / "truth" / "volumes.parquet").to_pylist()
    marked = dict(
        zip(store.index.column("study_id").to_pylist(), store.index.column("actions").to_pylist(), strict=True)
    )
    volumes = {row["study_id"]: store[row["volume_id"]].array for row in truth}
    for row in truth:
        assert (marked[row["study_id"]] == [DERIVED]) == row["derived"] == (row["study_id"] > 4)
        base = truth[row["base_study_id"] - 1]
        assert [row[f"z{n}"] for n in range(1, 9)] == [base[f"z{n}"] for n in range(1, 9)]
        if row["derived"]:
            axes = [axis for axis, name in enumerate("zyx") if name in row["transform"].split(",")[0][5:]]
            shift = [int(n) for n in row["transform"].split("shift ")[1].split(" voxels")[0].split()]
            moved = np.flip(np.roll(volumes[base["study_id"]], [-s for s in shift], (0, 1, 2)), axes)
            inner = (slice(8, -8),) * 3
            difference = volumes[row["study_id"]][inner].astype(int) - moved[inner]
            assert 3 < difference.std() < 12 and np.abs(difference).max() < 80
    assert len(set(store.index.column("sha256").to_pylist())) == 23
    labels = pq.read_table(tmp_path / "v" / "truth" / "volume_labels.parquet")
    assert set(labels.column("study_id").to_pylist()) <= set(range(1, 24)) and labels.num_rows > 23


def test_s48_the_bytes_of_derived_volumes_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    parameters = volume_parameters(studies=9, distinct=2)
    for workers in (1, 2):
        make_volumes(tmp_path / str(workers), parameters, workers=workers)
    names = [path.relative_to(tmp_path / "1") for path in (tmp_path / "1").rglob("*") if path.is_file()]
    assert [n for n in names if (tmp_path / "1" / n).read_bytes() != (tmp_path / "2" / n).read_bytes()] == []
