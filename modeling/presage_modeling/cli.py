"""`platform train` and `platform embed`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from presage_platform.options import Json, Workspace

Labels = Annotated[str | None, typer.Option("--labels", help="Label store (beginning of its hash).")]
Volumes = Annotated[str | None, typer.Option("--volumes", help="Volume store (beginning of its recipe hash).")]


def train(
    recipe: Annotated[str | None, typer.Argument(help="Name of a shipped recipe, or a TOML file.")] = None,
    arm: Annotated[
        str | None, typer.Option("--arm", help="base, multitask, visit, time_to_event (commas between), or all.")
    ] = None,
    labels: Labels = None,
    volumes: Volumes = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="a.b=value, laid over the recipe.")] = None,
    resume: Annotated[str | None, typer.Option("--resume", help="Run folder to continue.")] = None,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="Accept labels without volumes.")] = False,
    workspace: Workspace = None,
    as_json: Json = False,
) -> None:
    """Pretrain an encoder on what happens after the scan; the same command resumes a killed run.

    Example: platform train tiny
    """
    from presage_modeling.commands import train_command

    reports = train_command(
        recipe,
        arm=arm,
        labels=labels,
        volumes=volumes,
        assignments=assignments or [],
        resume=resume,
        allow_missing=allow_missing,
        workspace=workspace,
    )
    for report in reports:
        typer.echo(json.dumps(report.to_json()) if as_json else report.summary())


def embed(
    run: Annotated[str, typer.Argument(help="Run folder, or its name in the workspace.")],
    volumes: Volumes = None,
    workspace: Workspace = None,
    as_json: Json = False,
) -> None:
    """Write the features of every volume by the frozen encoder of a run.

    Example: platform embed tiny-time_to_event-1a2b3c4d
    """
    from presage_modeling.commands import embed_command

    report = embed_command(run, volumes=volumes, workspace=workspace)
    typer.echo(json.dumps(report.to_json()) if as_json else report.summary())
