"""`platform volumes`: look at a store, prove it, mend its index."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from presage_platform.options import Json, Workspace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from presage_platform.settings import Settings

Recipe = Annotated[str | None, typer.Option("--recipe", help="Recipe name, file or hash (default: every store).")]


def volumes_info(recipe: Recipe = None, workspace: Workspace = None, json: Json = False) -> None:
    """Show the volume stores of the workspace: recipe, volumes, shapes, sizes.

    Example: platform volumes info
    """
    import json as json_format

    from presage_platform.settings import read_settings

    described = [_describe(folder) for folder in _folders(read_settings(workspace), recipe)]
    if json:
        typer.echo(json_format.dumps({"stores": described}))
        return
    for one in described:
        shapes = ", ".join(f"{count} of {shape}" for shape, count in one["shapes_zyx"].items())
        typer.echo(
            f"{one['recipe_hash'][:16]}  {one['recipe']}: {one['volumes']} volumes of {one['studies']} studies, "
            f"{one['bytes'] / 1e6:.1f} MB in {one['shards']} shards; {shapes or 'empty'}"
        )


def volumes_verify(
    recipe: Recipe = None,
    sample: Annotated[int | None, typer.Option(min=1, help="Read the voxels of so many volumes, not of all.")] = None,
    workspace: Workspace = None,
    json: Json = False,
) -> None:
    """Prove stores against their hashes; a damaged place is named by volume, shard and offset.

    Example: platform volumes verify --sample 100
    """
    import json as json_format

    from presage_platform.errors import VolumeStoreError
    from presage_platform.settings import read_settings
    from presage_platform.volumes.verify import verify_store

    results = {
        folder.name: verify_store(folder, sample=sample) for folder in _folders(read_settings(workspace), recipe)
    }
    faults = [f"{name}/{fault}" for name, report in results.items() for fault in report.faults]
    checked = sum(report.num_checked for report in results.values())
    if json:
        typer.echo(json_format.dumps({"stores": len(results), "checked": checked, "faults": faults}))
    else:
        for line in faults[:20]:
            typer.echo(line)
        typer.echo(f"{len(results)} stores, {checked} volumes read, {len(faults)} faults")
    if faults:
        raise VolumeStoreError(f"{len(faults)} faults, the first: {faults[0]}")


def volumes_reindex(recipe: Recipe = None, workspace: Workspace = None) -> None:
    """Rebuild index and manifest of stores from their shards and the series in the ledger.

    Example: platform volumes reindex --recipe presage
    """
    from presage_platform.postgres.connection import open_database
    from presage_platform.settings import read_settings
    from presage_platform.volumes.verify import reindex

    settings = read_settings(workspace)
    folders = list(_folders(settings, recipe))
    with open_database(settings, command="volumes reindex") as database, database.connect() as connection:
        series = _series(connection)
        for folder in folders:
            typer.echo(f"{folder.name}: {reindex(folder, series)} volumes")


def volumes_export(
    ids: Annotated[list[str], typer.Argument(help="Volume ids, or the digits they begin with.")],
    nifti: Annotated[Path, typer.Option("--nifti", help="Folder for the .nii.gz files.")],
    recipe: Recipe = None,
    workspace: Workspace = None,
) -> None:
    """Write volumes as NIfTI files with their affine.

    Example: platform volumes export 14654923 --nifti out/ --recipe presage
    """
    from presage_platform.errors import UsageError
    from presage_platform.settings import read_settings
    from presage_platform.volumes.export import export_nifti
    from presage_platform.volumes.store import Store

    stores = [Store.open(folder) for folder in _folders(read_settings(workspace), recipe)]
    for start in ids:
        hits = [(store, known) for store in stores for known in store.ids if known.startswith(start)]
        if len(hits) != 1:
            raise UsageError(f"{len(hits)} volumes begin with {start!r}, expected one: give more digits or --recipe")
        typer.echo(str(export_nifti(*hits[0], nifti)))


def _folders(settings: Settings, recipe: str | None) -> Iterator[Path]:
    from presage_platform.errors import InputError
    from presage_platform.volumes.index import RECIPE_NAME
    from presage_platform.volumes.recipe import find_recipe

    found = sorted(path.parent for path in settings.volumes_dir.glob(f"*/{RECIPE_NAME}"))
    if recipe is not None:
        is_hash = len(recipe) >= 8 and set(recipe) <= set("0123456789abcdef")
        wanted = recipe if is_hash else find_recipe(recipe).recipe_hash
        found = [path for path in found if wanted.startswith(path.name) or path.name.startswith(wanted)]
    if not found:
        raise InputError("no volume store here: convert with `platform etl dicom`")
    yield from found


def _describe(folder: Path) -> dict[str, Any]:
    from collections import Counter

    from presage_platform.volumes.store import Store

    with Store.open(folder) as store:
        rows = store.index.select(["study_id", "shard", "nbytes", "shape_zyx", "verdict"]).to_pylist()
        return {
            "recipe": store.recipe.name,
            "recipe_hash": store.recipe.recipe_hash,
            "volumes": len(rows),
            "studies": len({row["study_id"] for row in rows}),
            "shards": len({row["shard"] for row in rows}),
            "bytes": sum(row["nbytes"] for row in rows),
            "shapes_zyx": dict(Counter(" x ".join(map(str, row["shape_zyx"])) for row in rows)),
            "verdicts": dict(Counter(row["verdict"] for row in rows)),
        }


def _series(connection: Any) -> dict[str, dict[str, Any]]:
    """What the ledger knows of each series and a shard does not."""
    names = ("series_key", "study_id", "rank", "study_uid", "series_uid", "image_dt", "verdict")
    rows = connection.execute(
        "SELECT series_key, study_id, coalesce(rank, 0), study_uid, series_uid, image_dt, verdict FROM image_series"
    )
    return {row[0]: dict(zip(names, row, strict=True)) for row in rows}
