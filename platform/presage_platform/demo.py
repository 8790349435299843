"""`platform demo`: the whole path on a synthetic hospital, by the public commands in order, each printed first.

It doubles as the tutorial, and as a check: what was found is compared with what was planted, and a difference fails.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from presage_platform.options import Json

if TYPE_CHECKING:
    from presage_platform.postgres.connection import Database

SEED = 7
ARMS = ("base", "time_to_event")
CEILING = "oracle_image"
NOT_COMPUTABLE = 13  # a hospital too small to evaluate still shows the path


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the hospital and its workspace.")] = Path("demo"),
    patients: Annotated[int | None, typer.Option("--patients", min=1, help="Persons (default: the preset's).")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the hospital.")] = SEED,
    as_json: Json = False,
) -> None:
    """Run everything on a synthetic hospital, from records and scans to an evaluation report.

    Example: platform demo
    """
    from presage_platform.errors import SelfCheckError

    result = run_demo(out, patients=patients, seed=seed)
    typer.echo(json.dumps(result.to_json()) if as_json else result.text())
    wrong = [count for count in result.counts if count.found != count.planted]
    if wrong:
        raise SelfCheckError(
            f"{len(wrong)} of {len(result.counts)} counts are not as planted (first: {wrong[0].stage} {wrong[0].name}, "
            f"found {wrong[0].found}, planted {wrong[0].planted}): a bug, please report it"
        )
    if not as_json:
        typer.echo(result.report)


@dataclass(frozen=True)
class Count:
    """A number that the path found beside the number that was planted."""

    stage: str
    kind: str
    name: str
    planted: int
    found: int


@dataclass
class Demonstration:
    """What a demonstration found."""

    counts: list[Count] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    ceiling: dict[str, float] = field(default_factory=dict)

    @property
    def report(self) -> str:
        """Path of the report."""
        return str(self.evaluation["report"])

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "counts": [count.__dict__ for count in self.counts],
            "seconds": self.seconds,
            "evaluation": self.evaluation,
            "ceiling": self.ceiling,
        }

    def text(self) -> str:
        """Return the closing tables: times, found beside planted, arms beside the ceiling, and the answer in words."""
        lines = ["", f"{'stage':<32}{'seconds':>9}"]
        lines += [f"{stage:<32}{seconds:>9.1f}" for stage, seconds in self.seconds.items()]
        lines += [f"{'all':<32}{sum(self.seconds.values()):>9.1f}", ""]
        lines.append(f"{'':<44}{'found':>10}{'planted':>10}{'ceiling':>10}")
        for count in self.counts:
            mark = "" if count.found == count.planted else "  <- differs"
            name = f"{count.stage}: {count.kind} {count.name}"
            lines.append(f"{name:<44}{count.found:>10,}{count.planted:>10,}{'':>10}{mark}")
        lines += list(self._arms())
        lines += ["", self.evaluation["answer"], self._verdict(), ""]
        return "\n".join(lines)

    def _arms(self) -> Iterator[str]:
        planted = self.ceiling.get("harrell_c")
        for row in self.evaluation["summary"]:
            if row["name"] == "harrell_c" and row["estimate"] is not None:
                ceiling = f"{planted:>10.3f}" if planted is not None else f"{'':>10}"
                yield f"{'mean Harrell C, arm ' + row['arm']:<44}{row['estimate']:>10.3f}{'':>10}{ceiling}"

    def _verdict(self) -> str:
        rows = [r for r in self.evaluation["comparisons"] if r["task"] is None and r["name"] == "harrell_c"]
        row = next((r for r in rows if (r["first"], r["second"]) == ("time_to_event", "base")), None)
        if row is None or row["low"] is None:
            return "time_to_event and base cannot be compared on this cohort: too few persons."
        if row["low"] > 0:
            return "Seen on this one hospital: time_to_event is above base, and its interval is clear of zero."
        return (
            f"Not shown here: time_to_event minus base is {row['difference']:+.3f} and its interval reaches zero "
            f"({row['low']:+.3f} to {row['high']:+.3f}); more scans or more epochs are needed to tell."
        )


def run_demo(out: Path, *, patients: int | None = None, seed: int = SEED) -> Demonstration:
    """Run every command of the path in order and compare what came out with what was planted."""
    hospital, workspace = out / "hospital", out / "workspace"
    result = Demonstration()
    platform = _Commands(workspace, result.seconds)
    size = [] if patients is None else ["--patients", str(patients)]
    platform.run("synth", "--preset", "demo", "--seed", str(seed), *size, "--out", hospital, at_workspace=False)
    _lay_out(hospital, workspace)
    platform.run("db", "start", "--keep")
    try:
        platform.run("etl", "vocabulary", hospital / "vocabulary")
        platform.run("etl", "fhir", hospital / "fhir")
        result.counts += compare(hospital, workspace, "etl")
        platform.run("etl", "dicom", hospital / "dicom", "--recipe", "tiny")
        result.counts += compare(hospital, workspace, "images")
        platform.run("link")
        result.counts += compare(hospital, workspace, "link")
        platform.run("tasks", "lock")
        platform.run("tasks", "test")
        platform.run("label", *([] if patients is None else ["--allow-fewer"]))
    finally:
        platform.run("db", "stop")
    platform.run("train", "tiny", "--arm", ",".join(ARMS))
    runs = [f"tiny-{arm}" for arm in ARMS]
    for run in runs:
        platform.run("embed", run)
    oracle = workspace / "oracle.parquet"
    platform.run("synth", "--oracle", hospital, "--out", oracle)
    printed = platform.run("eval", *runs, oracle, "--intersect", "--json", quiet=True, accept=(NOT_COMPUTABLE,))
    result.evaluation = json.loads(printed)
    result.ceiling = read_ceiling(hospital)
    return result


def compare(hospital: Path, workspace: Path, stage: str) -> list[Count]:
    """Return what was found in the workspace's database beside what the hospital says must be there after a stage."""
    import pyarrow.parquet as pq

    from presage_platform.postgres.connection import open_database
    from presage_platform.settings import read_settings

    expected = pq.read_table(hospital / "truth" / "expected_counts.parquet").to_pylist()
    with open_database(read_settings(workspace), command="demo") as database:
        return [
            Count(stage, row["kind"], row["name"], row["expected"], _found(database, row["kind"], row["name"]))
            for row in expected
            if row["stage"] == stage
        ]


def read_ceiling(hospital: Path) -> dict[str, float]:
    """Return the mean concordance that the hospital's image oracle reaches on recorded labels of the headline tasks."""
    import pyarrow.parquet as pq

    rows = pq.read_table(hospital / "truth" / "ceilings.parquet").to_pylist()
    found = [row["value"] for row in rows if row["arm"] == CEILING and row["metric"] == "harrell_c"]
    return {"harrell_c": sum(found) / len(found)} if found else {}


COUNTS = {
    "excluded": "SELECT coalesce(sum(count), 0) FROM exclusion WHERE reason = %(name)s",
    "unmapped": "SELECT count(*) FROM condition_occurrence WHERE condition_concept_id = 0",
    "dead": "SELECT count(*) FROM dead_letter WHERE resolved_by_run IS NULL AND %(name)s IN ('all', reason)",
    "linked": "SELECT count(*) FROM study_link",
    "studies": "SELECT count(*) FROM image_study",
    "quarantine": "SELECT count(*) FROM link_quarantine WHERE resolved_run IS NULL AND reason = %(name)s",
    "verdict": "SELECT count(*) FROM image_series WHERE verdict = %(name)s",
}


def _found(database: Database, kind: str, name: str) -> int:
    from psycopg import sql

    with database.connect() as connection:
        statement: Any = (
            COUNTS[kind] if kind in COUNTS else sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(name))
        )
        row = connection.execute(statement, {"name": name} if "%(name)s" in str(statement) else None).fetchone()
    return int(row[0]) if row else 0


def _lay_out(hospital: Path, workspace: Path) -> None:
    """Make the workspace as the hospital's site would: its settings and its outcome tasks."""
    workspace.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings = workspace / "platform.toml"
    if not settings.exists():
        print(f"$ cp {hospital / 'site.toml'} {settings}; cp -r {hospital / 'tasks'} {workspace / 'tasks'}", flush=True)
        shutil.copyfile(hospital / "site.toml", settings)
        settings.chmod(0o600)
    shutil.copytree(hospital / "tasks", workspace / "tasks", dirs_exist_ok=True)


class _Commands:
    """Public commands, printed as a user would type them and run in processes of their own."""

    def __init__(self, workspace: Path, seconds: dict[str, float]) -> None:
        self.workspace = workspace
        self.seconds = seconds

    def run(
        self, *words: str | Path, at_workspace: bool = True, quiet: bool = False, accept: tuple[int, ...] = ()
    ) -> str:
        """Run one command; its failure is the demo's, with the same exit code."""
        arguments = [str(word) for word in words]
        if at_workspace:
            arguments += ["--workspace", str(self.workspace)]
        print(f"\n$ platform {' '.join(arguments)}", flush=True)
        start = time.monotonic()
        process = subprocess.run(
            [sys.executable, "-m", "presage_platform", *arguments], stdout=subprocess.PIPE, text=True, check=False
        )
        if not quiet:
            print(process.stdout, end="", flush=True)
        name = " ".join(arguments[: 2 if arguments[0] in ("etl", "db", "tasks", "train", "embed") else 1])
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start
        if process.returncode not in (0, *accept):
            raise typer.Exit(process.returncode)
        return process.stdout
