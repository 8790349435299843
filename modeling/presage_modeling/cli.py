"""`platform train` and `platform embed`."""

from __future__ import annotations

import json
from pathlib import Path
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


def weights_import(
    source: Annotated[Path, typer.Option("--from", help="Local .pt, .pth or .safetensors file.")],
    arch: Annotated[str, typer.Option("--arch", help="densenet121, resnet152 or swinunetr.")],
    map_name: Annotated[str, typer.Option("--map", help="Key map: see `platform weights maps`.")],
    licence: Annotated[str, typer.Option("--licence-ack", help="Licence under which you use these weights.")],
    channels: Annotated[int, typer.Option("--channels", min=1, help="Windows of the recipe that will use them.")] = 1,
    sha256: Annotated[str | None, typer.Option("--sha256", help="Expected hash of the file.")] = None,
    workspace: Workspace = None,
    as_json: Json = False,
) -> None:
    """Bring foreign encoder weights into the workspace, with a report of every tensor; nothing is downloaded.

    Example: platform weights import --arch densenet121 --map torchvision_densenet121 --from densenet121.pth
    --licence-ack BSD-3-Clause
    """
    from presage_modeling.commands import import_command

    imported = import_command(
        source, arch=arch, map_name=map_name, licence=licence, channels=channels, sha256=sha256, workspace=workspace
    )
    typer.echo(json.dumps(imported.to_json()) if as_json else imported.summary())


def weights_show(
    file: Annotated[str, typer.Argument(help="Name in the workspace's weights/, or a path.")],
    workspace: Workspace = None,
    as_json: Json = False,
) -> None:
    """Print where imported weights came from, under which licence, and what became of every tensor.

    Example: platform weights show densenet121-1a2b3c4d
    """
    from presage_modeling.commands import show_command

    card = show_command(file, workspace=workspace)
    typer.echo(json.dumps(card, indent=None if as_json else 1))


def weights_maps(as_json: Json = False) -> None:
    """List the key maps by which foreign weights can be imported.

    Example: platform weights maps
    """
    from presage_modeling.encoders.weight_maps import map_names, read_map

    maps = {name: read_map(name).encoder.name for name in map_names()}
    typer.echo(json.dumps(maps) if as_json else "\n".join(f"{name:<26}{arch}" for name, arch in maps.items()))


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
