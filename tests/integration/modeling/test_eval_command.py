"""`platform eval` on a label store and predictions files: inputs joined, baseline added, one report, the same again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from presage_modeling.evaluation import pairs
from presage_modeling.evaluation.bootstrap import LEVEL, draw_plan, interval
from presage_modeling.evaluation.evaluate import EvaluationSettings
from presage_modeling.evaluation.inputs import task_cohort
from presage_modeling.evaluation.run import baseline, evaluate_runs
from presage_platform.cli import run as platform
from presage_platform.errors import ExitCode, InputError, UsageError
from presage_platform.labeling.store import LabelStore
from tests.lib.labels import Study, small_store

DAY = 86_400
NUM = 900
TASKS = ["concept:1000", "concept:1001"]
OPTIONS = EvaluationSettings(resamples=100)


def studies(age: np.ndarray, rng: np.random.Generator) -> list[Study]:
    """Two studies a person; the hazard of both tasks doubles every ten years of age."""
    found = []
    for number in range(NUM):
        rate = np.exp(0.07 * (age[number] - 60)) / 700
        events, end = {}, int(rng.uniform(200, 1500)) * DAY
        for task in range(2):
            time = int(rng.exponential(1 / rate) * DAY) + 1
            if time <= end:
                events[task] = time
        person = number // 2
        split = "train" if person < 270 else "valid" if person < 320 else "test"
        prevalent = [0] if number % 17 == 0 else []
        found.append(
            Study(number + 1, end, events, prevalent, person + 1, split,
                  covariates={"age_years": int(age[number]), "sex": "M" if number % 2 else "F"})
        )  # fmt: skip
    return found


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LabelStore, np.ndarray]:
    workspace = tmp_path_factory.mktemp("eval")
    (workspace / "platform.toml").write_text("[eval]\nsynthetic = true\n")
    age = np.random.default_rng(4).integers(40, 85, NUM).astype(float)
    made = studies(age, np.random.default_rng(5))
    folder = small_store(workspace / "labels", made, num_tasks=2, num_shards=2)
    return workspace, LabelStore.open(folder), age


def predictions(path: Path, arm: str, risk: np.ndarray, study_id: np.ndarray | None = None) -> str:
    ids = np.arange(1, NUM + 1) if study_id is None else study_id
    tables = [
        pa.table({"study_id": ids, "task": [task] * len(ids), "arm": [arm] * len(ids),
                  "fold": pa.array([0] * len(ids), pa.int16()), "risk": risk})
        for task in TASKS
    ]  # fmt: skip
    pq.write_table(pa.concat_tables(tables).replace_schema_metadata({"times_days": "[]"}), path)
    return str(path)


def evaluate(cohort: Any, tmp_path: Path, *files: str, **changes: Any) -> dict[str, Any]:
    report = evaluate_runs(
        list(files), workspace=cohort[0], tasks=TASKS, options=OPTIONS, out=tmp_path / "report", **changes
    )
    return json.loads((report.page.parent / "report.json").read_text())


def test_v1_inputs_are_joined_on_the_study_and_hashed(cohort: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    arm = predictions(tmp_path / "a.parquet", "noisy", cohort[2] + rng.normal(0, 30, NUM))
    document = evaluate(cohort, tmp_path, arm)
    assert document["inputs"]["labels"] == cohort[1].label_hash
    assert len(document["inputs"]["predictions of noisy"]) == 64
    first = evaluate(cohort, tmp_path / "again", arm)
    assert first == document
    shuffled = predictions(tmp_path / "b.parquet", "noisy", (cohort[2] * 0 + 1.0))
    assert evaluate(cohort, tmp_path / "other", shuffled)["inputs"] != document["inputs"]


def test_v4_prevalent_studies_leave_the_risk_set_and_are_counted(cohort: Any) -> None:
    found = task_cohort(cohort[1], TASKS[0])
    other = task_cohort(cohort[1], TASKS[1])
    assert len(found.test) < len(other.test)
    assert found.states["test"]["not_at_risk"] == len(other.test) - len(found.test)
    states = found.states["test"]
    assert states["event"] + states["competing"] + states["censored"] == len(found.test)


def test_v5_what_is_fitted_never_sees_test(cohort: Any, tmp_path: Path) -> None:
    scores = baseline(cohort[1], TASKS)
    changed = studies(cohort[2], np.random.default_rng(5))
    for study in changed:
        if study.split == "test":
            study.events = {}
    other = LabelStore.open(small_store(tmp_path / "labels", changed, num_tasks=2, num_shards=2))
    again = baseline(other, TASKS)
    for task in TASKS:
        assert (scores[task].risk == again[task].risk).all()
        found, expected = task_cohort(other, task), task_cohort(cohort[1], task)
        assert (found.train.time_days == expected.train.time_days).all()


def test_v6_the_baseline_uses_the_heads_of_every_arm(cohort: Any) -> None:
    from presage_modeling.adaptation import StudyFeatures, adapt_features

    sex = np.where(np.arange(NUM) % 2, 1.0, -1.0)
    features = StudyFeatures(np.arange(1, NUM + 1), np.stack([cohort[2], sex], axis=1))
    table, heads = adapt_features(features, cohort[1], arm="clinical", tasks=TASKS)
    scores = baseline(cohort[1], TASKS)
    for task in TASKS:
        rows = [i for i, name in enumerate(table.column("task").to_pylist()) if name == task]
        assert table.column("risk").take(pa.array(rows)).to_pylist() == pytest.approx(scores[task].risk.tolist())
    assert all(head["fitted"] and "Efron" in head["method"] for head in heads)


def test_v7_a_report_always_holds_the_clinical_baseline(cohort: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    document = evaluate(cohort, tmp_path, predictions(tmp_path / "a.parquet", "noise", rng.normal(size=NUM)))
    best = {row["arm"]: row["estimate"] for row in document["summary"] if row["name"] == "harrell_c"}
    assert best["clinical"] > 0.65, "age drives the hazards of this cohort"
    assert best["noise"] == pytest.approx(0.5, abs=0.06)
    difference = next(r for r in document["comparisons"] if r["task"] is None and r["name"] == "harrell_c")
    assert (difference["first"], difference["second"]) == ("noise", "clinical") and difference["high"] < 0


def test_v12_constant_risk_scores_one_half(cohort: Any, tmp_path: Path) -> None:
    document = evaluate(cohort, tmp_path, predictions(tmp_path / "a.parquet", "flat", np.ones(NUM)))
    flat = [
        m for task in document["tasks"] for m in task["metrics"] if m["arm"] == "flat" and m["estimate"] is not None
    ]
    assert flat and {m["estimate"] for m in flat} == {0.5}
    assert any(warning.startswith("constant_prediction: arm flat") for warning in document["warnings"])


def test_v38_persons_are_resampled_with_all_their_studies(cohort: Any) -> None:
    found = task_cohort(cohort[1], TASKS[1])
    plan = draw_plan(found.test_person, resamples=50, seed=3)
    weights = plan.rows(found.test_person)
    for person in np.unique(found.test_person):
        rows = weights[:, found.test_person == person]
        assert (rows == rows[:, :1]).all()
    # Copying each study makes rows dependent: only an interval over persons stays as wide as it was.
    outcome, person = found.test, found.test_person
    twice = np.repeat(np.arange(len(outcome)), 2)
    risk = cohort[2][found.test_study - 1]
    once = pairs.harrell(outcome, risk).standard_error(person)
    copied = pairs.harrell(outcome.take(twice), risk[twice])
    assert copied.standard_error(person[twice]) == pytest.approx(once, rel=0.02)
    assert copied.standard_error(np.arange(len(twice))) < 0.8 * (once or 0)


def test_v39_the_interval_is_the_central_95_percent() -> None:
    assert LEVEL == 0.95
    replicates = np.random.default_rng(0).permutation(np.linspace(0, 1, 1001))
    found = interval(replicates, num_persons=100)
    assert (found.low, found.high) == (pytest.approx(0.025), pytest.approx(0.975))


def test_v67_one_line_and_a_code_for_what_does_not_fit(
    cohort: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = ["--workspace", str(cohort[0])]
    arm = predictions(tmp_path / "a.parquet", "a", cohort[2])
    for arguments, code in (
        (["eval"], ExitCode.USAGE),
        (["eval", "no-such-run"], ExitCode.INPUT),
        (["eval", arm, "--tasks", "nothing*"], ExitCode.INPUT),
        (["eval", arm, "--horizons", "soon"], ExitCode.USAGE),
        (["eval", arm, "--compare", "a"], ExitCode.USAGE),
        (["eval", arm, arm, "--tasks", "concept:*"], ExitCode.USAGE),
        (["eval", "--render", str(tmp_path / "none.json")], ExitCode.INPUT),
    ):
        assert platform([*arguments, *workspace]) == code, arguments
        out, err = capsys.readouterr()
        assert err.startswith("platform: ") and err.count("\n") == 1 and "Traceback" not in err + out


def test_v62_arms_must_score_the_same_studies(cohort: Any, tmp_path: Path) -> None:
    whole = predictions(tmp_path / "a.parquet", "whole", cohort[2])
    ids = np.arange(1, NUM - 50)
    part = predictions(tmp_path / "b.parquet", "part", cohort[2][: len(ids)], ids)
    with pytest.raises(InputError, match="different test studies"):
        evaluate(cohort, tmp_path, whole, part)
    with pytest.raises(UsageError, match="given twice"):
        evaluate(cohort, tmp_path, whole, whole)
