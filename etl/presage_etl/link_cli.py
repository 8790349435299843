"""`platform link`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from presage_platform.options import Json, Workspace


def link(
    map_file: Annotated[
        Path | None,
        typer.Option("--map", help="CSV: study_uid, accession, patient_id or file; person_id or fhir_patient_id."),
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Examine only the studies in quarantine.")] = False,
    reason: Annotated[str | None, typer.Option(help="With --retry: only those with this reason.")] = None,
    max_quarantined: Annotated[
        str | None, typer.Option(help="Fail (exit QUALITY) when more are in quarantine, e.g. 5%.")
    ] = None,
    workspace: Workspace = None,
    json: Json = False,
) -> None:
    """Join imaging studies to persons; what cannot be joined with certainty rests in quarantine with its reason.

    Example: platform link --map crosswalk.csv
    """
    import json as json_format

    from presage_etl.linking.link import link_studies
    from presage_platform.errors import QualityError, UsageError
    from presage_platform.settings import read_settings

    if reason is not None and not retry:
        raise UsageError("--reason chooses among the studies in quarantine: give it with --retry")
    limit = parse_share(max_quarantined)
    report = link_studies(read_settings(workspace), map_file=map_file, retry=retry, reason=reason)
    typer.echo(json_format.dumps(report.as_json()) if json else report.summary())
    if limit is not None and report.num_quarantined > limit * report.num_studies:
        raise QualityError(
            f"{report.num_quarantined} of {report.num_studies} studies are in quarantine, more than "
            f"--max-quarantined {max_quarantined}: see the reasons above"
        )


def parse_share(text: str | None) -> float | None:
    """Read a share written `5%` or `0.05`."""
    from presage_platform.errors import UsageError

    if text is None:
        return None
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError("a share is written 5% or 0.05")
    return share
