"""`tiny` from stores to predictions: it learns what was planted, resumes exactly, and repeats nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from presage_modeling.adaptation import adapt_run
from presage_modeling.commands import embed_command, train_command
from presage_modeling.embedding import read_embeddings, read_encoder
from presage_modeling.pretraining import RunReport, new_encoder, run_recipe
from presage_platform.errors import InputError, LimitError, LockedError, RecipeError, UsageError, VolumeRecipeError
from presage_platform.labeling.store import LabelStore
from presage_platform.runs import RunFolder
from presage_platform.volumes.recipe import VolumeRecipe
from tests.lib.cohort import planted_workspace

pytestmark = pytest.mark.timeout(250)
QUICK = [
    "encoder.widths=[4, 4, 8, 8]",
    "encoder.stem_pool=false",
    "head.rank=8",
    "memory.cpu_threads=1",
    "schedule.warmup_steps=4",
    "schedule.log_every_steps=1",
    "checkpoint.every_steps=5",
    "validation.every_steps=10",
]
EPOCHS = ["schedule.epochs=5"]


def train(workspace: Path, *assignments: str, **options: Any) -> list[RunReport]:
    arguments: dict[str, Any] = {
        "arm": None,
        "labels": None,
        "volumes": None,
        "resume": None,
        "allow_missing": False,
        "workspace": workspace,
        **options,
    }
    recipe = None if options.get("resume") else "tiny"
    return train_command(recipe, assignments=[*QUICK, *assignments] if recipe else [], **arguments)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    planted_workspace(folder, num_studies=120)
    return folder


@pytest.fixture(scope="module")
def finished(planted: Path) -> RunReport:
    (report,) = train(planted, *EPOCHS)
    return report


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunReport]:
    folder = tmp_path_factory.mktemp("learned")
    planted_workspace(folder, num_studies=250)
    rarely = ("checkpoint.every_steps=1000", "validation.every_steps=1000")
    (report,) = train(folder, "schedule.epochs=10", "optimiser.lr=1e-2", "schedule.effective_batch=8", *rarely)
    embed_command(report.path.name, volumes=None, workspace=folder)
    return folder, report


def losses(run: Path) -> list[tuple[int, float, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["lr"]) for line in lines if "loss" in line]


def test_m6_the_run_folder_says_what_was_done(finished: RunReport) -> None:
    names = {path.name for path in finished.path.iterdir()}
    assert {"recipe.toml", "recipe.sha256", "fingerprints.json", "seeds.json", "cohort.json", "metrics.jsonl"} <= names
    assert {"checkpoints", "weights.safetensors", "finished.json", "volume_recipe.toml"} <= names
    recipe = run_recipe(finished.path)
    assert (finished.path / "recipe.sha256").read_text().strip() == recipe.recipe_hash
    fingerprints = json.loads((finished.path / "fingerprints.json").read_text())
    assert {"data", "environment", "device", "labels", "recipe"} <= fingerprints.keys()
    assert json.loads((finished.path / "cohort.json").read_text())["train"]["eligible"] == 72


def test_m77_training_explains_a_part_of_the_null_loss_on_persons_it_has_not_seen(
    learned: tuple[Path, RunReport],
) -> None:
    facts = learned[1].facts
    assert facts["valid_loss"] < 0.95 * facts["valid_null_loss"]


def test_m78_metrics_are_one_object_a_step(finished: RunReport) -> None:
    assert [step for step, _, _ in losses(finished.path)] == list(range(1, 26))
    lines = [json.loads(line) for line in (finished.path / "metrics.jsonl").read_text().splitlines()]
    assert {line["step"] for line in lines if "valid_loss" in line} == {10, 20, 25}
    logged = next(line for line in lines if "loss" in line)
    assert {"epoch", "cursor", "null_share", "grad_norm", "clamped_share", "volumes_per_s", "data_wait_share"} <= set(
        logged
    )


def test_m65_every_tensor_of_encoder_and_head_has_moved(finished: RunReport) -> None:
    encoder, _ = read_encoder(finished.path, run_recipe(finished.path))
    start = new_encoder(run_recipe(finished.path))
    unmoved = [n for (n, a), b in zip(encoder.named_parameters(), start.parameters(), strict=True) if torch.equal(a, b)]
    assert unmoved == []


def test_m59_base_holds_the_initial_encoder_and_takes_no_step(planted: Path, finished: RunReport) -> None:
    (report,) = train(planted, *EPOCHS, arm="base")
    assert report.facts["steps"] == 0
    encoder, _ = read_encoder(report.path, run_recipe(report.path))
    start = new_encoder(run_recipe(finished.path))  # the same start as the arm that trains
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), start.parameters(), strict=True))


def test_m60_a_group_differs_in_the_objective_alone(planted: Path, finished: RunReport) -> None:
    reports = train(planted, *EPOCHS, arm="base,time_to_event")
    recipes = {report.arm: run_recipe(report.path).model_dump() for report in reports}
    assert recipes.keys() == {"base", "time_to_event"}
    assert {key for key in recipes["base"] if recipes["base"][key] != recipes["time_to_event"][key]} == {"objective"}
    (group,) = (planted / "runs").glob("tiny-*.group.json")
    assert json.loads(group.read_text())["arms"] == {report.arm: report.path.name for report in reports}


def test_the_same_command_again_does_nothing(planted: Path, finished: RunReport) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.path.rglob("*")}
    (again,) = train(planted, *EPOCHS)
    assert again.already_finished and again.path == finished.path
    assert {path: path.stat().st_mtime_ns for path in finished.path.rglob("*")} == before
    with pytest.raises(RecipeError, match="is finished"):
        train(planted, resume=finished.path.name)


def test_m45_accumulation_is_one_large_batch(planted: Path, finished: RunReport) -> None:
    group_norm = [*EPOCHS, "encoder.norm=group", "schedule.epochs=1"]
    (whole,) = train(planted, *group_norm)
    (cut,) = train(planted, *group_norm, "memory.micro_batch=4")
    np.testing.assert_allclose(
        [loss for _, loss, _ in losses(cut.path)], [loss for _, loss, _ in losses(whole.path)], rtol=1e-5
    )


def spoil(monkeypatch: pytest.MonkeyPatch, calls: range | set[int]) -> None:
    """Make the loss of some training steps (counted from 1) not a number."""
    from presage_modeling.objectives import TimeToEvent

    true_loss, seen = TimeToEvent.loss, [0]

    def loss(self: TimeToEvent, *arguments: Any) -> tuple[torch.Tensor, float]:
        value, clamped = true_loss(self, *arguments)
        seen[0] += torch.is_grad_enabled()
        return value * float("nan") if torch.is_grad_enabled() and seen[0] in calls else value, clamped

    monkeypatch.setattr(TimeToEvent, "loss", loss)


def test_m76_a_step_without_finite_loss_is_skipped_and_listed(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, {3})
    (report,) = train(planted, "seed=3", "schedule.epochs=1")
    assert (report.facts["steps"], report.facts["skipped_steps"]) == (5, 1)
    (line,) = (report.path / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 2 and len(json.loads(line)["study_ids"]) == 16
    encoder, _ = read_encoder(report.path, run_recipe(report.path))
    assert all(torch.isfinite(parameter).all() for parameter in encoder.parameters())


def test_m76_ten_in_a_row_stop_the_run(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, range(1, 1000))
    with pytest.raises(LimitError, match="10 of the last 10 steps"):
        train(planted, "seed=4", *EPOCHS)


def test_m77_early_stopping_exists_and_is_off(planted: Path) -> None:
    never_enough = ("validation.every_steps=1", "validation.patience=3", "validation.relative_improvement=1e6")
    (report,) = train(planted, "seed=5", "schedule.epochs=2", *never_enough)
    assert report.facts["steps"] == 10
    (report,) = train(planted, "seed=5", "schedule.epochs=2", *never_enough, "validation.early_stopping=true")
    assert report.facts["steps"] == 4


def test_a_constant_volume_trains_without_a_division_by_zero(tmp_path: Path) -> None:
    planted_workspace(tmp_path, num_studies=20, flat=True)
    (report,) = train(tmp_path, "schedule.epochs=1")
    assert report.facts["skipped_steps"] == 0 and np.isfinite(report.facts["valid_loss"])


COMMAND = """
import sys
from pathlib import Path
from presage_modeling.commands import train_command
train_command("tiny", arm=None, labels=None, volumes=None, assignments=sys.argv[2:], resume=None,
              allow_missing=False, workspace=Path(sys.argv[1]))
"""


def start(workspace: Path, *assignments: str) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", COMMAND, str(workspace), *QUICK, *assignments]
    return subprocess.Popen(arguments, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})


def run_folder(workspace: Path) -> Path | None:
    return next((workspace / "runs").glob("tiny-time_to_event-*"), None)


def wait_for_step(workspace: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        run = run_folder(workspace)
        metrics = run / "metrics.jsonl" if run else None
        if metrics and metrics.exists() and metrics.read_text().count('"loss"') >= step:
            return
        time.sleep(0.002)
    raise AssertionError("the run ended before it could be stopped")


def test_m85_a_killed_run_ends_in_the_same_weights_bit_for_bit(
    planted: Path, finished: RunReport, tmp_path: Path
) -> None:
    for folder in ("volumes", "labels"):
        (tmp_path / folder).symlink_to(planted / folder)
    (tmp_path / "platform.toml").touch()
    for step in (random.Random(8).randint(2, 9), 15):
        process = start(tmp_path, *EPOCHS)
        wait_for_step(tmp_path, step, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    (resumed,) = train(tmp_path, *EPOCHS)
    assert not resumed.already_finished
    assert losses(resumed.path) == losses(finished.path)
    assert resumed.facts == finished.facts  # the sha256 of the weights among them


def test_m91_sigterm_leaves_a_checkpoint_of_the_step_just_done(
    planted: Path, finished: RunReport, tmp_path: Path
) -> None:
    for folder in ("volumes", "labels"):
        (tmp_path / folder).symlink_to(planted / folder)
    (tmp_path / "platform.toml").touch()
    process = start(tmp_path, *EPOCHS)
    wait_for_step(tmp_path, 7, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() != 0
    run = run_folder(tmp_path)
    assert run is not None
    latest = (run / "checkpoints" / "latest").read_text()
    assert int(latest.removeprefix("step_")) >= 7
    (resumed,) = train(tmp_path, resume=str(run))
    assert resumed.facts == finished.facts


def test_m84_changed_labels_are_refused_on_resume(planted: Path, finished: RunReport, tmp_path: Path) -> None:
    planted_workspace(tmp_path, num_studies=20, seed=9)
    half = tmp_path / "runs" / "half"
    half.mkdir(parents=True)
    for name in ("recipe.toml", "recipe.sha256", "fingerprints.json", "volume_recipe.toml"):
        (half / name).write_bytes((finished.path / name).read_bytes())
    with pytest.raises(RecipeError, match=r"label store is .* the run was started with"):
        train(tmp_path, resume="half")
    (half / "recipe.toml").write_text((half / "recipe.toml").read_text().replace("seed = 0", "seed = 1"))
    with pytest.raises(RecipeError, match=r"recipe\.toml is"):
        train(tmp_path, resume="half")


def test_a_run_in_use_is_refused(planted: Path, finished: RunReport) -> None:
    with RunFolder(finished.path), pytest.raises(LockedError, match="pid"):
        embed_command(finished.path.name, volumes=None, workspace=planted)


def test_m93_embeddings_carry_their_key_and_m94_are_made_once(planted: Path, finished: RunReport) -> None:
    first = embed_command(finished.path.name, volumes=None, workspace=planted)
    table = read_embeddings(finished.path)
    assert table.num_rows == 120 and first.width == len(table.column("embedding")[0]) == 8
    assert set(table.column_names) >= {"study_id", "series_key", "volume_id", "weights_sha256", "volume_recipe_hash"}
    assert set(table.column("weights_sha256").to_pylist()) == {finished.facts["weights_sha256"]}
    again = embed_command(f"runs/{finished.path.name}", volumes=None, workspace=planted)
    assert (again.embedded, again.already_there) == (0, 120)


def test_m94_after_a_kill_the_rest_is_made_and_m97_batch_size_does_not_matter(
    planted: Path, finished: RunReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    from presage_modeling import embedding
    from presage_platform.settings import read_settings
    from presage_platform.volumes.store import open_store

    embed_command(finished.path.name, volumes=None, workspace=planted)
    whole = read_embeddings(finished.path).sort_by("volume_id")
    for part in (finished.path / "embeddings").glob("part-*.parquet"):
        part.unlink()
    monkeypatch.setattr(embedding, "VOLUMES_A_PART", 50)
    store = open_store(read_settings(planted))
    embedding.embed_run(finished.path, store)
    (finished.path / "embeddings" / "part-00001.parquet").unlink()  # as if it had never been renamed into place
    report = embedding.embed_run(finished.path, store, batch_size=7)
    assert (report.embedded, report.already_there) == (50, 70)
    again = read_embeddings(finished.path).sort_by("volume_id")
    assert again.column("volume_id") == whole.column("volume_id")
    for a, b in zip(again.column("embedding").to_pylist(), whole.column("embedding").to_pylist(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_m96_a_store_of_another_recipe_is_refused(planted: Path, finished: RunReport, tmp_path: Path) -> None:
    from presage_modeling.embedding import embed_run
    from presage_platform.settings import read_settings
    from presage_platform.volumes.store import open_store

    other = VolumeRecipe(name="other", spacing_mm=(9.0, 9.0, 9.0), crop="centre", shape=(32, 32, 32))
    planted_workspace(tmp_path, num_studies=5, recipe=other)
    with pytest.raises(VolumeRecipeError, match="trained on volumes of recipe"):
        embed_run(finished.path, open_store(read_settings(tmp_path)))


def test_m99_heads_on_the_embeddings_find_the_planted_scores(learned: tuple[Path, RunReport]) -> None:
    folder, finished = learned
    labels = LabelStore.open(next((folder / "labels").glob("*/manifest.json")).parent)
    path = adapt_run(finished.path, labels, tasks=["concept:1004", "concept:1005"])
    table = pq.read_table(path)
    assert table.schema.field("surv").type.value_type == "double"
    horizons = json.loads(table.schema.metadata[b"times_days"])
    assert all(len(curve) == len(horizons) for curve in table.column("surv").to_pylist())
    assert set(table.column("arm").to_pylist()) == {"time_to_event"} and set(table.column("fold").to_pylist()) == {0}
    heads = json.loads(path.with_suffix(".json").read_text())["heads"]
    assert [head["fitted"] for head in heads] == [True, True]
    assert adapt_run(finished.path, labels, tasks=["concept:1004", "concept:1005"]) == path
    assert _test_c_index(labels, table, "concept:1004") > 0.65


def _test_c_index(labels: LabelStore, table: Any, task: str) -> float:
    from sksurv.metrics import concordance_index_censored

    from presage_modeling.evaluation.outcome import Outcome

    view = labels.task_view(task)
    outcome = Outcome.from_labels(view)
    ids = view.study_id[view.at_risk]
    rows = table.filter([value == task for value in table.column("task").to_pylist()])
    risk = dict(zip(rows.column("study_id").to_pylist(), rows.column("risk").to_pylist(), strict=True))
    split = dict(
        zip(labels.studies.column("study_id").to_pylist(), labels.studies.column("split").to_pylist(), strict=True)
    )
    test = np.array([split[study] == 2 for study in ids.tolist()])
    structured = outcome.take(test).survival()
    scores = np.array([risk[study] for study in ids[test].tolist()])
    return float(concordance_index_censored(structured["event"], structured["time"], scores)[0])


@pytest.mark.parametrize("name", ["nowhere", "labels"])
def test_embedding_what_is_no_run_is_refused(planted: Path, name: str) -> None:
    with pytest.raises((UsageError, InputError)):
        embed_command(name, volumes=None, workspace=planted)
