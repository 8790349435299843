"""The house: four source roots, one way down, a quick `--help`, files that say what they are."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "monai", "fhir", "pydicom", "sksurv", "pandas", "numba", "pyarrow", "sqlalchemy", "numpy"}


def gate_problems(root: Path) -> list[str]:
    from tests.architecture.gate import problems

    return problems(root)


def test_nothing_is_out_of_place() -> None:
    assert gate_problems(ROOT) == []


def test_p1_a_module_at_a_source_root_is_refused(tmp_path: Path) -> None:
    for source, package in {
        "platform": "presage_platform",
        "etl": "presage_etl",
        "modeling": "presage_modeling",
        "migrations": "presage_migrations",
    }.items():
        (tmp_path / source / package).mkdir(parents=True)
    assert gate_problems(tmp_path) == []
    (tmp_path / "platform" / "__init__.py").touch()
    assert any("platform/__init__.py" in line for line in gate_problems(tmp_path))


def test_the_standard_library_keeps_its_platform_module() -> None:
    run = subprocess.run(
        [sys.executable, "-c", "import platform; print(platform.python_version())"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.startswith("3.")


def test_p11_help_is_quick_and_imports_nothing_heavy() -> None:
    probe = "import sys; from presage_platform.cli import run; run(['--help']); print(*sys.modules, file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert HEAVY.isdisjoint(run.stderr.split())
    for command in ("demo", "etl", "link", "volumes", "tasks", "label", "train", "embed", "eval", "db", "doctor"):
        assert re.search(rf"\b{command}\b", run.stdout), command


@pytest.mark.slow
def test_p11_help_answers_within_half_a_second() -> None:
    def seconds() -> float:
        start = time.perf_counter()
        subprocess.run([Path(sys.executable).parent / "platform", "--help"], capture_output=True, check=True)
        return time.perf_counter() - start

    # Five tries, the best counts: this bounds what start-up costs, not how busy the machine is.
    assert min(seconds() for _ in range(5)) <= 0.5


def test_imports_point_one_way() -> None:
    run = subprocess.run([Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


def test_p3_the_slow_and_wrong_torch_is_excluded() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert re.search(r'"torch>=[0-9.]+,!=2\.9\.\*"', text)


def test_p5_ci_installs_the_oracles_and_calls_the_readmes_command() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert script.rstrip().endswith("make check test")
    for package in ("dcm2niix", "chromium"):
        assert package in script
    assert "make test" in (ROOT / "README.md").read_text()


def test_p50_no_pickle_is_read() -> None:
    allowed = {"modeling/presage_modeling/encoders/weights.py"}
    pattern = re.compile(r"\bimport (pickle|dill|shelve)\b|torch\.load\(|allow_pickle\s*=\s*True|joblib\.load\(")
    found = [
        str(path.relative_to(ROOT))
        for source in ("platform", "etl", "modeling", "migrations")
        for path in (ROOT / source).rglob("*.py")
        if pattern.search(path.read_text(encoding="utf-8"))
    ]
    assert set(found) <= allowed


def test_p54_scikit_survival_stays_inside_functions() -> None:
    top_level = re.compile(r"^(import|from) sksurv", re.MULTILINE)
    for source in ("platform", "etl", "modeling", "migrations"):
        for path in (ROOT / source).rglob("*.py"):
            assert not top_level.search(path.read_text(encoding="utf-8")), path.name


def test_p14_the_exit_code_book() -> None:
    from presage_platform import errors

    book = {
        "OK": 0, "BUG": 1, "USAGE": 2, "INPUT": 3, "DATABASE": 4, "VOCABULARY": 5, "QUALITY": 6, "INTEGRITY": 7,
        "LOCKED": 8, "TASK": 9, "TASK_TEST": 10, "LIMIT": 11, "SELF_CHECK": 12, "NOT_COMPUTABLE": 13, "RECIPE": 14,
        "HARDWARE": 15, "DISK_FULL": 16, "REQUEUE": 75, "INTERRUPTED": 130,
    }  # fmt: skip
    assert {code.name: code.value for code in errors.ExitCode} == book
    tree = errors.__doc__ or ""
    for name, error in vars(errors).items():
        if isinstance(error, type) and issubclass(error, errors.PresageError) and error is not errors.PresageError:
            assert re.search(rf"{name}\s+{int(error.exit_code)}\s+{error.exit_code.name}", tree), name


def test_p6_compose_file_holds_no_password_and_tunes_the_server() -> None:
    import yaml

    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    postgres = compose["services"]["postgres"]
    assert postgres["environment"]["POSTGRES_PASSWORD"].startswith("${PRESAGE_DB_PASSWORD:?")
    assert "healthcheck" in postgres and re.match(r"postgres:\d+", postgres["image"])
    assert compose["services"]["pacs"]["profiles"] == ["pacs"]
    assert compose["services"]["platform"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert "USER presage" in (ROOT / "Dockerfile").read_text()


def test_every_command_has_help_with_an_example() -> None:
    from importlib.metadata import entry_points

    points = entry_points(group="presage.commands")
    assert len(points) >= 10
    without = [point.name for point in points if "Example:" not in (point.load().__doc__ or "")]
    assert without == []


def test_no_foreign_words_in_the_documents() -> None:
    # A project speaks of itself: no path of one machine may stand in a text that ships.
    run = subprocess.run(
        ["git", "grep", "-nIE", r"(^|[^A-Za-z0-9_.])/(work|farm)/"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.stdout == "", json.dumps(run.stdout[:200])
