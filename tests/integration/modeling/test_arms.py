"""The four arms by one interface: same studies, same order, and every trained parameter moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from presage_modeling.checkpoint import model_tensors
from presage_modeling.commands import train_command
from presage_modeling.objectives import ARMS, build_objective
from presage_modeling.pretraining import RunReport, new_encoder, run_recipe
from presage_platform.labeling.store import LabelStore
from tests.lib.cohort import planted_workspace

pytestmark = pytest.mark.timeout(250)
QUICK = [
    "encoder.widths=[4, 4, 8, 8]",
    "encoder.stem_pool=false",
    "encoder.norm=group",
    "head.rank=4",
    "memory.cpu_threads=1",
    "optimiser.weight_decay=0",
    "schedule.warmup_steps=0",
    "schedule.effective_batch=24",
    "schedule.epochs=1",
    "schedule.log_every_steps=1",
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arms")
    planted_workspace(folder, num_studies=120, outcomes=True)
    return folder


def train(workspace: Path, *assignments: str) -> dict[str, RunReport]:
    options: dict[str, Any] = {"labels": None, "volumes": None, "resume": None, "allow_missing": False}
    reports = train_command("tiny", arm="all", assignments=[*QUICK, *assignments], workspace=workspace, **options)
    return {report.arm: report for report in reports}


@pytest.mark.parametrize("accumulation", [1, 8])
def test_m65_three_steps_move_every_parameter_of_every_trained_arm(workspace: Path, accumulation: int) -> None:
    """In `base` no tensor differs from its start. 72 training studies in batches of 24 are three steps."""
    reports = train(workspace, f"memory.micro_batch={24 // accumulation}")
    assert tuple(reports) == ARMS
    for arm, report in reports.items():
        recipe = run_recipe(report.path)
        start = model_tensors({"encoder": new_encoder(recipe)})
        end = {name: tensor for name, tensor in load_file(report.path / "weights.safetensors").items()}
        assert report.facts["steps"] == (0 if arm == "base" else 3), arm
        learned = {name for name, tensor in start.items() if tensor.is_floating_point()}
        moved = {name for name in learned if not torch.equal(end[name], start[name])}
        assert moved == (set() if arm == "base" else learned), arm


def test_m65_the_heads_move_too(workspace: Path) -> None:
    for arm, report in train(workspace, "memory.micro_batch=24").items():
        if arm == "base":
            continue
        end = {
            name: t for name, t in load_file(report.path / "weights.safetensors").items() if name.startswith("head.")
        }
        assert set(end) == {"head.norm.weight", "head.norm.bias", "head.project.weight", "head.project.bias",
                            "head.tasks_FK", "head.bias_K"}  # fmt: skip
        assert end["head.project.weight"].abs().min() > 0 and end["head.project.bias"].abs().min() > 0  # from zero
        assert (end["head.norm.weight"] != 1).all() and (end["head.norm.bias"] != 0).all()


def test_m60_arms_differ_in_their_objective_alone_and_see_the_same_studies(workspace: Path) -> None:
    reports = train(workspace, "memory.micro_batch=24")
    recipes = {arm: run_recipe(report.path).model_dump() for arm, report in reports.items()}
    for recipe in recipes.values():
        assert {key for key in recipe if recipe[key] != recipes["base"][key]} <= {"objective"}
        assert {
            key for key in recipe["objective"] if recipe["objective"][key] != recipes["base"]["objective"][key]
        } <= {"arm"}
    assert len({report.facts["train_studies"] for report in reports.values()}) == 1


def test_m64_each_arm_reports_its_positives_and_informative_pairs(workspace: Path) -> None:
    facts = {arm: report.facts for arm, report in train(workspace, "memory.micro_batch=24").items()}
    assert "positives_per_study" not in facts["base"]
    (store,) = (workspace / "labels").glob("*/manifest.json")
    labels = LabelStore.open(store.parent)
    train_rows = [row for row, split in enumerate(labels.studies.column("split").to_pylist()) if split == 0]
    batch = labels.rows(train_rows)
    assert facts["visit"]["positives_per_study"] == len(batch.visit_task) / 72
    assert facts["time_to_event"]["positives_per_study"] == len(batch.task) / 72
    assert facts["time_to_event"]["informative_pairs_per_study"] == facts["visit"]["informative_pairs_per_study"] == 6
    assert 0 < facts["multitask"]["informative_pairs_per_study"] <= 3  # one outcome at three horizons, some unknown
    for arm in ("visit", "multitask", "time_to_event"):
        assert facts[arm]["valid_null_loss"] > 0


def test_m59_the_loop_knows_no_arm_by_name() -> None:
    import inspect

    from presage_modeling import training

    source = inspect.getsource(training)
    assert not any(f'"{arm}"' in source for arm in ARMS)
    assert build_objective.__module__ == "presage_modeling.objectives"
