"""`platform train` and `platform embed` as a user meets them: results, refusals, exit codes."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from presage_platform.cli import run
from presage_platform.errors import ExitCode
from presage_platform.volumes.recipe import named_recipe
from presage_platform.volumes.store import StoreWriter, store_folder
from tests.lib.cohort import SMALL, planted_workspace

QUICK = [
    "encoder.widths=[4,4,4,4]",
    "encoder.stem_pool=false",
    "schedule.epochs=2",
    "head.rank=4",
    "memory.cpu_threads=1",
    "schedule.log_every_steps=1",
]


def options(*assignments: str) -> list[str]:
    return [word for assignment in (*QUICK, *assignments) for word in ("--set", assignment)]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    planted_workspace(folder, num_studies=25, num_tasks=3)
    return folder


def test_train_and_embed_print_what_came_of_them(planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--workspace", str(planted)]
    assert run(["train", "tiny", *options(), *where, "--json"]) == ExitCode.OK
    trained = json.loads(capsys.readouterr().out)
    assert trained["steps"] == 2 and trained["arm"] == "time_to_event"
    name = Path(trained["run"]).name
    assert run(["embed", name, *where]) == ExitCode.OK
    assert capsys.readouterr().out == f"{name}: 25 volumes embedded, 0 already there, 4 features each\n"
    assert run(["train", "tiny", *options(), *where]) == ExitCode.OK
    assert capsys.readouterr().out.startswith(f"already finished: {name}, 15 studies, 2 steps")


def without_labels(folder: Path) -> None:
    shutil.rmtree(folder / "labels")


def without_volumes(folder: Path) -> None:
    shutil.rmtree(folder / "volumes")


def torn_shard(folder: Path) -> None:
    (shard,) = folder.glob("volumes/*/shard-*.bin")
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size // 2)


def untouched(folder: Path) -> None:
    pass


REFUSALS: list[tuple[str, Callable[[Path], None], list[str], ExitCode, str]] = [
    ("unknown recipe", untouched, ["train", "tinny"], ExitCode.RECIPE, "did you mean `tiny`?"),
    (
        "unknown key",
        untouched,
        ["train", "tiny", "--set", "schedule.epoch=1"],
        ExitCode.RECIPE,
        "did you mean `epochs`?",
    ),
    ("wrong type", untouched, ["train", "tiny", "--set", "schedule.epochs=x"], ExitCode.RECIPE, "schedule.epochs"),
    ("no outcomes", untouched, ["train", "tiny", "--arm", "multitask"], ExitCode.RECIPE, "has no outcomes"),
    ("no such arm", untouched, ["train", "tiny", "--arm", "base,tte"], ExitCode.USAGE, "--arm base,tte: expected"),
    ("no recipe", untouched, ["train"], ExitCode.USAGE, "name a recipe"),
    ("no CUDA", untouched, ["train", "tiny", "--set", "precision.device=cuda"], ExitCode.HARDWARE, "no CUDA device"),
    ("no labels", without_labels, ["train", "tiny"], ExitCode.RECIPE, "platform label"),
    ("no volumes", without_volumes, ["train", "tiny"], ExitCode.INTEGRITY, "platform etl dicom"),
    ("torn shard", torn_shard, ["train", "tiny"], ExitCode.INTEGRITY, "study"),
    (
        "other volumes",
        untouched,
        ["train", "swinunetr", "--set", "precision.device=cpu"],
        ExitCode.RECIPE,
        "spacing_mm",
    ),
    ("side", untouched, ["train", "tiny", "--set", "encoder.stem_stride=[4,4,4]"], ExitCode.RECIPE, "multiple of"),
    ("no run", untouched, ["embed", "nowhere"], ExitCode.USAGE, "no run `nowhere`"),
    ("no run to resume", untouched, ["train", "--resume", "nowhere"], ExitCode.USAGE, "no run `nowhere`"),
    ("resume and recipe", untouched, ["train", "tiny", "--resume", "nowhere"], ExitCode.USAGE, "no run"),
]


@pytest.mark.parametrize(("_name", "damage", "arguments", "code", "said"), REFUSALS, ids=[case[0] for case in REFUSALS])
def test_bad_input_is_one_line_and_an_exit_code(
    planted: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    _name: str,
    damage: Callable[[Path], None],
    arguments: list[str],
    code: ExitCode,
    said: str,
) -> None:
    folder = tmp_path / "workspace"
    shutil.copytree(planted, folder, ignore=shutil.ignore_patterns("runs"))
    damage(folder)
    if torch_is_cuda() and code == ExitCode.HARDWARE:
        pytest.skip("a CUDA device is here")
    assert run([*arguments, "--workspace", str(folder)]) == code
    out, err = capsys.readouterr()
    assert out == "" and said in err and err.count("\n") == 1


def test_m3_of_several_stores_the_run_finds_its_own(
    planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "workspace"
    shutil.copytree(planted, folder, ignore=shutil.ignore_patterns("runs"))
    with StoreWriter(store_folder(folder / "volumes", named_recipe("tiny")), named_recipe("tiny")):
        pass
    own = SMALL.short_hash
    where = ["--workspace", str(folder)]
    assert run(["train", "tiny", *options(), *where]) == ExitCode.INTEGRITY
    assert own in capsys.readouterr().err  # both are listed
    assert run(["train", "tiny", *options(), *where, "--arm", "base", "--volumes", own, "--json"]) == ExitCode.OK
    name = Path(json.loads(capsys.readouterr().out)["run"]).name
    assert run(["embed", name, *where]) == ExitCode.OK


def torch_is_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def test_m91_sigterm_ends_a_training_with_requeue_and_the_same_command_continues(planted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "workspace"
    shutil.copytree(planted, folder, ignore=shutil.ignore_patterns("runs"))
    command = ["train", "tiny", *options("schedule.epochs=400"), "--workspace", str(folder)]
    code = f"from presage_platform.cli import run; import sys; sys.exit(run({command!r}))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)
    while not any(path.read_text().count("loss") > 3 for path in folder.glob("runs/*/metrics.jsonl")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == ExitCode.REQUEUE
    assert "the same command continues" in err


def test_m4_the_options_of_train_are_few_and_frozen() -> None:
    from presage_modeling.cli import train

    assert list(inspect.signature(train).parameters) == [
        "recipe",
        "arm",
        "labels",
        "volumes",
        "assignments",
        "resume",
        "allow_missing",
        "workspace",
        "as_json",
    ]


def test_the_command_module_imports_nothing_heavy() -> None:
    probe = "import sys, presage_modeling.cli; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, env=environment)
    assert {"torch", "monai", "sksurv", "numpy", "pyarrow"}.isdisjoint(found.stdout.split())
