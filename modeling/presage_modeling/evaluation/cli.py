"""`platform eval`: how well do the runs predict, with an interval beside every number."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from presage_platform.options import Json, Workspace


def evaluate(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN...", help="Run folders or names, or predictions Parquet files.")
    ] = None,
    labels: Annotated[str | None, typer.Option("--labels", help="Label store (beginning of its hash).")] = None,
    tasks: Annotated[list[str] | None, typer.Option("--tasks", help="Outcomes to report (glob, repeatable).")] = None,
    horizons: Annotated[str, typer.Option("--horizons", help="Comma-separated, in days.")] = "30d,180d,365d",
    compare: Annotated[list[str] | None, typer.Option("--compare", help="A:B, a declared comparison.")] = None,
    resamples: Annotated[int, typer.Option("--resamples", min=0, help="Resamples of persons; 0 = none.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the resampling plan.")] = 20250101,
    intersect: Annotated[bool, typer.Option("--intersect", help="Score only studies that every arm scored.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the report.")] = None,
    render: Annotated[Path | None, typer.Option("--render", help="Draw the page of a report.json again.")] = None,
    workspace: Workspace = None,
    as_json: Json = False,
) -> None:
    """Score runs on held-out persons and write report.json and one self-contained report.html.

    Example: platform eval tiny-time_to_event tiny-base
    """
    import json

    if render is not None:
        from presage_modeling.evaluation.report import read_report, write_report

        typer.echo(write_report(read_report(render), render.parent))
        return
    from presage_modeling.evaluation.evaluate import EvaluationSettings
    from presage_modeling.evaluation.run import evaluate_runs
    from presage_platform.errors import NotComputableError, UsageError

    if not runs:
        raise UsageError("name at least one run or predictions file, for example `platform eval tiny-time_to_event`")
    options = EvaluationSettings(
        horizons_days=read_horizons(horizons),
        compare=tuple(read_comparison(text) for text in compare or []),
        resamples=resamples,
        seed=seed,
        intersect=intersect,
    )
    report = evaluate_runs(runs, workspace=workspace, labels=labels, tasks=tasks, options=options, out=out)
    typer.echo(json.dumps(report.to_json()) if as_json else report.summary())
    if report.is_empty:
        raise NotComputableError("every metric is missing, with its reason in the report: more events are needed")


def read_horizons(text: str) -> tuple[float, ...]:
    """Read `30d,180d,365d` into days; years are written `2y` and hold 365 days."""
    from presage_platform.errors import UsageError

    days = []
    for part in text.split(","):
        value, unit = part.strip()[:-1], part.strip()[-1:]
        if unit not in ("d", "y") or not value.replace(".", "", 1).isdigit() or float(value) <= 0:
            raise UsageError(f"horizon `{part}` is not a duration: expected for example 30d or 2y")
        days.append(float(value) * (365.0 if unit == "y" else 1.0))
    return tuple(sorted(days))


def read_comparison(text: str) -> tuple[str, str]:
    """Read `A:B`."""
    from presage_platform.errors import UsageError

    first, _, second = text.partition(":")
    if not first or not second:
        raise UsageError(f"comparison `{text}`: expected A:B, two arms")
    return first, second
