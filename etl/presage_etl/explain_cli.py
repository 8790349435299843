"""`platform etl explain`: what became of one resource, one imaging study or one series."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from presage_platform.options import Json, Workspace

if TYPE_CHECKING:
    from presage_platform.settings import Settings


def etl_explain(
    key: Annotated[
        str | None, typer.Argument(help="Type/id of a resource, number of a study, or key of a series (hex).")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", exists=True, dir_okay=False, help="Map a FHIR file without loading it.")
    ] = None,
    source: Annotated[str | None, typer.Option("--source", help="Name of the origin.")] = None,
    json: Json = False,
    workspace: Workspace = None,
) -> None:
    """Tell what became of one resource, study or series, and why; this prints patients' data and file paths.

    Example: platform etl explain Observation/123
    """
    from presage_platform.errors import UsageError
    from presage_platform.settings import read_settings

    settings = read_settings(workspace)
    if key is not None and file is None and "/" not in key:
        typer.echo(_image(settings, key))
        return
    from presage_etl.fhir.explain import as_text, explain, explain_file

    if (key is None) == (file is None):
        raise UsageError("etl explain needs Type/id, the number of a study, the key of a series, or --file PATH")
    found = explain_file(file, settings=settings) if file else explain(key or "", settings=settings, source=source)
    if json:
        import orjson

        typer.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2, default=str).decode())
        return
    typer.echo(as_text(found))


def _image(settings: Settings, key: str) -> str:
    from presage_etl.dicom.explain import explain_series, explain_study
    from presage_platform.errors import InputError, UsageError
    from presage_platform.postgres.connection import open_database

    if re.fullmatch(r"[0-9]{1,18}", key):
        with open_database(settings, command="etl explain") as database, database.connect() as connection:
            row = connection.execute("SELECT study_uid FROM image_study WHERE study_id = %s", (int(key),)).fetchone()
        if row is None:
            raise InputError(f"no study has the number {key}: `platform volumes info` and the link report name them")
        return explain_study(settings, str(row[0]))
    if re.fullmatch(r"[0-9a-f]{6,32}", key):
        return explain_series(settings, key)
    raise UsageError("that is no Type/id, no number of a study and no key of a series (hex digits)")
