"""`platform etl fhir`, `retry`, `explain`, `unmapped`, `status`: load health records, see what became of them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from presage_platform.options import Json, Workers, Workspace

if TYPE_CHECKING:
    from presage_etl.fhir.report import LoadReport

Policy = Annotated[
    list[str] | None, typer.Option("--policy", help="name=value, goes before platform.toml; repeatable.")
]
MaxDead = Annotated[float, typer.Option("--max-dead", min=0, max=1, help="Share of dead letters that still exits 0.")]


def etl_fhir(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="NDJSON files, Bundles, single resources, .gz, .zst, or folders of them."),
    ] = None,
    source: Annotated[str | None, typer.Option("--source", help="Name of the origin of this export.")] = None,
    extracted_on: Annotated[
        datetime | None, typer.Option("--extracted-on", formats=["%Y-%m-%d"], help="Day of the export, if not told.")
    ] = None,
    policy: Policy = None,
    accept_policy_change: Annotated[
        bool, typer.Option("--accept-policy-change", help="Transform again what other policies made.")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="Read and map everything, unchanged or not.")] = False,
    max_dead: MaxDead = 0.01,
    no_payload: Annotated[bool, typer.Option("--no-payload", help="Keep pointers of dead letters only.")] = False,
    delete: Annotated[list[str] | None, typer.Option("--delete", help="Type/id to remove; repeatable.")] = None,
    workers: Workers = None,
    json: Json = False,
    workspace: Workspace = None,
) -> None:
    """Load a FHIR R4 export into the CDM; run it again to bring the CDM up to date.

    Example: platform etl fhir export/
    """
    from presage_etl.fhir.pipeline import Options, load_export
    from presage_platform.errors import UsageError
    from presage_platform.settings import read_settings

    if not paths and not delete:
        raise UsageError("etl fhir needs at least one PATH (or --delete Type/id)")
    options = Options(
        source=source,
        extracted_on=extracted_on.date() if extracted_on else None,
        policies=tuple(policy or ()),
        accept_policy_change=accept_policy_change,
        full=full,
        max_dead=max_dead,
        keep_payload=not no_payload,
        workers=workers,
        deletes=tuple(delete or ()),
    )
    _print_report(load_export(paths or [], settings=read_settings(workspace, create=True), options=options), json)


def etl_retry(
    reason: Annotated[str | None, typer.Option("--reason", help="Only letters with this reason.")] = None,
    resource_type: Annotated[str | None, typer.Option("--type", help="Only letters of this resource type.")] = None,
    run: Annotated[int | None, typer.Option("--run", help="Only letters that this run met.")] = None,
    source: Annotated[str | None, typer.Option("--source", help="Name of the origin.")] = None,
    policy: Policy = None,
    max_dead: MaxDead = 1.0,
    workers: Workers = None,
    json: Json = False,
    workspace: Workspace = None,
) -> None:
    """Send dead letters through the present mappings and policies once more; solved ones are marked.

    Example: platform etl retry --reason person-missing
    """
    from presage_etl.fhir.pipeline import LetterChoice, Options, load_export
    from presage_platform.errors import UsageError
    from presage_platform.ledger.reasons import DEAD
    from presage_platform.settings import read_settings

    if reason is not None and reason.partition(":")[0] not in DEAD:
        raise UsageError(f"no dead letter has the reason {reason!r}: expected one of {', '.join(DEAD)}")
    choice = LetterChoice(reason, resource_type, run)
    options = Options(source=source, policies=tuple(policy or ()), max_dead=max_dead, workers=workers, letters=choice)
    _print_report(load_export([], settings=read_settings(workspace), options=options), json)


def etl_explain(
    key: Annotated[str | None, typer.Argument(help="Type/id of a resource.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", exists=True, dir_okay=False, help="Map a file without loading it.")
    ] = None,
    source: Annotated[str | None, typer.Option("--source", help="Name of the origin.")] = None,
    json: Json = False,
    workspace: Workspace = None,
) -> None:
    """Tell what became of one resource, row by row, or why it was not loaded.

    Example: platform etl explain Observation/123
    """
    from presage_etl.fhir.explain import as_text, explain, explain_file
    from presage_platform.errors import UsageError
    from presage_platform.settings import read_settings

    settings = read_settings(workspace)
    if (key is None) == (file is None):
        raise UsageError("etl explain needs Type/id, or --file PATH")
    found = explain_file(file, settings=settings) if file else explain(key or "", settings=settings, source=source)
    typer.echo(_as_json(found) if json else as_text(found))


def etl_unmapped(
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many codes.")] = 50,
    export: Annotated[Path | None, typer.Option("--export", help="Write all of them as input for Usagi.")] = None,
    json: Json = False,
    workspace: Workspace = None,
) -> None:
    """List the codes that reached no standard concept, the most frequent first.

    Example: platform etl unmapped --export usagi.csv
    """
    from presage_etl.fhir.status import export_usagi, unmapped, unmapped_text
    from presage_platform.settings import read_settings

    settings = read_settings(workspace)
    if export is not None:
        typer.echo(f"{export_usagi(export, settings=settings)} codes written to {export}")
        return
    found = unmapped(settings=settings, limit=limit)
    typer.echo(_as_json(found) if json else unmapped_text(found))


def etl_status(json: Json = False, workspace: Workspace = None) -> None:
    """Show the last runs, rows by table, dead letters, exclusions, waiting references, vocabulary and policies.

    Example: platform etl status
    """
    from presage_etl.fhir.status import status, status_text
    from presage_platform.settings import read_settings

    found = status(settings=read_settings(workspace))
    typer.echo(_as_json(found) if json else status_text(found))


def _print_report(report: LoadReport, as_json: bool) -> None:
    typer.echo(_as_json(report.as_dict()) if as_json else report.text())
    if not as_json:
        typer.echo(report.summary())


def _as_json(value: Any) -> str:
    import json

    return json.dumps(value, indent=1, default=str)
