"""`platform label`: make the labels that models learn from, or check those that are there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from presage_platform.options import Json, Workspace

if TYPE_CHECKING:
    from presage_platform.settings import Settings


def label(
    index: Annotated[
        Path | None, typer.Option("--index", help="Parquet of study_id, person_id, t0 instead of linked studies.")
    ] = None,
    snapshot: Annotated[str | None, typer.Option(help="Use this snapshot and no database.")] = None,
    vocabulary: Annotated[
        Path | None, typer.Option(help="Folder of concept.parquet, concept_ancestor.parquet.")
    ] = None,
    guard: Annotated[Path | None, typer.Option(help="Folder of outcome tasks that must not leak.")] = None,
    tasks: Annotated[Path | None, typer.Option(help="Folder of SQL tasks (default: tasks/ of the workspace).")] = None,
    bins: Annotated[str | None, typer.Option(help="Number of time bins, or their edges in days: 30,90,365.")] = None,
    anchors: Annotated[
        str | None, typer.Option(help="Anchors of `anchor = paper`: how many are drawn, or all.")
    ] = None,
    allow_fewer: Annotated[bool, typer.Option("--allow-fewer", help="Accept fewer than k tasks.")] = False,
    skip_tests: Annotated[bool, typer.Option("--skip-tests", help="Do not run the tasks' own tests; noted.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Fail when the leak audit raises an alarm.")] = False,
    new_split: Annotated[bool, typer.Option("--new-split", help="Split these persons again.")] = False,
    export: Annotated[
        str | None, typer.Option("--export", help="Write existing outcomes as `meds` labels or OMOP `cohort` rows.")
    ] = None,
    horizon: Annotated[str, typer.Option("--horizon", help="Of MEDS labels, in days, commas between.")] = "365d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, sizes and times; write nothing.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read existing labels again and compare hashes.")] = False,
    workspace: Workspace = None,
    as_json: Json = False,
) -> None:
    """Choose tasks and write when each happened after each scan; run it again to bring labels up to date.

    Example: platform label --allow-fewer
    """
    from presage_platform.labeling import command
    from presage_platform.settings import read_settings

    settings = _with_anchors(_with_bins(read_settings(workspace), bins), anchors)
    if verify:
        _print(command.verify(settings), as_json)
        return
    if export is not None:
        _print(command.export(settings, export, horizon), as_json)
        return
    request = command.Request(
        index=index,
        snapshot=snapshot,
        vocabulary=vocabulary,
        guard=guard,
        tasks=tasks,
        allow_fewer=allow_fewer,
        new_split=new_split,
        skip_tests=skip_tests,
        strict=strict,
    )
    _print(command.plan(settings, request) if dry_run else command.label(settings, request), as_json)


def _with_bins(settings: Settings, bins: str | None) -> Settings:
    if bins is None:
        return settings
    from presage_platform.errors import UsageError

    try:
        numbers = [float(part) for part in bins.split(",")]
    except ValueError:
        raise UsageError(
            f"usage: --bins {bins}: expected a number of bins, or edges in days such as 30,90,365"
        ) from None
    if bins.isdigit() and int(bins) == 0:
        raise UsageError("usage: --bins 0: expected at least one bin, or edges in days such as 30,90,365")
    value: Any = int(bins) if bins.isdigit() else tuple(numbers)
    return settings.model_copy(update={"labeling": settings.labeling.model_copy(update={"bins": value})})


def _with_anchors(settings: Settings, anchors: str | None) -> Settings:
    if anchors is None:
        return settings
    from presage_platform.errors import UsageError

    if anchors != "all" and not (anchors.isdigit() and int(anchors) > 0):
        raise UsageError(f"usage: --anchors {anchors}: expected a number of anchors, or all")
    value: Any = "all" if anchors == "all" else int(anchors)
    return settings.model_copy(update={"labeling": settings.labeling.model_copy(update={"anchors": value})})


def _print(report: Any, as_json: bool) -> None:
    typer.echo(json.dumps(report.to_json()) if as_json else report.text())
