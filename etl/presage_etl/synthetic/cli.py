"""`platform synth`: make a synthetic hospital, or write its oracles as predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from presage_platform.options import Json, Workers, Workspace

PRESET_HELP = (
    "small (60 persons, seconds), demo (2,000 persons), defects (130 persons, every planted defect once), "
    "planted (a workspace: 4,000 persons, volumes and timeline) or paper (timeline of 19,402 persons)."
)


def synth(
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the hospital, or predictions file with --oracle.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help=PRESET_HELP)] = None,
    patients: Annotated[int | None, typer.Option(min=1, help="Persons (default: the preset's).")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Same seed, same bytes.")] = None,
    grid: Annotated[str | None, typer.Option(help="Voxels as columns x rows x slices: 64x64x32.")] = None,
    modes: Annotated[
        str | None, typer.Option(help="What is written: fhir, dicom, omop, with commas between (default: fhir,dicom).")
    ] = None,
    exports: Annotated[
        int | None,
        typer.Option(min=1, max=2, help="2: the record in two deliveries, with what changed between (default 1)."),
    ] = None,
    scans_per_patient: Annotated[float | None, typer.Option(help="Mean number of scans of a scanned person.")] = None,
    visible_leaves: Annotated[
        int | None, typer.Option(min=0, help="Further conditions that carry imaging signal.")
    ] = None,
    defect_rate: Annotated[
        float | None, typer.Option(help="Share of persons and of studies with one planted defect (default 0).")
    ] = None,
    confound: Annotated[
        str | None, typer.Option(help="Plant a shortcut: siemens=z1:0.8 ties that scanner to z1 (default none).")
    ] = None,
    timeline_only: Annotated[
        bool, typer.Option("--timeline-only", help="Write the timeline store alone, for benchmarks of labeling.")
    ] = False,
    events_per_patient: Annotated[
        int | None, typer.Option(min=0, help="With a timeline: mean events beside the planted ones (11,600).")
    ] = None,
    concepts: Annotated[int | None, typer.Option(min=0, help="With a timeline: concepts among those (30,000).")] = None,
    zipf: Annotated[float | None, typer.Option(help="With a timeline: exponent of their frequency by rank.")] = None,
    volumes_only: Annotated[
        bool, typer.Option("--volumes-only", help="Write the volume store alone, for benchmarks of training.")
    ] = False,
    studies: Annotated[int | None, typer.Option(min=1, help="With --volumes-only: how many volumes.")] = None,
    distinct: Annotated[
        int | None,
        typer.Option(min=1, help="With --volumes-only: paint so many, derive the rest (never for accuracy)."),
    ] = None,
    oracle: Annotated[Path | None, typer.Option(help="Hospital whose oracles become predictions in --out.")] = None,
    print_parameters: Annotated[
        bool, typer.Option("--print-parameters", help="Print every parameter as JSON and make nothing.")
    ] = False,
    workers: Workers = None,
    workspace: Workspace = None,
    as_json: Json = False,
) -> None:
    """Make a synthetic hospital whose truth is known: FHIR, DICOM, vocabulary, tasks and the answers.

    Example: platform synth --out hospital/ --preset small
    """
    if oracle is not None:
        _write_oracles(oracle, _named(out), workspace, as_json)
        return
    from presage_etl.synthetic.parameters import parse_grid, read_parameters
    from presage_etl.synthetic.scale.options import maker_of, scale_overrides, visible_leaves_override

    changes = scale_overrides(
        timeline_only=timeline_only,
        volumes_only=volumes_only,
        events_per_person=events_per_patient,
        concepts=concepts,
        zipf=zipf,
        studies=studies,
        distinct=distinct,
        scans_per_person=scans_per_patient,
    )
    changes |= visible_leaves_override(preset, visible_leaves)
    rates = None if defect_rate is None else {"fhir_rate": defect_rate, "dicom_rate": defect_rate}
    shortcut = None if confound is None else {"confound": confound}
    wanted = None if modes is None else modes.split(",")
    parameters = read_parameters(
        preset,
        patients=patients,
        seed=seed,
        grid=parse_grid(grid),
        modes=wanted,
        exports=exports,
        defects=rates,
        scanner=shortcut,
        **changes,
    )
    if print_parameters:
        typer.echo(json.dumps(parameters.model_dump(mode="json"), indent=1))
        return
    report = maker_of(parameters)(_named(out), parameters, workers=workers)
    if as_json:
        typer.echo(json.dumps({"folder": str(report.folder), "made": report.made, "counts": report.counts}))
    else:
        typer.echo(report.summary())


def _named(out: Path | None) -> Path:
    from presage_platform.errors import UsageError

    if out is None:
        raise UsageError("--out is missing: name the folder of the hospital, or the file of the predictions")
    return out


def _write_oracles(hospital: Path, out: Path, workspace: Path | None, as_json: bool) -> None:
    from presage_etl.synthetic.answers.oracle import write_predictions
    from presage_platform.settings import read_settings

    counts = write_predictions(hospital, out, read_settings(workspace))
    line = f"oracles of {counts['studies']:,} studies written to {out}"
    typer.echo(json.dumps(counts) if as_json else line)
