"""`platform etl dicom`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from presage_platform.options import Json, Workers, Workspace


def etl_dicom(
    sources: Annotated[list[Path], typer.Argument(help="Folders or files of a DICOM archive.")],
    recipe: Annotated[
        list[str] | None, typer.Option("--recipe", help="Recipe name or file; repeatable, one decode serves all.")
    ] = None,
    scan_only: Annotated[bool, typer.Option("--scan-only", help="Catalogue and judge, read no pixel.")] = False,
    series: Annotated[
        str, typer.Option(help="chosen: those that represent a study; all: every accepted one.")
    ] = "chosen",
    max_rejected: Annotated[
        str | None, typer.Option(help="Fail (exit QUALITY) when more series are rejected, e.g. 10%.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail at the end when a file could not be read.")] = False,
    workers: Workers = None,
    workspace: Workspace = None,
    json: Json = False,
) -> None:
    """Scan an archive, judge its series, convert those that represent a study; run again to continue or refresh.

    Example: platform etl dicom /archive --recipe presage
    """
    import json as json_format
    from typing import cast

    from presage_etl.dicom.ingest import SeriesChoice, ingest
    from presage_etl.link_cli import parse_share
    from presage_platform.errors import InputError, QualityError, UsageError
    from presage_platform.settings import read_settings

    if series not in ("chosen", "all"):
        raise UsageError(f"--series {series!r} is not known: expected chosen or all")
    limit = parse_share(max_rejected)
    report = ingest(
        sources,
        read_settings(workspace, create=True),
        recipes=recipe or (),
        scan_only=scan_only,
        series=cast("SeriesChoice", series),
        workers=workers,
    )
    typer.echo(json_format.dumps(report.as_json()) if json else report.summary())
    if limit is not None and report.num_rejected > limit * report.num_series:
        raise QualityError(
            f"{report.num_rejected} of {report.num_series} series are rejected, more than --max-rejected "
            f"{max_rejected}: see the verdicts above"
        )
    if strict and report.four_counts["unreadable"]:
        raise InputError(f"{report.four_counts['unreadable']} files could not be read: see them in the catalogue")
